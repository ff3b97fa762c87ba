"""From a network to the kernels that will run: channels-last, fused, in the precision it states.

Fusion follows the graph from an anchor (a layer, an elementwise operator, a pool) through the
activation function, a residual addition and a quantization, as far as nobody else needs the values
in between. QuantizeLinear / DequantizeLinear pairs are read as what they mean: the tensor between
them exists as uint8 (a signed one is shifted by 128, which changes no value).
"""

from __future__ import annotations

from millifit.targets.lowering import (
    attention,
    elementwise,
    halves,
    layers,
    map_rules,
    maps,
    operators,
    reductions,
    rows,
    sequence,
    strided,
)
from millifit.targets.lowering.batches import check_batched_calls
from millifit.targets.lowering.sizes import check_sizes
from millifit.targets.lowering.tensors import Tensors
from millifit.targets.network import Network, Node
from millifit.targets.program import Program
from millifit.targets.target import Target


def lower(network: Network, target: Target) -> Program:
    """Lower a simplified network with static shapes and batch 1.

    Raises ModelError for a batch or a quantization that cannot be lowered, and UnsupportedOperator
    for an operator that has neither a rule nor an import.
    """
    check_sizes(network)
    network = rows.prepared(map_rules.prepared(network))
    state = Tensors(network, target)
    for name in network.inputs:
        state.enter(name)
    for node in network.nodes:
        if node.name not in state.done:
            state.done.add(node.name)
            _lower_node(state, node)
    outputs = tuple(state.leave(name) for name in network.outputs)
    check_batched_calls([network.types[name] for name in network.inputs], state.calls)
    return Program(
        name=network.name,
        inputs=network.inputs,
        outputs=outputs,
        calls=tuple(state.calls),
        types=state.types,
    )


def _lower_node(state: Tensors, node: Node) -> None:
    def plain() -> None:
        _lower_plainly(state, node)

    if attention.is_product(state, node):
        attention.product(state, node)
    elif attention.continues(state, node):
        attention.carry_on(state, node, plain)
    elif attention.scales_view(state, node):
        attention.scale_view(state, node, plain)
    elif not (strided.moves(state, node) and strided.move(state, node)):
        plain()


def _lower_plainly(state: Tensors, node: Node) -> None:
    match node.op:
        case "QuantizeLinear":
            operators.quantize(state, node)
        case "DequantizeLinear":
            operators.dequantize(state, node)
        case "Cast" if halves.is_rounding(state, node):
            halves.rounding(state, node)
        case "Conv" | "Gemm" | "MatMul" if layers.is_layer(state, node):
            layers.layer(state, node)
        case _ if sequence.has_rule(state, node):
            sequence.by_row(state, node)
        case op if op in maps.POOLS:
            maps.pool(state, node)
        case op if op in maps.MOVEMENTS:
            maps.movement(state, node)
        case op if op in reductions.REDUCTIONS:
            reductions.reduction(state, node)
        case op if op in reductions.ARGUMENTS:
            reductions.argument(state, node)
        case op if op in operators.VIEWS:
            operators.view(state, node)
        case _ if elementwise.is_elementwise(state, node):
            elementwise.elementwise(state, node)
        case _:
            operators.generic(state, node)
