"""Simplification of sequences: rows become matrices, what is spelled out becomes one operator."""

from __future__ import annotations

import math

import numpy as np
import onnx.checker
import pytest
from onnx import helper
from onnx_models import answer, onnx_model, random

from millifit.targets.importer.onnx_file import from_onnx, to_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Network

node = helper.make_node
SHAPE = (1, 5, 8)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def simplified(nodes, constants, *, opset=20, shape=SHAPE) -> Network:
    """The simplified network, shown to be valid, equal to the model, and in its final form."""
    model = onnx_model(nodes, constants, shape=shape, opset=opset)
    simple = simplify(from_onnx(model, name="n"))
    written = to_onnx(simple)
    onnx.checker.check_model(written, full_check=True)
    x = random(1, *shape)
    wanted, found = answer(model, x)[0], answer(written, x)[0]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    again = simplify(simple)
    assert (again.nodes, again.types) == (simple.nodes, simple.types)
    return simple


def ops(network: Network) -> list[str]:
    return [n.op for n in network.nodes]


def test_layers_on_rows_become_gemm() -> None:
    """Two layers with their biases, an activation between: one Reshape in front, one behind."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "a"), node("Add", ["b", "a"], ["s"], "s"),
        node("Gelu", ["s"], ["g"], "g"), node("MatMul", ["g", "v"], ["m"], "m"),
        node("Add", ["m", "c"], ["y"], "y"),
    ]  # fmt: skip
    constants = {
        "w": random(0, 8, 12), "b": random(1, 12), "v": random(2, 12, 8), "c": random(3, 1, 1, 8),
    }  # fmt: skip
    simple = simplified(nodes, constants)
    assert ops(simple) == ["Reshape", "Gemm", "Gelu", "Gemm", "Reshape"]
    assert simple.types[simple.nodes[1].outputs[0]].shape == (5, 12)


def test_equal_views_are_one() -> None:
    """Three layers that read one tensor read one Reshape of it; the residual does, too."""
    nodes = [
        node("Relu", ["x"], ["r"], "r"),
        *(node("MatMul", ["r", f"w{i}"], [f"m{i}"], f"m{i}") for i in range(3)),
        node("Add", ["m0", "m1"], ["s"], "s"), node("Mul", ["s", "m2"], ["p"], "p"),
        node("Add", ["p", "r"], ["q"], "q"),
        node("LayerNormalization", ["q", "g", "b"], ["y"], "y", axis=2),
    ]  # fmt: skip
    constants = {f"w{i}": random(i, 8, 8) for i in range(3)} | {
        "g": random(4, 8), "b": random(5, 8),
    }  # fmt: skip
    simple = simplified(nodes, constants)
    assert ops(simple).count("Reshape") == 2
    assert simple.nodes[-2].attributes["axis"] == -1


def test_operators_across_rows_keep_their_shape() -> None:
    """What mixes rows, or broadcasts along them, is left alone."""
    nodes = [
        node("MatMul", ["x", "w"], ["m"], "m"), node("Softmax", ["m"], ["s"], "s", axis=1),
        node("Add", ["s", "c"], ["y"], "y"),
    ]  # fmt: skip
    simple = simplified(nodes, {"w": random(0, 8, 8), "c": random(1, 5, 1)})
    assert ops(simple) == ["Reshape", "Gemm", "Reshape", "Softmax", "Add"]


def test_constant_beside_a_sequence_is_padding() -> None:
    """A class token and positions are one constant to add; two additions of constants are one."""
    nodes = [
        node("Concat", ["token", "x"], ["c"], "c", axis=1),
        node("Add", ["positions", "c"], ["a"], "a"), node("Add", ["a", "types"], ["y"], "y"),
    ]  # fmt: skip
    constants = {
        "token": random(0, 1, 1, 8), "positions": random(1, 1, 6, 8), "types": random(2, 1, 6, 8),
    }  # fmt: skip
    assert ops(simplified(nodes, constants)) == ["Pad", "Add"]


def gelu(order: str) -> list:
    """GELU as exporters write it: the order of its factors differs."""
    nodes = [
        node("Div", ["x", "root"], ["d"], "d"), node("Erf", ["d"], ["e"], "e"),
        node("Add", ["e", "one"], ["a"], "a"),
    ]  # fmt: skip
    if order == "half last":
        return [*nodes, node("Mul", ["x", "a"], ["p"], "p"), node("Mul", ["p", "half"], ["y"], "y")]
    return [*nodes, node("Mul", ["half", "x"], ["p"], "p"), node("Mul", ["p", "a"], ["y"], "y")]


NUMBERS = {
    "root": number(math.sqrt(2)), "one": number(1), "half": number(0.5), "three": number(3),
    "cubic": number(0.044715), "outer": number(math.sqrt(2 / math.pi)),
}  # fmt: skip


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("order", ["half first", "half last"])
def test_gelu_that_is_spelled_out(order: str, opset: int) -> None:
    """The arithmetic of GELU becomes Gelu, in models older than the operator as well."""
    simple = simplified(gelu(order), NUMBERS, opset=opset)
    assert ops(simple) == ["Gelu"]
    assert simple.nodes[0].attributes["approximate"] == "none"


def test_gelu_with_tanh() -> None:
    """The form with tanh becomes Gelu that says so; with another factor it stays."""
    nodes = [
        node("Pow", ["x", "three"], ["c"], "c"), node("Mul", ["c", "cubic"], ["k"], "k"),
        node("Add", ["x", "k"], ["i"], "i"), node("Mul", ["i", "outer"], ["o"], "o"),
        node("Tanh", ["o"], ["t"], "t"), node("Add", ["t", "one"], ["a"], "a"),
        node("Mul", ["x", "half"], ["h"], "h"), node("Mul", ["h", "a"], ["y"], "y"),
    ]  # fmt: skip
    simple = simplified(nodes, NUMBERS)
    assert ops(simple) == ["Gelu"]
    assert simple.nodes[0].attributes["approximate"] == "tanh"
    other = {**NUMBERS, "cubic": number(0.05)}
    assert "Gelu" not in ops(simplified(nodes, other))


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("opset", [13, 17])
def test_layer_norm_that_is_spelled_out(square: str, opset: int) -> None:
    """The arithmetic of a layer norm becomes LayerNormalization; over other axes it stays."""

    def arithmetic(axis: int) -> list:
        return [
            node("ReduceMean", ["x"], ["m"], "m", axes=[axis]),
            node("Sub", ["x", "m"], ["d"], "d"),
            node(square, ["d", "two" if square == "Pow" else "d"], ["s"], "s"),
            node("ReduceMean", ["s"], ["v"], "v", axes=[axis]),
            node("Add", ["v", "epsilon"], ["e"], "e"), node("Sqrt", ["e"], ["r"], "r"),
            node("Div", ["d", "r"], ["n"], "n"), node("Mul", ["n", "gamma"], ["g"], "g"),
            node("Add", ["g", "beta"], ["y"], "y"),
        ]  # fmt: skip

    constants = {
        "two": number(2), "epsilon": number(1e-3), "gamma": random(0, 8), "beta": random(1, 8),
    }  # fmt: skip
    simple = simplified(arithmetic(-1), constants, opset=opset)
    assert ops(simple) == ["LayerNormalization"]
    assert simple.nodes[0].attributes["epsilon"] == pytest.approx(1e-3)
    assert "LayerNormalization" not in ops(simplified(arithmetic(1), constants, opset=opset))
