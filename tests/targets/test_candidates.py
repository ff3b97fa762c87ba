"""What tuning may choose: every candidate computes the same, and nothing else is accepted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from kernels import TARGETS, run, tensor, x86
from test_schedules import OUT_SCALE, OUT_ZERO, convolutions, layer, requantized

from millifit.errors import CompileError
from millifit.targets.kernel import Kernel
from millifit.targets.schedules.candidates import candidates
from millifit.targets.schedules.choice import choice_of
from millifit.targets.schedules.rules import schedule

TARGET = pytest.mark.parametrize("target", TARGETS[:2], ids=lambda t: t.name)
FEW = settings(
    max_examples=3, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
# Height, width, channels, outputs, kernel, geometry, groups, seed.
_PLAIN = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
_POINTWISE = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0)}
WINDOW = (6, 15, 20, 40, (3, 3), _PLAIN, 1, 0)
POINTWISE = (7, 9, 33, 70, (1, 1), _POINTWISE, 1, 1)
SHORT_ROWS = (8, 3, 5, 34, (3, 3), _PLAIN, 1, 2)
DEPTHWISE = (9, 22, 70, 70, (3, 3), _PLAIN, 70, 3)


def check_fp32(case, target) -> set[str]:
    """Every candidate against float64; returns the names that some candidate chose."""
    kernel, activations, constants, exact = layer(
        case, precision="fp32", output="float32", epilogue=("relu",)
    )
    wanted = np.maximum(exact, 0)
    choices = candidates(kernel, target)
    for choice in choices:
        made = run(kernel.with_choice(choice), target, activations, constants)[0]
        assert np.abs(made - wanted).max() <= 1e-5 * max(1.0, np.abs(exact).max()), choice
    return {name for choice in choices for name, _ in choice}


def check_int8(case, target) -> set[str]:
    """Every candidate against integers; returns the names that some candidate chose."""
    kernel, activations, constants, exact = layer(case, precision="int8", output="uint8")
    scale = np.float32(0.02) * constants["weight_scale"] / OUT_SCALE
    wanted = requantized(exact, scale.astype(np.float32), OUT_ZERO)
    choices = candidates(kernel, target)
    for choice in choices:
        made = run(kernel.with_choice(choice), target, activations, constants)[0]
        np.testing.assert_array_equal(made, wanted, err_msg=str(choice))
    return {name for choice in choices for name, _ in choice}


@TARGET
@pytest.mark.parametrize(
    ("case", "names"),
    [
        (WINDOW, {"whole"}),
        (POINTWISE, {"rows", "vectors", "panels_outside"}),
        (SHORT_ROWS, {"whole"}),
        (DEPTHWISE, {"columns"}),
    ],
    ids=["window", "pointwise", "short rows", "depthwise"],
)
def test_every_fp32_candidate_is_right(target, case, names):
    """Tiles, loop orders, staging and algorithms: 1e-5, and the handful has what it should."""
    chosen = check_fp32(case, target)
    assert names <= chosen or "algorithm" in chosen


@TARGET
@pytest.mark.parametrize(
    ("case", "names"),
    [
        (WINDOW, {"rows", "vectors", "whole"}),
        (POINTWISE, {"rows", "vectors", "panels_outside"}),
        (SHORT_ROWS, {"tile_rows"}),
        (DEPTHWISE, {"columns", "vectors"}),
    ],
    ids=["window", "pointwise", "short rows", "depthwise"],
)
def test_every_int8_candidate_is_exact(target, case, names):
    """Tiles, loop orders, staging and blocks: the same integers."""
    assert names <= check_int8(case, target)


@FEW
@given(case=convolutions(depthwise=False))
def test_candidates_of_any_convolution_are_right(case):
    """Odd sizes, single channels, strides, dilations and groups have right candidates, too."""
    check_fp32(case, TARGETS[0])


@FEW
@given(case=convolutions(depthwise=True))
def test_candidates_of_any_depthwise_convolution_are_right(case):
    """And so have depthwise convolutions, in integers."""
    check_int8(case, TARGETS[0])


@TARGET
@pytest.mark.parametrize("case", [WINDOW, POINTWISE, SHORT_ROWS, DEPTHWISE])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_candidates_are_a_handful_and_the_rule_comes_first(target, case, precision):
    """At most twelve, none twice, the empty one first; a kernel that has a choice gets the same."""
    output = "float32" if precision == "fp32" else "uint8"
    kernel, *_ = layer(case, precision=precision, output=output)
    found = candidates(kernel, target)
    assert found[0] == ()
    assert 1 < len(set(found)) == len(found) <= 12
    assert candidates(kernel.with_choice(found[-1]), target) == found


def test_an_operator_with_nothing_to_choose_has_its_rule_only():
    """A pooling window has one schedule."""
    flat = tensor((1, 4, 4, 8))
    relu = Kernel(op="relu", inputs=(flat,), output=flat, precision="fp32")
    assert candidates(relu, x86("avx2")) == ((),)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rows": 0}, "choice rows=0 is not possible"),
        ({"rows": 14, "vectors": 4}, "choice rows=14 is not possible"),
        ({"vectors": 9}, "choice vectors=9 is not possible"),
        ({"rows": "6"}, "choice rows='6' is not possible"),
        ({"whole": 1}, "choice whole=1 is not possible"),
        ({"panels_outside": 2}, "choice panels_outside=2 is not possible"),
        ({"tile_rows": 5}, "choice tile_rows=5 is not possible"),
        ({"algorithm": "fourier"}, "choice algorithm='fourier' is not possible"),
        ({"colour": 1}, "has nothing called 'colour' to choose"),
    ],
)
def test_a_choice_that_is_not_possible_is_refused(choice, message):
    """Too many registers, unknown names, another type: an error that says what to do, no code."""
    kernel, *_ = layer(POINTWISE, precision="fp32", output="float32")
    with pytest.raises(CompileError, match=f"{message}.*une the network again"):
        schedule(kernel.with_choice(choice_of(**choice)), x86("avx2"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_depthwise_choice_that_is_not_possible_is_refused(precision):
    """Columns are limited, and blocks of channels by the map."""
    output = "float32" if precision == "fp32" else "uint8"
    kernel, *_ = layer(DEPTHWISE, precision=precision, output=output)
    with pytest.raises(CompileError, match="choice columns=17 is not possible"):
        schedule(kernel.with_choice(choice_of(columns=17)), x86("avx2"))
    with pytest.raises(CompileError, match="vectors"):
        schedule(kernel.with_choice(choice_of(vectors=99)), x86("avx2"))


def test_a_choice_makes_another_kernel_and_survives_its_description():
    """Choices are part of the key; none at all leaves description and key as they were."""
    kernel, *_ = layer(POINTWISE, precision="fp32", output="float32")
    chosen = kernel.with_choice(choice_of(vectors=2, rows=6))
    assert chosen.choice == (("rows", 6), ("vectors", 2))
    assert chosen.key != kernel.key
    assert "choice" not in kernel.to_dict()
    assert Kernel.from_dict(chosen.to_dict()) == chosen
    assert chosen.with_choice(()) == kernel
