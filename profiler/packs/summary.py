"""What a profile holds, in one row per target, operator and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.packs.pack import Pack
from millifit.targets.catalog import list_targets
from millifit.targets.timing import Samples

_DEVICE_FACTS = ("device", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Measurements of one kind on one target: an operator in a precision, or whole networks.

    `target` is what a person calls it. The latencies are None where all have failed.
    """

    target: str
    target_key: str
    kind: str
    precision: str
    measured: int
    failed: int
    fastest_s: float | None
    slowest_s: float | None


def summarize(pack: Pack, names: Mapping[str, str]) -> list[Line]:
    """Lines by target, kernels first; `names` are targets' names by key, where they are known."""
    groups: dict[tuple[str, bool, str, str], list[Measurement | NetworkMeasurement]] = {}
    for kernel in pack.kernels:
        kind = kernel.kernel
        groups.setdefault((kernel.target_key, False, kind.op, kind.precision), []).append(kernel)
    for network in pack.networks:
        kind_of = f"networks {network.space}".strip()
        groups.setdefault((network.target_key, True, kind_of, ""), []).append(network)
    called = target_names(pack, names)
    return [
        _line(called[key], key, kind, precision, found)
        for (key, _, kind, precision), found in sorted(groups.items(), key=lambda item: item[0])
    ]


def target_names(pack: Pack, names: Mapping[str, str]) -> dict[str, str]:
    """What a person calls each target: its name, else the device its measurements state.

    A key that is a name by itself, such as ``pixel4/gpu/fp16``, stays.
    """
    found: dict[str, str] = {}
    every: list[Measurement | NetworkMeasurement] = [*pack.kernels, *pack.networks]
    for measurement in every:
        key = measurement.target_key
        if key not in found:
            stated = (measurement.environment.get(fact) for fact in _DEVICE_FACTS)
            device = next(filter(None, stated), key) if _is_hash(key) else key
            found[key] = names.get(key, device)
    return found


def catalog_names() -> dict[str, str]:
    """The catalog's names by key, with the threads where they are several."""
    return {
        target.with_threads(threads).key: target.name + (f" x{threads}" if threads > 1 else "")
        for target in list_targets()
        for threads in range(1, target.cores + 1)
    }


def _is_hash(key: str) -> bool:
    return len(key) == 16 and set(key) <= set("0123456789abcdef")


def _line(
    target: str,
    key: str,
    kind: str,
    precision: str,
    found: Sequence[Measurement | NetworkMeasurement],
) -> Line:
    times = [m.outcome.median_s for m in found if isinstance(m.outcome, Samples)]
    return Line(
        target=target,
        target_key=key,
        kind=kind,
        precision=precision,
        measured=len(found),
        failed=len(found) - len(times),
        fastest_s=min(times, default=None),
        slowest_s=max(times, default=None),
    )
