"""Cells of NAS-Bench-201 (arXiv 2001.00326): four nodes, an operator on each of six edges."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.architectures.encoded import Encoded
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

    Groups: ``edge`` (30, each edge's operator one-hot), ``used`` (30, the same where the output
    depends on the edge, and "none" where it does not), ``live`` (30, the same where the edge also
    depends on the input), ``count`` (5, how often each operator occurs), ``sums``, ``used sums``
    and ``live sums`` (12 each, how many inputs each node adds up, one-hot) and ``depth`` (2, live
    edges on the longest path, and the convolutions on the path with most of them).

    Runtimes differ in what they remove: some pay for every edge, some drop what the output does
    not depend on, and most pay for what is computed from zeros.

    A cell with an operator that is none of `OPERATORS` is not ``known``, and has no feature for
    that edge. Raises DataError for a string that is no cell at all.
    """
    operators = _operators(cells)
    present = operators != _NONE
    used = present & _reaching_output(present)
    live = used & _reached_from_input(present)
    edges, names, sums = _one_hot(operators), _edge_names(), _sum_names()
    return Encoded.of(
        {
            "edge": (names, edges),
            "used": (names, _one_hot(np.where(used, operators, _NONE))),
            "live": (names, _one_hot(np.where(live, operators, _NONE))),
            "count": (OPERATORS, edges.reshape(len(edges), len(EDGES), -1).sum(axis=1)),
            "sums": (sums, _sums(present)),
            "used sums": (sums, _sums(used)),
            "live sums": (sums, _sums(live)),
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


def _reaching_output(present: Flags) -> Flags:
    """Which edges end in a node that the output depends on: ``[n, 6]``."""
    nodes = np.zeros((len(present), _NODES), bool)
    nodes[:, -1] = True
    for edge, (start, end) in reversed(list(enumerate(EDGES))):  # ordered by end: ends are done
        nodes[:, start] |= nodes[:, end] & present[:, edge]
    return nodes[:, [end for _, end in EDGES]]


def _reached_from_input(present: Flags) -> Flags:
    """Which edges start in a node that depends on the input: ``[n, 6]``."""
    nodes = np.zeros((len(present), _NODES), bool)
    nodes[:, 0] = True
    for edge, (start, end) in enumerate(EDGES):
        nodes[:, end] |= nodes[:, start] & present[:, edge]
    return nodes[:, [start for start, _ in EDGES]]


def _one_hot(operators: npt.NDArray[np.intp]) -> Floats:
    hot: Flags = operators[:, :, None] == np.arange(len(OPERATORS))
    one_hot: Floats = hot.reshape(len(operators), -1).astype(np.float64)
    return one_hot


def _edge_names() -> tuple[str, ...]:
    return tuple(f"{start}-{end} {operator}" for start, end in EDGES for operator in OPERATORS)


def _sum_names() -> tuple[str, ...]:
    return tuple(f"{node} of {inputs}" for node in range(1, _NODES) for inputs in range(_NODES))


def _sums(present: Flags) -> Floats:
    """How many inputs each node adds up, one-hot over 0 to 3: ``[n, 3 * 4]``."""
    inputs = np.stack(
        [present[:, [end == node for _, end in EDGES]].sum(axis=1) for node in range(1, _NODES)],
        axis=1,
    )
    hot: Flags = inputs[:, :, None] == np.arange(_NODES)
    one_hot: Floats = hot.reshape(len(present), -1).astype(np.float64)
    return one_hot


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
