"""A plan: what is decided per layer and per group of channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast, get_args

from millifit.targets.target import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Precision of every layer and number of channels kept of every channel group.

    `precisions` has a layer name (a Conv or Gemm node) for every layer of the network; `widths`
    maps a channel group's name to the channels it keeps, groups left whole may be absent.
    """

    precisions: Mapping[str, Precision]
    widths: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Plain JSON types."""
        return {
            "precisions": dict(sorted(self.precisions.items())),
            "widths": dict(sorted(self.widths.items())),
        }

    @property
    def compressed(self) -> bool:
        """Whether it changes anything: a layer that is not fp32, or a narrower group."""
        return bool(self.widths) or any(p != "fp32" for p in self.precisions.values())

    @classmethod
    def from_dict(cls, plain: Mapping[str, Mapping[str, object]]) -> Plan:
        """The plan that `to_dict` described."""
        precisions: dict[str, Precision] = {}
        for layer, precision in plain["precisions"].items():
            if precision not in get_args(Precision):
                raise ValueError(f"layer '{layer}': unknown precision {precision!r}")
            precisions[layer] = cast("Precision", precision)
        widths = {group: int(str(kept)) for group, kept in plain["widths"].items()}
        return cls(precisions=precisions, widths=widths)
