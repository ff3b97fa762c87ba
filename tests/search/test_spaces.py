"""Search spaces: their candidates become networks that lower, run and are what was chosen."""

from __future__ import annotations

import numpy as np
import pytest

from millifit.errors import UsageError
from millifit.search.space import Candidate, check_candidate, code_of, random_candidate
from millifit.search.spaces import NAMES, find_space
from millifit.search.spaces.mobilenet import MobileNetSpace
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import from_onnx, to_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower


def candidates(count: int) -> list[Candidate]:
    rng = np.random.default_rng(3)
    return [random_candidate(MobileNetSpace(), rng) for _ in range(count)]


def chosen(**changes: object) -> Candidate:
    """The full MobileNetV2 of the space, in fp32, with some variables changed."""
    space = MobileNetSpace()
    plain = {name: options[-1] for name, options in space.variables.items()}
    for name in plain:
        if name.endswith("precision"):
            plain[name] = "fp32"
        if name.endswith("kernel"):
            plain[name] = 3
        if name.endswith("width"):
            plain[name] = "1.0"
    return {**plain, **{key.replace("_", "."): value for key, value in changes.items()}}


def test_every_named_space_is_found_by_its_name() -> None:
    """A name of the command line finds the space that calls itself so."""
    assert all(find_space(name).name == name for name in NAMES)


def test_an_unknown_space_is_refused_with_the_known_ones() -> None:
    """The message names what there is."""
    with pytest.raises(UsageError, match=r"no search space 'resnet'.*mobilenet"):
        find_space("resnet")


def test_the_same_seed_draws_the_same_candidates() -> None:
    """Candidates follow from the generator alone."""
    assert [code_of(c) for c in candidates(3)] == [code_of(c) for c in candidates(3)]


def test_candidates_differ_from_each_other() -> None:
    """Twenty draws of a large space are twenty networks."""
    assert len({code_of(candidate) for candidate in candidates(20)}) == 20


def test_the_full_candidate_is_mobilenet_v2() -> None:
    """Layers and multiply-adds agree with MobileNetV2 but for the depth of one stage."""
    network = MobileNetSpace().network(chosen())
    weights = [network.constants[layer.inputs[1]] for layer in network.layers]
    # 1801.04381, table 2: 17 blocks; the stage of 64 has four, that of 96 three.
    assert len(weights) == 1 + 2 + 3 * 16 + 1 + 1
    assert sum(weight.size for weight in weights) == pytest.approx(3.47e6, rel=0.01)


def test_precisions_are_those_of_the_stages() -> None:
    """An int8 stage has int8 kernels, and the others stay fp32."""
    network = MobileNetSpace().network(chosen(stage3_precision="int8"))
    kernels = lower(network, find_target("x86-avx2")).kernels
    layers = [k.precision for k in kernels if k.op in ("conv2d", "depthwise_conv2d", "dense")]
    assert layers.count("int8") > 3
    assert layers.count("fp32") > 20


def test_a_network_is_the_same_through_its_onnx_file() -> None:
    """What is lowered from the space is what would be lowered from the exported model."""
    target = find_target("x86-avx2")
    for candidate in candidates(2):
        network = MobileNetSpace().network(candidate)
        again = simplify(from_onnx(to_onnx(network), name=network.name))
        assert lower(again, target).kernels == lower(network, target).kernels


def test_what_is_decided_for_nothing_is_checked_all_the_same() -> None:
    """A candidate with an option that its space does not have is refused, naming the variable."""
    with pytest.raises(ValueError, match=r"'stage2\.kernel' cannot be 4; it is one of 3, 5, 7"):
        check_candidate(MobileNetSpace(), chosen(stage2_kernel=4))


def test_a_candidate_of_another_space_is_refused() -> None:
    """Variables that are missing or unknown are named."""
    with pytest.raises(ValueError, match=r"missing or unknown: .*stage1\.depth"):
        MobileNetSpace().network({"layers": 3})
