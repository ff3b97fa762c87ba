"""Networks as a batch: their distinct kernels, encoded once, and how often each runs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.prediction import Flags, Floats
from millifit.targets.kernel import Kernel

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkBatch:
    """n networks of k distinct kernels, as p pairs of a network and a kernel that it runs.

    Pair i says that network ``network[i]`` runs kernel ``kernel[i]``, ``repeats[i]`` times. Two
    networks, one of A, A, B and one of B, have `network` [0, 0, 1], `kernel` [0, 1, 1] and
    `repeats` [2, 1, 1].
    """

    kernels: KernelBatch
    network: Indices
    kernel: Indices
    repeats: Indices
    count: int

    @classmethod
    def of(cls, networks: Sequence[Sequence[Kernel]], *, vector_lanes: int) -> NetworkBatch:
        """From each network's calls, equal kernels repeated and views (reshape) left out.

        Raises DataError for a network without kernels.
        """
        numbers: dict[Kernel, int] = {}
        pairs: list[tuple[int, int, int]] = []
        for network, calls in enumerate(networks):
            if not calls:
                raise DataError(f"network {network} has no kernels, hence no latency.")
            for kernel, repeats in Counter(calls).items():
                pairs.append((network, numbers.setdefault(kernel, len(numbers)), repeats))
        columns = np.array(pairs, np.intp).reshape(len(pairs), 3)
        return cls(
            kernels=KernelBatch.of(list(numbers), vector_lanes=vector_lanes),
            network=columns[:, 0],
            kernel=columns[:, 1],
            repeats=columns[:, 2],
            count=len(networks),
        )

    def __len__(self) -> int:
        return self.count

    def take(self, networks: Indices | Flags) -> NetworkBatch:
        """Some networks, by number or by flag, with the kernels that they run."""
        chosen = np.arange(self.count)[networks]
        pairs = [np.flatnonzero(self.network == number) for number in chosen]
        rows = np.concatenate(pairs) if pairs else np.empty(0, np.intp)
        kept, kernel = np.unique(self.kernel[rows], return_inverse=True)
        return NetworkBatch(
            kernels=self.kernels.take(kept),
            network=np.repeat(np.arange(len(chosen)), [len(each) for each in pairs]),
            kernel=kernel,
            repeats=self.repeats[rows],
            count=len(chosen),
        )


def seconds_of_pairs(
    networks: Sequence[Sequence[Kernel]], seconds: Sequence[Sequence[float]]
) -> Floats:
    """What a call takes, by pair of network and kernel, where every call was timed: ``[p]``.

    `networks` are those of `NetworkBatch.of`, `seconds` has as many for each; what a network's
    calls of one kernel took is averaged. Raises DataError where they differ in number.
    """
    means: list[float] = []
    for number, (calls, taken) in enumerate(zip(networks, seconds, strict=True)):
        if len(calls) != len(taken):
            raise DataError(f"network {number}: {len(taken)} latencies of {len(calls)} calls.")
        each: dict[Kernel, list[float]] = {}
        for kernel, call_s in zip(calls, taken, strict=True):
            each.setdefault(kernel, []).append(call_s)
        means += [sum(values) / len(values) for values in each.values()]
    return np.array(means, np.float64)
