"""How good predictions are: the field's measures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from millifit.latency_models.prediction import Floats, Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Measures over n predictions: shares within 5 and 10 percent of the measured seconds, the mean
    absolute percentage error (0.1 is 10 %), and Spearman's rank correlation.
    """

    n: int
    within_5: float
    within_10: float
    mape: float
    spearman: float


def accuracy(measured_s: Floats, predicted_s: Floats) -> Accuracy:
    """The measures of predictions ``[n]`` against measured seconds ``[n]``.

    Raises ValueError for no values, lengths that differ, or seconds that are not positive.
    """
    measured, predicted = np.asarray(measured_s, float), np.asarray(predicted_s, float)
    if measured.shape != predicted.shape or not measured.size:
        raise ValueError(f"needs as many predictions as measurements, got {predicted.shape}")
    if not np.all(measured > 0):
        raise ValueError("measured seconds must be positive")
    errors = np.abs(predicted / measured - 1)
    return Accuracy(
        n=len(errors),
        within_5=float((errors <= 0.05).mean()),
        within_10=float((errors <= 0.10).mean()),
        mape=float(errors.mean()),
        spearman=spearman(measured, predicted),
    )


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one of both is constant."""
    from scipy.stats import rankdata

    return _correlation(rankdata(a), rankdata(b))


def kendall(a: Floats, b: Floats) -> float:
    """Kendall's tau-b; 0 where one of both is constant."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(a, b).statistic)
    return tau if np.isfinite(tau) else 0.0


def coverage(measured_s: Floats, predicted: Predictions) -> float:
    """The share of measured seconds ``[n]`` that lie within the predictions' intervals."""
    inside = (predicted.low_s <= measured_s) & (measured_s <= predicted.high_s)
    return float(inside.mean())


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0
