"""How shapes fill tiles and work groups, against numbers counted by hand."""

import numpy as np

from millifit.latency_models.kernels.tiles import divisor, filled, power_of_two, tiles, work_groups


def test_tiles_are_counted_and_filled() -> None:
    """20 channels are three tiles of 8, of which five sixths are filled; 16 fill two."""
    extents = np.array([16.0, 20.0])
    assert tiles(extents, 8).tolist() == [2, 3]
    assert filled(extents, 8).tolist() == [1, 20 / 24]


def test_divisors() -> None:
    """The largest up to a limit; an even one is preferred where asked for, as 2 of 90 to 6."""
    extents = np.array([90.0, 96.0, 7.0, 13.0])
    assert divisor(extents, 8).tolist() == [6, 8, 7, 1]
    assert divisor(extents, 8, prefer_even=True).tolist() == [2, 8, 7, 1]
    assert power_of_two(extents).tolist() == [2, 16, 1, 1]


def test_work_groups_cover_the_grid() -> None:
    """7 x 7 x 128 in groups of 8 deep, 4 wide and 7 high: 2 x 1 x 16 of them, 7/8 filled."""
    number, share, each = work_groups(
        np.array([7.0]), np.array([7.0]), np.array([128.0]), items=256
    )
    assert number.tolist() == [32]
    assert share.tolist() == [7 / 8]
    assert each.tolist() == [4 * 7 * 8]
