"""This machine: networks of a space that the profile has not seen, predicted and then measured.

A profile of the MobileNet-like space is made within a time limit by what `millifit profile` does.
Random networks of the space, none of them in the profile, are predicted by what `millifit predict`
does, compiled, and measured in turn.

The machine may be shared, and other people's bursts last from seconds to minutes: the networks take
turns round by round over all of the measuring, each round a short visit, and a network's latency is
the median of its rounds. Nothing is left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency_tables.row import Row, row
from millifit import pipeline
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.prediction import Predictions
from millifit.pipeline.predicting import fit_predictor
from millifit.profiler.store import Store
from millifit.progress import Progress
from millifit.search.space import code_of, random_candidate
from millifit.search.spaces import find_space
from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.lower import lower
from millifit.targets.program import Program
from millifit.targets.runner.environment import code_versions
from millifit.targets.runner.local_runner import LocalRunner
from millifit.targets.runner.network_timing import Contender, ContenderResult, NetworkTimingPolicy
from millifit.targets.target import Target

# So many processes with a loaded network each fit into memory side by side.
_AT_ONCE = 50
_TIMING = NetworkTimingPolicy(
    turn_s=0.04, min_rounds=15, max_rounds=25, relative_interval=0.01, limit_s=150.0
)


_SPACE = "mobilenet"
_TARGET = "local"
_PROFILE_S = 15 * 60.0
_NETWORKS = 100
_OTHER_SEED = 7_000  # networks are drawn by another seed than those of the profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """A network that the profile has not seen."""

    code: str
    program: Program


def rows(
    seed: int,
    *,
    progress: Progress,
    profile_s: float = _PROFILE_S,
    networks: int = _NETWORKS,
    store: Path | None = None,
) -> list[Row]:
    """Profile, predict, measure. `store` keeps the profile; where it exists it is used as it is."""
    target = find_target(_TARGET)
    with tempfile.TemporaryDirectory() as folder:
        place = store or Path(folder) / "profile.sqlite"
        if not place.exists():
            pipeline.profile(
                space=_SPACE, target=_TARGET, seconds=profile_s, store=str(place), seed=seed,
                progress=progress,
            )  # fmt: skip
        facts = _facts(Store(place), target)
        unseen = unseen_networks(Store(place), target, networks, seed=_OTHER_SEED + seed)
        predictor = fit_predictor(target, Store(place), seed=seed)
        predicted = Predictions.of([predictor.predict(each.program).whole for each in unseen])
    measured = np.array(measure_networks([each.program for each in unseen], target))
    found = accuracy(measured, predicted.median_s)
    facts["n"] = found.n
    by_network = [
        {
            "architecture": each.code,
            "measured_s": float(seconds),
            "predicted_s": prediction.median_s,
            "low_s": prediction.low_s,
            "high_s": prediction.high_s,
        }
        for each, seconds, prediction in zip(unseen, measured, predicted, strict=True)
    ]
    covered = coverage(measured, predicted)
    return [
        row("local", target.cpu, "within_5", found.within_5, bar=0.90, **facts),
        row("local", target.cpu, "within_10", found.within_10, bar=0.99, **facts),
        row("local", target.cpu, "spearman", found.spearman, bar=0.99, **facts),
        row("local", target.cpu, "coverage_95", covered, bar=(0.93, 0.97), **facts),
        row("local", target.cpu, "mape", found.mape, networks=by_network, **facts),
    ]


def _facts(store: Store, target: Target) -> dict[str, Any]:
    """What a profile has, and over how long it was measured."""
    kernels, networks = store.measurements(target.key), store.networks(target.key)
    taken = [at for each in (*kernels, *networks) if (at := each.taken_at_s) is not None]
    return {
        "profile_s": max(taken) - min(taken),
        "profile_kernels": len(kernels),
        "profile_networks": len(networks),
        "drifted_sections": sum(section.drifting for section in store.sections(target.key)),
    }


def unseen_networks(store: Store, target: Target, count: int, *, seed: int) -> list[Unseen]:
    """Random networks of the space that the store has no measurement of."""
    space, rng = find_space(_SPACE), np.random.default_rng(seed)
    seen = {each.architecture for each in store.networks(target.key)}
    found: dict[str, Unseen] = {}
    while len(found) < count:
        candidate = random_candidate(space, rng)
        code = code_of(candidate)
        if code not in seen and code not in found:
            program = lower(space.network(candidate), target)
            found[code] = Unseen(code=code, program=program)
    return list(found.values())


def measure_networks(programs: Sequence[Program], target: Target) -> list[float]:
    """Seconds of each network: the median over rounds in which all of them take turns."""
    measured: list[float] = []
    with tempfile.TemporaryDirectory() as folder, LocalRunner() as runner:
        contenders = {
            f"network {number}": _contender(Path(folder) / str(number), program, target)
            for number, program in enumerate(programs)
        }
        for group in _groups(list(contenders)):
            found = runner.time_networks(
                {name: contenders[name] for name in group}, policy=_TIMING, on_round=lambda _: None
            )
            measured += [_latency_s(found[name]) for name in group]
    return measured


def _latency_s(result: ContenderResult) -> float:
    return result.round_medians.median_s


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), _AT_ONCE):
        yield names[first : first + _AT_ONCE]


def _contender(path: Path, program: Program, target: Target) -> Contender:
    """The compiled network, and the input it is timed on."""
    shape = program.types[program.inputs[0]].shape
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    write_bundle(
        path, program=program, target=target, versions=code_versions(), golden_input=x, details={}
    )
    np.save(path.with_suffix(".npy"), x)
    return Contender(kind="bundle", path=path, input_path=path.with_suffix(".npy"))
