"""Architecture strings as features: cells of NAS-Bench-201."""

from __future__ import annotations

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.encoders import Encoded
from millifit.latency_models.encoders_cells import encode_cells

CELL = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"


def _cell(*operators: str) -> str:
    return CELL.format(*operators)


def _named(encoded: Encoded, row: int = 0) -> dict[str, float]:
    return dict(zip(encoded.names, encoded.x[row], strict=True))


def test_each_edge_has_its_operator() -> None:
    """The six edges are one-hot, in the order of the string, and counted."""
    encoded = encode_cells(
        [_cell("nor_conv_3x3", "none", "skip_connect", "none", "avg_pool_3x3", "nor_conv_1x1")]
    )
    features = _named(encoded)
    assert encoded.group("edge").sum() == 6
    assert features["edge 0-1 nor_conv_3x3"] == 1
    assert features["edge 1-2 skip_connect"] == 1
    assert features["edge 2-3 nor_conv_1x1"] == 1
    assert features["count none"] == 2
    assert encoded.known.all()


def test_dead_edges_are_told_from_live_ones() -> None:
    """A convolution whose result nobody reads is on its edge, but not on the live one."""
    features = _named(
        encode_cells(
            [_cell("skip_connect", "nor_conv_3x3", "none", "none", "avg_pool_3x3", "none")]
        )
    )
    assert features["edge 0-2 nor_conv_3x3"] == 1
    assert features["live 0-2 nor_conv_3x3"] == 0
    assert features["live 0-2 none"] == 1
    assert features["live 1-3 avg_pool_3x3"] == 1


def test_depth_and_sums_of_the_full_cell() -> None:
    """The longest path of the full cell has three edges, and two of its nodes add up."""
    features = _named(encode_cells([_cell(*["nor_conv_1x1"] * 3, *["skip_connect"] * 3)]))
    assert features["depth edges"] == 3
    assert features["depth convolutions"] == 2
    assert features["sums live two"] == 2
    assert features["sums live three"] == 1


def test_an_operator_of_another_space_is_not_known() -> None:
    """It is flagged and has no feature, so that nobody takes it for "none"."""
    encoded = encode_cells([_cell(*["skip_connect"] * 5, "conv_7x7"), _cell(*["none"] * 6)])
    assert encoded.known.tolist() == [False, True]
    assert encoded.group("edge")[0, 25:].sum() == 0


def test_what_is_no_cell_is_named() -> None:
    """The message repeats the string and shows the pattern."""
    with pytest.raises(DataError, match=r"'conv,conv' is no NAS-Bench-201 cell: write \|op~0\|"):
        encode_cells(["conv,conv"])


def test_some_rows_of_a_batch() -> None:
    """Rows are taken by number, features by group."""
    encoded = encode_cells([_cell(*["none"] * 6), _cell(*["skip_connect"] * 6)])
    taken = encoded.take(np.array([1]))
    assert len(taken) == 1
    assert taken.group("count").tolist() == [[0, 6, 0, 0, 0]]
    with pytest.raises(KeyError, match="no group 'colour'; there are edge, live"):
        encoded.group("colour")
