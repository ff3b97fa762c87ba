"""A profile in the making: sections of measuring, each between two readings of the anchors."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from millifit.pipeline.profile_drift import Watch
from millifit.pipeline.profile_knowledge import HeldOut, Knowledge
from millifit.pipeline.profile_networks import Build, build_bundle, measure_network, network_key
from millifit.pipeline.profile_pool import Item, PoolNetwork
from millifit.pipeline.workbench import Timer
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.section import Section
from millifit.profiler.store import Store
from millifit.profiler.sweep import not_stored, take
from millifit.progress import Progress
from millifit.targets.kernel import Kernel
from millifit.targets.runner.environment import code_versions
from millifit.targets.target import Target
from millifit.targets.timing import Samples

_NETWORK_SHARE = 0.4  # of the time of a run goes into whole networks
_FEWEST_HELD_OUT = 20  # an error of fewer kernels than this is no reason to stop
_LONGEST_SECTION_S = 12.0
_SHORTEST_SECTION_S = 4.0
_NOTABLE_LEVEL = 0.1  # a machine so much slower or faster than before is another machine
_NETWORK_S = 5.0  # what a network takes to compile and time, before one was
_MOST_IDLE = 5  # sections of waiting for a calm machine, where nothing else is left
_SECTIONS = 10  # in a run with a limit, unless they would be longer or shorter than that


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a profile is done: after `seconds`, or when the median error on held-out kernels is at
    most `error`; whichever comes first. None: that is no reason.
    """

    seconds: float | None = None
    error: float | None = None

    @property
    def section_s(self) -> float:
        """Seconds from one reading of the anchors to the next."""
        if self.seconds is None:
            return _LONGEST_SECTION_S
        return min(max(self.seconds / _SECTIONS, _SHORTEST_SECTION_S), _LONGEST_SECTION_S)


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a run has done so far."""

    kernels: int = 0
    failed: int = 0
    remeasured: int = 0
    networks: dict[str, NetworkMeasurement] = field(default_factory=dict)  # by key
    network_s: float = 0.0
    kernel_s: float = 0.0

    @property
    def each_network_s(self) -> float:
        """What one more network is likely to take."""
        return self.network_s / len(self.networks) if self.networks else _NETWORK_S


class ProfileRun:
    """Measures kernels and networks until its limits are reached, or nothing is left."""

    def __init__(
        self,
        knowledge: Knowledge,
        networks: Sequence[PoolNetwork],
        *,
        target: Target,
        store: Store,
        timer: Timer,
        progress: Progress,
        limits: Limits,
        seed: int,
        began: float,
        clock: Callable[[], float] = time.monotonic,
        build: Build = build_bundle,
    ) -> None:
        """`networks` are those to be measured as a whole, in this order. `began` is when, by
        `clock`, the time of the limits started to run.
        """
        self.knowledge = knowledge
        self.tally = Tally()
        self.watch = Watch(target=target, timer=timer, seed=seed)
        self._networks = list(networks)
        self._target = target
        self._store = store
        self._timer = timer
        self._progress = progress
        self._limits = limits
        self._seed = seed
        self._began = began
        self._clock = clock
        self._build = build
        self._earlier: frozenset[int] = frozenset()  # sections of earlier runs that drifted
        self._idle = 0
        self._measured_networks: dict[str, PoolNetwork] = {}  # by the keys of their measurements
        self._network_tries: set[str] = set()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    def run(self) -> str:
        """Go on until there is a reason to stop: ``time``, ``error`` or ``complete``."""
        self._resume()
        seconds = self._limits.seconds
        total = len(self.knowledge.missing()) if seconds is None else round(seconds)
        done = 0
        with self._progress.stage(f"profile on '{self._target.name}'", total) as advance:
            while (reason := self._reason()) is None:
                self._section()
                self.knowledge.refit(elapsed_s=self.elapsed_s)
                now = self.tally.kernels if seconds is None else round(self.elapsed_s)
                advance(now - done)
                done = now
                self._progress.note(self._said())
        return reason

    def _resume(self) -> None:
        """Learn what the store has, and compare the machine with itself from the beginning on."""
        versions = code_versions()
        stored = [m for m in self._store.measurements(self._target.key) if m.versions == versions]
        self.knowledge.learn(stored)
        known = {m.key for m in self._store.networks(self._target.key)}
        self._networks = [n for n in self._networks if network_key(n, self._target) not in known]
        self._earlier = frozenset(
            section.number for section in self._store.sections(self._target.key) if section.drifting
        )
        self.knowledge.doubt(self._earlier)
        if not self.knowledge.missing() and not self._networks:
            return
        self.watch.begin(self.knowledge.seconds())
        if self.watch.level is not None and abs(self.watch.level) > _NOTABLE_LEVEL:
            self._progress.note(
                f"This machine now takes {self.watch.level:+.0%} compared with when it was "
                "profiled before: what is measured now will not fit what is stored."
            )
        self.knowledge.refit(elapsed_s=self.elapsed_s)

    def _reason(self) -> str | None:
        if self._late():
            return "time"
        held_out = self.knowledge.held_out() if self._limits.error is not None else None
        if held_out is not None and self._limits.error is not None:
            enough = held_out.n >= _FEWEST_HELD_OUT
            if enough and held_out.median <= self._limits.error:
                return "error"
        left = self.knowledge.missing() or self._networks
        repeats = self.watch.can_repeat(self.knowledge.in_doubt()) and self._idle < _MOST_IDLE
        if not left and not repeats:
            return "complete"
        return None

    def _late(self) -> bool:
        return self._limits.seconds is not None and self.elapsed_s >= self._limits.seconds

    def _section(self) -> None:
        section = self._store.begin_section(
            self._target.key, code_versions(), began_s=time.time(),
            environment=self._timer.environment(),
        )  # fmt: skip
        began, before = self._clock(), self.tally.kernels
        stop = began + self._limits.section_s
        self._measure(self.watch.to_repeat(self.knowledge.in_doubt()), section, stop, again=True)
        self._measure(self.knowledge.next(self._room()), section, stop)
        self.tally.kernel_s += self._clock() - began
        self._idle = self._idle + 1 if self.tally.kernels == before else 0
        if self._networks and self._network_is_due():
            self._measure_network(section)
        self._store.judge(*self.watch.end_section(section, self.knowledge.seconds()))
        self.knowledge.doubt(self.watch.drifting | self._earlier)
        self._queue_doubted_networks()

    def _room(self) -> int:
        """Kernels that a section is likely to have room for, with some to spare."""
        if self.tally.kernels < 10:
            return 40
        each_s = self.tally.kernel_s / self.tally.kernels
        return max(10, int(1.3 * self._limits.section_s / each_s))

    def _measure(
        self, items: Iterable[Item], section: Section, stop: float, *, again: bool = False
    ) -> None:
        """Measure items in order until the section is over."""
        in_time = itertools.takewhile(lambda _: self._clock() < stop and not self._late(), items)
        for policy, group in itertools.groupby(in_time, key=lambda item: item[1]):
            kernels: Iterable[Kernel] = (kernel for kernel, _ in group)
            if not again:
                kernels = not_stored(
                    kernels, target=self._target, store=self._store, policy=policy,
                    on_found=lambda found: self.knowledge.learn([found]),
                )  # fmt: skip
            for measurement in take(
                kernels, target=self._target, store=self._store, timer=self._timer, policy=policy,
                environment=section.environment, section=section.number, again=again,
                seed=self._seed,
            ):  # fmt: skip
                self.knowledge.learn([measurement])
                self.tally.kernels += 1
                self.tally.remeasured += again
                self.tally.failed += not isinstance(measurement.outcome, Samples)

    def _network_is_due(self) -> bool:
        if not self.knowledge.missing():
            return True
        if self._limits == Limits():
            return False  # they come when all kernels are known
        next_s = self.tally.each_network_s
        left_s = math.inf if self._limits.seconds is None else self._limits.seconds - self.elapsed_s
        return self.tally.network_s + next_s <= _NETWORK_SHARE * self.elapsed_s and next_s < left_s

    def _measure_network(self, section: Section) -> None:
        began = self._clock()
        network = self._networks.pop(0)
        found = measure_network(
            network, target=self._target, timer=self._timer, environment=section.environment,
            section=section.number, seed=self._seed,
            broken=self.knowledge.broken(network.items), build=self._build,
        )  # fmt: skip
        if found.key in self._network_tries:
            self._store.supersede_networks(found)
            self.tally.remeasured += 1
        else:
            self._store.add_networks(found)
        self.tally.networks[found.key] = found
        self._measured_networks[found.key] = network
        self.tally.network_s += self._clock() - began

    def _queue_doubted_networks(self) -> None:
        """Networks of drifting sections come again, once, after those that are still to come."""
        for key, found in self.tally.networks.items():
            if found.section in self.watch.drifting and key not in self._network_tries:
                self._network_tries.add(key)
                self._networks.append(self._measured_networks[key])

    def _said(self) -> str:
        """Where the run stands, in a line."""
        coverage, held_out = self.knowledge.coverage(), self.knowledge.held_out()
        done = f"{self.tally.kernels} kernels and {len(self.tally.networks)} networks"
        parts = [
            f"{self.elapsed_s:4.0f} s: {done} measured",
            f"coverage {coverage.measured:.0%} (of known families {coverage.families:.0%})",
            "held-out error unknown yet" if held_out is None else _error_said(held_out),
        ]
        if self.watch.sections[-1].drifting:
            shift = self.watch.sections[-1].shift or 0.0
            parts.append(f"the machine drifts: {shift:+.0%}")
        return "; ".join(parts)


def _error_said(held_out: HeldOut) -> str:
    return (
        f"held-out error {held_out.median:.1%} (median), {held_out.within_10:.0%} within 10 % "
        f"(n={held_out.n})"
    )
