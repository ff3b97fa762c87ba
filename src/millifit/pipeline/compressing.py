"""Apply a plan to a model and write the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from millifit.compress.apply import Training, apply_plan
from millifit.compress.evaluate import accuracy, outputs
from millifit.compress.plan import Plan
from millifit.compress.prune.groups import channel_groups
from millifit.data import Dataset, read_dataset
from millifit.errors import UsageError
from millifit.models import load_model
from millifit.pipeline.conclude import layer_rows
from millifit.pipeline.workbench import classes_of, preprocessing_of
from millifit.progress import SILENT, Progress
from millifit.targets.importer.onnx_file import write_network
from millifit.targets.network import Network

Numbers = tuple[float, ...] | None
Shape = tuple[int, ...] | None


def compress(
    model: str,
    plan: Path,
    *,
    out: Path,
    data: str | None = None,
    calibration: str | None = None,
    mean: Numbers = None,
    std: Numbers = None,
    input_shape: Shape = None,
    epochs: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Apply a plan to a model and write the result as ONNX (with Q/DQ where it is int8)."""
    network = load_model(model, input_shape=input_shape).network
    wanted = read_plan(plan, network)
    dataset = _dataset(network, data, calibration, mean, std, seed)
    made = apply_plan(
        network,
        wanted,
        dataset=dataset,
        training=Training() if epochs is None else Training(epochs=epochs),
        seed=seed,
        progress=progress,
    )
    write_network(made.network, out)
    validation = dataset.validation
    achieved = None
    if validation.y is not None:
        achieved = accuracy(outputs(made.network, validation.x), validation.y)
    return {
        "model": network.name,
        "out": str(out),
        "calibration": made.calibration,
        "accuracy": achieved,
        "size_bytes": out.stat().st_size,
        "plan": layer_rows(network, made.network, wanted),
    }


def read_plan(path: Path, network: Network) -> Plan:
    """A plan from its file, checked against the network. UsageError where it does not fit."""
    import json

    try:
        plan = Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"'{path}' is no plan ({error}). Give the plan.json that 'millifit search' wrote."
        ) from error
    layers = {layer.name for layer in network.layers}
    unknown = sorted(set(plan.precisions) - layers)
    if unknown:
        raise UsageError(
            f"plan '{path}' is for another network: '{network.name}' has no layer '{unknown[0]}'"
        )
    groups = {group.name for group in channel_groups(network)}
    unknown = sorted(set(plan.widths) - groups)
    if unknown:
        raise UsageError(
            f"plan '{path}' is for another network: '{network.name}' has no channel group "
            f"'{unknown[0]}'"
        )
    return plan


def _dataset(
    network: Network,
    data: str | None,
    calibration: str | None,
    mean: Numbers,
    std: Numbers,
    seed: int,
) -> Dataset:
    if data is None:
        raise UsageError("name the data with --data FILE, FOLDER or module:function")
    return read_dataset(
        data, sample_shape=network.types[network.inputs[0]].shape[1:],
        preprocessing=preprocessing_of(mean, std), calibration=calibration,
        classes=classes_of(network), seed=seed,
    )  # fmt: skip
