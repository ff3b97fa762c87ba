"""What a GPU's figures must reach: our fp16 latency over torch.compile's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MODELS = ("ResNet-50", "MobileNetV2")
LARGEST_RATIO: Mapping[int, float] = {1: 1.0, 32: 1.2}
"""Of our latency to torch.compile's, by batch."""
TOLERANCE = 2e-2
"""Of an fp16 output, relative to its largest magnitude."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One thing to reach. `met` is None where nothing was measured, which `why` explains."""

    model: str
    batch: int
    largest: float
    ratio: float | None
    met: bool | None
    why: str = ""

    @property
    def line(self) -> str:
        """For people."""
        subject = f"{self.model} fp16, batch {self.batch}, over torch.compile"
        wanted = f"at most {self.largest:.2f}"
        if self.met is None or self.ratio is None:
            return f"NOT MEASURED {subject}: {wanted} ({self.why})"
        return f"{'met   ' if self.met else 'MISSED'} {subject}: {self.ratio:.2f}, {wanted}"


def bars(rows: Sequence[Mapping[str, Any]], missing: str) -> list[Bar]:
    """Every bar, from the rows that there are; `missing` says why others are not.

    A row has ``model``, ``batch``, ``ratio`` (ours over torch.compile, or None) and ``errors``, the
    largest error of each contender's output. A wrong answer meets no bar however fast it is.
    """
    known = {(row["model"], row["batch"]): row for row in rows}
    return [
        _bar(model, batch, largest, known.get((model, batch)), missing)
        for model in MODELS
        for batch, largest in LARGEST_RATIO.items()
    ]


def _bar(
    model: str, batch: int, largest: float, row: Mapping[str, Any] | None, missing: str
) -> Bar:
    if row is None or row.get("ratio") is None:
        why = missing if row is None else str(row.get("error") or missing)
        return Bar(model=model, batch=batch, largest=largest, ratio=None, met=None, why=why)
    ratio, error = float(row["ratio"]), float(row["errors"]["ours"])
    met = ratio <= largest and error <= TOLERANCE
    why = "" if error <= TOLERANCE else f"wrong: error {error:.3g}"
    return Bar(model=model, batch=batch, largest=largest, ratio=ratio, met=met, why=why)


def report(rows: Sequence[Mapping[str, Any]], missing: str) -> dict[str, Any]:
    """The part of the result file that says what was measured and what was reached."""
    return {
        "status": f"not measured: {missing}" if missing and not rows else "measured",
        "rows": list(rows),
        "bars": [asdict(bar) for bar in bars(rows, missing)],
    }
