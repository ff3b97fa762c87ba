"""The watch over a profile's run: anchors read between sections, and the verdict on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from millifit.pipeline.profile_pool import Item
from millifit.profiler.anchors import choose_anchors, enough
from millifit.profiler.drift import Reading, shifts, slower
from millifit.profiler.section import Section
from millifit.targets.kernel import Kernel
from millifit.targets.target import Target
from millifit.targets.timing import KernelTimer, Samples, TimingPolicy

# A kernel is measured again at most so often: a machine that is never calm has no better times.
_RETRIES = 2


class Watch:
    """Reads the anchors of one run and says which of its sections drifted.

    Section n lies between readings n and n + 1.
    """

    def __init__(self, *, target: Target, timer: KernelTimer, seed: int) -> None:
        self._target = target
        self._timer = timer
        self._seed = seed
        self._anchors: dict[TimingPolicy, tuple[Kernel, ...]] = {}
        self._readings: list[Reading] = []
        self._sections: list[Section] = []
        self._tries: Counter[Item] = Counter()
        self.level: float | None = None
        """By which share the machine is slower now than when the profile was begun; None where this
        run is the first.
        """

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sections so far, with the verdict as of the last reading."""
        return tuple(self._sections)

    @property
    def drifting(self) -> frozenset[int]:
        """The numbers of the sections that drifted."""
        return frozenset(section.number for section in self._sections if section.drifting)

    @property
    def calm(self) -> bool:
        """Whether the last reading was as usual."""
        found = shifts(self._readings)
        return not self._readings or found.calm(len(self._readings) - 1)

    def begin(self, measured: Mapping[Item, float]) -> None:
        """Choose the anchors and take the first reading, if enough is measured for it."""
        if not self._anchors and self._choose(measured):
            self._readings.append(self._read())
            then = self._as_measured(measured)
            self.level = slower(self._readings[0], than=then)

    def end_section(self, section: Section, measured: Mapping[Item, float]) -> tuple[Section, ...]:
        """Read the anchors at the end of a section; returns all sections with their verdicts.

        In the first one the anchors are only chosen at its end: its beginning is what they took
        when they were measured.
        """
        if not self._anchors and self._choose(measured):
            self._readings.append(self._as_measured(measured))
        if not self._anchors:
            self._sections.append(section)
            return self.sections
        self._readings.append(self._read())
        self._sections.append(replace(section, anchors=self._readings[-1]))
        found = shifts(self._readings)
        before = len(self._sections) + 1 - len(self._readings)  # sections without readings
        for number in range(before, len(self._sections)):
            ends = (number - before, number - before + 1)
            worst = max(ends, key=lambda reading: abs(found.relative[reading]))
            self._sections[number] = replace(
                self._sections[number],
                shift=found.relative[worst],
                drifting=not all(found.calm(reading) for reading in ends),
            )
        return self.sections

    def to_repeat(self, in_doubt: Iterable[Item]) -> Iterator[Item]:
        """What to measure again: while the machine is calm, each kernel a few times at most."""
        if not self.calm:
            return
        for item in in_doubt:
            if self._tries[item] < _RETRIES:
                self._tries[item] += 1
                yield item

    def can_repeat(self, in_doubt: Iterable[Item]) -> bool:
        """Whether anything is left that may be measured again."""
        return any(self._tries[item] < _RETRIES for item in in_doubt)

    def _as_measured(self, measured: Mapping[Item, float]) -> Reading:
        """What the anchors took when they were measured like any other kernel."""
        return {
            kernel.key: measured[kernel, policy]
            for policy, kernels in self._anchors.items()
            for kernel in kernels
        }

    def _choose(self, measured: Mapping[Item, float]) -> bool:
        """Anchors of the way of timing that most kernels have."""
        policies = Counter(policy for _, policy in measured)
        if not policies:
            return False
        policy = policies.most_common(1)[0][0]
        seconds = {kernel: s for (kernel, how), s in measured.items() if how == policy}
        if enough(seconds):
            self._anchors = {policy: choose_anchors(seconds)}
        return bool(self._anchors)

    def _read(self) -> Reading:
        reading: dict[str, float] = {}
        for policy, kernels in self._anchors.items():
            timed = self._timer.time_kernels(kernels, self._target, policy, seed=self._seed)
            for kernel, outcome in timed:
                if isinstance(outcome, Samples):
                    reading[kernel.key] = outcome.median_s
        return reading
