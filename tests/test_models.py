"""Models by name: ONNX files, functions that return modules, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from millifit.errors import ModelError, UsageError
from millifit.models import LoadedModel, load_model
from millifit.targets.importer.onnx_file import to_onnx

MODULE = """
import onnx
import torch
from onnx import helper
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5),
    )

def with_example(): return net(), torch.randn(2, 3, 10, 10)
def proto():
    x = helper.make_tensor_value_info("x", 1, [1, 3])
    y = helper.make_tensor_value_info("y", 1, [1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

class Branching(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1

def branching(): return Branching()
def sick():
    module = net()
    module[8].weight.data[3] = float("nan")
    return module
def number(): return 5
def wrong_pair(): return net(), 5
def failing(): raise ValueError("no weights here")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the user's in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    (tmp_path / "my_models.py").write_text(MODULE)
    yield
    sys.modules.pop("my_models", None)


def _ops(loaded: LoadedModel) -> list[str]:
    return [node.op for node in loaded.network.nodes]


def _answer(loaded: LoadedModel, x: torch.Tensor) -> np.ndarray:  # type: ignore[type-arg]
    content = to_onnx(loaded.network).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {loaded.network.inputs[0]: x.numpy()})[0])


LAYERS = ["Conv", "Clip", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


def test_a_module_is_exported_and_simplified(capfd: pytest.CaptureFixture[str]) -> None:
    """A module with an example becomes a network that answers alike; nothing is printed."""
    loaded = load_model("my_models:with_example")
    assert capfd.readouterr() == ("", "")
    assert (loaded.name, loaded.network.name) == ("with_example", "with_example")
    assert _ops(loaded) == LAYERS
    assert loaded.network.types["input"].shape == (2, 3, 10, 10)
    x = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    module = sys.modules["my_models"].net().eval()
    np.testing.assert_allclose(_answer(loaded, x), module(x).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 12, 14), {"input": (1, 3, 12, 14)}])
def test_a_module_alone_needs_a_shape(shape: tuple[int, ...]) -> None:
    """--input-shape gives what the module does not say."""
    loaded = load_model("my_models:net", input_shape=shape)
    assert _ops(loaded) == LAYERS
    assert loaded.network.types["input"].shape == (1, 3, 12, 14)
    with pytest.raises(ModelError, match=r"'my_models:net': .*--input-shape 1,3,224,224"):
        load_model("my_models:net")


def test_the_shape_given_overrides_the_example() -> None:
    """An example's shape is a default."""
    loaded = load_model("my_models:with_example", input_shape=(1, 3, 8, 8))
    assert loaded.network.types["input"].shape == (1, 3, 8, 8)


def test_a_function_may_return_onnx() -> None:
    """An onnx.ModelProto is taken as it is."""
    assert _ops(load_model("my_models:proto")) == ["Relu"]


def test_a_file_is_named_by_its_stem(tmp_path: Path) -> None:
    """A path is read as ONNX, simplified, and named after the file."""
    nodes = [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Relu", ["i"], ["y"])]
    infos = [helper.make_tensor_value_info(name, 1, [1, 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "tiny.onnx")
    loaded = load_model(str(tmp_path / "tiny.onnx"))
    assert (_ops(loaded), loaded.name) == (["Relu"], "tiny")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("my_models:sick", r"weight '8\.weight' has values that are NaN or infinite"),
        ("my_models:number", "returned int. Return a torch.nn.Module"),
        ("my_models:wrong_pair", "returned tuple. Return a torch.nn.Module"),
        ("my_models:failing", "ValueError: no weights here"),
        ("my_models:missing", "module 'my_models' has no function 'missing'"),
        ("no_such_module:net", "No module named 'no_such_module'"),
        ("my_models:branching", "torch cannot export the module to ONNX"),
        ("missing.onnx", r"missing\.onnx: no such file"),
        ("my_models.py", "not an ONNX model"),
    ],
)
def test_models_that_cannot_be_used_are_named(spec: str, words: str) -> None:
    """Each failure is a ModelError that names the model and what is wrong with it."""
    with pytest.raises(ModelError, match=words) as refused:
        load_model(spec, input_shape=(1, 3, 8, 8))
    assert spec in str(refused.value)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 4, 8, 8), r"fails on an input of shape \(1, 4, 8, 8\): .*expected .* 3 channels"),
        ((0, 3, 8, 8), "dimensions are 1 or more"),
        ((), "is no shape"),
        ({"a": (1, 3, 8, 8), "b": (1,)}, "is no shape of one input"),
    ],
)
def test_shapes_that_a_module_cannot_take_are_refused(shape: tuple[int, ...], words: str) -> None:
    """A shape of other channels, or that is none, is a ModelError."""
    with pytest.raises(ModelError, match=words):
        load_model("my_models:net", input_shape=shape)


@pytest.mark.parametrize("spec", ["nothing", "a b:c", "folder/model", "my_models:", ""])
def test_what_names_no_model_is_wrong_use(spec: str) -> None:
    """Neither a file nor module:function: the message shows both forms."""
    with pytest.raises(UsageError, match="neither a file nor module:function"):
        load_model(spec)
