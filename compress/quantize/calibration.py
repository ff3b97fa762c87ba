"""Calibration: what a float network does on calibration samples, found once for many plans."""

from __future__ import annotations

from functools import cached_property

from millifit.compress.evaluate import Floats, outputs
from millifit.compress.quantize.bias_correction import Means, layer_means
from millifit.compress.quantize.ranges import Histogram, histograms
from millifit.targets.network import Network

# Enough to choose between ways to quantize; more would only take longer.
_JUDGED_SAMPLES = 128


class Calibration:
    """A float network's activations on ``x: [N, *sample]``; each part is computed when needed."""

    def __init__(self, network: Network, x: Floats, *, threads: int = 1) -> None:
        self.network = network
        self.x = x
        self.threads = threads

    @cached_property
    def histograms(self) -> dict[str, Histogram]:
        """A histogram of every activation."""
        return histograms(self.network, self.x, threads=self.threads)

    @cached_property
    def means(self) -> Means:
        """Mean outputs of every layer, for bias correction."""
        return layer_means(self.network, self.x)

    @property
    def judged(self) -> Floats:
        """The samples on which ways to quantize are compared."""
        return self.x[:_JUDGED_SAMPLES]

    @cached_property
    def answers(self) -> Floats:
        """The network's outputs for `judged`."""
        return outputs(self.network, self.judged, threads=self.threads)
