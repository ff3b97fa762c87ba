"""A model on a device: its programs in every precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from millifit.pipeline.precisions import offered, variant
from millifit.targets.lower import lower
from millifit.targets.network import Network
from millifit.targets.program import Program
from millifit.targets.target import INTEGER, Precision, Target

if TYPE_CHECKING:
    from millifit.compress.quantize.ranges import Range


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
