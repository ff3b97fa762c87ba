"""A measurement of a whole network: which kernels it calls, and what all of it took."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from millifit.targets.kernel import Kernel
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples, TimingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMeasurement:
    """One network timed as a whole on one target.

    `calls` are its kernels in the order they run, as often as they run, without those that are only
    views. `space` names the search space and `architecture` the code of the candidate (see
    `search.space.code_of`); both are empty for a model that is of no space. `kernel_policy` is how
    the kernels of a network of this size are timed alone: predictions start from measurements under
    it. The samples are medians of rounds, each of several inferences of the network with `batch`.
    """

    name: str
    space: str = ""
    architecture: str = ""
    batch: int = 1
    calls: tuple[Kernel, ...]
    kernel_policy: TimingPolicy
    target_key: str
    versions: str
    policy: NetworkTimingPolicy
    environment: Mapping[str, str]
    outcome: Samples | Failed
    section: int | None = None
    taken_at_s: float | None = None

    @property
    def key(self) -> str:
        """Calls, batch, target, versions and policy: never measured twice.

        A network of a public table has no calls that anybody states; its names stand for them.
        """
        return network_measurement_key(
            self.calls or (self.name, self.space, self.architecture),
            batch=self.batch,
            target_key=self.target_key,
            versions=self.versions,
            policy=self.policy,
        )

    @property
    def repeats(self) -> Mapping[Kernel, int]:
        """The distinct kernels, in order of first use, and how often each is called."""
        return Counter(self.calls)


def network_measurement_key(
    calls: tuple[Kernel, ...] | tuple[str, str, str],
    *,
    batch: int,
    target_key: str,
    versions: str,
    policy: NetworkTimingPolicy,
) -> str:
    """The identity of a network's measurement, before or after it was taken."""
    kernels = [call.key if isinstance(call, Kernel) else call for call in calls]
    text = json.dumps([kernels, batch, target_key, versions, asdict(policy)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
