"""Non-dominated sets and hypervolumes against values worked out by hand and by brute force."""

import numpy as np
import pytest

from millifit.search.pareto import hypervolume, non_dominated


def test_keeps_what_nothing_beats():
    """Dominated points and repeated ones go, ties in one objective are told apart."""
    points = [(1, 3), (2, 2), (2, 3), (3, 1), (2, 2), (1, 4)]
    assert non_dominated(points) == (0, 1, 3)
    assert non_dominated([]) == ()
    assert non_dominated([(1, 1, 1), (1, 1, 2), (0, 5, 5)]) == (0, 2)


def test_refuses_nan():
    """A point that cannot be compared is an error, not silently on the front."""
    with pytest.raises(ValueError, match="NaN"):
        non_dominated([(1.0, float("nan"))])


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([], 0),
        ([(1, 2), (2, 1)], 3),
        ([(1, 2), (2, 1), (2, 2), (1, 2)], 3),
        ([(3, 0), (0, 3), (4, 4)], 0),
        ([(0, 0)], 9),
    ],
)
def test_hypervolume_by_hand(points, area):
    """Unit squares counted by hand; dominated points and points beyond the reference add none."""
    assert hypervolume(points, (3, 3)) == area


def test_hypervolume_counts_cells():
    """On a grid of integers the area is the number of dominated cells."""
    points = np.random.default_rng(0).integers(0, 20, (12, 2))
    cells = {(x, y) for px, py in points for x in range(px, 15) for y in range(py, 18)}
    assert len(cells) > 100
    assert hypervolume(points.tolist(), (15, 18)) == len(cells)
