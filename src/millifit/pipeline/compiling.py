"""Compile a network for targets: a bundle for each that can be, and why for each that cannot."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from millifit.compress.evaluate import activations
from millifit.errors import BundleError, ModelError, UsageError
from millifit.files import staging_folder
from millifit.models import load_model
from millifit.pipeline.bundles import bundle_bytes
from millifit.pipeline.precisions import variant
from millifit.pipeline.pricing import working_bytes
from millifit.pipeline.reach import DeviceAccess, reachable_target, timing
from millifit.pipeline.tuning import stored_choices, tune_programs
from millifit.pipeline.workbench import Timer, open_store, usable_cores
from millifit.profiler.store import Store
from millifit.progress import SILENT, Progress
from millifit.targets.bundle import measure_bundle
from millifit.targets.bundle_folder import replace_folder
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import write_network
from millifit.targets.loaded_bundle import runs_here
from millifit.targets.lower import lower
from millifit.targets.manifest import read_manifest, sha256_of
from millifit.targets.network import Network
from millifit.targets.portfolio import is_portfolio, write_portfolio
from millifit.targets.runner.compile_pool import compile_jobs
from millifit.targets.runner.environment import code_versions
from millifit.targets.signature import check_key, sign
from millifit.targets.target import HALF, INTEGER, Precision, Target

Shape = tuple[int, ...] | None
_FEW = 4  # targets that a line names


def compile_model(
    model: str,
    *,
    targets: Sequence[str],
    out: Path,
    threads: int = 1,
    input_shape: Shape = None,
    precision: Precision = "fp32",
    store: str | None = None,
    tune: float | None = None,
    device: DeviceAccess | None = None,
    portfolio: bool = False,
    key: Path | None = None,
    progress: Progress = SILENT,
    timer: Timer | None = None,
) -> dict[str, Any]:
    """Write a bundle for every target into ``out/TARGET``, several at a time.

    With `portfolio`, `out` becomes one that holds the bundles of all. With `key`, a file, what is
    written is signed. Layers are in `precision` where they can be; integers need data, see
    `compress`. Kernels that were tuned on a target, according to the `store`, are compiled as they
    won. With `tune` the network's kernels are tuned first, for so many seconds on each target;
    TargetError where one cannot be reached from here.

    A target for which nothing can be compiled is in ``failed``, with the reason: nothing is
    written for it, and the others are.
    """
    began = time.perf_counter()
    if device is not None and (tune is None or len(set(targets)) > 1):
        raise UsageError(
            "a device is for tuning one target: give --tune SECONDS and one --target with --device."
        )
    if key is not None:
        check_key(key)
    if portfolio:
        _check_place(out)
    network = load_model(model, input_shape=input_shape).network
    chosen = [_target(name, threads, tune, device) for name in dict.fromkeys(targets)]
    _check(precision, chosen)
    networks = _networks(network, precision, chosen)
    kept = open_store(store)
    tuned: dict[str, Any] = {}
    if tune is not None:
        for target, made in networks.items():
            with timing(timer, device, target, progress) as clock:
                tuned[target.name] = tune_programs(
                    {"network": lower(made, target)}, target=target, store=kept, timer=clock,
                    network_bytes=working_bytes(network), seconds=tune, progress=progress, seed=0,
                )  # fmt: skip
    with staging_folder(out.parent if portfolio else out) as work:
        compiled = list(_compiled(networks, precision, kept, work, progress))
        # Measured and put into place when nothing else is running any more.
        rows = {row["target"]: _measured(row, work) for row in compiled}
        found = [rows[target.name] | {"tuning": tuned.get(target.name)} for target in chosen]
        bundles = [row for row in found if "reason" not in row]
        place = _place_portfolio if portfolio else _place_bundles
        places = place({row["target"]: work / row["target"] for row in bundles}, out, key)
    return {
        "model": network.name,
        "precision": precision,
        "bundles": [row | {"bundle": str(places[row["target"]])} for row in bundles],
        "failed": [
            {"target": row["target"], "reason": row["reason"]} for row in found if "reason" in row
        ],
        "portfolio": str(out) if portfolio and bundles else None,
        "signed": key is not None,
        "seconds": time.perf_counter() - began,
    }


def _check_place(out: Path) -> None:
    """Only a portfolio is replaced by one: whatever else is in a folder would be lost."""
    if out.exists() and not is_portfolio(out) and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"'{out}' exists and is no portfolio, which would replace it. Name a new folder by "
            "--out."
        )


def _target(name: str, threads: int, tune: float | None, device: DeviceAccess | None) -> Target:
    """The target of a name; one that can be measured on where it is to be tuned for."""
    if tune is None:
        return find_target(name, threads=threads)
    return reachable_target(name, device, threads=threads)


def _check(precision: Precision, targets: Sequence[Target]) -> None:
    if precision in INTEGER:
        raise UsageError(
            f"{precision} needs data, to see the ranges of values: make the network with "
            "'millifit compress' or 'millifit fit' and compile the ONNX file that they write."
        )
    lacking = [target.name for target in targets if precision not in target.precisions]
    if lacking:
        raise UsageError(
            f"{precision} is not among the precisions of {', '.join(lacking)} ('millifit targets "
            "list'). Compile for these apart."
        )


def _networks(
    network: Network, precision: Precision, targets: Sequence[Target]
) -> dict[Target, Network]:
    """The network of every target, its layers in `precision`.

    On a processor depthwise layers gain nothing from 16 bits; on a GPU they read half as much.
    """
    if precision == "fp32":
        return dict.fromkeys(targets, network)
    whole = {target: target.gpu is not None and precision in HALF for target in targets}
    made = {
        depthwise: variant(network, precision, {}, depthwise=depthwise)
        for depthwise in set(whole.values())
    }
    return {target: made[depthwise] for target, depthwise in whole.items()}


def _compiled(
    networks: Mapping[Target, Network],
    precision: Precision,
    store: Store,
    work: Path,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """What came of each target, as it is done: its bundle is in `work`, or a reason is given."""
    files: dict[int, dict[str, str]] = {}
    jobs = []
    for target, network in networks.items():
        if id(network) not in files:
            files[id(network)] = _files(network, work / f".{len(files)}", progress)
        choices = stored_choices(store, target)
        jobs.append(
            {
                **files[id(network)],
                "target": dataclasses.asdict(target),
                "choices": [{"kernel": k.to_dict(), "choice": c} for k, c in choices.items()],
                "out": str(work / target.name),
                "versions": code_versions(),
                "details": {"network": network.name, "precision": precision},
            }
        )
    few = [target.name for target in networks] if len(jobs) <= _FEW else [f"{len(jobs)} targets"]
    with progress.stage(f"compile for {', '.join(few)}", len(jobs)) as advance:
        for job, answer in compile_jobs(jobs, processes=usable_cores()):
            row = {"target": job["target"]["name"], **answer}
            progress.note(_said(row))
            yield row
            advance(1)


def _said(row: Mapping[str, Any]) -> str:
    if "reason" in row:
        return f"{row['target']}: not compiled: {row['reason']}"
    return f"{row['target']}: {row['kernels']} kernels in {row['seconds']:.1f} s"


def _files(network: Network, folder: Path, progress: Progress) -> dict[str, str]:
    """The network as a file, and an input with the outputs that ONNX Runtime gives."""
    folder.mkdir()
    model, golden = folder / "network.onnx", folder / "golden.npz"
    write_network(network, model)
    np.savez(golden, **_golden(network, progress))
    return {"network": str(model), "name": network.name, "golden": str(golden)}


def _golden(network: Network, progress: Progress) -> dict[str, Any]:
    shape = network.types[network.inputs[0]].shape
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    try:
        chunks = list(activations(network, x, network.outputs, threads=usable_cores()))
    except ModelError as error:
        progress.note(f"bundles for other machines get no golden outputs: {error}")
        return {"input": x}
    outputs = (np.concatenate([chunk[name] for chunk in chunks]) for name in network.outputs)
    return {"input": x} | {f"output{i}": output for i, output in enumerate(outputs)}


def _measured(row: dict[str, Any], work: Path) -> dict[str, Any]:
    """What is to be known of a target's bundle, measured if it runs here; or why there is none."""
    if "reason" in row:
        return row
    made = work / row["target"]
    try:
        manifest = read_manifest(made)
        if runs_here(manifest.target) is None:
            manifest = measure_bundle(made)
    except BundleError as error:
        return {"target": row["target"], "reason": str(error)}
    return row | {
        "size_bytes": bundle_bytes(made),
        "planned_memory_bytes": manifest.planned_memory_bytes,
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "start_up_s": manifest.start_up_s,
        "linker": manifest.linker,
        "manifest_sha256": sha256_of(made / "manifest.json"),
    }


def _place_bundles(made: Mapping[str, Path], out: Path, key: Path | None) -> dict[str, Path]:
    """Put finished bundles into ``out/TARGET``; where they are."""
    for name, folder in made.items():
        if key is not None:
            sign(folder, key)
        replace_folder(folder, out / name)
    return {name: out / name for name in made}


def _place_portfolio(made: Mapping[str, Path], out: Path, key: Path | None) -> dict[str, Path]:
    """Put finished bundles into a portfolio at `out`; where they are. None make no portfolio."""
    if made:
        staging = next(iter(made.values())).with_name(".portfolio")
        write_portfolio(staging, made)
        if key is not None:
            sign(staging, key)
        replace_folder(staging, out)
    return {name: out / "variants" / name for name in made}
