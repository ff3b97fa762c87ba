"""Architectures as features: cells, sub-networks of a supernet, transformers."""

from __future__ import annotations

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.architectures.cells import encode_cells
from millifit.latency_models.architectures.encoded import Encoded
from millifit.latency_models.architectures.supernets import encode_supernets
from millifit.latency_models.architectures.transformers import DIMENSIONS, encode_transformers

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
    assert features["used 0-2 none"] == 1
    assert features["live 0-2 nor_conv_3x3"] == 0
    assert features["live 1-3 avg_pool_3x3"] == 1


def test_what_is_computed_from_zeros_is_used_but_not_live() -> None:
    """The output reads a convolution of a node that nothing flows into."""
    features = _named(
        encode_cells([_cell("none", "none", "none", "skip_connect", "nor_conv_3x3", "none")])
    )
    assert features["used 1-3 nor_conv_3x3"] == 1
    assert features["live 1-3 none"] == 1
    assert features["used sums 3 of 2"] == 1
    assert features["live sums 3 of 1"] == 1


def test_depth_and_sums_of_the_full_cell() -> None:
    """The longest path of the full cell has three edges, and two of its nodes add up."""
    features = _named(encode_cells([_cell(*["nor_conv_1x1"] * 3, *["skip_connect"] * 3)]))
    assert features["depth edges"] == 3
    assert features["depth convolutions"] == 2
    assert features["live sums 2 of 2"] == 1
    assert features["live sums 3 of 3"] == 1


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
    with pytest.raises(KeyError, match="no group 'colour'; there are edge, used"):
        encoded.group("colour")


def _subnet(*, resolution: int = 112, depths: str = "2,2,2,2,3", kernel: int = 5) -> str:
    kernels = ",".join([str(kernel)] * 20)
    return f"r={resolution};d={depths};ks={kernels};e={','.join(['4'] * 20)}"


def test_only_the_blocks_that_exist_count() -> None:
    """Two blocks in four stages and three in the last make eleven, whatever the others say."""
    encoded = encode_supernets([_subnet()])
    features = _named(encoded)
    assert encoded.group("block").sum() == 11
    assert features["block 1 k5 e4"] == 1
    assert features["block 2 k5 e4"] == 0
    assert features["stage 4 k5 e4"] == 3
    assert features["depth 4 of 3"] == 1
    assert encoded.known.all()


def test_work_grows_with_the_area() -> None:
    """Half of the side of 224 pixels is a quarter of the work."""
    features = _named(encode_supernets([_subnet(resolution=112)]))
    assert features["stage work 4 k5 e4"] == pytest.approx(3 / 4)
    assert features["resolution side"] == pytest.approx(1 / 2)


def test_a_kernel_of_another_supernet_is_not_known() -> None:
    """Kernels of 9 and stages of five blocks are flagged."""
    encoded = encode_supernets([_subnet(kernel=9), _subnet(depths="2,2,2,2,5"), _subnet()])
    assert encoded.known.tolist() == [False, False, True]


@pytest.mark.parametrize("text", ["r=224", "r=224;d=2,2;ks=3;e=4", "r=0;d=;ks=;e=", ""])
def test_what_is_no_subnet_is_named(text: str) -> None:
    """Strings with too few numbers are refused, with the pattern."""
    with pytest.raises(DataError, match="is no Once-for-All sub-network: write r=<resolution>"):
        encode_supernets([text])


def _transformers(**changes: float) -> dict[str, list[float]]:
    return {name: [float(changes.get(name, number + 1))] for number, name in enumerate(DIMENSIONS)}


def test_layers_multiply_what_a_layer_does() -> None:
    """Twice the decoder layers are twice the heads and the feed-forward work of the decoder."""
    one = _named(encode_transformers(_transformers(decoder_layer_num=2)))
    two = _named(encode_transformers(_transformers(decoder_layer_num=4)))
    for name in ("decoder heads", "decoder feed-forward", "decoder attended source"):
        assert two[name] == pytest.approx(2 * one[name])
    assert two["encoder heads"] == one["encoder heads"]


def test_transformers_need_all_dimensions() -> None:
    """A missing column and a width of zero are named."""
    columns = _transformers()
    del columns["decoder_embed_dim"]
    with pytest.raises(DataError, match="need a column 'decoder_embed_dim'"):
        encode_transformers(columns)
    with pytest.raises(DataError, match="transformer 0 has a dimension that is not positive"):
        encode_transformers(_transformers(encoder_embed_dim=0))
