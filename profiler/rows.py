"""Measurements as rows of the profile's tables, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.section import Section
from millifit.targets.kernel import Kernel
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples, TimingPolicy

Cell = str | int | float | None
Row = tuple[Any, ...]


def facts(environment: Mapping[str, str]) -> str:
    """An environment as text, equal for equal ones."""
    return json.dumps(dict(environment), sort_keys=True)


def kernel_cells(measurement: Measurement) -> tuple[Cell, ...]:
    """Key, target, versions, kernel, policy, environment, outcome, section and time."""
    outcome = measurement.outcome
    return (
        measurement.key,
        measurement.target_key,
        measurement.versions,
        json.dumps(measurement.kernel.to_dict()),
        json.dumps(asdict(measurement.policy)),
        facts(measurement.environment),
        *_outcome_cells(outcome),
        outcome.energy_j if isinstance(outcome, Samples) else None,
        measurement.section,
        measurement.taken_at_s,
    )


def measurement_from(row: Row) -> Measurement:
    """The measurement in a row of `store`'s query of measurements.

    Raises ValueError, TypeError or KeyError where it is damaged.
    """
    _, kernel, target_key, versions, policy, environment, run_s, failure, energy_j, *taken = row
    section, taken_at_s, _ = taken
    return Measurement(
        kernel=Kernel.from_dict(json.loads(kernel)),
        target_key=target_key,
        versions=versions,
        policy=TimingPolicy(**json.loads(policy)),
        environment=json.loads(environment),
        outcome=_outcome(run_s, failure, energy_j),
        section=section,
        taken_at_s=taken_at_s,
    )


def network_cells(measurement: NetworkMeasurement) -> tuple[Cell, ...]:
    """Key, target, versions, subject, calls, policies, environment, outcome, section and time.

    Of the calls every kernel is written once, and then their numbers in order.
    """
    kernels = list(measurement.repeats)
    numbers = {kernel: number for number, kernel in enumerate(kernels)}
    subject = {
        "name": measurement.name,
        "space": measurement.space,
        "architecture": measurement.architecture,
        "batch": measurement.batch,
    }
    calls = {
        "kernels": [kernel.to_dict() for kernel in kernels],
        "order": [numbers[kernel] for kernel in measurement.calls],
    }
    policies = {
        "kernel_policy": asdict(measurement.kernel_policy),
        "policy": asdict(measurement.policy),
    }
    return (
        measurement.key,
        measurement.target_key,
        measurement.versions,
        json.dumps(subject),
        json.dumps(calls),
        json.dumps(policies),
        facts(measurement.environment),
        *_outcome_cells(measurement.outcome),
        measurement.section,
        measurement.taken_at_s,
    )


def network_from(row: Row) -> NetworkMeasurement:
    """The measurement in a row of `store`'s query of networks; raises as `measurement_from`."""
    _, subject, calls, policies, target_key, versions, environment, run_s, failure, *taken = row
    section, taken_at_s = taken
    plain, kinds = json.loads(calls), json.loads(policies)
    kernels = [Kernel.from_dict(kernel) for kernel in plain["kernels"]]
    return NetworkMeasurement(
        **json.loads(subject),
        calls=tuple(kernels[number] for number in plain["order"]),
        kernel_policy=TimingPolicy(**kinds["kernel_policy"]),
        target_key=target_key,
        versions=versions,
        policy=NetworkTimingPolicy(**kinds["policy"]),
        environment=json.loads(environment),
        outcome=_outcome(run_s, failure, None),
        section=section,
        taken_at_s=taken_at_s,
    )


def section_from(row: Row) -> Section:
    """The section in a row of `store`'s query of sections; raises as `measurement_from`."""
    number, target_key, versions, began_s, environment, anchors, shift, drifting = row
    return Section(
        number=number,
        target_key=target_key,
        versions=versions,
        began_s=began_s,
        environment=json.loads(environment),
        anchors=dict(json.loads(anchors)),
        shift=shift,
        drifting=bool(drifting),
    )


def _outcome_cells(outcome: Samples | Failed) -> tuple[Cell, Cell]:
    if isinstance(outcome, Failed):
        return None, outcome.reason
    return json.dumps(outcome.run_s), None


def _outcome(run_s: str | None, failure: str | None, energy_j: float | None) -> Samples | Failed:
    if run_s is None:
        return Failed(reason=failure or "")
    return Samples(run_s=tuple(json.loads(run_s)), energy_j=energy_j)
