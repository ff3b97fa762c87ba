"""Active sampling: what is chosen next is far from what is known, and says much of the rest."""

import numpy as np
import pytest

from millifit.profiler.active import first_kernels, next_kernels


def test_families_come_with_their_extremes_first() -> None:
    """The largest of every family, then the smallest, the most wanted and the middle one."""
    families = ["a"] * 5 + ["b"] * 2
    size = np.array([1.0, 2, 3, 4, 5, 7, 6])
    weight = np.array([1.0, 9, 1, 1, 1, 1, 1])
    assert first_kernels(families, size, weight) == [4, 5, 0, 6, 1, 2]


def chosen(x: list[float], error: list[float], measured: list[int], count: int) -> list[int]:
    known = np.isin(np.arange(len(x)), measured)
    return next_kernels(
        np.array(x)[:, None], ["a"] * len(x), np.array(error), measured=known,
        allowed=np.ones(len(x), bool), count=count, rng=np.random.default_rng(0),
    )  # fmt: skip


def test_twins_are_not_chosen_together() -> None:
    """Of two groups of like kernels one each is taken before a second one of either."""
    x = [0.0, 0.01, 0.02, 5.0, 5.01, 5.02]
    first, second = chosen(x, [1.0] * 6, [], 2)
    assert {first // 3, second // 3} == {0, 1}


def test_what_is_measured_is_known_with_its_neighbours() -> None:
    """Beside a measured kernel there is nothing to gain; far from it there is."""
    x = [0.0, 0.1, 0.2, 4.0, 9.0]
    assert chosen(x, [1.0] * 5, [0], 1)[0] in (3, 4)
    assert chosen(x, [1.0] * 5, [0, 1, 2, 3, 4], 3) == []


def test_kernels_that_matter_come_first() -> None:
    """Equally far ones are chosen by what they add to the error of networks."""
    assert chosen([0.0, 5.0, 10.0, 15.0], [1.0, 1.0, 8.0, 1.0], [], 1) == [2]


def test_only_what_is_allowed_is_chosen_though_all_count() -> None:
    """A held-out kernel is not chosen, but one beside it is, to know it."""
    found = next_kernels(
        np.array([[0.0], [0.1], [9.0]]), ["a"] * 3, np.array([5.0, 0.1, 1.0]),
        measured=np.zeros(3, bool), allowed=np.array([False, True, True]), count=1,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found == [1]


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_the_greedy_one(seed: int) -> None:
    """Old gains as upper bounds change nothing: every step takes what lowers the sum the most."""
    rng = np.random.default_rng(seed)
    x, error = rng.normal(size=(40, 3)), rng.random(40)
    none = np.zeros(40, bool)
    found = next_kernels(
        x, ["a"] * 40, error, measured=none, allowed=~none, count=6, rng=rng
    )  # fmt: skip
    z = x / x.std(axis=0)
    distance2 = ((z[:, None] - z) ** 2).sum(axis=2)
    alike = np.exp2(-distance2 / np.median(distance2))
    covered = np.zeros(40)
    for best in found:
        gains = np.maximum(alike - covered, 0) @ error
        assert gains[best] == pytest.approx(gains.max())
        covered = np.maximum(covered, alike[best])


def test_a_space_is_learnt_with_fewer_kernels_than_at_random() -> None:
    """A bumpy function of two features, whose bumps matter: nearest neighbours know it better."""
    rng = np.random.default_rng(1)
    x = rng.random((400, 2)) ** 3  # crowded near zero: at random the rest is seldom met
    truth = np.sin(4 * x[:, 0]) + np.cos(3 * x[:, 1])
    none = np.zeros(400, bool)

    def left(known: list[int]) -> float:
        nearest = ((x[:, None] - x[known]) ** 2).sum(axis=2).argmin(axis=1)
        return float(np.abs(truth - truth[known][nearest]).mean())

    active = next_kernels(
        x, ["a"] * 400, np.ones(400), measured=none, allowed=~none, count=30, rng=rng
    )
    by_chance = [left(list(rng.choice(400, 30, replace=False))) for _ in range(20)]
    assert left(active) < float(np.median(by_chance))
