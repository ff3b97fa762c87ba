"""DARTS cells as codes for a latency predictor (arXiv 2001.06392), and their relaxation.

An architecture has two cells, normal and reduction, of four nodes each. Node j has an edge from
each of the cell's two inputs and each earlier node, 2 + 3 + 4 + 5 = 14 in all, and keeps two of
them; every edge has one of eight operators, ``none`` where it is not kept. One-hot, that is
2 x 14 x 8 = 224 numbers. How that paper encodes and relaxes them could not be checked in detail;
that edges which are not kept count as ``none``, and the straight-through choice of two, are ours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from millifit.errors import DataError
from millifit.latency_models.prediction import Floats

# The operators of arXiv 1806.09055, section 3.1.
CELL_OPERATORS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
CELLS = 2
EDGES = 14
_KEPT = 2
# The edges that end in each node, in the order of the code.
_INTO_NODE = tuple(
    slice(start, start + inputs) for start, inputs in ((0, 2), (2, 3), (5, 4), (9, 5))
)

Codes = npt.NDArray[np.integer]


def random_cells(n: int, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """n architectures drawn uniformly: operators' numbers ``[n, 2, 14]``, 0 on edges not kept."""
    codes = np.zeros((n, CELLS, EDGES), np.int64)
    for edges in _INTO_NODE:
        inputs = edges.stop - edges.start
        order = rng.random((n, CELLS, inputs)).argsort(axis=2)
        operators = rng.integers(1, len(CELL_OPERATORS), (n, CELLS, inputs))
        codes[:, :, edges] = np.where(order < _KEPT, operators, 0)
    return codes


def encode_cells(codes: Codes) -> Floats:
    """One-hot codes ``[n, 224]`` of operators' numbers ``[n, 2, 14]``.

    Raises DataError for numbers that are no operators, or another shape.
    """
    kinds = len(CELL_OPERATORS)
    if codes.ndim != 3 or codes.shape[1:] != (CELLS, EDGES):
        raise DataError(f"cells are numbers of operators [n, {CELLS}, {EDGES}], got {codes.shape}.")
    if codes.size and (codes.min() < 0 or codes.max() >= kinds):
        raise DataError(f"operators of a cell are numbers from 0 to {kinds - 1}.")
    encoded: Floats = np.eye(kinds)[codes].reshape(len(codes), -1)
    return encoded


def straight_through_cells(logits: Tensor) -> Tensor:
    """The encoding ``[..., 224]`` of the cells that `logits` ``[..., 2, 14, 8]`` choose.

    As DARTS derives an architecture (arXiv 1806.09055, section 2.4): each edge's strongest operator
    but ``none``, by the softmax over its operators, and each node's two edges where it is
    strongest. The value is that one-hot code; the gradient is that of the softmax, straight
    through (arXiv 1308.3432), so that a loss of the code reaches every logit.

    Raises DataError for another shape.
    """
    shape = (CELLS, EDGES, len(CELL_OPERATORS))
    if tuple(logits.shape[-3:]) != shape:
        raise DataError(f"needs logits [..., {shape}], got {tuple(logits.shape)}.")
    probabilities = torch.softmax(logits, dim=-1)
    strength, operator = probabilities.detach()[..., 1:].max(dim=-1)  # [..., 2, 14]
    kept = torch.zeros_like(strength, dtype=torch.bool)
    for edges in _INTO_NODE:
        best = strength[..., edges].topk(_KEPT, dim=-1).indices
        kept[..., edges] = kept[..., edges].scatter(-1, best, value=True)
    chosen = torch.where(kept, operator + 1, torch.zeros_like(operator))
    hard = torch.nn.functional.one_hot(chosen, shape[-1]).to(logits.dtype)
    return (hard + probabilities - probabilities.detach()).flatten(-3)
