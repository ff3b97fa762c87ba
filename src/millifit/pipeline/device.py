"""Profile a device, and predict latencies from a profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from millifit.latency_models.network import NetworkModel
from millifit.models import load_model
from millifit.pipeline.conclude import without_rule
from millifit.pipeline.pricing import Prices, working_bytes
from millifit.pipeline.workbench import (
    Timer,
    local_target,
    open_store,
    plain_interval,
    timing,
)
from millifit.profiler.measurement import Measurement
from millifit.profiler.store import default_store_path
from millifit.progress import SILENT, Progress
from millifit.targets.catalog import find_target
from millifit.targets.kernel import Kernel
from millifit.targets.lower import lower
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.target import Target
from millifit.targets.timing import Failed

Shape = tuple[int, ...] | None


def profile(
    model: str,
    *,
    target: str = "local",
    threads: int = 1,
    store: str | None = None,
    input_shape: Shape = None,
    progress: Progress = SILENT,
    seed: int = 0,
    timer: Timer | None = None,
) -> dict[str, Any]:
    """Measure the kernels of a model in fp32 and in int8 on a target; resumes.

    The int8 kernels are those of the network quantized throughout; their time does not depend on
    the scales, so no data is needed.
    """
    network = load_model(model, input_shape=input_shape).network
    device = local_target(target, threads)
    programs = [lower(network, device)]
    if "int8" in device.precisions:
        programs.append(lower(_quantized_anyhow(network, device, seed), device))
    prices, total = _measured(programs, network, device, store, progress, seed, timer)
    failures = [
        {"kernel": kernel.op, "reason": each.outcome.reason}
        for kernel, each in total.items()
        if isinstance(each.outcome, Failed)
    ]
    sums = {
        name: prices.sum_of(program)
        for name, program in zip(("fp32", "int8"), programs, strict=False)
    }
    return {
        "model": network.name,
        "target": device.name,
        "threads": threads,
        "kernels": len(total),
        "failed": failures,
        "sum_of_kernels_s": sums,
        "without_rule": without_rule(programs[0]),
        "store": str(store or default_store_path()),
    }


def _quantized_anyhow(network: Network, device: Target, seed: int) -> Network:
    """The network with every layer int8, with ranges from random inputs: for its kernels only."""
    from millifit.compress.quantize.quantizer import quantizable, quantize
    from millifit.compress.quantize.ranges import calibrate

    shape = network.types[network.inputs[0]].shape
    x = np.random.default_rng(seed).standard_normal((2, *shape[1:])).astype(np.float32)
    ranges = calibrate(network, x, method="min_max")
    return quantize(network, quantizable(network), ranges, weight_bits=device.weight_bits)


def _measured(
    programs: list[Program],
    network: Network,
    device: Target,
    store: str | None,
    progress: Progress,
    seed: int,
    timer: Timer | None,
) -> tuple[Prices, Mapping[Kernel, Measurement]]:
    """Prices of all kernels of some programs, measured, and the measurements."""
    with timing(timer, progress) as chosen:
        prices = Prices(
            target=device, network_bytes=working_bytes(network), store=open_store(store),
            timer=chosen, progress=progress, seed=seed,
        )  # fmt: skip
        return prices, prices.measure([k for program in programs for k in program.kernels])


def predict(
    model: str,
    *,
    target: str = "local",
    threads: int = 1,
    store: str | None = None,
    input_shape: Shape = None,
    progress: Progress = SILENT,
    seed: int = 0,
) -> dict[str, Any]:
    """Predict a model's latency from what the store knows of the target; measures nothing.

    Kernels that were not measured are predicted from those that were. MeasurementError where the
    store has nothing of this target.
    """
    network = load_model(model, input_shape=input_shape).network
    device = find_target(target, threads=threads)
    program = lower(network, device)
    prices = Prices.stored(
        target=device, network_bytes=working_bytes(network), store=open_store(store),
        progress=progress, seed=seed,
    )  # fmt: skip
    whole = NetworkModel().predict(prices.of_calls(program))
    rows = prices.rows(program)
    total = sum(row["seconds"] for row in rows)
    measured = sum(row["seconds"] for row in rows if row["origin"] == "measured") / total
    return {
        "model": network.name,
        "target": device.name,
        "threads": threads,
        "latency_s": plain_interval(whole.median_s, whole.low_s, whole.high_s),
        "kernels": rows,
        "share": {"measured": measured, "predicted": 1.0 - measured},
        "without_rule": without_rule(program),
    }
