"""What every latency model is: batches in, predictions out, and a state that can be kept."""

from __future__ import annotations

from typing import Protocol, TypeVar

from millifit.latency_models.archive import State
from millifit.latency_models.prediction import Predictions

Batch = TypeVar("Batch", contravariant=True)


class LatencyModel(Protocol[Batch]):
    """Predicts seconds for a batch of subjects that were encoded once: kernels, networks, or
    architectures.

    A model is made by a ``fit_...`` function from subjects, seconds and a seed; the same three give
    the same model, in any process.
    """

    def predict(self, batch: Batch) -> Predictions:
        """A prediction for each subject of the batch, in order.

        No subject is left at zero: what resembles nothing that was measured is ``unknown`` and
        has a wide interval.
        """
        ...

    def to_state(self) -> State:
        """All that the model has learnt, as plain arrays and JSON values; see `archive`."""
        ...
