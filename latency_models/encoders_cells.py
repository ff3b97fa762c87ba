"""Cells of NAS-Bench-201 (arXiv 2001.00326): four nodes, an operator on each of six edges."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.encoders import Encoded
from millifit.latency_models.prediction import Flags, Floats

OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (from node, to node), in order

_NODES = 4
_NONE = OPERATORS.index("none")
_UNKNOWN = len(OPERATORS)
_NUMBERS = {operator: number for number, operator in enumerate(OPERATORS)}
_CELL = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


def encode_cells(cells: Sequence[str]) -> Encoded:
    """Features of cell strings such as ``|skip_connect~0|+|none~0|…~1|+|…~0|…~1|…~2|``.

    Groups: ``edge`` (30, each edge's operator one-hot), ``live`` (30, the same where the edge
    lies on a path from input to output, and "none" where it does not: some runtimes remove dead
    edges, others pay for them), ``count`` (5, how often each operator occurs), ``sums`` (4, nodes
    with at least two and with three inputs, of the whole and of the live cell) and ``depth`` (2,
    live edges on the longest path, and the convolutions on the path with most of them).

    A cell with an operator that is none of `OPERATORS` is not ``known``, and has no feature for
    that edge. Raises DataError for a string that is no cell at all.
    """
    operators = _operators(cells)
    live = _live(operators)
    kept = np.where(live, operators, _NONE)
    edges, names = _one_hot(operators), _edge_names()
    present = operators != _NONE
    return Encoded.of(
        {
            "edge": (names, edges),
            "live": (names, _one_hot(kept)),
            "count": (OPERATORS, edges.reshape(len(edges), len(EDGES), -1).sum(axis=1)),
            "sums": (
                ("two", "three", "live two", "live three"),
                np.hstack([_sums(present), _sums(live)]),
            ),
            "depth": (
                ("edges", "convolutions"),
                np.column_stack([_longest(live, live), _longest(live, _convolution(operators))]),
            ),
        },
        known=(operators != _UNKNOWN).all(axis=1),
    )


def _operators(cells: Sequence[str]) -> npt.NDArray[np.intp]:
    """The number of the operator on each edge: ``[n, 6]``, `_UNKNOWN` for one of another space."""
    rows = []
    for cell in cells:
        found = _CELL.fullmatch(cell)
        if found is None:
            raise DataError(
                f"'{cell}' is no NAS-Bench-201 cell: write |op~0|+|op~0|op~1|+|op~0|op~1|op~2|."
            )
        rows.append([_NUMBERS.get(operator, _UNKNOWN) for operator in found.groups()])
    return np.array(rows, np.intp).reshape(len(rows), len(EDGES))


def _live(operators: npt.NDArray[np.intp]) -> Flags:
    """Which edges lie on a path from the input to the output: ``[n, 6]``."""
    present = operators != _NONE
    reached = np.zeros((len(operators), _NODES), bool)
    used = np.zeros_like(reached)
    reached[:, 0], used[:, -1] = True, True
    for edge, (start, end) in enumerate(EDGES):  # ordered by end: starts are done
        reached[:, end] |= reached[:, start] & present[:, edge]
    for edge, (start, end) in reversed(list(enumerate(EDGES))):
        used[:, start] |= used[:, end] & present[:, edge]
    starts, ends = (list(nodes) for nodes in zip(*EDGES, strict=True))
    live: Flags = present & reached[:, starts] & used[:, ends]
    return live


def _one_hot(operators: npt.NDArray[np.intp]) -> Floats:
    hot: Flags = operators[:, :, None] == np.arange(len(OPERATORS))
    one_hot: Floats = hot.reshape(len(operators), -1).astype(np.float64)
    return one_hot


def _edge_names() -> tuple[str, ...]:
    return tuple(f"{start}-{end} {operator}" for start, end in EDGES for operator in OPERATORS)


def _sums(present: Flags) -> Floats:
    """How many nodes add up at least two inputs, and three: ``[n, 2]``."""
    inputs = np.stack(
        [present[:, [end == node for _, end in EDGES]].sum(axis=1) for node in range(1, _NODES)]
    )
    return np.column_stack([(inputs >= 2).sum(axis=0), (inputs >= 3).sum(axis=0)]).astype(float)


def _convolution(operators: npt.NDArray[np.intp]) -> Flags:
    return np.isin(operators, [_NUMBERS["nor_conv_1x1"], _NUMBERS["nor_conv_3x3"]])


def _longest(live: Flags, counted: Flags) -> Floats:
    """The most `counted` edges on a path of live edges from input to output: ``[n]``."""
    longest = np.full((len(live), _NODES), -np.inf)
    longest[:, 0] = 0
    for edge, (start, end) in enumerate(EDGES):
        through = np.where(live[:, edge], longest[:, start] + counted[:, edge], -np.inf)
        longest[:, end] = np.maximum(longest[:, end], through)
    depth: Floats = np.maximum(longest[:, -1], 0)
    return depth
