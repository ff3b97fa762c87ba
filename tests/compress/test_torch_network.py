"""Networks as PyTorch modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import images, network, node, residual

from millifit.compress.evaluate import outputs
from millifit.compress.quantize.quantizer import quantize
from millifit.compress.quantize.ranges import calibrate
from millifit.compress.torch_network import TorchNetwork
from millifit.errors import UnsupportedOperator
from millifit.targets.network import Array, Network, Node

POOL = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (0, 1, 1, 0)}
CONSTANTS: dict[str, Array] = {
    "pads": np.array([0, 0, 1, 0, 0, 0, 0, 2]),
    "axes": np.array([2, 3]),
    "up": np.linspace(-1, 1, 3 * 5 * 9, dtype=np.float32).reshape(3, 5, 3, 3),
    "start": np.array([1, -1]),
    "end": np.array([9, -100]),
    "along": np.array([2, 3]),
    "step": np.array([2, -3]),
    "twice": np.array([1, 1, 2, 1.5], dtype=np.float32),
    "flat": np.array([1, 768]),
    "row": np.linspace(-1, 1, 3, dtype=np.float32).reshape(1, 3, 1, 1),
}
NODES = [
    node("MaxPool", "n", "x", **POOL),
    node("MaxPool", "n", "x", **POOL, ceil_mode=1, dilations=(2, 2)),
    node("AveragePool", "n", "x", **POOL),
    node("AveragePool", "n", "x", **POOL, ceil_mode=1),
    node("AveragePool", "n", "x", **POOL, ceil_mode=1, count_include_pad=1),
    node("GlobalAveragePool", "n", "x"),
    node("ReduceMean", "n", "x", "axes", keepdims=0),
    node("Clip", "n", "x", min=-0.5),
    node("HardSigmoid", "n", "x", alpha=0.3),
    node("HardSwish", "n", "x"),
    node("Sigmoid", "n", "x"),
    node("Tanh", "n", "x"),
    node("LeakyRelu", "n", "x", alpha=0.2),
    node("Softmax", "n", "x", axis=1),
    node("Transpose", "n", "x", perm=(0, 2, 3, 1)),
    node("Pad", "n", "x", "pads"),
    node("Concat", "n", "x", "x", axis=1),
    node("Reshape", "n", "x", "flat"),
    node("Flatten", "n", "x", axis=1),
    node("Mul", "n", "x", "row"),
    node("Sub", "n", "row", "x"),
    node("Div", "n", "row", "x"),
    node("ConvTranspose", "n", "x", "up", strides=(2, 2), pads=(1, 0, 1, 1), output_padding=(1, 0)),
    node("DepthToSpace", "n", "wide.out", blocksize=2),
    node("DepthToSpace", "n", "wide.out", blocksize=2, mode="CRD"),
    node("SpaceToDepth", "n", "x", blocksize=2),
    node("Slice", "n", "x", "start", "end", "along", "step"),
    node("Resize", "n", "x", "", "twice"),
    node("Resize", "n", "x", "", "twice", mode="linear"),
    node("ReduceMax", "n", "x", "axes", keepdims=0),
    node("GlobalMaxPool", "n", "x"),
    node("PRelu", "n", "x", "row"),
    *(node(op, "n", "x") for op in ("Abs", "Ceil", "Erf", "Exp", "Floor", "Mish", "Neg", "Round")),
    *(node(op, "n", "x") for op in ("Selu", "Softplus")),
    node("Elu", "n", "x", alpha=0.5),
]


def _check(net: Network, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    answer = TorchNetwork(net)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(answer, outputs(net, x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("single", NODES, ids=lambda n: f"{n.op}-{len(n.attributes)}")
def test_operator_equals_onnx_runtime(single: Node) -> None:
    """Every operator computes what ONNX Runtime does, on a batch the network was not made for."""
    used = {name: value for name, value in CONSTANTS.items() if name in single.inputs}
    ahead = [node("Concat", "wide", *["x"] * 4, axis=1)] if "wide.out" in single.inputs else []
    _check(network([*ahead, single], used, shape=(1, 3, 16, 16)), images(4))


def test_all_outputs_of_a_split_are_computed() -> None:
    """A Split hands on every part."""
    nodes = [
        Node(name="s", op="Split", inputs=("x", "parts"), outputs=("a", "b"),
             attributes={"axis": 1}),
        node("GlobalAveragePool", "m", "a"), node("Mul", "n", "b", "m.out"),
    ]  # fmt: skip
    _check(network(nodes, {"parts": np.array([1, 2])}, shape=(1, 3, 16, 16)), images(4))


def test_network_equals_onnx_runtime() -> None:
    """Asymmetric pads, groups, a residual and a Gemm together."""
    _check(residual(), images(6))


def test_quantized_network_is_close_to_onnx_runtime() -> None:
    """Q/DQ computed in floats differs from integer kernels by roundings only."""
    net, x = residual(), images(32)
    quantized = quantize(net, {n.name: "int8" for n in net.layers}, calibrate(net, x))
    answer = TorchNetwork(quantized)(torch.from_numpy(x)).detach().numpy()
    exact = outputs(quantized, x)
    assert np.abs(answer - exact).max() < 0.02 * np.abs(exact).max()


def test_probabilities_become_logits() -> None:
    """A network that ends in Softmax gives log-probabilities as its logits, others their output."""
    net = network([node("Softmax", "s", "x", axis=1)], {}, shape=(1, 2))
    logits = TorchNetwork(net).logits(torch.tensor([[0.0, np.log(3.0)]]))
    np.testing.assert_allclose(logits.numpy(), np.log([[0.25, 0.75]]), rtol=1e-6)
    x = torch.from_numpy(images(2))
    assert torch.equal(TorchNetwork(residual()).logits(x), TorchNetwork(residual())(x))


def test_weights_come_back() -> None:
    """Parameters are the layers' constants; to_network has their new values and all else as is."""
    net = residual()
    module = TorchNetwork(net)
    assert len(list(module.parameters())) == 10
    with torch.no_grad():
        module.constant("conv1.w").mul_(2)
    changed = module.to_network()
    np.testing.assert_array_equal(changed.constants["conv1.w"], 2 * net.constants["conv1.w"])
    np.testing.assert_array_equal(changed.constants["fc.b"], net.constants["fc.b"])
    assert changed.nodes == net.nodes


def test_unknown_operator_is_named() -> None:
    """What cannot be trained says so, with its node."""
    net = network([node("Sin", "wave", "x")], {}, shape=(1, 2))
    with pytest.raises(UnsupportedOperator, match="'Sin' of node 'wave'"):
        TorchNetwork(net)(torch.zeros(1, 2))
