"""Reading and writing ONNX files: what is taken, what is refused, and with which words."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest
from onnx import TensorProto, helper
from onnx_models import answer, integers, onnx_model, random

from millifit.errors import ModelError, UnsupportedOperator
from millifit.targets.importer.onnx_file import from_onnx, read_network, to_onnx, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Node, TensorType


def _conv_relu(**options: object) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    return onnx_model(nodes, {"w": random(0, 6, 4, 3, 3)}, **options)  # type: ignore[arg-type]


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_becomes_a_network_with_every_type(tmp_path: Path) -> None:
    """Nodes, constants, attributes and types are those of the file, and the name is the file's."""
    network = read_network(_saved(_conv_relu(), tmp_path))
    assert network.name == "model"
    assert (network.inputs, network.outputs, network.opset) == (("x",), ("y",), 18)
    assert network.nodes[0] == Node(
        name="conv",
        op="Conv",
        inputs=("x", "w"),
        outputs=("c",),
        attributes={"pads": (1, 1, 1, 1)},
    )
    assert network.types == {
        "x": TensorType(shape=(1, 4, 8, 8), dtype="float32"),
        "w": TensorType(shape=(6, 4, 3, 3), dtype="float32"),
        "c": TensorType(shape=(1, 6, 8, 8), dtype="float32"),
        "y": TensorType(shape=(1, 6, 8, 8), dtype="float32"),
    }
    np.testing.assert_array_equal(network.constants["w"], random(0, 6, 4, 3, 3))


def test_writing_and_reading_again_gives_the_same_network(tmp_path: Path) -> None:
    """A written file passes ONNX's full check and reads back with the same nodes and types."""
    network = from_onnx(_conv_relu(), name="again")
    write_network(network, tmp_path / "new" / "again.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "new" / "again.onnx"), full_check=True)
    again = read_network(tmp_path / "new" / "again.onnx")
    assert (again.nodes, again.types, again.name) == (network.nodes, network.types, "again")


@pytest.mark.parametrize("opset", [13, 15, 18, 21, 23])
def test_the_runtime_takes_what_is_written_in_every_opset(opset: int) -> None:
    """The written model answers as the one that was read."""
    model = _conv_relu(opset=opset)
    written = to_onnx(from_onnx(model, name="n"))
    x = random(1, 1, 4, 8, 8)
    np.testing.assert_array_equal(answer(written, x)[0], answer(model, x)[0])
    assert written.opset_import[0].version == opset


def test_clip_attributes_are_written_as_inputs() -> None:
    """A Clip with bounds as attributes, as simplification leaves it, is valid ONNX in the file."""
    nodes = [helper.make_node("Clip", ["x", "", "six"], ["y"], name="clip")]
    model = onnx_model(nodes, {"six": np.array(0.5, dtype=np.float32)})
    network = simplify(from_onnx(model, name="n"))
    assert dict(network.nodes[0].attributes) == {"max": 0.5}
    written = to_onnx(network)
    onnx.checker.check_model(written, full_check=True)
    x = random(2, 1, 4, 8, 8)
    np.testing.assert_array_equal(answer(written, x)[0], np.minimum(x, 0.5))


def test_attributes_of_every_kind_survive(tmp_path: Path) -> None:
    """Empty lists, strings, floats and tensors are written with the types operators declare."""
    value = np.array([2.0], dtype=np.float32)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="s"),
        helper.make_node("ConstantOfShape", ["s"], ["twos"], name="twos", value=_tensor(value)),
        helper.make_node("Elu", ["x"], ["e"], name="elu", alpha=0.25),
        helper.make_node("DepthToSpace", ["e"], ["d"], name="d", blocksize=2, mode="CRD"),
        helper.make_node("SpaceToDepth", ["d"], ["b"], name="b", blocksize=2),
        helper.make_node("Mul", ["b", "twos"], ["y"], name="mul"),
    ]
    network = from_onnx(onnx_model(nodes), name="n")
    write_network(network, tmp_path / "n.onnx")
    again = read_network(tmp_path / "n.onnx")
    assert again.node("elu").attributes == {"alpha": 0.25}
    assert again.node("d").attributes == {"blocksize": 2, "mode": "CRD"}
    np.testing.assert_array_equal(again.node("twos").attributes["value"], value)


def _tensor(value: np.ndarray) -> onnx.TensorProto:  # type: ignore[type-arg]
    return onnx.numpy_helper.from_array(value)


def test_nodes_without_names_get_unique_ones() -> None:
    """Operator and position name a node that has no name, or one that is taken."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"], name="Relu_2"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Abs", ["c"], ["d"], name="twice"),
        helper.make_node("Abs", ["d"], ["y"], name="twice"),
    ]
    network = from_onnx(onnx_model(nodes), name="n")
    assert [n.name for n in network.nodes] == ["Relu_0", "Relu_2", "Relu_2_", "twice", "twice_4"]


@pytest.mark.parametrize("batch", ["N", 0, -1])
def test_an_open_batch_becomes_one(batch: int | str) -> None:
    """A symbolic first dimension alone needs no --input-shape."""
    network = from_onnx(_conv_relu(shape=(batch, 4, 8, 8)), name="n")
    assert network.types["y"].shape == (1, 6, 8, 8)


@pytest.mark.parametrize("given", [(2, 4, 10, 6), {"x": (2, 4, 10, 6)}])
def test_open_dimensions_are_fixed_by_the_caller(given: tuple[int, ...]) -> None:
    """A shape for the one input, or by its name, fixes what the file leaves open."""
    model = _conv_relu(shape=("n", 4, "height", "width"))
    network = from_onnx(model, name="n", input_shape=given)
    assert network.types["x"].shape == (2, 4, 10, 6)
    assert network.types["y"].shape == (2, 6, 10, 6)


def test_open_dimensions_without_a_shape_are_explained() -> None:
    """The message names the input and its dimensions and shows the option that fixes them."""
    with pytest.raises(ModelError) as refused:
        from_onnx(_conv_relu(shape=("n", 4, "height", "width")), name="n")
    assert str(refused.value) == (
        "input 'x' has shape (n, 4, height, width): dimensions are open. "
        "Fix them, e.g. --input-shape 1,3,224,224"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1, 3, 8, 8), "contradicts"),
        ((1, 4, 8), "contradicts"),
        ((0, 4, 8, 8), "dimensions are 1 or more"),
        ((-1, 4, 8, 8), "dimensions are 1 or more"),
        ({"image": (1, 4, 8, 8)}, "names image, the input is 'x'"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(given: tuple[int, ...], words: str) -> None:
    """A shape that contradicts the file, is not positive, or names no input is a ModelError."""
    with pytest.raises(ModelError, match=words):
        from_onnx(_conv_relu(shape=("n", 4, 8, 8)), name="n", input_shape=given)


def test_shapes_that_are_computed_are_folded() -> None:
    """A Reshape to a shape made of Shape, Gather, Mul and Concat ends up with a static type."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "i"], ["batch"], axis=0),
        helper.make_node("Slice", ["s", "one", "four"], ["rest"]),
        helper.make_node("ReduceProd", ["rest"], ["size"], keepdims=1),
        helper.make_node("Concat", ["batch", "size"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"i": integers(0), "one": integers(1), "four": integers(4)}
    network = from_onnx(onnx_model(nodes, constants, shape=("N", 4, 3, 2)), name="n")
    assert network.types["y"].shape == (1, 24)


def test_constant_nodes_become_constants() -> None:
    """Constant nodes in all their forms are constants of the network, not nodes."""
    nodes = [
        helper.make_node("Constant", [], ["a"], value_float=2.0),
        helper.make_node("Constant", [], ["b"], value=_tensor(random(0, 4, 1, 1))),
        helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
        helper.make_node("Mul", ["x", "a"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["s"]),
        helper.make_node("ReduceMean", ["s", "axes"], ["y"]),
    ]
    network = from_onnx(onnx_model(nodes), name="n")
    assert [n.op for n in network.nodes] == ["Mul", "Add", "ReduceMean"]
    assert network.constants["a"].dtype == np.float32
    assert network.constants["axes"].tolist() == [2, 3]


def test_old_opsets_are_converted() -> None:
    """A model of opset 9, with Dropout's ratio as attribute, answers the same in opset 13."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Dropout", ["c"], ["d"], name="drop", ratio=0.5),
        helper.make_node("Clip", ["d"], ["y"], name="clip", min=0.0, max=6.0),
    ]
    model = onnx_model(nodes, {"w": random(0, 6, 4, 3, 3)}, opset=9)
    network = from_onnx(model, name="n")
    assert network.opset == 13
    assert [n.name for n in network.nodes] == ["conv", "drop", "clip"]
    x = random(1, 1, 4, 8, 8)
    np.testing.assert_array_equal(answer(to_onnx(network), x)[0], answer(model, x)[0])


def test_local_functions_are_inlined() -> None:
    """A function of the model's own is replaced by its body."""
    body = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Neg", ["r"], ["b"])]
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("mine", "NegRelu", ["a"], ["b"], body, opsets)
    model = onnx_model([helper.make_node("NegRelu", ["x"], ["y"], domain="mine")])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(function)
    assert [n.op for n in from_onnx(model, name="n").nodes] == ["Relu", "Neg"]


def test_a_caller_s_model_is_left_as_it_was() -> None:
    """Reading fixes shapes in a copy."""
    model = _conv_relu(shape=("N", 4, 8, 8))
    before = model.SerializeToString()
    from_onnx(model, name="n")
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"This is a text, not a model.\n" * 20, "not an ONNX model"),
        (bytes(range(256)) * 8, "not an ONNX model"),
        (b"\x08\x08", "no graph"),
    ],
)
def test_files_that_are_no_models_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    """An empty file, text, noise and an empty message are told apart from models."""
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as refused:
        read_network(path)
    assert str(refused.value).startswith(str(path))


def test_missing_files_folders_and_archives_are_named(tmp_path: Path) -> None:
    """A missing file, a folder, and a PyTorch checkpoint each get their own message."""
    with pytest.raises(ModelError, match="no such file"):
        read_network(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        read_network(tmp_path)
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("data.pkl", b"not loaded")
    with pytest.raises(ModelError, match=r"zip archive.*torch\.onnx\.export"):
        read_network(tmp_path / "weights.pt")


def test_a_model_cut_anywhere_is_a_model_error(tmp_path: Path) -> None:
    """A file cut short raises ModelError wherever the cut is."""
    whole = _conv_relu().SerializeToString()
    path = tmp_path / "cut.onnx"
    for length in range(1, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_network(path)


def _external(model: onnx.ModelProto, location: str) -> onnx.ModelProto:
    weight = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    return model


def test_external_data_is_read(tmp_path: Path) -> None:
    """Weights beside the model are read as if they were in it."""
    model = _conv_relu()
    (tmp_path / "weights.bin").write_bytes(model.graph.initializer[0].raw_data)
    network = read_network(_saved(_external(model, "weights.bin"), tmp_path))
    np.testing.assert_array_equal(network.constants["w"], random(0, 6, 4, 3, 3))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    """The message names the tensor and the file that is missing."""
    path = _saved(_external(_conv_relu(), "weights.bin"), tmp_path)
    with pytest.raises(ModelError, match=r"'w' is stored in 'weights\.bin', which is missing"):
        read_network(path)


def test_short_external_data_is_refused(tmp_path: Path) -> None:
    """A data file that is too short is a ModelError naming the tensor."""
    (tmp_path / "weights.bin").write_bytes(b"\0" * 12)
    with pytest.raises(ModelError, match=r"'w' is damaged"):
        read_network(_saved(_external(_conv_relu(), "weights.bin"), tmp_path))


@pytest.mark.parametrize("where", ["../secret.bin", "/etc/hostname", "link.bin", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, where: str) -> None:
    """Paths upward, absolute ones and links out of the folder are not followed."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 864)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        read_network(_saved(_external(_conv_relu(), where), folder))


def test_external_data_needs_a_path() -> None:
    """A message alone cannot say where its weights are."""
    with pytest.raises(ModelError, match="stored outside the model"):
        from_onnx(_external(_conv_relu(), "weights.bin"), name="n")


def test_a_model_without_nodes_is_refused() -> None:
    """Neither an empty graph nor one of constants alone is a model."""
    with pytest.raises(ModelError, match="no nodes"):
        from_onnx(onnx_model([], output="x"), name="n")
    constant = helper.make_node("Constant", [], ["y"], value_float=1.0)
    with pytest.raises(ModelError, match="no nodes that compute"):
        from_onnx(onnx_model([constant]), name="n")


@pytest.mark.parametrize("count", [0, 2])
def test_one_input_is_expected(count: int) -> None:
    """Models with several inputs, or none, are refused with the names of the inputs."""
    names = ["x", "z"][:count]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in names]
    nodes = [helper.make_node("Add", ["x" if count else "w", "z" if count else "w"], ["y"])]
    model = onnx_model(nodes, {"w": random(0, 1, 4)}, inputs=infos or None)
    if not count:
        del model.graph.input[:]
    with pytest.raises(ModelError, match=f"one input expected, the model has {count}"):
        from_onnx(model, name="n")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    """The message names the tensor and the node that reads it."""
    weight = random(0, 6, 4, 3, 3)
    weight[3, 1, 0, 2] = value
    model = onnx_model([helper.make_node("Conv", ["x", "w"], ["y"], name="conv")], {"w": weight})
    with pytest.raises(ModelError, match=r"'w', read by node 'conv' \(Conv\), has values .* NaN"):
        from_onnx(model, name="n")


def test_bounds_may_be_infinite_but_not_nan() -> None:
    """An infinite bound of Clip is taken, NaN is not."""
    clip = [helper.make_node("Clip", ["x", "low", "high"], ["y"], name="clip")]
    high = np.array(np.inf, dtype=np.float32)
    model = onnx_model(clip, {"low": np.array(0, dtype=np.float32), "high": high})
    assert from_onnx(model, name="n").nodes[0].op == "Clip"
    with pytest.raises(ModelError, match="clip"):
        from_onnx(
            onnx_model(clip, {"low": np.array(np.nan, dtype=np.float32), "high": high}), name="n"
        )


def test_control_flow_is_unsupported() -> None:
    """An If is named with its node."""
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"])],
        "branch",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 4, 8, 8])],
    )
    choose = helper.make_node("If", ["c"], ["y"], "choose", then_branch=branch, else_branch=branch)
    model = onnx_model([choose], {"c": np.array(True)})
    with pytest.raises(UnsupportedOperator, match=r"'If' of node 'choose'.*control flow"):
        from_onnx(model, name="n")


def test_operators_of_other_domains_are_unsupported() -> None:
    """An operator outside the standard set is named with its domain and node."""
    model = onnx_model([helper.make_node("Gelu", ["x"], ["y"], "gelu", domain="com.vendor")])
    model.opset_import.append(helper.make_opsetid("com.vendor", 1))
    with pytest.raises(UnsupportedOperator, match=r"'com\.vendor::Gelu' of node 'gelu'"):
        from_onnx(model, name="n")


def test_unknown_standard_operators_are_unsupported() -> None:
    """An operator that the model's opset does not have is named."""
    model = onnx_model([helper.make_node("Relux", ["x"], ["y"], "relux")])
    with pytest.raises(UnsupportedOperator, match=r"'Relux' of node 'relux'.*not in opset 18"):
        from_onnx(model, name="n")


def test_shapes_that_depend_on_data_are_refused() -> None:
    """NonZero has as many results as the data say: the tensor and the node are named."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"], name="where"),
        helper.make_node("Cast", ["places"], ["y"], to=TensorProto.FLOAT),
    ]
    words = r"shape of 'places', made by node 'where' \(NonZero\), is not fixed"
    with pytest.raises(ModelError, match=words):
        from_onnx(onnx_model(nodes), name="n")


def test_shapes_that_contradict_each_other_are_refused() -> None:
    """Operands that do not broadcast and weights of other channels are ModelErrors."""
    add = [helper.make_node("Add", ["x", "w"], ["y"], name="add")]
    with pytest.raises(ModelError, match=r"Add.*[Ii]ncompatible dimensions"):
        from_onnx(onnx_model(add, {"w": random(0, 3)}), name="n")
    conv = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    words = r"'conv' \(Conv\): a weight of shape \(6, 5, 3, 3\).*\(1, 4, 8, 8\)"
    with pytest.raises(ModelError, match=words):
        from_onnx(onnx_model(conv, {"w": random(0, 6, 5, 3, 3)}), name="n")


def test_element_types_that_nothing_computes_are_refused() -> None:
    """A model of 8-bit floats is refused with the type's name."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    with pytest.raises(ModelError, match="'x' has element type FLOAT8E4M3FN"):
        from_onnx(onnx_model(nodes, element=TensorProto.FLOAT8E4M3FN), name="n")


def test_an_invalid_graph_is_refused() -> None:
    """Nodes that read what nobody makes are a ModelError, not a crash."""
    with pytest.raises(ModelError, match="not a valid ONNX model"):
        from_onnx(onnx_model([helper.make_node("Relu", ["nothing"], ["y"])]), name="n")


def test_an_opset_of_the_future_is_refused() -> None:
    """The message gives an opset to export with."""
    model = _conv_relu()
    model.opset_import[0].version = 99
    with pytest.raises(ModelError, match=r"opset 99 is newer.*opset 18"):
        from_onnx(model, name="n")
