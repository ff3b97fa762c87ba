"""Architectures as graphs."""

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.architectures.graphs import (
    Graphs,
    nasbench201_graphs,
    nasbench_macro_graphs,
    operator_graphs,
)

CELL = "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"


def test_nodes_know_operator_position_both_and_shape() -> None:
    """Two nodes with operators 1 and 0 of 2: the features are written out."""
    graphs = operator_graphs(
        np.array([[1, 0]]), np.eye(2, k=1), kinds=2, shapes=np.array([[0.5], [-0.5]])
    )
    # operator (2), position (2), operator and position (2 x 2), shape (1)
    first = [0, 1, 1, 0, 0, 0, 1, 0, 0.5]
    second = [1, 0, 0, 1, 0, 1, 0, 0, -0.5]
    assert graphs.features.tolist() == [[first, second]]
    assert graphs.adjacency.tolist() == [[[0, 1], [0, 0]]]


def test_macro_architectures_are_chains() -> None:
    """Eight blocks, each feeding the next."""
    graphs = nasbench_macro_graphs(["01201201", "22222222"])
    assert graphs.operators.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1], [2] * 8]
    assert np.array_equal(graphs.adjacency[1], np.eye(8, k=1))
    assert np.abs(graphs.features).max() < 3


def test_cell_operators_are_nodes_that_feed_those_of_the_next_edges() -> None:
    """An operator on the edge 0 -> 1 feeds those on 1 -> 2 and 1 -> 3; the last feed the output."""
    graphs = nasbench201_graphs([CELL])
    assert graphs.operators.tolist() == [[0, 1, 2, 3, 4, 0, 5, 6]]
    feeds = [np.flatnonzero(row).tolist() for row in graphs.adjacency[0]]
    assert feeds == [[2, 4], [5], [5], [7], [7], [7], [0, 1, 3], []]


def test_rows_are_taken_together() -> None:
    """Operators, features and adjacency stay those of the same graph."""
    graphs = nasbench_macro_graphs(["00000000", "11111111", "22222222"])
    taken = graphs.take(np.array([2, 0]))
    assert len(taken) == 2
    assert taken.operators[:, 0].tolist() == [2, 0]
    assert np.array_equal(taken.flat, graphs.flat[[2, 0]])


@pytest.mark.parametrize("name", ["0120120", "012012013", "3" * 8, ""])
def test_what_is_no_macro_architecture_is_refused(name: str) -> None:
    """The message shows the string."""
    with pytest.raises(DataError, match=f"'{name}'"):
        nasbench_macro_graphs([name])


@pytest.mark.parametrize(
    "name", ["", CELL.replace("none", "sep_conv"), CELL.replace("~2", "~1"), CELL[:30]]
)
def test_what_is_no_cell_is_refused(name: str) -> None:
    """An unknown operator, a wrong edge or a truncated string is not read as something else."""
    with pytest.raises(DataError, match="no NAS-Bench-201 cell"):
        nasbench201_graphs([name])


def test_shapes_must_agree() -> None:
    """Features of other nodes than the operators' are an error of the caller."""
    with pytest.raises(ValueError, match=r"operators \[n, v\]"):
        Graphs(
            operators=np.zeros((2, 3), int),
            features=np.zeros((2, 4, 1)),
            adjacency=np.zeros((2, 4, 4)),
        )
