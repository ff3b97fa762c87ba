"""A table that was understood: what each of its rows measured, where, and what came out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.targets.kernel import Kernel
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples, TimingPolicy

Floats = npt.NDArray[np.float64]

UNSTATED = TimingPolicy(
    warmup_s=0.0,
    block_s=0.0,
    min_samples=0,
    max_samples=0,
    relative_interval=0.0,
    limit_s=0.0,
)
"""The policy of measurements whose source does not state one; no policy of ours has no samples."""
UNSTATED_NETWORK = NetworkTimingPolicy(
    warmup_runs=0,
    warmup_s=0.0,
    turn_s=0.0,
    min_runs=0,
    min_sample_s=0.0,
    min_rounds=0,
    max_rounds=0,
    relative_interval=0.0,
    limit_s=0.0,
)
"""The same for whole networks."""
NOT_STATED = "not stated"
SPREAD = "latency_std_s"
"""The fact that holds a standard deviation in seconds, where a source states one."""


class Setting(NamedTuple):
    """Where rows were measured: a readable `target_key`, the runtime, and what else is stated."""

    target_key: str
    versions: str
    facts: tuple[tuple[str, str], ...] = ()


class Subject(NamedTuple):
    """A whole network, as `NetworkMeasurement` names it; `calls` is empty where nobody knows."""

    name: str
    space: str = ""
    architecture: str = ""
    batch: int = 1
    calls: tuple[Kernel, ...] = ()


Shared = TypeVar("Shared", Setting, Subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Rows of a table of kernels or of whole networks, ``n`` of them.

    Equal subjects are one object, and so are equal settings. `latency_s`, `std_s` and `energy_j`
    are ``[n]`` with NaN for what is not known; `failures` says why a row has no latency, and is
    empty where it should have one. `numbers` are the rows' places in their file, from 1, and
    `unknown` the operators that nothing here has a name for.
    """

    source: str
    subjects: Sequence[Kernel | Subject]
    settings: Sequence[Setting]
    latency_s: Floats
    std_s: Floats
    energy_j: Floats
    failures: Sequence[str]
    numbers: Sequence[int]
    unknown: Mapping[str, int]

    @classmethod
    def of(
        cls,
        source: str,
        subjects: Sequence[Kernel | Subject],
        settings: Sequence[Setting],
        latency_s: Floats,
        *,
        std_s: Floats | None = None,
        energy_j: Floats | None = None,
        failures: Sequence[str] = (),
        numbers: Sequence[int] = (),
        unknown: Mapping[str, int] | None = None,
    ) -> Sheet:
        """All rows of a table, in its order."""
        n = len(latency_s)
        nothing = np.full(n, np.nan)
        return cls(
            source=source,
            subjects=subjects,
            settings=settings,
            latency_s=latency_s,
            std_s=nothing if std_s is None else std_s,
            energy_j=nothing if energy_j is None else energy_j,
            failures=failures or [""] * n,
            numbers=numbers or range(1, n + 1),
            unknown=unknown or {},
        )

    def __len__(self) -> int:
        return len(self.latency_s)

    @property
    def kernels(self) -> Sequence[Kernel]:
        """The subjects, where they are kernels; none where they are networks."""
        return [subject for subject in self.subjects if isinstance(subject, Kernel)]

    @property
    def timed(self) -> npt.NDArray[np.bool_]:
        """Which rows should have a latency ``[n]``."""
        return np.array([not failure for failure in self.failures], np.bool_)

    def groups(self) -> list[npt.NDArray[np.intp]]:
        """The rows of every subject in its setting, in order of first appearance."""
        found: dict[tuple[int, int], list[int]] = {}
        for row, pair in enumerate(zip(self.settings, self.subjects, strict=True)):
            found.setdefault((id(pair[0]), id(pair[1])), []).append(row)
        return [np.array(rows) for rows in found.values()]

    def without(self, rows: Collection[int]) -> Sheet:
        """A copy that lacks some rows (places in this sheet, from 0)."""
        kept = [row for row in range(len(self)) if row not in rows]
        return replace(
            self,
            subjects=[self.subjects[row] for row in kept],
            settings=[self.settings[row] for row in kept],
            latency_s=self.latency_s[kept],
            std_s=self.std_s[kept],
            energy_j=self.energy_j[kept],
            failures=[self.failures[row] for row in kept],
            numbers=[self.numbers[row] for row in kept],
        )

    def measurements(self) -> tuple[list[Measurement], list[NetworkMeasurement]]:
        """Kernels and networks; repeated rows of one subject are the samples of one measurement."""
        environments = {id(s): dict(s.facts) for s in self.settings}
        kernels: list[Measurement] = []
        networks: list[NetworkMeasurement] = []
        for rows in self.groups():
            first = int(rows[0])
            setting, subject = self.settings[first], self.subjects[first]
            facts, outcome = environments[id(setting)], self._outcome(rows)
            if (std_s := _mean(self.std_s[rows])) is not None:
                facts = {**facts, SPREAD: f"{std_s:.6g}"}
            if isinstance(subject, Kernel):
                kernels.append(_kernel_measurement(subject, setting, facts, outcome))
            else:
                networks.append(_network_measurement(subject, setting, facts, outcome))
        return kernels, networks

    def _outcome(self, rows: npt.NDArray[np.intp]) -> Samples | Failed:
        times = [row for row in rows.tolist() if not self.failures[row]]
        if not times:
            return Failed(reason=self.failures[int(rows[0])])
        return Samples(
            run_s=tuple(self.latency_s[times].tolist()),
            energy_j=_mean(self.energy_j[times]),
        )


def shared(values: Iterable[Shared]) -> list[Shared]:
    """The same values, equal ones as one object."""
    made: dict[Shared, Shared] = {}
    return [made.setdefault(value, value) for value in values]


def _kernel_measurement(
    kernel: Kernel, setting: Setting, facts: Mapping[str, str], outcome: Samples | Failed
) -> Measurement:
    return Measurement(
        kernel=kernel,
        target_key=setting.target_key,
        versions=setting.versions,
        policy=UNSTATED,
        environment=facts,
        outcome=outcome,
    )


def _network_measurement(
    subject: Subject, setting: Setting, facts: Mapping[str, str], outcome: Samples | Failed
) -> NetworkMeasurement:
    return NetworkMeasurement(
        name=subject.name,
        space=subject.space,
        architecture=subject.architecture,
        batch=subject.batch,
        calls=subject.calls,
        kernel_policy=UNSTATED,
        target_key=setting.target_key,
        versions=setting.versions,
        policy=UNSTATED_NETWORK,
        environment=facts,
        outcome=outcome,
    )


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
