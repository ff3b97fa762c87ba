"""Answers of networks through ONNX Runtime, and measures of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_networks import images, network, node, residual

from millifit.compress.evaluate import (
    accuracy,
    activations,
    cross_entropy,
    divergence,
    keeps_batch,
    outputs,
)
from millifit.errors import DataError, ModelError


def test_batch_equals_single_samples() -> None:
    """A network with batch 1 gives for many samples at once what it gives one by one."""
    net, x = residual(), images(70)
    assert keeps_batch(net)
    single = np.concatenate([outputs(net, x[i : i + 1]) for i in range(len(x))])
    assert outputs(net, x).shape == (70, 5)
    np.testing.assert_allclose(outputs(net, x), single, atol=1e-5)


def test_reshape_with_fixed_batch_runs_on_any_batch() -> None:
    """A Reshape to (1, 768) does not stop a batch of samples from being run at once."""
    shape = np.array([1, 768], dtype=np.int64)
    net = network([node("Reshape", "r", "x", "shape")], {"shape": shape}, shape=(1, 3, 16, 16))
    assert keeps_batch(net)
    np.testing.assert_array_equal(outputs(net, images(5)), images(5).reshape(5, 768))


def test_mixing_batch_runs_in_its_own_batches() -> None:
    """A network that mixes samples runs in the batches it was made for, the last one filled up."""
    net = network([node("Softmax", "s", "x", axis=0)], {}, shape=(2, 3))
    x = np.log(np.array([[1, 1, 1], [3, 1, 1], [5, 5, 5]], dtype=np.float32))
    assert not keeps_batch(net)
    expected = [[0.25, 0.5, 0.5], [0.75, 0.5, 0.5], [0.5, 0.5, 0.5]]
    np.testing.assert_allclose(outputs(net, x), expected, atol=1e-6)


def test_activations_expose_inner_tensors() -> None:
    """Inputs and inner tensors come out with the samples in order."""
    net, x = residual(), images(3)
    (chunk,) = activations(net, x, ("x", "relu1.out"))
    np.testing.assert_array_equal(chunk["x"], x)
    assert chunk["relu1.out"].shape == (3, 8, 8, 8)
    assert chunk["relu1.out"].min() == 0


def test_nan_is_an_error() -> None:
    """A network that answers NaN is refused by name."""
    net = network([node("Sqrt", "root", "x")], {}, shape=(1, 2))
    with pytest.raises(ModelError, match=r"root\.out.*not a number"):
        outputs(net, np.array([[-1.0, 1.0]], dtype=np.float32))


def test_data_of_another_shape_is_an_error() -> None:
    """The message has both shapes."""
    with pytest.raises(DataError, match=r"\(2, 3, 8, 8\).*\[N, 3, 16, 16\]"):
        outputs(residual(), np.zeros((2, 3, 8, 8), dtype=np.float32))


def test_accuracy_counts() -> None:
    """Two of three largest logits are the label's."""
    logits = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    assert accuracy(logits, np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_cross_entropy_of_uniform_logits() -> None:
    """Equal logits over 4 classes cost log 4."""
    logits = np.zeros((3, 4), dtype=np.float32)
    assert cross_entropy(logits, np.array([0, 1, 3])) == pytest.approx(math.log(4))


def test_divergence_is_kullback_leibler() -> None:
    """From (1/2, 1/2) to (1/4, 3/4): log(4/3)/2, as logits and as probabilities; 0 to itself."""
    p = np.array([[0.5, 0.5]], dtype=np.float32)
    q = np.array([[0.25, 0.75]], dtype=np.float32)
    assert divergence(p, q) == pytest.approx(math.log(4 / 3) / 2, rel=1e-6)
    assert divergence(np.log(p), np.log(q)) == pytest.approx(math.log(4 / 3) / 2, rel=1e-6)
    assert divergence(np.log(q), np.log(q)) == 0


def test_labels_beyond_the_classes_are_an_error() -> None:
    """Labels that count from 1 are found out."""
    with pytest.raises(DataError, match=r"labels 1\.\.2 do not fit 2 classes"):
        accuracy(np.zeros((2, 2), dtype=np.float32), np.array([1, 2]))
