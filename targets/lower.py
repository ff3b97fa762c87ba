"""From a network to the kernels that will run: channels-last, fused, in the precision it states.

Fusion follows the graph from an anchor (a layer, an elementwise operator, a pool) through the
activation function, a residual addition and a quantization, as far as nobody else needs the values
in between. QuantizeLinear / DequantizeLinear pairs are read as what they mean: the tensor between
them exists as uint8 (a signed one is shifted by 128, which changes no value).
"""

from __future__ import annotations

from millifit.targets.lowering import layers, operators
from millifit.targets.lowering.tensors import Tensors
from millifit.targets.network import Network, Node
from millifit.targets.program import Program
from millifit.targets.target import Target


def lower(network: Network, target: Target) -> Program:
    """Lower a simplified network with static shapes and batch 1.

    Raises ModelError for a batch or a quantization that cannot be lowered, and UnsupportedOperator
    for an operator that has neither a rule nor an import.
    """
    state = Tensors(network, target)
    for name in network.inputs:
        state.enter(name)
    for node in network.nodes:
        if node.name not in state.done:
            state.done.add(node.name)
            _lower_node(state, node)
    outputs = tuple(state.leave(name) for name in network.outputs)
    return Program(
        name=network.name,
        inputs=network.inputs,
        outputs=outputs,
        calls=tuple(state.calls),
        types=state.types,
    )


def _lower_node(state: Tensors, node: Node) -> None:
    match node.op:
        case "QuantizeLinear":
            operators.quantize(state, node)
        case "DequantizeLinear":
            operators.dequantize(state, node)
        case "Conv" | "Gemm" | "MatMul" if layers.is_layer(state, node):
            layers.layer(state, node)
        case op if op in operators.POOLS:
            operators.pool(state, node)
        case op if op in operators.VIEWS:
            operators.view(state, node)
        case op if op in operators.BINARY:
            operators.binary(state, node)
        case op if op in operators.UNARY:
            operators.unary(state, node)
        case _:
            operators.generic(state, node)
