"""A measurement: what was measured where, how, and what came out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples, TimingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One kernel timed on one target. `versions` are those of the code generator and of millifit's
    schedules; `environment` is what the machine looked like (CPU, governor, load, ...).

    `section` is the number of the profile's section it was taken in (see `section.Section`) and
    `taken_at_s` when, in seconds since 1970; None where nobody noted it.
    """

    kernel: Kernel
    target_key: str
    versions: str
    policy: TimingPolicy
    environment: Mapping[str, str]
    outcome: Samples | Failed
    section: int | None = None
    taken_at_s: float | None = None

    @property
    def key(self) -> str:
        """Kernel, target, versions and policy: never measured twice."""
        return measurement_key(self.kernel, self.target_key, self.versions, self.policy)


def measurement_key(kernel: Kernel, target_key: str, versions: str, policy: TimingPolicy) -> str:
    """The identity of a measurement, before or after it was taken."""
    text = json.dumps([kernel.key, target_key, versions, asdict(policy)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
