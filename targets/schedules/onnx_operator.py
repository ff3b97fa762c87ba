"""Operators without a rule: the ONNX node itself, imported and lowered by TVM.

Slow (TVM's default lowering has no CPU schedules), but right, and reported.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from millifit.errors import UnsupportedOperator
from millifit.targets.kernel import Kernel
from millifit.targets.network import Array, Network, Node
from millifit.targets.schedules.choice import check_names, decided
from millifit.targets.schedules.random_schedule import scheduled


def encode(
    node: Node, activations: Sequence[str], constants: Mapping[str, Array], network: Network
) -> str:
    """The node as a model of its own, base64: activations are inputs, constants are inside.

    Raises UnsupportedOperator where TVM cannot import the operator.
    """
    from tvm.relax.frontend.onnx import onnx_frontend

    if node.op not in onnx_frontend._get_convert_map():
        raise UnsupportedOperator(op=node.op, node=node.name)

    def info(tensor: str, name: str) -> onnx.ValueInfoProto:
        kind = network.types[tensor]
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype))
        return helper.make_tensor_value_info(name, element, kind.shape)

    # Names are replaced so that equal operators are equal kernels.
    names = {tensor: f"x{i}" for i, tensor in enumerate(activations)}
    names |= {tensor: f"c{i}" for i, tensor in enumerate(constants)}
    attributes: dict[str, Any] = {
        key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in sorted(node.attributes.items())
    }
    proto = helper.make_node(
        node.op, [names.get(n, "") for n in node.inputs],
        [f"y{i}" for i, _ in enumerate(node.outputs)], **attributes,
    )  # fmt: skip
    graph = helper.make_graph(
        [proto], node.op, [info(t, names[t]) for t in activations], [info(node.outputs[0], "y0")],
        initializer=[numpy_helper.from_array(v, names[t]) for t, v in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", network.opset)])
    return base64.b64encode(model.SerializeToString(deterministic=True)).decode()


def import_operator(kernel: Kernel, target: Any) -> Any:
    """The kernel as a Relax module: ``main`` from its inputs to its output, and what it calls.

    `target` is TVM's. Tuning may choose a ``sample`` of `random_schedule` in place of TVM's plain
    loops. Raises UnsupportedOperator where the import fails.
    """
    check_names(kernel, "sample")
    sample = decided(kernel, "sample", 0, range(1, 2**31))
    from tvm.relax.frontend.onnx import from_onnx

    model = onnx.load_from_string(base64.b64decode(str(kernel.attribute("model"))))
    try:
        module = from_onnx(model, opset=model.opset_import[0].version)
    except Exception as error:  # TVM's importers raise all kinds
        raise UnsupportedOperator(
            op=str(kernel.attribute("operator")), node=str(kernel.attribute("operator")),
            detail=str(error).splitlines()[-1][:200] if str(error) else type(error).__name__,
        ) from error  # fmt: skip
    return scheduled(module, target, sample) if sample else module


def add_operator(builder: Any, kernel: Kernel, name: str, target: Any) -> Any:
    """Add an imported operator to a module that is being built; its function's GlobalVar."""
    from tvm import relax

    imported = import_operator(kernel, target)
    renamed = {
        variable.name_hint: builder.add_func(function, f"{name}_{variable.name_hint}")
        for variable, function in imported.functions_items()
        if variable.name_hint != "main"
    }

    @relax.expr_functor.mutator
    class Renamer(relax.PyExprMutator):  # type: ignore[misc]  # TVM is untyped
        """Points calls at the functions' new names."""

        def visit_global_var_(self, op: Any) -> Any:
            return renamed.get(op.name_hint, op)

    main = Renamer().visit_expr(imported["main"])
    return builder.add_func(main.without_attr("global_symbol"), name)
