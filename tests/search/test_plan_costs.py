"""The cost tables hold what the mixed, pruned network is really lowered to."""

import itertools
from collections import Counter

import pytest
from searched_network import LAYERS, TARGET, WIDTHS, network, quantized, space

from millifit.compress.prune.pruner import prune
from millifit.search.plan_costs import cost_tables
from millifit.search.plan_space import PRECISION, WIDTH
from millifit.targets.lower import lower

MIXED = list(itertools.product(("fp32", "int8"), repeat=len(LAYERS)))


def fact(kernel):
    """A kernel; of a conversion only how much it converts, for a flat view of it is the same."""
    if kernel.op in ("quantize", "dequantize"):
        return (kernel.op, kernel.output.elements)
    return kernel


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
        chosen = choices(precisions, kept)
        tabled = Counter(
            fact(kernel)
            for table in tables
            for kernel in table.kernels[tuple(chosen[v] for v in table.variables)]
        )
        assert tabled == Counter(fact(call.kernel) for call in program.calls), mix


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


def test_couples_only_what_touches(tables):
    """A table is over its layer, its neighbours and its two groups, never over all variables."""
    scopes = {(t.name, frozenset(t.variables)) for t in tables}
    assert ("fc", frozenset({"width:wide", "precision:fc"})) in scopes
    assert max(len(variables) for _, variables in scopes) <= 4
