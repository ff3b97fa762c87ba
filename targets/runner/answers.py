"""What a process that times must answer: seconds above zero, checked before anybody believes it."""

from __future__ import annotations

import json
import math

from millifit.targets.runner.child import RequestFailedError
from millifit.targets.runner.network_timing import Seconds
from millifit.targets.timing import Samples


def samples_of(answer: object) -> Samples:
    """The samples answered, with the energy of a run or without; RequestFailedError for others."""
    if not isinstance(answer, dict):
        raise RequestFailedError(f"a child answered {json.dumps(answer)[:80]} in place of samples")
    energy_j = answer.get("energy_j")
    known = isinstance(energy_j, float) and math.isfinite(energy_j) and energy_j >= 0
    return Samples(
        run_s=tuple(seconds_of(answer.get("run_s"))), energy_j=energy_j if known else None
    )


def seconds_of(answer: object) -> Seconds:
    """The seconds answered; RequestFailedError for anything else."""
    if isinstance(answer, list) and answer and all(_is_seconds(each) for each in answer):
        return [float(each) for each in answer]
    raise RequestFailedError(f"a child answered {json.dumps(answer)[:80]} in place of seconds")


def _is_seconds(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0
