"""Sensitivities: one change at a time, never evaluated twice, stopped and resumed."""

import pytest
from searched_network import LAYERS, WIDTHS, space

from millifit.search.sensitivity import UNCHANGED, changes, sensitivities


@pytest.fixture(scope="module")
def of():
    return space(widths=WIDTHS)


def loss(plan):
    """1, and a different amount for every decision, so that none can be mistaken for another."""
    int8 = sum(2**i for i, name in enumerate(LAYERS) if plan.precisions[name] == "int8")
    return 1.0 + int8 / 100 + sum(1 / width for width in plan.widths.values())


def test_each_change_is_made_alone(of):
    """Every layer's int8 and every narrower width has the increase of that change alone."""
    found = sensitivities(of, changes(of), loss)
    assert found.base == 1.0
    assert found.increase == pytest.approx(
        {
            **{(f"precision:{name}", "int8"): 2**i / 100 for i, name in enumerate(LAYERS)},
            ("width:stem", 16): 1 / 16,
            ("width:wide", 32): 1 / 32,
            ("width:wide", 16): 1 / 16,
        }
    )


def test_changes_can_be_limited_to_some_widths(of):
    """Of a group's widths only those named are tried; other groups are tried in full."""
    tried = changes(of, widths={"wide": [16]})
    assert ("width:wide", 16) in tried
    assert ("width:wide", 32) not in tried
    assert ("width:stem", 16) in tried


def test_stopped_run_resumes_to_the_same_result(of):
    """What was stored before a crash is not evaluated again, and the result is the same."""
    whole = sensitivities(of, changes(of), loss)
    stored: dict[str, float] = {}

    def crashing(plan):
        if len(stored) == 4:
            raise KeyboardInterrupt
        return loss(plan)

    with pytest.raises(KeyboardInterrupt):
        sensitivities(of, changes(of), crashing, on_result=stored.__setitem__)
    assert len(stored) == 4
    assert UNCHANGED in stored
    evaluated = []

    def counting(plan):
        evaluated.append(plan)
        return loss(plan)

    assert sensitivities(of, changes(of), counting, known=stored) == whole
    assert len(evaluated) == len(changes(of)) + 1 - 4
