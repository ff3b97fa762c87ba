"""Which kernels run under which decisions: the cost tables of a network, before prices.

A network can become two programs, all fp32 and all int8. A layer that a plan makes int8 runs as in
the int8 program, else as in the fp32 program; what belongs to no layer (pools, additions,
conversions) is int8 where the layers upstream that its operands come from all are. So a uniform
plan costs exactly what its program does. Where neighbours differ, `mixed_precision` says what runs.

To keep tables small, an operand's precision is taken to be that of the nearest layer upstream, or
of the nearest four for a sum, and no more than six precisions decide about one kernel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from millifit.search.flow import MOVES, Channels, Flow
from millifit.search.kernel_resize import resized, weight_bytes
from millifit.search.knapsack import Combo, Option
from millifit.search.mixed_precision import (
    for_fp32_readers,
    for_int8_readers,
    with_real_residual,
)
from millifit.search.plan_space import PRECISION, WIDTH, PlanSpace
from millifit.targets.kernel import Kernel
from millifit.targets.program import Call, Program
from millifit.targets.target import Precision

_MOST_PRECISIONS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """The kernels that run, and the bytes of weights, for every combination of some variables.

    `name` is the layer's; that of what runs before the first layer is "input".
    """

    name: str
    variables: tuple[str, ...]
    kernels: Mapping[Combo, tuple[Kernel, ...]]
    weight_bytes: Mapping[Combo, int]


def cost_tables(space: PlanSpace) -> tuple[CostTable, ...]:
    """The tables of a space; every plan costs the sum of its entries."""
    programs: dict[Precision, Program] = {"fp32": space.fp32_program}
    if space.int8_program is not None:
        programs["int8"] = space.int8_program
    flows = {precision: Flow(space, program) for precision, program in programs.items()}
    real = {c.nodes[0]: c for c in space.fp32_program.calls if c.kernel.op not in MOVES}
    terms: dict[str, list[_Term]] = {name: [] for name in space.precisions}
    for precision, flow in flows.items():
        for call in flow.program.calls:
            if sources := flow.sources[call.output]:
                twin = None if call.kernel.op in MOVES else real.get(call.nodes[0])
                terms[sources[0]].append(_term(flow, call, precision, twin))
    tables = [_input_table(space, flows)]
    for layer, members in terms.items():
        tables += _merged(space, layer, members)
    return tuple(tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """One call of the program of `precision`, and what decides how it runs.

    It runs where `runs` are all int8 (or, in the fp32 program, not all); its output is int8 where
    `sources` are. `real` is the kernel of the fp32 program in its place.
    """

    kernel: Kernel
    precision: Precision
    real: Kernel | None
    runs: tuple[str, ...]
    sources: tuple[str, ...]
    wanted: tuple[tuple[str, ...], ...]
    is_output: bool
    reshaped: bool
    channels: tuple[Channels | None, Channels | None]  # read, written

    @property
    def scope(self) -> tuple[str, ...]:
        """The variables that decide."""
        widths = [WIDTH + c.group for c in self.channels if c is not None]
        layers = dict.fromkeys((*self.sources, *(name for names in self.wanted for name in names)))
        return tuple(dict.fromkeys([*widths, *(PRECISION + name for name in layers)]))

    def kernels(self, choices: Mapping[str, Option]) -> tuple[Kernel, ...]:
        """What runs under `choices`."""

        def int8(names: tuple[str, ...]) -> bool:
            return all(choices[PRECISION + name] == "int8" for name in names)

        if int8(self.runs) != (self.precision == "int8"):
            return ()
        kernel = self._resized(self.kernel, choices)
        readers = {int8(names) for names in self.wanted} | ({False} if self.is_output else set())
        if self.precision == "fp32":
            if True not in readers:
                return (kernel,)
            return for_int8_readers(kernel, fused=False not in readers and not self.reshaped)
        real = None if self.real is None else self._resized(self.real, choices)
        if not int8(self.sources):
            kernel = with_real_residual(kernel, real)
            return for_int8_readers(kernel, fused=False) if True in readers else (kernel,)
        if False not in readers:
            return (kernel,)
        return for_fp32_readers(kernel, real, fused=True not in readers and not self.reshaped)

    def _resized(self, kernel: Kernel, choices: Mapping[str, Option]) -> Kernel:
        read, written = self.channels
        if read is None and written is None:
            return kernel
        return resized(
            kernel,
            in_channels=_kept(read, choices, kernel.inputs[0].shape[-1]),
            out_channels=_kept(written, choices, kernel.output.shape[-1]),
        )


def _term(flow: Flow, call: Call, precision: Precision, twin: Call | None) -> _Term:
    layer, sources = flow.layer[call.output], flow.sources[call.output]
    # An operator without a rule is compiled from its node: its shapes are part of it.
    fixed = call.kernel.op == "onnx"
    wanted: list[tuple[str, ...]] = []
    deciding = set(sources)
    for names in dict.fromkeys(flow.wanted.get(call.output, [])):
        if len(deciding | set(names)) <= _MOST_PRECISIONS:
            deciding |= set(names)
            wanted.append(names)
    return _Term(
        kernel=call.kernel,
        precision=precision,
        real=twin.kernel if twin is not None else None,
        runs=sources if layer is None else (layer,),
        sources=sources,
        wanted=tuple(wanted),
        is_output=call.output in flow.program.outputs,
        reshaped=call.output in flow.reshaped,
        channels=(None, None) if fixed else (flow.read[call.output], flow.channels[call.output]),
    )


def _kept(channels: Channels | None, choices: Mapping[str, Option], whole: int) -> int:
    if channels is None:
        return whole
    return int(choices[WIDTH + channels.group]) * channels.factor


def _combos(space: PlanSpace, scope: Sequence[str]) -> Iterator[tuple[Combo, dict[str, Option]]]:
    for combo in itertools.product(*(space.options(name) for name in scope)):
        yield combo, dict(zip(scope, combo, strict=True))


def _merged(space: PlanSpace, layer: str, terms: list[_Term]) -> list[CostTable]:
    """The layer's terms, those over fewer variables within the table of one over more."""
    scopes: dict[tuple[str, ...], list[_Term]] = {}
    for term in sorted(terms, key=lambda term: -len(term.scope)):
        home = next((s for s in scopes if set(term.scope) <= set(s)), term.scope)
        scopes.setdefault(home, []).append(term)
    tables = []
    for scope, members in scopes.items():
        kernels: dict[Combo, tuple[Kernel, ...]] = {}
        sizes: dict[Combo, int] = {}
        for combo, choices in _combos(space, scope):
            kernels[combo] = tuple(k for term in members for k in term.kernels(choices))
            sizes[combo] = sum(map(weight_bytes, kernels[combo]))
        tables.append(CostTable(name=layer, variables=scope, kernels=kernels, weight_bytes=sizes))
    return tables


def _input_table(space: PlanSpace, flows: Mapping[Precision, Flow]) -> CostTable:
    """What runs before any layer: it follows the layers that read it."""
    calls = {
        precision: [c for c in flow.program.calls if not flow.sources[c.output]]
        for precision, flow in flows.items()
    }
    readers = dict.fromkeys(
        name
        for precision, flow in flows.items()
        for tensor in (*flow.program.inputs, *(c.output for c in calls[precision]))
        for names in flow.wanted.get(tensor, [])
        for name in names
    )
    scope = tuple(PRECISION + name for name in tuple(readers)[:_MOST_PRECISIONS])
    kernels: dict[Combo, tuple[Kernel, ...]] = {}
    for combo, choices in _combos(space, scope):
        wanted = dict.fromkeys(choices.values()) or dict.fromkeys(["fp32"])
        # Both programs share what they do alike, such as the change of layout.
        kernels[combo] = tuple(
            dict.fromkeys(c.kernel for p in flows if p in wanted for c in calls[p])
        )
    return CostTable(
        name="input", variables=scope, kernels=kernels, weight_bytes=dict.fromkeys(kernels, 0)
    )
