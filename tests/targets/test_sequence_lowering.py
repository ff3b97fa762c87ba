"""Transformers: what becomes one kernel, and that programs answer as ONNX Runtime does."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from kernels import TARGETS, x86
from onnx import TensorProto, helper
from onnx_models import answer, integers, onnx_model, random
from programs import Compiled, lowered

from millifit.compress.evaluate import outputs
from millifit.compress.quantize.quantizer import quantize
from millifit.compress.quantize.ranges import calibrate
from millifit.compress.torch_network import TorchNetwork
from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.lower import lower

VNNI = x86("avx512_vnni")
TARGET = pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
ROWS, WIDTH, HEADS = 7, 24, 2
node = helper.make_node


class Builder:
    """Collects nodes and random constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def weight(self, *shape: int) -> str:
        return self.constant(random(len(self.constants), *shape) / np.float32(shape[0] ** 0.5))

    def add(self, op: str, *inputs: str, to: str = "", **attributes: object) -> str:
        made = to or f"t{len(self.nodes)}"
        self.nodes.append(node(op, list(inputs), [made], made, **attributes))
        return made

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self.add(
            "Add", self.add("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs)
        )

    def norm(self, x: str) -> str:
        return self.add("LayerNormalization", x, self.weight(WIDTH), self.weight(WIDTH), axis=-1)

    def heads(self, x: str, perm: list[int]) -> str:
        split = self.constant(integers(1, ROWS, HEADS, WIDTH // HEADS))
        return self.add("Transpose", self.add("Reshape", x, split), perm=perm)

    def joined(self, x: str) -> str:
        turned = self.add("Transpose", x, perm=[0, 2, 1, 3])
        return self.add("Reshape", turned, self.constant(integers(1, ROWS, WIDTH)))

    def attention(self, x: str, *, mask: bool = False) -> str:
        q, k, v = (self.dense(x, WIDTH, WIDTH) for _ in range(3))
        q, v = (self.heads(t, [0, 2, 1, 3]) for t in (q, v))
        scores = self.add("MatMul", q, self.heads(k, [0, 2, 3, 1]))
        scores = self.add("Div", scores, self.constant(np.float32(12**0.5).reshape(())))
        if mask:
            scores = self.add("Add", scores, "mask")
        return self.joined(self.add("MatMul", self.add("Softmax", scores, axis=-1), v))

    def block(self, x: str) -> str:
        x = self.norm(self.add("Add", x, self.dense(self.attention(x), WIDTH, WIDTH)))
        hidden = self.add("Gelu", self.dense(x, WIDTH, 40))
        return self.norm(self.add("Add", x, self.dense(hidden, 40, WIDTH)))

    def model(self, shape: tuple[int, ...], *, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
        return onnx_model(self.nodes, self.constants, shape=shape, opset=20, element=element)


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(call.kernel.op for call in lowered(model, VNNI).calls)


def assert_same(model: onnx.ModelProto, x: np.ndarray, target: object) -> None:
    wanted = answer(model, x)[0]
    made = Compiled(lowered(model, target), target).run(x)[0]
    assert made.shape == wanted.shape
    assert np.abs(made - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())


def bert() -> onnx.ModelProto:
    """Embeddings, two blocks, and a layer on the first token."""
    b = Builder()
    x = b.add("Add", b.add("Gather", b.weight(11, WIDTH), "x"), b.weight(1, ROWS, WIDTH))
    x = b.block(b.block(b.norm(x)))
    first = b.add("Gather", x, b.constant(np.array(0)), axis=1)
    b.add("Tanh", b.add("Gemm", first, b.weight(WIDTH, 5)), to="y")
    return b.model((1, ROWS), element=TensorProto.INT64)


def vit() -> onnx.ModelProto:
    """Patches in front of a class token, positions, a block, and a classifier."""
    b = Builder()
    patches = b.add("Conv", "x", b.weight(WIDTH, 3, 4, 4), strides=[4, 4])
    x = b.add("Reshape", patches, b.constant(integers(1, WIDTH, ROWS - 1)))
    x = b.add("Transpose", x, perm=[0, 2, 1])
    x = b.add("Concat", b.weight(1, 1, WIDTH), x, axis=1)
    x = b.block(b.add("Add", x, b.weight(1, ROWS, WIDTH)))
    first = b.add("Gather", x, b.constant(np.array(0)), axis=1)
    b.add("Gemm", first, b.weight(WIDTH, 5), to="y")
    return b.model((1, 3, 8, 12))


@TARGET
def test_bert(target):
    """All of a BERT has kernels, attention is one of them, and the answers are right."""
    model = bert()
    assert operators(model) == {
        "embedding": 1, "add": 2, "layer_norm": 5, "dense": 13, "attention": 2, "strided": 2,
    }  # fmt: skip
    assert_same(model, np.random.default_rng(0).integers(-11, 11, (1, ROWS)), target)


@TARGET
def test_vit(target):
    """A map that becomes a sequence is not moved: it lies in memory as it is read."""
    model = vit()
    made = operators(model)
    assert "onnx" not in made
    assert made["attention"] == 1
    assert made["to_channels_first"] == 0
    assert_same(model, random(1, 1, 3, 8, 12), target)


def test_rows_that_nobody_reads_are_not_computed() -> None:
    """Behind the last attention only the token that is classified goes through the layers."""
    dense = [call.kernel for call in lowered(bert(), VNNI).calls if call.kernel.op == "dense"]
    assert [kernel.output.shape[0] for kernel in dense] == [ROWS] * 9 + [1] * 4


def test_gelu_and_residual_belong_to_their_layers() -> None:
    """The dense kernels of a block end with what follows them."""
    calls = lowered(bert(), VNNI).calls
    dense = [call.kernel.epilogue for call in calls if call.kernel.op == "dense"]
    assert dense[:6] == [(), (), (), ("add",), ("gelu",), ("add",)]


@TARGET
@pytest.mark.parametrize("place", ["query", "both", "after", "shared"])
def test_attention_in_other_forms(target, place):
    """A scale on the operands, scores that are read twice, a product alone: right, fused or not."""
    b = Builder()
    q, k, v = (b.heads(b.dense("x", WIDTH, WIDTH), [0, 2, 1, 3]) for _ in range(3))
    k = b.add("Transpose", k, perm=[0, 1, 3, 2])
    half = b.constant(np.float32(0.5).reshape(()))
    if place in ("query", "both"):
        q = b.add("Mul", q, half)
    if place == "both":
        k = b.add("Div", k, half)
    scores = b.add("MatMul", q, k)
    shares = b.add("Softmax", scores, axis=-1) if place != "after" else b.add("Mul", scores, half)
    x = b.joined(b.add("MatMul", shares, v))
    if place == "shared":
        x = b.add("Add", x, b.add("ReduceMax", scores, keepdims=0), to="y")
    b.nodes[-1].output[0] = "y"
    model = b.model((1, ROWS, WIDTH))
    assert operators(model)["attention"] == int(place in ("query", "both"))
    assert_same(model, random(2, 1, ROWS, WIDTH), target)


@TARGET
def test_attention_of_one_layer_with_a_mask(target):
    """Queries, keys and values cut out of one product, and a mask that was computed."""
    b = Builder()
    size = WIDTH // HEADS
    packed = b.dense("x", WIDTH, 3 * WIDTH)
    split = b.add("Reshape", packed, b.constant(integers(1, ROWS, 3, HEADS, size)))
    turned = b.add("Transpose", split, perm=[2, 0, 3, 1, 4])
    q, k, v = (b.add("Gather", turned, b.constant(np.array(i)), axis=0) for i in range(3))
    scores = b.add("MatMul", q, b.add("Transpose", k, perm=[0, 1, 3, 2]))
    means = b.add("ReduceMean", "x", b.constant(integers(2)), keepdims=0)
    mask = b.add("Reshape", means, b.constant(integers(1, 1, 1, ROWS)))
    shares = b.add("Softmax", b.add("Add", scores, mask), axis=-1)
    b.joined(b.add("MatMul", shares, v))
    b.nodes[-1].output[0] = "y"
    model = b.model((1, ROWS, WIDTH))
    made = operators(model)
    assert (made["attention"], made["dense"], made["strided"]) == (1, 1, 0)
    assert_same(model, random(2, 1, ROWS, WIDTH), target)


def test_transformer_in_torch() -> None:
    """For fine-tuning, a batch of samples gives what each gives alone."""
    network = simplify(from_onnx(vit(), name="vit"))
    x = random(5, 3, 3, 8, 12)
    wanted = outputs(network, x)
    made = TorchNetwork(network)(torch.from_numpy(x)).detach().numpy()
    assert np.abs(made - wanted).max() <= 1e-4 * np.abs(wanted).max()


@TARGET
def test_quantized_transformer(target):
    """Quantized here and run as integers, it agrees with ONNX Runtime on the same Q/DQ model."""
    network = simplify(from_onnx(vit(), name="vit"))
    x = random(5, 24, 3, 8, 12)
    ranges = calibrate(network, x, method="min_max")
    compressed = quantize(network, {n.name: "int8" for n in network.layers}, ranges)
    program = lower(compressed, target)
    kinds = Counter((c.kernel.op, c.kernel.precision) for c in program.calls)
    assert kinds["dense", "fp32"] == 0
    wanted = outputs(compressed, x)
    made = Compiled(program, target).run_each(x)
    within = np.abs(made - wanted) <= 3 / 255 * np.ptp(wanted)
    assert np.mean(within) >= 0.99
