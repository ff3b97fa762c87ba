"""A predictor: prices of kernels and of whole networks on one target, learnt from a store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from millifit.errors import DataError, MeasurementError
from millifit.latency_models.archive import State
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.table import TableModel, fit_measured_table, price_of
from millifit.latency_models.networks.batch import NetworkBatch
from millifit.latency_models.networks.overhead import OverheadModel, fit_overhead
from millifit.latency_models.prediction import Floats, Prediction, Predictions
from millifit.pipeline.pricing import is_free
from millifit.pipeline.tuning import stored_choices
from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.store import Store
from millifit.profiler.sweep import policy_for
from millifit.profiler.tuned import choice_from
from millifit.targets.kernel import Choice, Kernel
from millifit.targets.program import Call, Program
from millifit.targets.runner.environment import code_versions
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples

_KIND = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPrice:
    """What a network takes, and each of its calls that is no view, in execution order."""

    whole: Prediction
    calls: tuple[Call, ...]
    kernels: Predictions


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictor:
    """Prices networks of one target. Made by `fit_predictor`, kept by `to_state`.

    `tables` are by the bytes of the working set that kernels were timed with: networks that fit
    into a smaller cache have kernels of other prices. `failed` are the kernels that do not run, by
    working set and identity, with the reason.
    """

    target_name: str
    target_key: str
    threads: int
    vector_lanes: int
    versions: str
    tables: Mapping[int, TableModel]
    overhead: OverheadModel
    networks: int
    choices: Mapping[Kernel, Choice] = field(default_factory=dict)
    failed: Mapping[tuple[int, int], str] = field(default_factory=dict)

    def predict(self, program: Program, *, working_set_bytes: int | None = None) -> NetworkPrice:
        """The price of a network whose kernels are timed with that working set (`working_set`);
        None: with the one that most kernels were measured with.

        Raises MeasurementError where nothing was measured for networks of this size, and where a
        kernel does not run on the target.
        """
        if working_set_bytes is None:
            working_set_bytes = max(self.tables, key=lambda size: len(self.tables[size].known))
        table = self.tables.get(working_set_bytes)
        if table is None:
            raise MeasurementError(
                f"nothing was measured on target '{self.target_name}' with {self.threads} "
                "thread(s) for networks of this size. Run 'millifit profile MODEL' first."
            )
        calls = tuple(
            call for call in program.with_choices(self.choices).calls if not is_free(call.kernel)
        )
        batch = NetworkBatch.of([[c.kernel for c in calls]], vector_lanes=self.vector_lanes)
        self._check_runs(calls, working_set_bytes)
        prices = table.predict(batch.kernels)
        numbers: dict[Kernel, int] = {}
        order = [numbers.setdefault(call.kernel, len(numbers)) for call in calls]
        return NetworkPrice(
            whole=self.overhead.predict(batch, prices)[0],
            calls=calls,
            kernels=prices.take(np.array(order, np.intp)),
        )

    def _check_runs(self, calls: Sequence[Call], working_set_bytes: int) -> None:
        if not self.failed:
            return
        batch = KernelBatch.of([call.kernel for call in calls], vector_lanes=self.vector_lanes)
        for call, identity in zip(calls, batch.identities, strict=True):
            reason = self.failed.get((working_set_bytes, int(identity)))
            if reason is not None:
                raise MeasurementError(
                    f"kernel '{call.kernel.op}' of node '{call.nodes[0]}' does not run on "
                    f"'{self.target_name}': {reason}. Choose another precision for its layer."
                )

    def to_state(self) -> State:
        """Plain arrays and JSON values; `from_state` is the inverse."""
        return State(
            kind=_KIND,
            facts={
                "target": self.target_name,
                "target_key": self.target_key,
                "threads": self.threads,
                "vector_lanes": self.vector_lanes,
                "versions": self.versions,
                "working_sets": sorted(self.tables),
                "networks": self.networks,
                "choices": [[k.to_dict(), choice] for k, choice in self.choices.items()],
                "failed": [[*key, reason] for key, reason in self.failed.items()],
            },
            parts={
                "overhead": self.overhead.to_state(),
                **{str(size): table.to_state() for size, table in self.tables.items()},
            },
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The predictor that `to_state` described; DataError where it is none."""
        if state.kind != _KIND:
            raise DataError(
                f"a saved '{state.kind}' is no model of a device: save one with 'millifit profile "
                "learn'."
            )
        try:
            return cls(
                target_name=str(state.fact("target")),
                target_key=str(state.fact("target_key")),
                threads=int(state.fact("threads")),
                vector_lanes=int(state.fact("vector_lanes")),
                versions=str(state.fact("versions")),
                tables={
                    int(size): TableModel.from_state(state.part(str(size)))
                    for size in state.fact("working_sets")
                },
                overhead=OverheadModel.from_state(state.part("overhead")),
                networks=int(state.fact("networks")),
                choices={
                    Kernel.from_dict(kernel): choice_from(choice)
                    for kernel, choice in state.fact("choices")
                },
                failed={
                    (int(size), int(identity)): str(reason)
                    for size, identity, reason in state.fact("failed")
                },
            )
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"the saved model is damaged: {error}. Save it again.") from error


def working_set(target: Target, network_bytes: int) -> int:
    """The bytes that the kernels of a network of this size are timed with."""
    return policy_for(target, network_bytes).working_set_bytes


def fit_predictor(target: Target, store: Store, *, seed: int) -> Predictor:
    """Learn all that a store knows of a target with the present code.

    What was measured while the machine drifted is left out. The same measurements and seed give the
    same predictor. Raises MeasurementError where nothing was measured.
    """
    versions = code_versions()
    doubted = {s.number for s in store.sections(target.key) if s.drifting}
    groups = _by_working_set(
        each
        for each in store.measurements(target.key)
        if each.versions == versions and each.section not in doubted
    )
    tables: dict[int, TableModel] = {}
    failed: dict[tuple[int, int], str] = {}
    for size, measured in groups.items():
        prices = {kernel: price_of(each) for kernel, each in measured.items()}
        timed = {k: p for k, p in prices.items() if isinstance(p, Prediction)}
        lost = {k: p.reason for k, p in prices.items() if isinstance(p, Failed)}
        if timed:
            tables[size] = fit_measured_table(timed, vector_lanes=target.fp32_lanes, seed=seed)
        not_run = KernelBatch.of(list(lost), vector_lanes=target.fp32_lanes)
        failed |= {
            (size, int(identity)): reason
            for identity, reason in zip(not_run.identities, lost.values(), strict=True)
        }
    if not tables:
        raise MeasurementError(
            f"nothing was measured on target '{target.name}' with {target.threads} thread(s). "
            "Run 'millifit profile MODEL' first."
        )
    batch, prices_s, seconds = network_prices(
        calm_networks(store, target.key), tables, target.fp32_lanes
    )
    return Predictor(
        target_name=target.name,
        target_key=target.key,
        threads=target.threads,
        vector_lanes=target.fp32_lanes,
        versions=versions,
        tables=tables,
        overhead=fit_overhead(batch, prices_s, seconds),
        networks=len(seconds),
        choices=stored_choices(store, target),
        failed=failed,
    )


def calm_networks(store: Store, target_key: str) -> list[NetworkMeasurement]:
    """The networks that were timed with the present code while the machine did not drift."""
    versions = code_versions()
    doubted = {s.number for s in store.sections(target_key) if s.drifting}
    return [
        each
        for each in store.networks(target_key)
        if each.versions == versions and each.section not in doubted
    ]


def network_prices(
    networks: Iterable[NetworkMeasurement], tables: Mapping[int, TableModel], vector_lanes: int
) -> tuple[NetworkBatch, Predictions, Floats]:
    """Networks that were timed, a price for each pair of them and a kernel, and the networks'
    seconds ``[n]``.

    A kernel that was measured by itself has that price, as it would in a new network; how much more
    is known of it than of a predicted one is in the widths of the prices' intervals.
    """
    newest: dict[tuple[Kernel, ...], NetworkMeasurement] = {
        each.calls: each
        for each in networks
        if isinstance(each.outcome, Samples)
        and each.calls
        and each.kernel_policy.working_set_bytes in tables
    }
    used = list(newest.values())
    batch = NetworkBatch.of([each.calls for each in used], vector_lanes=vector_lanes)
    sizes = np.array([each.kernel_policy.working_set_bytes for each in used], np.int64)
    rows: list[Prediction | None] = [None] * len(batch.kernel)
    for size in np.unique(sizes):
        pairs = np.flatnonzero(sizes[batch.network] == size)
        table = tables[int(size)]
        needed, place = np.unique(batch.kernel[pairs], return_inverse=True)
        found = table.predict(batch.kernels.take(needed)).take(place)
        for pair, price in zip(pairs, found, strict=True):
            rows[pair] = price
    medians = [each.outcome.median_s for each in used if isinstance(each.outcome, Samples)]
    return batch, Predictions.of([row for row in rows if row]), np.array(medians, np.float64)


def _by_working_set(
    measurements: Iterable[Measurement],
) -> dict[int, dict[Kernel, Measurement]]:
    """The newest measurement of every kernel, by what competed for the caches."""
    groups: dict[int, dict[Kernel, Measurement]] = {}
    for each in measurements:
        groups.setdefault(each.policy.working_set_bytes, {})[each.kernel] = each
    return groups


def facts_of(predictor: Predictor) -> dict[str, Any]:
    """What a predictor rests on, for people."""
    return {
        "target": predictor.target_name,
        "threads": predictor.threads,
        "kernels_measured": sum(len(table.known) for table in predictor.tables.values()),
        "networks_measured": predictor.networks,
    }
