"""Two precisions of a synthetic device are told apart by a model of both."""

from collections.abc import Callable

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.kernels import comparison, perceptron
from millifit.latency_models.kernels.batch import KernelBatch
from millifit.latency_models.kernels.comparison import ComparisonModel, fit_comparison
from millifit.latency_models.prediction import Floats
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType

Pairs = tuple[KernelBatch, Floats, KernelBatch, Floats]


@pytest.fixture
def pairs(convolutions: list[Kernel], seconds: Callable[[Kernel], float]) -> Pairs:
    """240 convolutions in fp32 and in int8, both slower by what only their shape says."""
    sides = []
    for precision, dtype in (("fp32", "float32"), ("int8", "int8")):
        kernels = [
            Kernel(
                op=each.op,
                inputs=tuple(TensorType(shape=of.shape, dtype=dtype) for of in each.inputs),
                output=TensorType(shape=each.output.shape, dtype=dtype),
                precision=precision,
                attributes=each.attributes,
                epilogue=each.epilogue,
            )
            for each in convolutions
        ]
        slower = np.array([1 + (each.output.shape[-1] % 4 > 0) for each in kernels])
        sides.append((KernelBatch.of(kernels), np.array([*map(seconds, kernels)]) * slower))
    (first, first_s), (second, second_s) = sides
    return first, first_s, second, second_s


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that a test can wait for."""
    monkeypatch.setattr(perceptron, "_STEPS", 300)
    monkeypatch.setattr(comparison, "_FEWEST", 100)
    monkeypatch.setattr(comparison, "_WIDTHS", (32, 32))
    monkeypatch.setattr(comparison, "_MEMBERS", 2)


def _halves(pairs: Pairs) -> tuple[Pairs, Pairs]:
    first, first_s, second, second_s = pairs
    known, asked = np.arange(0, len(first), 2), np.arange(1, len(first), 2)
    return (
        (first.take(known), first_s[known], second.take(known), second_s[known]),
        (first.take(asked), first_s[asked], second.take(asked), second_s[asked]),
    )


@pytest.mark.usefixtures("brief")
def test_ratios_of_kernels_that_were_not_measured(pairs: Pairs) -> None:
    """To a tenth in the mean, the same again with the same seed, and after saving."""
    known, (first, first_s, second, second_s) = _halves(pairs)
    model = fit_comparison(*known, seed=3)
    made = model.log_ratio(first, second)
    assert list(model.shared) == ["conv2d"]
    assert np.abs(made - np.log(first_s / second_s)).mean() < 0.1
    assert np.array_equal(fit_comparison(*known, seed=3).log_ratio(first, second), made)
    again = ComparisonModel.from_state(model.to_state())
    assert np.array_equal(again.log_ratio(first, second), made)


def test_few_measurements_are_compared_by_models_apart(pairs: Pairs) -> None:
    """Exactly the ratio of what each model predicts."""
    known, (first, _, second, _) = _halves(pairs)
    model = fit_comparison(*known, seed=3)
    of_first, of_second = model.apart
    expected = np.log(of_first.predict(first).median_s / of_second.predict(second).median_s)
    assert not model.shared
    np.testing.assert_allclose(model.log_ratio(first, second), expected, rtol=0, atol=1e-12)


def test_what_cannot_be_compared_is_refused(pairs: Pairs) -> None:
    """A latency that is none, and batches that are no pairs."""
    known, (first, _, second, _) = _halves(pairs)
    broken = known[3].copy()
    broken[5] = np.nan
    with pytest.raises(DataError, match="positive"):
        fit_comparison(*known[:3], broken, seed=0)
    with pytest.raises(ValueError, match="paired"):
        fit_comparison(*known, seed=0).log_ratio(first, second.take(np.arange(3)))
