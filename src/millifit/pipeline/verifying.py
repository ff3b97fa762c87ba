"""Verify a bundle on its device."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from millifit.compress.evaluate import accuracy, outputs
from millifit.data import read_dataset
from millifit.errors import BundleError
from millifit.pipeline.bundles import (
    TRIAL_TIMING,
    bundle_bytes,
    run_bundle,
    time_in_turn,
    write_input,
)
from millifit.pipeline.conclude import interval_of
from millifit.pipeline.final import compare
from millifit.pipeline.reach import DeviceAccess, about_device, timing
from millifit.pipeline.workbench import Timer, preprocessing_of
from millifit.progress import SILENT, Progress
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.loaded_bundle import choose_here, load_bundle, runs_here
from millifit.targets.manifest import Manifest, check_files, read_manifest
from millifit.targets.portfolio import is_portfolio, read_portfolio, variant_folder
from millifit.targets.runner.network_timing import Contender
from millifit.targets.signature import check_signature
from millifit.targets.target import Target

Numbers = tuple[float, ...] | None


def verify(
    bundle: Path,
    *,
    data: str | None = None,
    mean: Numbers = None,
    std: Numbers = None,
    model: str | None = None,
    device: DeviceAccess | None = None,
    public_key: Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
    timer: Timer | None = None,
) -> dict[str, Any]:
    """Check a bundle on its device: hashes, golden output, latency, accuracy, agreement.

    `device` is where that is; this machine unless given. Of a portfolio the variant for this
    machine is checked. With `public_key` it must have been signed by its owner. The certificate.
    Raises BundleError where a file was changed, the signature is missing or false, the golden
    output is not given, or the bundle is for another device.
    """
    if public_key is not None:
        check_signature(bundle, public_key)
    bundle = _bundle_in(bundle, device)
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    if not manifest.golden.made_by and (model is None or data is None):
        raise BundleError(
            f"bundle '{bundle}' has no golden output: it was compiled on another machine. Verify "
            "it with --model and --data"
        )
    target = manifest.target
    if device is None:
        _check_it_runs_here(bundle, target)
    else:
        target = replace(target, reach="remote")
    with timing(timer, device, target, progress) as chosen:
        environment = chosen.environment()
        certificate: dict[str, Any] = {
            "bundle": str(bundle),
            "network": manifest.name,
            "target": target.name,
            "device": about_device(target, environment),
            "versions": manifest.versions,
            "files": "unchanged",
            "signature": None if public_key is None else "valid",
            "golden": asdict(manifest.golden),
            "golden_error": _golden_error(bundle, manifest, chosen, here=device is None),
            "size_bytes": bundle_bytes(bundle),
            "environment": environment,
        }
        certificate |= _latency(bundle, target.threads, chosen, progress)
        if data is not None:
            certificate |= _validated(bundle, chosen, data, mean, std, model, seed, progress)
    return certificate


def _bundle_in(folder: Path, device: DeviceAccess | None) -> Path:
    """The folder itself, or the variant of its portfolio for this machine."""
    if not is_portfolio(folder):
        return folder
    if device is not None:
        names = ", ".join(variant.name for variant in read_portfolio(folder).variants)
        raise BundleError(
            f"'{folder}' is a portfolio: on a device verify one of its variants ({names}), e.g. "
            f"'{folder}/variants/{read_portfolio(folder).variants[0].name}'"
        )
    return variant_folder(folder, choose_here(folder).variant)


def _check_it_runs_here(bundle: Path, target: Target) -> None:
    reason = runs_here(target)
    if reason is not None:
        raise BundleError(
            f"bundle '{bundle}' was compiled for target '{target.name}' and cannot run here: "
            f"{reason}. Verify it on its device with --device HOST:PORT ('millifit device serve' "
            "runs there), or compile it for this machine: millifit compile MODEL --target local"
        )


def _golden_error(bundle: Path, manifest: Manifest, timer: Timer, *, here: bool) -> float | None:
    """Largest deviation from the golden outputs, relative to their largest magnitude.

    A device elsewhere is asked for the first output alone. None where the bundle has no golden
    output. Raises BundleError where the deviation is above the tolerance.
    """
    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        x = golden["input"]
        wanted = [golden[f"output{i}"] for i in range(len(golden.files) - 1)]
    if not wanted:
        return None
    given = load_bundle(bundle).run(x) if here else (run_bundle(timer, bundle, x),)
    error = max(
        float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-30))
        for a, b in zip(given, wanted, strict=here)
    )
    if not error <= manifest.golden.tolerance:
        where = "this machine" if here else "its device"
        raise BundleError(
            f"bundle '{bundle}' does not give its golden output on {where}: relative error "
            f"{error:.2e}, at most {manifest.golden.tolerance:g} is allowed. Compile it again."
        )
    return error


def _latency(bundle: Path, threads: int, timer: Timer, progress: Progress) -> dict[str, Any]:
    """Latency and peak memory of a bundle on its device."""
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
            given = write_input(Path(work) / "input.npy", golden["input"])
        entry = Contender(kind="bundle", path=bundle, input_path=given, threads=threads)
        timed = time_in_turn(
            timer, {"bundle": entry}, policy=TRIAL_TIMING, progress=progress,
            title="time the bundle",
        )["bundle"]  # fmt: skip
    return {
        "latency_s": interval_of(timed.round_medians),
        "peak_memory_bytes": timed.peak_memory_bytes,
    }


def _validated(
    bundle: Path,
    timer: Timer,
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
    answers = run_bundle(timer, bundle, validation.x, progress=progress)
    found: dict[str, Any] = {"accuracy": None}
    if validation.y is not None:
        found["accuracy"] = accuracy(answers, validation.y)
    if model is not None:
        oracle = outputs(simplify(read_network(Path(model))), validation.x)
        found["agreement"] = compare(answers, oracle)
    return found
