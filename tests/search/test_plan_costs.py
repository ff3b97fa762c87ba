"""The cost tables hold what the mixed, pruned network is really lowered to."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from searched_network import LAYERS, TARGET, WIDTHS, network, quantized, space

from millifit.compress.prune.pruner import prune
from millifit.compress.quantize.quantizer import quantizable
from millifit.search.kernel_resize import weight_bytes
from millifit.search.plan_costs import cost_tables
from millifit.search.plan_space import PRECISION, WIDTH
from millifit.search.problem import plan_space
from millifit.targets.kernel import Kernel
from millifit.targets.lower import lower
from millifit.targets.network import TensorType

MIXED = list(itertools.product(("fp32", "int8"), repeat=len(LAYERS)))


def fact(kernel):
    """A kernel; of a conversion only what and how much, for a flat view of it is the same."""
    if kernel.op in ("quantize", "dequantize", "cast"):
        return (kernel.op, kernel.inputs[0].dtype, kernel.output.dtype, kernel.output.elements)
    return kernel


def tabled(tables, chosen):
    """The kernels that the tables have for some choices."""
    return Counter(
        fact(kernel)
        for table in tables
        for kernel in table.kernels[tuple(chosen[v] for v in table.variables)]
    )


def choices(precisions, widths):
    return {PRECISION + name: p for name, p in precisions.items()} | {
        WIDTH + name: w for name, w in widths.items()
    }


@pytest.fixture(scope="module")
def tables():
    return cost_tables(space(widths=WIDTHS))


@pytest.mark.parametrize("widths", list(itertools.product(*WIDTHS.values())))
def test_tables_hold_the_kernels_of_every_plan(tables, widths):
    """For all 32 mixes of precisions at each width, the tables list the lowered program."""
    kept = dict(zip(WIDTHS, widths, strict=True))
    pruned = prune(network(), kept)
    for mix in MIXED:
        precisions = dict(zip(LAYERS, mix, strict=True))
        program = lower(quantized(pruned, precisions), TARGET)
        found = tabled(tables, choices(precisions, kept))
        assert found == Counter(fact(call.kernel) for call in program.calls), mix


def several(target, *precisions):
    """The space of the network with these precisions besides fp32."""
    net = network()
    variants = {p: quantized(net, quantizable(net, p)) for p in precisions}
    return plan_space(net, target, variants=variants)


def test_tables_hold_the_kernels_of_w7a8_beside_int8():
    """Each layer is fp32, int8 or w7a8, depthwise ones not w7a8: all 162 mixes are exact."""
    of = several(TARGET, "int8", "w7a8")
    assert of.precisions["body"] == ("fp32", "int8", "w7a8")
    assert of.precisions["dw"] == ("fp32", "int8")
    tables = cost_tables(of)
    for mix in itertools.product(*of.precisions.values()):
        precisions = dict(zip(LAYERS, mix, strict=True))
        program = lower(quantized(network(), precisions), TARGET)
        found = tabled(tables, choices(precisions, {}))
        assert found == Counter(fact(call.kernel) for call in program.calls), mix


def test_a_precision_without_a_kernel_of_its_own_is_no_choice():
    """Where w7a8 is computed as int8 is, a layer cannot choose it."""
    of = several(replace(TARGET, dot_product="avx512_vnni"), "int8", "w7a8")
    assert set(of.precisions.values()) == {("fp32", "int8")}


def test_tables_hold_the_kernels_of_16_bits():
    """A plan of 16 bits throughout is exact; mixed ones but for conversions of a residual."""
    target = replace(TARGET, features=("+avx512bf16",), precisions=())
    of = several(target, "bf16")
    assert of.precisions == {
        name: ("fp32",) if name == "dw" else ("fp32", "bf16") for name in LAYERS
    }
    tables = cost_tables(of)
    exact = 0
    for mix in itertools.product(*of.precisions.values()):
        precisions = dict(zip(LAYERS, mix, strict=True))
        program = lower(quantized(network(), precisions), target)
        wanted = Counter(fact(call.kernel) for call in program.calls)
        found = tabled(tables, choices(precisions, {}))
        exact += found == wanted
        layers = {"conv2d", "depthwise_conv2d", "dense"}
        work = [
            Counter((k.op, k.precision, k.inputs[0]) for k in c.elements()
                    if not isinstance(k, tuple) and k.op in layers)
            for c in (found, wanted)
        ]  # fmt: skip
        assert work[0] == work[1], mix
    assert tabled(tables, choices(of_all(of, "bf16"), {})) == Counter(
        fact(call.kernel)
        for call in lower(quantized(network(), quantizable(network(), "bf16")), target).calls
    )
    assert exact >= 12


def of_all(of, precision):
    """Every layer in a precision where it can be."""
    return {name: precision if precision in p else "fp32" for name, p in of.precisions.items()}


def test_programs_differ_between_mixes():
    """The comparison above is between many different programs."""
    networks = [quantized(network(), dict(zip(LAYERS, mix, strict=True))) for mix in MIXED]
    programs = {tuple(fact(c.kernel) for c in lower(net, TARGET).calls) for net in networks}
    assert len(programs) == len(MIXED)


def test_weight_bytes_follow_precision_and_width(tables):
    """The bytes of the last layer are those of its matrix, at each width and precision."""
    (table,) = (t for t in tables if t.name == "fc")
    at = {v: i for i, v in enumerate(table.variables)}
    found = {
        (combo[at["width:wide"]], combo[at["precision:fc"]]): size
        for combo, size in table.weight_bytes.items()
    }
    assert found[48, "fp32"] == 4 * (48 * 16 * 5 + 5)
    assert found[16, "fp32"] == 4 * (16 * 16 * 5 + 5)
    assert found[16, "int8"] == 16 * 16 * 5 + 8 * 5


def test_weight_bytes_of_every_precision():
    """16 bits halve the weights; 4 bits take half a byte and a scale per block of 32 inputs."""
    kernel = network_dense()
    sizes = {p: weight_bytes(replace(kernel, precision=p)) for p in ("fp32", "bf16", "w7a8", "w8")}
    assert sizes == {"fp32": 4 * 5 * 69, "bf16": 5 * (2 * 68 + 4), "w7a8": 5 * 76, "w8": 5 * 76}
    blocked = replace(kernel, precision="w4", attributes=(("block", 32),))
    assert weight_bytes(blocked) == 5 * 68 // 2 + 4 * (5 + 5 * 3)


def network_dense():
    """A dense layer of 68 inputs and 5 outputs."""
    tensors = [TensorType(shape=(1, n), dtype="float32") for n in (68, 5)]
    return Kernel(op="dense", inputs=(tensors[0],), output=tensors[1], precision="fp32")


def test_couples_only_what_touches(tables):
    """A table is over its layer, its neighbours and its two groups, never over all variables."""
    scopes = {(t.name, frozenset(t.variables)) for t in tables}
    assert ("fc", frozenset({"width:wide", "precision:fc"})) in scopes
    assert max(len(variables) for _, variables in scopes) <= 4
