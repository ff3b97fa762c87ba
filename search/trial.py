"""A trial: one plan, what was predicted for it, and what came out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from millifit.compress.plan import Plan
from millifit.latency_models.prediction import Prediction
from millifit.targets.timing import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One plan tried. `measured` is None where it could not be run; `note` says why.

    `accuracy` is a fraction on held-out data, None without labels. `size_bytes` is that of what
    would be deployed. `feasible` says whether everything measured kept the limits.
    """

    plan: Plan
    predicted: Prediction
    measured: Samples | None
    accuracy: float | None
    size_bytes: int
    feasible: bool = False
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `from_dict` is the inverse."""
        return {
            "plan": self.plan.to_dict(),
            "predicted": dataclasses.asdict(self.predicted),
            "run_s": None if self.measured is None else list(self.measured.run_s),
            "accuracy": self.accuracy,
            "size_bytes": self.size_bytes,
            "feasible": self.feasible,
            "note": self.note,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Trial:
        """The trial that `to_dict` described."""
        run_s = plain["run_s"]
        return cls(
            plan=Plan.from_dict(plain["plan"]),
            predicted=Prediction(**plain["predicted"]),
            measured=None if run_s is None else Samples(run_s=tuple(run_s)),
            accuracy=plain["accuracy"],
            size_bytes=plain["size_bytes"],
            feasible=plain["feasible"],
            note=plain["note"],
        )


def plan_key(plan: Plan) -> str:
    """Identity of a plan, stable across processes: equal plans are never tried twice."""
    text = json.dumps(plan.to_dict(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
