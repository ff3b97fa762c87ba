"""Compress by a plan, compile for targets, and verify bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from millifit.compress.apply import Training, apply_plan
from millifit.compress.evaluate import accuracy, outputs
from millifit.compress.plan import Plan
from millifit.compress.prune.groups import channel_groups
from millifit.data import Dataset, read_dataset
from millifit.errors import BundleError, UsageError
from millifit.models import load_model
from millifit.pipeline.bundles import (
    TRIAL_TIMING,
    bundle_bytes,
    run_bundle,
    time_in_turn,
    write_input,
)
from millifit.pipeline.conclude import interval_of, layer_rows, without_rule
from millifit.pipeline.final import compare
from millifit.pipeline.pricing import working_bytes
from millifit.pipeline.tuning import stored_choices, tune_programs
from millifit.pipeline.workbench import (
    Timer,
    classes_of,
    local_target,
    open_store,
    preprocessing_of,
    timing,
)
from millifit.progress import SILENT, Progress
from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import read_network, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.lower import lower
from millifit.targets.manifest import check_files, read_manifest
from millifit.targets.network import Network
from millifit.targets.runner.environment import code_versions
from millifit.targets.runner.network_timing import Contender

Numbers = tuple[float, ...] | None
Shape = tuple[int, ...] | None

# A golden output is compared with this tolerance, relative to its largest magnitude.
_GOLDEN_TOLERANCE = 1e-4


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


def compile_model(
    model: str,
    *,
    targets: list[str],
    out: Path,
    threads: int = 1,
    input_shape: Shape = None,
    store: str | None = None,
    tune: float | None = None,
    progress: Progress = SILENT,
    timer: Timer | None = None,
) -> dict[str, Any]:
    """Write a bundle for every target into ``out/TARGET``.

    Kernels that were tuned on a target, according to the `store`, are compiled as they won. With
    `tune` the network's kernels are tuned first, for so many seconds on each target; TargetError
    where one cannot be reached from here.
    """
    network = load_model(model, input_shape=input_shape).network
    find = find_target if tune is None else local_target
    devices = [find(name, threads=threads) for name in dict.fromkeys(targets)]
    programs = {device: lower(network, device) for device in devices}
    kept = open_store(store)
    reports = {}
    if tune is not None:
        with timing(timer, progress) as chosen:
            for device, program in programs.items():
                reports[device] = tune_programs(
                    {"network": program}, target=device, network_bytes=working_bytes(network),
                    store=kept, timer=chosen, seconds=tune, progress=progress, seed=0,
                )  # fmt: skip
    shape = network.types[network.inputs[0]].shape
    golden = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    bundles = []
    with progress.stage("compile", len(devices)) as advance:
        for device in devices:
            program = programs[device].with_choices(stored_choices(kept, device))
            path = out / device.name
            write_bundle(
                path, program=program, target=device, versions=code_versions(),
                golden_input=golden, details={"network": network.name},
            )  # fmt: skip
            bundles.append(
                {
                    "target": device.name,
                    "bundle": str(path),
                    "size_bytes": bundle_bytes(path),
                    "kernels": len(program.kernels),
                    "without_rule": without_rule(program),
                    "tuned": len(program.tuned),
                    "tuning": reports.get(device),
                }
            )
            advance(1)
    return {"model": network.name, "bundles": bundles}


def verify(
    bundle: Path,
    *,
    data: str | None = None,
    mean: Numbers = None,
    std: Numbers = None,
    model: str | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
    timer: Timer | None = None,
) -> dict[str, Any]:
    """Check a bundle on its device: hashes, golden output, latency, accuracy, agreement.

    The certificate. Raises BundleError where a file was changed or the golden output is not given.
    """
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    error = _golden_error(bundle)
    if error is None and (model is None or data is None):
        raise BundleError(
            f"bundle '{bundle}' has no golden output: it was compiled on another machine. Verify "
            "it with --model and --data"
        )
    certificate: dict[str, Any] = {
        "bundle": str(bundle),
        "network": manifest.name,
        "target": manifest.target.name,
        "versions": manifest.versions,
        "files": "unchanged",
        "golden_error": error,
        "size_bytes": bundle_bytes(bundle),
    }
    certificate |= _latency(bundle, manifest.target.threads, timer, progress)
    if data is not None:
        certificate |= _validated(bundle, data, mean, std, model, seed, progress)
    return certificate


def _golden_error(bundle: Path) -> float | None:
    """Largest deviation from the golden outputs, relative to their largest magnitude.

    None where the bundle has no golden output, since it was compiled on another machine.
    """
    loaded = load_bundle(bundle)
    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        wanted = [golden[f"output{i}"] for i in range(len(golden.files) - 1)]
        given = loaded.run(golden["input"])
    if not wanted:
        return None
    error = max(
        float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
        for a, b in zip(given, wanted, strict=True)
    )
    if not error <= _GOLDEN_TOLERANCE:
        raise BundleError(
            f"bundle '{bundle}' does not give its golden output on this machine: relative error "
            f"{error:.2e}, at most {_GOLDEN_TOLERANCE:g} is allowed. Compile it again here."
        )
    return error


def _latency(bundle: Path, threads: int, timer: Timer | None, progress: Progress) -> dict[str, Any]:
    """Latency and peak memory of a bundle on this machine."""
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
            given = write_input(Path(work) / "input.npy", golden["input"])
        entry = Contender(kind="bundle", path=bundle, input_path=given, threads=threads)

        with timing(timer, progress) as chosen:
            timed = time_in_turn(
                chosen, {"bundle": entry}, policy=TRIAL_TIMING, progress=progress,
                title="time the bundle",
            )["bundle"]  # fmt: skip
    return {
        "latency_s": interval_of(timed.round_medians),
        "peak_memory_bytes": timed.peak_memory_bytes,
    }


def _validated(
    bundle: Path,
    data: str,
    mean: Numbers,
    std: Numbers,
    model: str | None,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Accuracy on validation data and, with a model, agreement with ONNX Runtime."""
    manifest = read_manifest(bundle)
    classes = manifest.outputs[0].shape[1] if len(manifest.outputs[0].shape) == 2 else None
    dataset = read_dataset(
        data, sample_shape=manifest.input.shape[1:], preprocessing=preprocessing_of(mean, std),
        classes=classes, seed=seed,
    )  # fmt: skip
    validation = dataset.validation
    answers = run_bundle(bundle, validation.x, progress=progress)
    found: dict[str, Any] = {"accuracy": None}
    if validation.y is not None:
        found["accuracy"] = accuracy(answers, validation.y)
    if model is not None:
        oracle = outputs(simplify(read_network(Path(model))), validation.x)
        found["agreement"] = compare(answers, oracle)
    return found
