"""ONNX files in and out.

A file is read without running anything in it: weights are copied, shapes inferred, constant
subexpressions evaluated by ONNX Runtime, one operator at a time.
"""

from __future__ import annotations

from pathlib import Path

import google.protobuf.message  # type: ignore[import-untyped]
import onnx
import onnx.checker
import onnx.external_data_helper

from millifit.errors import ModelError, UnsupportedOperator
from millifit.files import write_atomically
from millifit.targets.importer.infer import to_onnx
from millifit.targets.importer.onnx_graph import InputShape, from_onnx
from millifit.targets.network import Network

__all__ = ["from_onnx", "read_network", "to_onnx", "write_network"]


def read_network(path: Path, *, input_shape: InputShape = None) -> Network:
    """Read a model and its external data.

    `input_shape` fixes what the file leaves open, e.g. ``(1, 3, 224, 224)``; see `from_onnx`.
    Raises ModelError, with the file's name, for a file that is missing, damaged, or not ONNX.
    """
    model = _parse(path)
    try:
        _load_external(model, path)
        return from_onnx(model, name=path.stem, input_shape=input_shape)
    except UnsupportedOperator:
        raise
    except ModelError as refused:
        raise ModelError(f"{path}: {refused}") from refused


def _parse(path: Path) -> onnx.ModelProto:
    if not path.exists():
        raise ModelError(f"{path}: no such file. Give the path of an ONNX model.")
    if path.is_dir():
        raise ModelError(f"{path} is a folder. Give the path of the ONNX file in it.")
    try:
        content = path.read_bytes()
    except OSError as refused:
        raise ModelError(f"{path} cannot be read: {refused.strerror}.") from refused
    if not content:
        raise ModelError(f"{path} is empty. Export or copy the model again.")
    if content.startswith(b"PK\x03\x04"):
        raise ModelError(
            f"{path} is a zip archive, perhaps a PyTorch checkpoint, not an ONNX model. "
            "Export the model with torch.onnx.export."
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except google.protobuf.message.DecodeError as broken:
        raise ModelError(
            f"{path} is not an ONNX model, or is damaged or cut short. Export or copy it again."
        ) from broken
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX model (no graph, or no operator set).")
    return model


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    stored = list(model.graph.initializer)
    stored += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in stored:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        place = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not place.is_relative_to(folder):
            raise ModelError(
                f"tensor '{tensor.name}' is stored in '{location}', outside the model's folder. "
                "That is refused; save the model with its data beside it."
            )
        if not place.is_file():
            raise ModelError(
                f"tensor '{tensor.name}' is stored in '{location}', which is missing: {place}. "
                "Copy that file beside the model."
            )
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as broken:
            raise ModelError(
                f"tensor '{tensor.name}' cannot be read from '{location}': {broken}"
            ) from broken
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def write_network(network: Network, path: Path) -> None:
    """Write the network as one ONNX file; an interrupted write leaves an older file as it was."""
    write_atomically(path, to_onnx(network).SerializeToString())
