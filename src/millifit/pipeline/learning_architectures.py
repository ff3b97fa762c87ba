"""Learn what architectures of a space take on a target, from networks that a store has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millifit.errors import MeasurementError, UsageError
from millifit.latency_models.accuracy import accuracy, coverage
from millifit.latency_models.architectures.additive import AdditiveModel, fit_additive_model
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.archive import write_state
from millifit.latency_models.prediction import Floats, Predictions
from millifit.latency_models.transfer.adapt import TransferModel, fit_relatives
from millifit.latency_models.transfer.basis import fit_source
from millifit.pipeline.architectures import ArchitectureModel, encoder, own_costs
from millifit.pipeline.measured_architectures import Measured, measured, place_of, places
from millifit.pipeline.workbench import open_store
from millifit.progress import SILENT, Progress

Rows = npt.NDArray[np.intp]
Fit = Callable[[Rows], Callable[[Rows], Predictions]]
"""Learns from some rows, and then predicts others."""

_FEWEST = 30  # networks of a target, for a model of its own
_FEWEST_OF_SOURCE = 20
_MOST = 1000  # that a model is fitted to; the others judge it
_MOST_TRANSFERRED = 200
_ONE_SPLIT = 200  # from here on a fifth is left out once; below, each fifth in turn
_FOLDS = 5


def learn_architectures(
    *,
    out: str,
    space: str,
    target: str = "local",
    sources: Sequence[str] = (),
    threads: int = 1,
    store: str | None = None,
    progress: Progress = SILENT,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a model of the architectures of `space` to a store, and write it to the file `out`.

    It is the target's own where 30 of its networks were measured. With `sources`, targets or
    devices of the same store, it is transferred from what these take: a few networks of the target
    are enough. Says how far off it was on networks it had not seen. Raises UsageError for an
    unknown space or source, MeasurementError where the target has too few networks.
    """
    encoder(space)
    kept = open_store(store)
    asked = place_of(target, kept, space, threads=threads)
    own = measured(kept, asked, space)
    others = places(sources, kept, space, threads=threads, besides=asked)
    if not others and len(own) < _FEWEST:
        raise MeasurementError(_too_few(own, kept.network_targets(space), space))
    progress.note(f"learning from {len(own)} networks of '{asked.name}'")
    model: AdditiveModel | TransferModel[Encoded]
    if others:
        found = [measured(kept, other, space) for other in others]
        model, held_out = _transferred(own, found, space, seed)
    else:
        model, held_out = _additive(own, seed)
    saved = ArchitectureModel(
        space=space,
        target_name=asked.name,
        target_key=asked.key,
        versions=own.versions,
        compiled_here=asked.compiled_here,
        networks=len(own),
        sources=tuple(other.name for other in others),
        model=model,
    )
    write_state(saved.to_state(), Path(out))
    return {
        "space": space,
        "target": asked.name,
        "model": "transfer" if others else "additive",
        "from": list(saved.sources),
        "likeness": model.likeness if isinstance(model, TransferModel) else {},
        "networks_measured": len(own),
        "left_out": dict(own.left_out),
        "held_out": held_out,
        "out": out,
    }


def _additive(own: Measured, seed: int) -> tuple[AdditiveModel, dict[str, Any]]:
    """A model of the target alone, and how it did.

    Devices drift while they are measured; whether the order of the store tells of that is judged
    on what was held out, where no order is given.
    """
    made: dict[tuple[bool, bytes], AdditiveModel] = {}

    def fitting(ordered: bool) -> Fit:
        def fit(train: Rows) -> Callable[[Rows], Predictions]:
            model = fit_additive_model(
                own.encoded.take(train),
                own.seconds[train],
                seed=seed,
                order=train.astype(np.float64) if ordered else None,
            )
            made[ordered, train.tobytes()] = model
            return lambda test: model.predict(own.encoded.take(test))

        return fit

    splits = _splits(len(own), seed)
    tried = {ordered: held_out_row(fitting(ordered), own, splits) for ordered in (False, True)}
    ordered = tried[True]["mape"] < tried[False]["mape"]
    rows = splits[0][0] if len(own) > _MOST else np.arange(len(own))
    if (ordered, rows.tobytes()) not in made:
        fitting(ordered)(rows)
    return made[ordered, rows.tobytes()], {"learnt": len(rows), **tried[ordered]}


def _transferred(
    own: Measured, others: Sequence[Measured], space: str, seed: int
) -> tuple[TransferModel[Encoded], dict[str, Any] | None]:
    """A model of the target from what others take, and how it did; None for fewer than five."""
    if len(own) > _MOST_TRANSFERRED:
        raise UsageError(
            f"target '{own.place.name}' has {len(own)} networks of its own, which say more than "
            "those of others: leave --from out."
        )
    for other in others:
        if len(other) < _FEWEST_OF_SOURCE:
            raise UsageError(
                f"'{other.place.name}' has {len(other)} networks of space '{space}': --from needs "
                f"targets with {_FEWEST_OF_SOURCE} or more."
            )
    relatives = fit_relatives(
        [fit_source(other.place.device, other.encoded, other.seconds) for other in others],
        features=own_costs(space),
        seed=seed,
    )

    def adapted(train: Rows) -> TransferModel[Encoded]:
        return relatives.adapt(own.encoded.take(train), own.seconds[train])

    def fit(train: Rows) -> Callable[[Rows], Predictions]:
        model = adapted(train)
        return lambda test: model.predict(own.encoded.take(test))

    model = adapted(np.arange(len(own)))
    if len(own) < _FOLDS:
        return model, None
    splits = _folds(len(own), min(len(own), 2 * _FOLDS), seed)
    return model, {"learnt": len(own), **held_out_row(fit, own, splits)}


def held_out_row(
    fit: Fit, own: Measured, splits: Sequence[tuple[Rows, Rows]]
) -> dict[str, float | int]:
    """How far off predictions are of networks that were left out."""
    predicted: list[Predictions] = [fit(train)(test) for train, test in splits]
    truth: Floats = own.seconds[np.concatenate([test for _, test in splits])]
    found = accuracy(truth, np.concatenate([each.median_s for each in predicted]))
    inside = [
        coverage(own.seconds[test], each) * len(test)
        for each, (_, test) in zip(predicted, splits, strict=True)
    ]
    return {
        "networks": found.n,
        "within_5": found.within_5,
        "within_10": found.within_10,
        "mape": found.mape,
        "spearman": found.spearman,
        "coverage_95": sum(inside) / found.n,
    }


def _splits(n: int, seed: int) -> list[tuple[Rows, Rows]]:
    """Rows to learn and rows to judge by; every row is judged by once where there are few."""
    if n < _ONE_SPLIT:
        return _folds(n, _FOLDS, seed)
    drawn = np.random.default_rng(seed).permutation(n)
    learnt = min(_MOST, n - n // _FOLDS)
    return [(np.sort(drawn[:learnt]), np.sort(drawn[learnt:]))]


def _folds(n: int, folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    fold = np.random.default_rng(seed).permutation(n) % folds
    return [(np.flatnonzero(fold != each), np.flatnonzero(fold == each)) for each in range(folds)]


def _too_few(own: Measured, targets: dict[str, int], space: str) -> str:
    enough = [key for key, n in targets.items() if n >= _FEWEST_OF_SOURCE and key != own.place.key]
    counted = "1 network" if len(own) == 1 else f"{len(own)} networks"
    said = (
        f"target '{own.place.name}' has {counted} of space '{space}'; a model of its own needs "
        f"{_FEWEST}. Measure more"
    )
    if not enough:
        return f"{said}."
    return f"{said}, or learn from devices that have been measured: --from {','.join(enough)}"
