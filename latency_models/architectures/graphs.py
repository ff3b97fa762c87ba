"""Architectures as graphs: nodes are operators, edges say who feeds whom."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.prediction import Flags, Floats

Operators = npt.NDArray[np.integer]
Rows = npt.NDArray[np.intp] | Flags

_MACRO_OPERATORS = 3
# Of NAS-Bench-Macro's eight blocks (https://github.com/xiusu/NAS-Bench-Macro): input channels,
# output channels, stride, and rows of the input.
_MACRO_SHAPES = (
    (32, 64, 2, 32),
    (64, 64, 1, 16),
    (64, 128, 2, 16),
    (128, 128, 1, 8),
    (128, 128, 1, 8),
    (128, 256, 2, 8),
    (256, 256, 1, 4),
    (256, 256, 1, 4),
)
_NASBENCH201_OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# The edges of a NAS-Bench-201 cell (arXiv 2001.00326, figure 1), in the order of its strings.
_NASBENCH201_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graphs:
    """n graphs of v nodes: the nodes' operators, as numbers, `operators` ``[n, v]``; `features`
    ``[n, v, f]`` of about unit size; and `adjacency` ``[n, v, v]``, where 1 at ``[i, j]`` says that
    node i feeds node j.
    """

    operators: Operators
    features: Floats
    adjacency: Floats

    def __post_init__(self) -> None:
        shapes = self.operators.shape, self.features.shape, self.adjacency.shape
        nodes = self.operators.shape
        if len(nodes) != 2 or shapes[1][:-1] != nodes or shapes[2] != (*nodes, nodes[1]):
            raise ValueError(
                f"needs operators [n, v], features [n, v, f], adjacency [n, v, v], got {shapes}"
            )

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: Rows) -> Graphs:
        """Some graphs, by number or by flag."""
        return Graphs(
            operators=self.operators[rows],
            features=self.features[rows],
            adjacency=self.adjacency[rows],
        )

    @property
    def flat(self) -> Floats:
        """All features of each graph in one row: ``[n, v * f]``."""
        n, v, f = self.features.shape
        return self.features.reshape(n, v * f)


def operator_graphs(
    operators: Operators, adjacency: Floats, *, kinds: int, shapes: Floats
) -> Graphs:
    """Graphs of one wiring whose nodes differ in their operators alone.

    `operators` ``[n, v]`` are numbers below `kinds`, `adjacency` is ``[v, v]``, and `shapes`
    ``[v, s]`` says what a node works on. A node's features are its operator, its position, both
    together (each one-hot) and its shape: f = kinds + v + kinds * v + s.
    """
    n, v = operators.shape
    operator = np.eye(kinds)[operators]  # [n, v, kinds]
    position = np.eye(v)
    both = operator[:, :, :, None] * position[None, :, None, :]
    features = np.concatenate(
        [
            operator,
            np.broadcast_to(position, (n, v, v)),
            both.reshape(n, v, kinds * v),
            np.broadcast_to(shapes, (n, *shapes.shape)),
        ],
        axis=2,
    )
    wiring = np.broadcast_to(adjacency, (n, v, v))
    return Graphs(operators=operators, features=features, adjacency=wiring)


def nasbench_macro_graphs(architectures: Sequence[str]) -> Graphs:
    """NAS-Bench-Macro: a chain of eight blocks from strings of eight digits 0, 1 or 2.

    >>> nasbench_macro_graphs(["00000000", "01201201"]).features.shape
    (2, 8, 39)

    Raises DataError for another string.
    """
    blocks = len(_MACRO_SHAPES)
    for name in architectures:
        if not re.fullmatch(f"[0-{_MACRO_OPERATORS - 1}]{{{blocks}}}", name):
            raise DataError(f"'{name}' is no NAS-Bench-Macro architecture: eight digits 0, 1 or 2.")
    operators = np.array([[int(digit) for digit in name] for name in architectures], np.int64)
    shapes = np.log2(np.array(_MACRO_SHAPES, np.float64))
    return operator_graphs(
        operators.reshape(-1, blocks),
        np.eye(blocks, k=1),
        kinds=_MACRO_OPERATORS,
        shapes=shapes - shapes.mean(axis=0),
    )


def nasbench201_graphs(architectures: Sequence[str]) -> Graphs:
    """NAS-Bench-201 cells, such as ``|none~0|+|none~0|none~1|+|none~0|none~1|none~2|``.

    An operator on an edge becomes a node; the cell's input and its output are nodes, too: v = 8.
    Raises DataError for a string that is no such cell.
    """
    kinds = len(_NASBENCH201_OPERATORS) + 2
    inner = np.array([_nasbench201_operators(name) for name in architectures], np.int64)
    inner = inner.reshape(-1, len(_NASBENCH201_EDGES))
    ends = np.broadcast_to([kinds - 2, kinds - 1], (len(inner), 2))
    operators = np.concatenate([inner, ends], axis=1)
    edges = (*_NASBENCH201_EDGES, (-1, 0), (3, 4))  # the input and the output as edges
    adjacency = np.array([[float(a[1] == b[0]) for b in edges] for a in edges])
    return operator_graphs(operators, adjacency, kinds=kinds, shapes=np.empty((len(edges), 0)))


def _nasbench201_operators(architecture: str) -> list[int]:
    """The operators' numbers, in the order of the edges."""
    found = [tuple(each) for each in re.findall(r"\|([^|~+]+)~(\d)(?=\|)", architecture)]
    sources = [str(source) for source, _ in _NASBENCH201_EDGES]
    names = [name for name, _ in found]
    if [source for _, source in found] != sources or not {*names} <= {*_NASBENCH201_OPERATORS}:
        raise DataError(
            f"'{architecture}' is no NAS-Bench-201 cell: six operators of "
            f"{', '.join(_NASBENCH201_OPERATORS)}, such as |none~0|+|none~0|none~1|+|…|."
        )
    return [_NASBENCH201_OPERATORS.index(name) for name in names]
