"""Predict a network: the whole, and kernel by kernel what it rests on. Nothing is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import DataError, UsageError
from millifit.latency_models.archive import read_state
from millifit.latency_models.prediction import Prediction, Predictions
from millifit.models import load_model
from millifit.pipeline.predicting import NetworkPrice, Predictor, fit_predictor, working_set
from millifit.pipeline.pricing import working_bytes
from millifit.pipeline.workbench import open_store, plain_interval
from millifit.progress import SILENT, Progress
from millifit.targets.catalog import find_target
from millifit.targets.lower import lower
from millifit.targets.program import without_rule
from millifit.targets.runner.environment import code_versions
from millifit.targets.target import Target

Shape = tuple[int, ...] | None

KINDS = ("measured", "interpolated", "predicted", "extrapolated", "unknown")
_MOST_GUESSED = 0.10  # of the time, before a person is warned


def predict(
    model: str,
    *,
    target: str = "local",
    threads: int = 1,
    store: str | None = None,
    latency_model: str | None = None,
    input_shape: Shape = None,
    progress: Progress = SILENT,
    seed: int = 0,
) -> dict[str, Any]:
    """Predict a model's latency from what is known of the target; measures nothing.

    What is known is what the store has of the target, or a file of `learn`. MeasurementError where
    that is nothing; DataError or UsageError where the file cannot be used for this target.
    """
    network = load_model(model, input_shape=input_shape).network
    device = find_target(target, threads=threads)
    program = lower(network, device)
    if latency_model is not None:
        predictor = load_predictor(Path(latency_model), device)
    else:
        progress.note(f"learning from the measurements of '{device.name}'")
        predictor = fit_predictor(device, open_store(store), seed=seed)
    price = predictor.predict(
        program, working_set_bytes=working_set(device, working_bytes(network))
    )
    rows, shares = waterfall(price), shares_of(price.kernels)
    whole = price.whole
    return {
        "model": network.name,
        "target": device.name,
        "emulated": device.emulated,
        "threads": threads,
        "latency_s": plain_interval(whole.median_s, whole.low_s, whole.high_s),
        "origin": whole.origin,
        "extrapolated": whole.extrapolated,
        "sum_of_kernels_s": float(price.kernels.median_s.sum()),
        "networks_measured": predictor.networks,
        "kernels": rows,
        "share": shares,
        "warning": warning(shares),
        "without_rule": without_rule(program),
    }


def load_predictor(path: Path, target: Target) -> Predictor:
    """The saved models of a target.

    DataError where the file is none, is damaged or was made by a newer millifit; UsageError where
    it is of another target, or of code that generates other kernels.
    """
    if not path.is_file():
        raise UsageError(
            f"there is no file '{path}'. Make one with 'millifit profile learn --out {path}'."
        )
    try:
        predictor = Predictor.from_state(read_state(path))
    except DataError as error:
        message = str(error)
        raise DataError(message if str(path) in message else f"'{path}': {message}") from error
    if predictor.target_key != target.key:
        raise UsageError(
            f"'{path}' is of target '{predictor.target_name}' with {predictor.threads} thread(s), "
            f"not of '{target.name}' with {target.threads}. Name that target, or learn from "
            f"measurements of this one: millifit profile learn --target {target.name}"
        )
    if predictor.versions != code_versions():
        raise UsageError(
            f"'{path}' was learnt from kernels of other code ({predictor.versions}; this is "
            f"{code_versions()}). Measure and learn again: millifit profile MODEL"
        )
    return predictor


def waterfall(price: NetworkPrice) -> list[dict[str, Any]]:
    """A row per call in execution order. `share` is of the sum of all kernels' seconds, and
    `cumulated_s` the seconds up to its end.
    """
    kernels = price.kernels
    total, ends = float(kernels.median_s.sum()), np.cumsum(kernels.median_s)
    return [
        {
            "name": call.nodes[0],
            "op": str(dict(call.kernel.attributes).get("operator", call.kernel.op)),
            "precision": call.kernel.precision,
            "output_dtype": call.kernel.output.dtype,
            "shape": list(call.kernel.output.shape),
            "seconds": each.median_s,
            "low_s": each.low_s,
            "high_s": each.high_s,
            "cumulated_s": float(end),
            "share": each.median_s / total,
            "origin": each.origin,
            "extrapolated": each.extrapolated,
        }
        for call, each, end in zip(price.calls, kernels, ends, strict=True)
    ]


def shares_of(kernels: Predictions) -> dict[str, float]:
    """The share of the predicted time by what it rests on; they add up to 1."""
    total = float(kernels.median_s.sum())
    kinds = np.array([_kind(each) for each in kernels])
    return {kind: float(kernels.median_s[kinds == kind].sum()) / total for kind in KINDS}


def _kind(price: Prediction) -> str:
    return "extrapolated" if price.origin == "predicted" and price.extrapolated else price.origin


def warning(shares: dict[str, float]) -> str | None:
    """What a person should know where much of the time is little more than a guess."""
    guessed = shares["extrapolated"] + shares["unknown"]
    if guessed <= _MOST_GUESSED:
        return None
    return (
        f"{100 * guessed:.0f} % of the predicted time is of kernels unlike all that were measured. "
        "Measure this model's own: millifit profile MODEL"
    )
