"""Channel groups, importances, and networks with fewer channels."""

from __future__ import annotations

import numpy as np
import pytest
from small_networks import conv, images, network, node, residual

from millifit.compress.evaluate import activations, divergence, outputs
from millifit.compress.prune.groups import ChannelGroup, Use, channel_groups
from millifit.compress.prune.importance import magnitude_importance, taylor_importances
from millifit.compress.prune.pruner import keep_largest, neighbours, prune, widths_for
from millifit.compress.quantize.quantizer import quantize
from millifit.compress.quantize.ranges import calibrate
from millifit.errors import ModelError
from millifit.targets.importer.infer import infer_types
from millifit.targets.network import Network


def _group(net: Network, name: str) -> ChannelGroup:
    return next(group for group in channel_groups(net) if group.name == name)


def test_groups_of_a_residual_network() -> None:
    """The Add ties conv1 and conv2, the depthwise layer is a member, Flatten repeats by 2x2."""
    first, second = channel_groups(residual())
    assert (first.name, first.size) == ("conv1", 8)
    assert first.producers == ("conv1", "conv2")
    assert first.members == (Use(name="dw3", factor=1),)
    assert first.consumers == (Use(name="conv2", factor=1), Use(name="conv4", factor=1))
    assert (second.name, second.size, second.producers) == ("conv4", 16, ("conv4",))
    assert second.consumers == (Use(name="fc", factor=4),)


def test_what_is_not_understood_stays_whole() -> None:
    """Groups that reach Concat, a grouped convolution or the output cannot be pruned."""
    rng = np.random.default_rng(0)

    def weights(
        name: str, *shape: int
    ) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        w = rng.normal(size=shape).astype(np.float32)
        return {f"{name}.w": w, f"{name}.b": np.zeros(shape[0], dtype=np.float32)}

    constants = {
        **weights("a", 4, 3, 1, 1),
        **weights("b", 4, 3, 1, 1),
        **weights("free", 4, 8, 1, 1),
        **weights("before", 4, 4, 1, 1),
        **weights("grouped", 4, 2, 1, 1),
        **weights("last", 2, 4, 1, 1),
    }
    nodes = [
        conv("a", "x"),
        conv("b", "x"),
        node("Concat", "join", "a.out", "b.out", axis=1),
        conv("free", "join.out"),
        conv("before", "free.out"),
        conv("grouped", "before.out", group=2),
        conv("last", "grouped.out"),
    ]
    net = network(nodes, constants, shape=(1, 3, 4, 4))
    assert [group.name for group in channel_groups(net)] == ["free"]


def test_shared_weights_stay_whole() -> None:
    """A weight that two layers read is not sliced for one of them."""
    net = residual()
    assert "conv4" in [g.name for g in channel_groups(net)]
    double = conv("conv4", "clip3.out")
    twin = conv("twin", "clip3.out")
    twin = twin.__class__(
        name="twin",
        op="Conv",
        inputs=double.inputs,
        outputs=("twin.out",),
        attributes=double.attributes,
    )
    shared = infer_types(net.replace(nodes=(*net.nodes, twin)))
    assert "conv4" not in [g.name for g in channel_groups(shared)]


def test_a_quantized_network_has_no_groups() -> None:
    """Pruning comes before quantization."""
    net = residual()
    quantized = quantize(net, {n.name: "int8" for n in net.layers}, calibrate(net, images(4)))
    assert channel_groups(quantized) == ()


def test_removing_silent_channels_changes_nothing() -> None:
    """Channels that are always zero are ranked last, and without them the answers are the same."""
    net = residual()
    silent = {"conv1": [1, 6], "conv2": [1, 6], "dw3": [1, 6], "conv4": [0, 5, 9]}
    constants = {name: value.copy() for name, value in net.constants.items()}
    for layer, channels in silent.items():
        constants[f"{layer}.w"][channels] = 0
        constants[f"{layer}.b"][channels] = 0
    net = net.replace(constants=constants)
    small = prune(net, {"conv1": 6, "conv4": 13})
    assert small.constants["dw3.w"].shape == (6, 1, 3, 3)
    assert small.constants["fc.w"].shape == (5, 52)
    assert small.node("dw3").attributes["group"] == 6
    np.testing.assert_allclose(outputs(small, images(5)), outputs(net, images(5)), atol=1e-5)
    kept = [c for c in range(8) if c not in silent["conv1"]]
    np.testing.assert_array_equal(small.constants["conv1.b"], net.constants["conv1.b"][kept])


def test_types_are_those_of_the_smaller_network() -> None:
    """Shapes after pruning are what shape inference finds."""
    small = prune(residual(), {"conv1": 5, "conv4": 7})
    assert infer_types(small).types == small.types
    assert small.types["flatten.out"].shape == (1, 28)


def test_reshape_that_flattens_is_resized() -> None:
    """A Reshape to a fixed size follows the channels."""
    net = residual()
    reshape = node("Reshape", "flatten", "pool.out", "shape")
    nodes = tuple(reshape if n.name == "flatten" else n for n in net.nodes)
    shape = np.array([1, 64], dtype=np.int64)
    net = network(list(nodes), {**net.constants, "shape": shape}, shape=(1, 3, 16, 16))
    small = prune(net, {"conv4": 8})
    np.testing.assert_allclose(
        outputs(small, images(3)), outputs(prune(residual(), {"conv4": 8}), images(3)), atol=1e-5
    )


def test_unknown_groups_and_widths_are_refused() -> None:
    """Names and sizes are checked."""
    with pytest.raises(ModelError, match="no channel group 'fc'"):
        prune(residual(), {"fc": 2})
    with pytest.raises(ModelError, match="'conv1' has 8 channels, not 9"):
        prune(residual(), {"conv1": 9})


def test_full_widths_change_nothing() -> None:
    """A plan that keeps all channels gives the same network."""
    net = residual()
    same = prune(net, {"conv1": 8, "conv4": 16}, samples=images(4))
    assert same.nodes == net.nodes
    assert all(same.constants[name] is value for name, value in net.constants.items())


def test_magnitude_ignores_scales_between_layers() -> None:
    """Scaling a channel up in conv4 and down in fc does not change what it is worth."""
    net = residual()
    factor = np.geomspace(0.1, 10, 16).astype(np.float32)
    constants = {
        **net.constants,
        "conv4.w": net.constants["conv4.w"] * factor.reshape(16, 1, 1, 1),
        "conv4.b": net.constants["conv4.b"] * factor,
        "fc.w": net.constants["fc.w"] / np.repeat(factor, 4),
    }
    scaled = net.replace(constants=constants)
    np.testing.assert_allclose(outputs(scaled, images(3)), outputs(net, images(3)), atol=1e-4)
    group = _group(net, "conv4")
    np.testing.assert_allclose(
        magnitude_importance(scaled, group), magnitude_importance(net, group), rtol=1e-5
    )


def test_taylor_finds_channels_that_do_nothing() -> None:
    """Channels that fc ignores or that are never active have importance 0, and no others."""
    net, x = residual(), images(40)
    ignored = net.constants["fc.w"].copy()
    ignored[:, 4 * 3 : 4 * 4] = 0
    net = net.replace(constants={**net.constants, "fc.w": ignored})
    y = np.arange(40) % 5
    scores = taylor_importances(net, channel_groups(net), x, y, seed=0)
    (chunk,) = activations(net, x, ("relu4.out",))
    idle = {3, *np.flatnonzero(chunk["relu4.out"].max(axis=(0, 2, 3)) == 0).tolist()}
    assert set(np.flatnonzero(scores["conv4"] == 0).tolist()) == idle
    assert len(idle) < 16
    again = taylor_importances(net, channel_groups(net), x, y, seed=0)
    np.testing.assert_array_equal(scores["conv1"], again["conv1"])


def test_restored_statistics_bring_answers_closer() -> None:
    """After pruning a third of the channels, restoring moves the answers towards the original."""
    net, x = residual(), images(128)
    widths = {"conv1": 6, "conv4": 12}
    reference = outputs(net, x)
    bare = divergence(reference, outputs(prune(net, widths), x))
    restored = divergence(reference, outputs(prune(net, widths, samples=x), x))
    assert restored < 0.7 * bare


def test_widths_are_multiples_of_the_vector() -> None:
    """Multiples of the step from the least fraction on, and the full size though it is none."""
    group = ChannelGroup(name="g", size=20, producers=("g",), members=(), consumers=(), tensors=())
    assert widths_for(group, step=8, minimum_fraction=0.25) == (8, 16, 20)
    assert widths_for(group, step=5, minimum_fraction=0.5) == (10, 15, 20)
    assert widths_for(group, step=32) == (20,)


def test_kept_channels() -> None:
    """The largest stay, in order; a draw goes to the first; neighbours stay together."""
    assert keep_largest(np.array([3.0, 1.0, 2.0, 2.0]), 2).tolist() == [0, 2]
    assert neighbours(np.array([0, 2]), 3).tolist() == [0, 1, 2, 6, 7, 8]
