"""DARTS cells as codes, and the relaxation of the choice of two edges per node."""

import numpy as np
import pytest
import torch

from millifit.errors import DataError
from millifit.latency_models.architectures.darts_cells import (
    encode_cells,
    random_cells,
    straight_through_cells,
)

NODES = (slice(0, 2), slice(2, 5), slice(5, 9), slice(9, 14))


def test_a_code_is_one_hot_on_each_edge() -> None:
    """224 numbers, 28 of them one, at the operators' places."""
    codes = random_cells(20, rng=np.random.default_rng(0))
    encoded = encode_cells(codes).reshape(20, 2, 14, 8)
    assert encoded.sum() == 20 * 28
    assert np.array_equal(encoded.argmax(axis=3), codes)


def test_random_cells_keep_two_edges_of_each_node() -> None:
    """Every pair of edges and every operator is drawn about equally often."""
    codes = random_cells(3000, rng=np.random.default_rng(0))
    for edges in NODES:
        inputs = edges.stop - edges.start
        kept = codes[:, :, edges] > 0
        assert np.all(kept.sum(axis=2) == 2)
        assert kept.mean(axis=(0, 1)) == pytest.approx(np.full(inputs, 2 / inputs), abs=0.03)
    operators = codes[codes > 0]
    assert np.bincount(operators)[1:] / len(operators) == pytest.approx(np.full(7, 1 / 7), abs=0.01)


def test_the_strongest_operators_of_the_two_strongest_edges_are_chosen() -> None:
    """The value is exactly the code of the architecture that DARTS would derive."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((5, 2, 14, 8))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=3, keepdims=True)
    expected = np.zeros((5, 2, 14), int)
    for architecture in np.ndindex(5, 2):
        for edges in NODES:
            strength = probabilities[architecture][edges, 1:]
            for edge in np.argsort(strength.max(axis=1))[-2:]:
                expected[(*architecture, edges.start + edge)] = 1 + strength[edge].argmax()
    made = straight_through_cells(torch.from_numpy(logits)).numpy()
    assert made == pytest.approx(encode_cells(expected), abs=1e-12)


def test_none_is_never_kept() -> None:
    """However strong `none` is, each node keeps two edges with another operator."""
    logits = torch.zeros(2, 14, 8)
    logits[..., 0] = 9.0
    chosen = straight_through_cells(logits).reshape(2, 14, 8).argmax(dim=2)
    assert int((chosen > 0).sum()) == 2 * 2 * 4


def test_the_gradient_is_that_of_the_softmax() -> None:
    """Straight through: a weighted sum of the code has the gradient of that of the softmax."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 14, 8, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(224, generator=generator, dtype=torch.float64)
    (hard,) = torch.autograd.grad(straight_through_cells(logits) @ weights, logits)
    (soft,) = torch.autograd.grad(torch.softmax(logits, dim=-1).flatten() @ weights, logits)
    assert torch.allclose(hard, soft, atol=1e-12)


def test_what_is_no_cell_is_refused() -> None:
    """Another shape or an operator that does not exist names what is expected."""
    with pytest.raises(DataError, match=r"\[n, 2, 14\]"):
        encode_cells(np.zeros((3, 14), int))
    with pytest.raises(DataError, match="from 0 to 7"):
        encode_cells(np.full((1, 2, 14), 8))
    with pytest.raises(DataError, match="logits"):
        straight_through_cells(torch.zeros(2, 14, 7))
