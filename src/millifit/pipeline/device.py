"""Predict latencies from a profile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from millifit.latency_models.network import NetworkModel
from millifit.models import load_model
from millifit.pipeline.conclude import without_rule
from millifit.pipeline.precisions import offered, variant
from millifit.pipeline.pricing import Prices, working_bytes
from millifit.pipeline.tuning import stored_choices
from millifit.pipeline.workbench import open_store, plain_interval
from millifit.progress import SILENT, Progress
from millifit.targets.catalog import find_target
from millifit.targets.lower import lower
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.target import INTEGER, Precision, Target

if TYPE_CHECKING:
    from millifit.compress.quantize.ranges import Range

Shape = tuple[int, ...] | None


def programs_of(
    network: Network, device: Target, seed: int, *, precisions: tuple[Precision, ...] | None = None
) -> dict[str, Program]:
    """A network's program in every precision, its layers all in the same one.

    `precisions` are those wanted besides fp32; None: those that a fit chooses from by itself.
    """
    others = offered(precisions, device)[1:]
    programs = {"fp32": lower(network, device)}
    if not others:
        return programs
    ranges = _any_ranges(network, seed) if any(p in INTEGER for p in others) else {}
    for precision in others:
        programs[precision] = lower(variant(network, precision, ranges), device)
    return programs


def _any_ranges(network: Network, seed: int) -> dict[str, Range]:
    """Ranges from random inputs: what a kernel takes does not depend on them."""
    from millifit.compress.quantize.ranges import calibrate

    shape = network.types[network.inputs[0]].shape
    x = np.random.default_rng(seed).standard_normal((2, *shape[1:])).astype(np.float32)
    return calibrate(network, x, method="min_max")


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
    kept = open_store(store)
    prices = Prices.stored(
        target=device, network_bytes=working_bytes(network), store=kept, progress=progress,
        seed=seed, choices=stored_choices(kept, device),
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
