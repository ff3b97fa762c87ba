"""A model by name: an ONNX file, or a function of the user's that returns a model."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from millifit.errors import ModelError, UsageError
from millifit.targets.importer.onnx_file import from_onnx, read_network
from millifit.targets.importer.onnx_graph import InputShape
from millifit.targets.importer.simplify import simplify
from millifit.targets.network import Network
from millifit.user_code import call_function, names_function

if TYPE_CHECKING:
    import torch

_OPSET = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A network in normal form (see `simplify`) and what to call it."""

    network: Network
    name: str


def load_model(spec: str, *, input_shape: InputShape = None) -> LoadedModel:
    """Load a model from a path to an ONNX file or from ``module:function``.

    The function returns an onnx.ModelProto, a torch.nn.Module, or a module and an example input;
    a module without an example needs `input_shape`, with the batch, e.g. ``(1, 3, 224, 224)``.
    Raises UsageError where `spec` is neither, ModelError where the model cannot be used.
    """
    path = Path(spec)
    if (spec and path.exists()) or path.suffix == ".onnx":
        network = read_network(path, input_shape=input_shape)
    elif names_function(spec):
        name = spec.partition(":")[2]
        returned = call_function(spec, error=ModelError)
        try:
            network = _from_returned(returned, name, input_shape)
        except ModelError as refused:
            refused.args = (f"'{spec}': {refused}",)
            raise
    else:
        raise UsageError(
            f"'{spec}' is neither a file nor module:function. "
            "Give the path of an ONNX model, or e.g. mypackage.models:make_model"
        )
    return LoadedModel(network=simplify(network), name=network.name)


def from_module(module: torch.nn.Module, example: torch.Tensor, *, name: str) -> Network:
    """A torch module in normal form, for inputs of the shape of `example`. Raises ModelError."""
    return simplify(from_onnx(_exported(module, example), name=name))


def _from_returned(returned: object, name: str, input_shape: InputShape) -> Network:
    if isinstance(returned, onnx.ModelProto):
        return from_onnx(returned, name=name, input_shape=input_shape)
    import torch

    module, example = returned, None
    if isinstance(returned, tuple) and len(returned) == 2:
        module, example = returned
    if not isinstance(module, torch.nn.Module) or not isinstance(example, torch.Tensor | None):
        raise ModelError(
            f"returned {type(returned).__name__}. Return a torch.nn.Module, a pair of a module and "
            "an example input, or an onnx.ModelProto."
        )
    return from_onnx(_exported(module, _example(example, input_shape)), name=name)


def _example(example: torch.Tensor | None, input_shape: InputShape) -> torch.Tensor:
    import torch

    if input_shape is None:
        if example is None:
            raise ModelError(
                "the shape of its input is not known. Give it, e.g. --input-shape 1,3,224,224, "
                "or return the module and an example input."
            )
        return example.detach().cpu()
    shapes = list(input_shape.values()) if isinstance(input_shape, Mapping) else [input_shape]
    if len(shapes) != 1 or not shapes[0] or min(shapes[0]) < 1:
        raise ModelError(f"{input_shape} is no shape of one input; dimensions are 1 or more.")
    return torch.zeros(shapes[0], dtype=torch.float32 if example is None else example.dtype)


def _exported(module: torch.nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """The module in evaluation mode, for inputs of exactly the example's shape."""
    import torch

    module = copy.deepcopy(module).cpu().eval()
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(
                f"weight '{name}' has values that are NaN or infinite. Train it again."
            )
    try:
        with torch.no_grad():
            module(example)
    except Exception as failed:
        raise ModelError(
            f"the module fails on an input of shape {tuple(example.shape)}: {failed}"
        ) from failed
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=_OPSET,
                input_names=["input"],
                verbose=False,
            )
    except Exception as failed:
        reason = str(failed).strip().splitlines() or [type(failed).__name__]
        raise ModelError(
            f"torch cannot export the module to ONNX: {reason[0]}. "
            "Export it yourself and pass the file."
        ) from failed
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter prints, warns and logs about its own steps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
