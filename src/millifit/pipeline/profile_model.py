"""What a running profile expects of kernels: seconds, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.regressor import KernelModel, fit_measured
from millifit.latency_models.prediction import ORIGINS, Flags, Floats
from millifit.pipeline.profile_pool import Item
from millifit.targets.kernel import Kernel
from millifit.targets.timing import TimingPolicy

_UNKNOWN = ORIGINS.index("unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Expected `seconds` ``[items]``, the standard deviation of their logarithm, and whether a
    kernel of the same family was measured.
    """

    seconds: Floats
    log_sd: Floats
    known: Flags


class ProfileModel:
    """Kernel models for every way of timing that a profile has. Made by `fit_profile_model`."""

    def __init__(self, models: Mapping[TimingPolicy, KernelModel]) -> None:
        self._models = models

    def expect(self, items: Sequence[Item]) -> Expectation:
        """What items are expected to take; of a policy without measurements, as of another one."""
        seconds, log_sd = np.empty(len(items)), np.empty(len(items))
        known = np.zeros(len(items), bool)
        members: dict[TimingPolicy, list[int]] = {}
        for number, (_, policy) in enumerate(items):
            members.setdefault(policy, []).append(number)
        for policy, numbers in members.items():
            model = self._models.get(policy) or next(iter(self._models.values()))
            kernels = [items[number][0] for number in numbers]
            batch = KernelBatch.of(kernels, vector_lanes=model.vector_lanes)
            found = model.predict(batch)
            seconds[numbers] = found.median_s
            log_sd[numbers] = model.deviation(batch)
            known[numbers] = found.origin != _UNKNOWN
        return Expectation(seconds=seconds, log_sd=log_sd, known=known)


def fit_profile_model(
    measured: Mapping[Item, float], *, vector_lanes: int, seed: int
) -> ProfileModel:
    """Learn from medians in seconds, of which there must be at least one."""
    groups: dict[TimingPolicy, dict[Kernel, float]] = {}
    for (kernel, policy), seconds in measured.items():
        groups.setdefault(policy, {})[kernel] = seconds
    largest_first = sorted(groups.items(), key=lambda group: -len(group[1]))
    return ProfileModel(
        {
            policy: fit_measured(medians, vector_lanes=vector_lanes, seed=seed)
            for policy, medians in largest_first
        }
    )
