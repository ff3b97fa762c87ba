"""The difference of two profiles: what changed beyond the noise, and no more than that."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from measured_kernels import dense, measured, network

from millifit.profiler.compare import compare, described, discoveries
from millifit.profiler.packs.pack import Pack
from millifit.profiler.section import Section
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def noisy(rng: np.random.Generator, factors: Sequence[float], noise: float = 0.01) -> Pack:
    """A kernel of 1 ms times each factor, 11 samples with that noise."""
    return Pack(
        kernels=tuple(
            measured(width, *(1e-3 * factor * np.exp(noise * rng.standard_normal(11))).tolist())
            for width, factor in enumerate(factors, start=1)
        )
    )


def test_noise_is_no_change() -> None:
    """Of 300 kernels measured twice alike, hardly one is called changed."""
    rng = np.random.default_rng(0)
    found = compare(noisy(rng, [1.0] * 300), noisy(rng, [1.0] * 300))
    assert sum(change.changed for change in found.changes) <= 2
    assert found.shift == pytest.approx(1.0, abs=0.005)


def test_what_changed_is_found_and_little_else() -> None:
    """Of 200 kernels 20 became 10 % slower and 5 twice as fast: all are found, largest first."""
    rng = np.random.default_rng(1)
    factors = [1.1] * 20 + [0.5] * 5 + [1.0] * 175
    found = compare(noisy(rng, [1.0] * 200), noisy(rng, factors))
    changed = [change for change in found.changes if change.changed]
    assert {c.subject for c in changed} >= {dense(width) for width in range(1, 26)}
    assert len(changed) <= 28
    assert found.changes[0].ratio == pytest.approx(0.5, rel=0.05)
    assert all(change.low <= change.ratio <= change.high for change in found.changes)
    assert found.families()["dense fp32"][:2] == (200, len(changed))


def test_everything_slower_is_a_change() -> None:
    """A device that clocks 20 % lower has changed, though all its kernels agree."""
    rng = np.random.default_rng(2)
    found = compare(noisy(rng, [1.0] * 50), noisy(rng, [1.2] * 50))
    assert sum(change.changed for change in found.changes) == 50
    assert found.shift == pytest.approx(1.2, rel=0.01)


def test_anchors_tell_the_noise_between_runs() -> None:
    """Where a machine's anchors scatter by 20 % a kernel that is 15 % slower has not changed."""
    rng = np.random.default_rng(3)
    anchors = np.exp(0.2 * rng.standard_normal(40)).tolist()
    sections = tuple(
        Section(
            number=n, target_key="t", versions="v", began_s=float(n), environment={},
            anchors={"a": seconds},
        )
        for n, seconds in enumerate(anchors)
    )  # fmt: skip
    calm, after = noisy(rng, [1.0] * 20), noisy(rng, [1.15] * 5 + [1.0] * 15)
    assert any(change.changed for change in compare(calm, after).changes)
    wild = compare(replace(calm, sections=sections), replace(after, sections=sections))
    assert not any(change.changed for change in wild.changes)
    assert wild.noise == pytest.approx(0.28, abs=0.1)


def test_what_is_in_one_alone_is_counted() -> None:
    """Kernels of one side, failures, and networks by their names."""
    before = Pack(
        kernels=(measured(1, 1e-3), measured(2, 1e-3), measured(3)), networks=(network(1),)
    )
    after = Pack(
        kernels=(measured(2, 1e-3), measured(3, 1e-3), measured(4, 1e-3), measured(5, 1e-3)),
        networks=(network(2.0), network(2.0, "other")),
    )
    found = compare(before, after)
    assert (found.only_before, found.only_after, found.failed) == (1, 3, 1)
    assert {change.name: change.changed for change in found.changes} == {
        "net": True,
        "dense 64 -> 2": False,
    }
    assert compare(Pack(), after).changes == ()


def test_the_step_up_procedure() -> None:
    """Benjamini and Hochberg's: the largest k decides, also over a k that fails by itself."""
    assert discoveries(np.array([0.01, 0.02, 0.9]), 0.05).tolist() == [True, True, False]
    assert discoveries(np.array([0.04, 0.045]), 0.05).tolist() == [True, True]
    assert discoveries(np.array([0.04, 0.9]), 0.05).tolist() == [False, False]
    assert discoveries(np.array([]), 0.05).tolist() == []


def test_a_kernel_in_words() -> None:
    """Window, stride, groups and shapes without a batch of one."""
    kernel = Kernel(
        op="conv2d",
        inputs=(TensorType(shape=(1, 56, 56, 64), dtype="float32"),),
        output=TensorType(shape=(1, 28, 28, 128), dtype="float32"),
        precision="fp32",
        attributes=(("groups", 4), ("kernel", (3, 3)), ("strides", (2, 2))),
        epilogue=("add", "relu"),
    )
    assert described(kernel) == "conv2d 3x3/2 g4 56x56x64 -> 28x28x128 +add +relu"
