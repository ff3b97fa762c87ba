"""What a profile is to know: the kernels of some networks, and how often networks call them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.columns import family_of
from millifit.latency_models.prediction import Flags, Floats
from millifit.pipeline.pricing import is_free, working_bytes
from millifit.profiler.sweep import policy_for
from millifit.search.space import Candidate, SearchSpace, code_of, random_candidate
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.lower import lower
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.target import Target
from millifit.targets.timing import TimingPolicy

Item = tuple[Kernel, TimingPolicy]
"""A kernel, and how it is timed: in networks of another size it finds other caches."""

# Every tenth kernel, by its key, is never trained on while a profile runs, and tells its error.
_HELD_OUT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNetwork:
    """A network that the profile is for. `program` lowers it anew: weights are not kept."""

    name: str
    space: str = ""
    architecture: str = ""
    items: tuple[Item, ...]  # its calls in order, without those that are only views
    policy: TimingPolicy
    program: Callable[[], Program]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The distinct items of some networks.

    `calls` ``[networks, items]`` counts who calls what; `x` ``[items, features]`` says which are
    alike; `held_out` ``[items]`` are those that tell the error.
    """

    items: tuple[Item, ...]
    calls: Floats
    x: Floats
    held_out: Flags

    @classmethod
    def of(cls, networks: Iterable[PoolNetwork], *, vector_lanes: int) -> Pool:
        """The items of networks, in order of first use."""
        numbers: dict[Item, int] = {}
        rows = [[numbers.setdefault(item, len(numbers)) for item in n.items] for n in networks]
        calls = np.zeros((len(rows), len(numbers)))
        for network, row in enumerate(rows):
            np.add.at(calls[network], row, 1.0)
        items = tuple(numbers)
        return cls(
            items=items,
            calls=calls,
            x=KernelBatch.of(
                [kernel for kernel, _ in items], vector_lanes=vector_lanes
            ).features.astype(np.float64),
            held_out=np.array([is_held_out(kernel) for kernel, _ in items], bool),
        )

    @property
    def families(self) -> tuple[tuple[str, int], ...]:
        """Family and working set of every item."""
        return tuple(family(item) for item in self.items)

    @property
    def frequency(self) -> Floats:
        """Calls per network, of every item: ``[items]``."""
        mean: Floats = self.calls.mean(axis=0)
        return mean

    def shares(self, seconds: Floats) -> Floats:
        """The share of a network's time that each item takes, on average, if it takes `seconds`."""
        totals = np.maximum(self.calls @ seconds, np.finfo(float).tiny)
        mean: Floats = (self.calls * seconds / totals[:, None]).mean(axis=0)
        return mean


def family(item: Item) -> tuple[str, int]:
    """Operator with precision, and working set: what a regressor is fitted for."""
    kernel, policy = item
    return family_of(kernel), policy.working_set_bytes


def is_held_out(kernel: Kernel) -> bool:
    """Whether a kernel is of the tenth that tells the error: by its key, in every run the same."""
    return int(kernel.key[:8], 16) % _HELD_OUT == 0


def of_programs(
    network: Network,
    programs: Mapping[str, Program],
    *,
    target: Target,
    choices: Mapping[Kernel, Choice],
) -> list[PoolNetwork]:
    """A model in every precision, e.g. ``net`` and ``net int8``."""
    policy = policy_for(target, working_bytes(network))
    made = []
    for precision, program in programs.items():
        name = network.name if precision == "fp32" else f"{network.name} {precision}"
        made.append(_of_program(name, program.with_choices(choices), policy))
    return made


def of_space(
    space: SearchSpace, *, target: Target, choices: Mapping[Kernel, Choice], seed: int
) -> Iterator[PoolNetwork]:
    """Random networks of a space without end; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    while True:
        candidate = random_candidate(space, rng)
        network = space.network(candidate)
        yield PoolNetwork(
            name=space.name,
            space=space.name,
            architecture=code_of(candidate),
            items=_items(
                lower(network, target).with_choices(choices),
                policy := policy_for(target, working_bytes(network)),
            ),
            policy=policy,
            program=_remade(space, candidate, target, choices),
        )


def for_a_while(
    networks: Iterator[PoolNetwork],
    *,
    fewest: int,
    most: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[PoolNetwork]:
    """So many networks as can be made in `seconds`, within limits."""
    stop = clock() + seconds
    made: list[PoolNetwork] = []
    while len(made) < fewest or (len(made) < most and clock() < stop):
        made.append(next(networks))
    return made


def _of_program(name: str, program: Program, policy: TimingPolicy) -> PoolNetwork:
    return PoolNetwork(
        name=name, items=_items(program, policy), policy=policy, program=lambda: program
    )


def _items(program: Program, policy: TimingPolicy) -> tuple[Item, ...]:
    return tuple((call.kernel, policy) for call in program.calls if not is_free(call.kernel))


def _remade(
    space: SearchSpace, candidate: Candidate, target: Target, choices: Mapping[Kernel, Choice]
) -> Callable[[], Program]:
    return lambda: lower(space.network(candidate), target).with_choices(choices)
