"""The latency table: what was measured is looked up, the rest is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from millifit.latency_models.prediction import Prediction
from millifit.profiler.measurement import Measurement
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Failed, Samples


class Predictor(Protocol):
    """Predicts kernels that were not measured; `regressor.KernelModel` is one."""

    def predict(self, kernels: Sequence[Kernel]) -> list[Prediction]:
        """A prediction for each kernel, in order."""
        ...


class LatencyTable:
    """Prices of kernels on one target. Each is worked out once and then remembered."""

    def __init__(
        self, measured: Mapping[Kernel, Measurement], *, model: Predictor | None = None
    ) -> None:
        """`model` predicts what was not measured; without one such a kernel has no price."""
        self._model = model
        self._prices = {kernel: price_of(each) for kernel, each in measured.items()}

    def price(self, kernels: Sequence[Kernel]) -> list[Prediction | Failed]:
        """A price for each kernel, in order, or why it has none.

        A kernel whose measurement failed has no price, whatever a model would say: it does not
        run on the device.
        """
        new = [kernel for kernel in dict.fromkeys(kernels) if kernel not in self._prices]
        if new:
            self._prices.update(zip(new, self._predict(new), strict=True))
        return [self._prices[kernel] for kernel in kernels]

    def _predict(self, kernels: Sequence[Kernel]) -> Sequence[Prediction | Failed]:
        if self._model is not None:
            return self._model.predict(kernels)
        return [
            Failed(reason=f"kernel '{kernel.op}' ({kernel.key}) was not measured")
            for kernel in kernels
        ]


def price_of(measurement: Measurement) -> Prediction | Failed:
    """A measurement as a prediction: its median, with the interval of its samples."""
    outcome = measurement.outcome
    match outcome:
        case Samples():
            low, high = outcome.interval_s
            return Prediction(median_s=outcome.median_s, low_s=low, high_s=high, origin="measured")
        case Failed():
            return outcome
