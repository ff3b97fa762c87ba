"""Budgets: what can be written, what cannot, and what they limit."""

import math

import pytest

from millifit.errors import UsageError
from millifit.search.budget import Budget, Limits, parse_budget

VALID = "Write a share of the baseline such as '60%', or a time such as '8ms', '250us' or '0.5s'."


@pytest.mark.parametrize(
    ("text", "seconds", "fraction"),
    [
        ("60%", None, 0.6),
        ("100%", None, 1.0),
        ("0.5 %", None, 0.005),
        ("8ms", 0.008, None),
        ("8 MS", 0.008, None),
        ("0.5 s", 0.5, None),
        (" 250us ", 0.00025, None),
        ("250µs", 0.00025, None),
        (".5ms", 0.0005, None),
        ("+2ms", 0.002, None),
    ],
)
def test_reads_shares_and_times(text, seconds, fraction):
    """Every valid form gives exactly the number that was written, and keeps the text."""
    budget = parse_budget(text)
    assert (budget.seconds, budget.fraction) == (seconds, fraction)
    assert budget.text == text.strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "budget '' is not a share or a time. "),
        ("abc", "budget 'abc' is not a share or a time. "),
        ("nan", "budget 'nan' is not a share or a time. "),
        ("inf", "budget 'inf' is not a share or a time. "),
        ("1e3ms", "budget '1e3ms' is not a share or a time. "),
        ("5ms 6ms", "budget '5ms 6ms' is not a share or a time. "),
        ("0", "budget '0' must be above zero. "),
        ("0%", "budget '0%' must be above zero. "),
        ("0.0ms", "budget '0.0ms' must be above zero. "),
        ("-5ms", "budget '-5ms' must be above zero. "),
        ("120%", "budget '120%' is above 100% of the baseline. "),
        ("5", "budget '5' has no unit: did you mean 5ms or 5%? "),
        ("5 kg", "budget '5 kg' has the unknown unit 'kg'. "),
        ("5min", "budget '5min' has the unknown unit 'min'. "),
    ],
)
def test_refuses_what_makes_no_sense(text, message):
    """The error repeats the text, says what is wrong with it and shows the valid forms."""
    with pytest.raises(UsageError) as caught:
        parse_budget(text)
    assert str(caught.value) == message + VALID


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": 0.0},
        {"seconds": math.inf},
        {"seconds": math.nan},
        {"fraction": 1.5},
        {"seconds": 1.0, "fraction": 0.5},
        {"size_bytes": 0},
        {"max_accuracy_drop": -0.1},
        {"max_accuracy_drop": math.nan},
    ],
)
def test_value_checks_itself(fields):
    """A budget cannot be made of numbers that limit nothing or everything."""
    with pytest.raises(UsageError):
        Budget(**fields)


def test_resolves_against_the_baseline():
    """A share is of the baseline's latency, a drop is from its accuracy; no limit stays none."""
    budget = parse_budget("60%", size_bytes=1000, max_accuracy_drop=0.01)
    limits = budget.resolve(baseline_s=0.010, baseline_accuracy=0.75)
    assert limits == Limits(latency_s=0.006, size_bytes=1000, min_accuracy=0.74)
    assert parse_budget("8ms").latency_s(123.0) == 0.008
    assert Budget().resolve(baseline_s=1.0, baseline_accuracy=0.5) == Limits()


def test_names_every_limit_that_is_missed():
    """Each missed limit gets a line with both numbers; a drop of exactly the limit is kept."""
    limits = Limits(latency_s=0.005, size_bytes=100, min_accuracy=0.75 - 0.01)
    assert limits.missed(high_s=0.006, size_bytes=101, accuracy=0.7) == (
        "latency 6.000 ms above 5.000 ms",
        "size 101 bytes above 100",
        "accuracy 70.00% below 74.00%",
    )
    assert limits.missed(high_s=0.005, size_bytes=100, accuracy=0.74) == ()
    assert limits.missed(high_s=0.005, size_bytes=100, accuracy=None) == (
        "accuracy unknown below 74.00%",
    )
    assert Limits().missed(high_s=9.0, size_bytes=9, accuracy=None) == ()
