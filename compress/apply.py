"""Apply a plan to a network: prune, fine-tune, calibrate, quantize, correct biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import numpy as np

from millifit.compress.evaluate import divergence, outputs
from millifit.compress.finetune import finetune
from millifit.compress.plan import Plan
from millifit.compress.prune.groups import channel_groups
from millifit.compress.prune.importance import Scores, taylor_importances
from millifit.compress.prune.pruner import prune
from millifit.compress.quantize.bias_correction import correct_bias
from millifit.compress.quantize.calibration import Calibration
from millifit.compress.quantize.quantizer import quantize
from millifit.compress.quantize.ranges import CalibrationMethod, choose_range
from millifit.data import Dataset, Split
from millifit.errors import ModelError, UnsupportedOperator
from millifit.progress import SILENT, Progress
from millifit.targets.network import Network
from millifit.targets.target import INTEGER, Precision

# Enough to rank channels; more would only take longer.
_IMPORTANCE_SAMPLES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a pruned network is fine-tuned; 0 epochs leave it as pruning left it.

    `shift` moves training images by up to so many pixels at random.
    """

    epochs: int = 5
    learning_rate: float = 1e-2
    batch: int = 32
    shift: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """A plan applied: the pruned network in fp32, and the same with every layer in its precision.

    `calibration` is the method that found the ranges; None where every layer is fp32.
    """

    float_network: Network
    network: Network
    calibration: CalibrationMethod | None


def apply_plan(
    network: Network,
    plan: Plan,
    *,
    dataset: Dataset,
    training: Training | None = None,
    calibration: Calibration | None = None,
    seed: int,
    threads: int = 1,
    progress: Progress = SILENT,
) -> Compressed:
    """The network that `plan` describes.

    `calibration` is that of `network` on `dataset.calibration`, where it is known; it serves plans
    that remove no channels.

    Where the plan removes channels, the network is fine-tuned on `dataset.train`, if there is any,
    with `network` as the teacher. Ranges and corrections come from `dataset.calibration`; neither
    `dataset.search` nor `dataset.validation` is looked at. ModelError where the plan does not fit.
    """
    small = prune_and_train(
        network,
        plan.widths,
        dataset=dataset,
        training=training or Training(),
        seed=seed,
        progress=progress,
    )
    if all(precision == "fp32" for precision in plan.precisions.values()):
        return Compressed(float_network=small, network=small, calibration=None)
    if calibration is None or small is not network:
        calibration = Calibration(small, dataset.calibration.x, threads=threads)
    quantized, method = quantize_well(calibration, plan.precisions, progress=progress)
    return Compressed(float_network=small, network=quantized, calibration=method)


def prune_and_train(
    network: Network,
    widths: Mapping[str, int],
    *,
    dataset: Dataset,
    training: Training,
    seed: int,
    progress: Progress = SILENT,
) -> Network:
    """The network with narrower channel groups, in fp32; `network` itself where none is narrower.

    Channels are ranked by Taylor importance on training data (else calibration data), activations'
    statistics restored on calibration data.
    """
    sizes = {group.name: group.size for group in channel_groups(network)}
    if unknown := sorted(set(widths) - set(sizes)):
        raise ModelError(f"'{network.name}' has no channel group {', '.join(map(repr, unknown))}")
    narrower = {name: width for name, width in widths.items() if width != sizes[name]}
    if not narrower:
        return network
    small = prune(
        network,
        narrower,
        importances=rank_channels(network, dataset, seed=seed),
        samples=dataset.calibration.x,
    )
    if dataset.train is None or training.epochs == 0:
        return small
    return finetune(
        small,
        dataset.train,
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        batch=training.batch,
        shift=training.shift,
        teacher=network,
        seed=seed,
        progress=progress,
    )


def rank_channels(network: Network, dataset: Dataset, *, seed: int) -> dict[str, Scores]:
    """Taylor importance ``[size]`` of every channel group, on at most 512 samples."""
    source: Split = dataset.calibration if dataset.train is None else dataset.train
    chosen = np.random.default_rng(seed).permutation(len(source.x))[:_IMPORTANCE_SAMPLES]
    sample = source.take(chosen)
    return taylor_importances(network, channel_groups(network), sample.x, sample.y, seed=seed)


def quantize_well(
    calibration: Calibration,
    precisions: Mapping[str, Precision],
    *,
    progress: Progress = SILENT,
) -> tuple[Network, CalibrationMethod | None]:
    """Quantize with the calibration method that diverges least from the float network; that method.

    All methods are tried (none where no layer is an integer one); the best one's biases are
    corrected where that brings it closer still.
    """
    integer = any(precision in INTEGER for precision in precisions.values())
    methods: tuple[CalibrationMethod | None, ...] = (None,)
    if integer:
        methods = get_args(CalibrationMethod)
    network = calibration.network
    with progress.stage(f"calibrate {network.name}", len(methods) + 2) as advance:
        found, wanted = calibration.histograms if integer else {}, calibration.answers
        advance(1)

        def loss(candidate: Network) -> float:
            made = outputs(candidate, calibration.judged, threads=calibration.threads)
            return divergence(wanted, made)

        tried: list[tuple[float, Network, CalibrationMethod | None]] = []
        for method in methods:
            ranges = {
                tensor: choose_range(each, method=method)
                for tensor, each in found.items()
                if method is not None
            }
            candidate = quantize(network, precisions, ranges)
            tried.append((loss(candidate), candidate, method))
            advance(1)
        least, best, method = min(tried, key=lambda entry: entry[0])
        try:
            corrected = correct_bias(network, best, calibration.x, means=calibration.means)
        except UnsupportedOperator as error:
            progress.note(f"biases are left uncorrected: {error}")
            corrected = best
        closer = corrected is not best and loss(corrected) < least
        advance(1)
    return (corrected if closer else best), method
