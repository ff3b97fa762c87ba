"""Which kernels run under which decisions: the cost tables of a network, before prices.

A network can become a program of every precision. A layer runs as in the program of the precision
that a plan gives it. Values between kernels exist in a form, the element type in which a precision
reads its activations: uint8, float32, or one of 16 bits. What belongs to no layer (pools,
additions, conversions) takes the form that the layers upstream have in common that its operands
come from, else float32, and runs as in the first program of that form. So a uniform plan costs
exactly what its program does. Where neighbours differ, `mixed_precision` says what runs.

To keep tables small, an operand's precision is taken to be that of the nearest layer upstream, or
of the nearest four for a sum, and only so many precisions decide about one kernel as have a few
dozen combinations: six of two each, four of three.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from millifit.search.flow import MOVES, Channels, Flow
from millifit.search.kernel_resize import resized, weight_bytes
from millifit.search.knapsack import Combo, Option
from millifit.search.mixed_precision import REAL, for_readers
from millifit.search.plan_space import PRECISION, WIDTH, PlanSpace, precision_of
from millifit.targets.kernel import Kernel
from millifit.targets.program import Call
from millifit.targets.target import Precision, activation_dtype

_MOST_COMBINATIONS = 81


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
    flows = {precision: Flow(space, program) for precision, program in space.programs.items()}
    first = _first_of_form(space)
    fp32 = space.programs["fp32"]
    real = {c.nodes[0]: c for c in fp32.calls if c.kernel.op not in MOVES}
    terms: dict[str, list[_Term]] = {name: [] for name in space.precisions}
    for precision, flow in flows.items():
        for call in flow.program.calls:
            layer, sources = flow.layer[call.output], flow.sources[call.output]
            if layer is None:
                counts = precision == first[activation_dtype(precision)]
            else:
                counts = precision in space.precisions[layer]
            if sources and counts:
                twin = None if call.kernel.op in MOVES else real.get(call.nodes[0])
                terms[sources[0]].append(_term(space, flow, call, precision, twin))
    tables = [_input_table(space, flows, first)]
    for layer, members in terms.items():
        tables += _merged(space, layer, members)
    return tuple(tables)


def _first_of_form(space: PlanSpace) -> dict[str, Precision]:
    """The first precision of every form."""
    first: dict[str, Precision] = {}
    for precision in space.programs:
        first.setdefault(activation_dtype(precision), precision)
    return first


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """One call of the program of `precision`, and what decides how it runs.

    A layer's runs where the `layer` has that precision, any other where `sources` have its form;
    its output has that form where `sources` do. `real` is the kernel of the fp32 program in its
    place.
    """

    kernel: Kernel
    precision: Precision
    real: Kernel | None
    layer: str | None
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

        def form(names: tuple[str, ...]) -> str:
            found = {activation_dtype(precision_of(choices[PRECISION + name])) for name in names}
            return found.pop() if len(found) == 1 else REAL

        own = activation_dtype(self.precision)
        if self.layer is None:
            runs = form(self.sources) == own
        else:
            runs = choices[PRECISION + self.layer] == self.precision
        if not runs:
            return ()
        kernel = self._resized(self.kernel, choices)
        readers = frozenset(form(names) for names in self.wanted)
        if self.is_output:
            readers |= {REAL}
        return for_readers(
            kernel,
            None if self.real is None else self._resized(self.real, choices),
            own=own,
            operands=form(self.sources),
            readers=readers or frozenset([own]),
            reshaped=self.reshaped,
        )

    def _resized(self, kernel: Kernel, choices: Mapping[str, Option]) -> Kernel:
        read, written = self.channels
        if read is None and written is None:
            return kernel
        return resized(
            kernel,
            in_channels=_kept(read, choices, kernel.inputs[0].shape[-1]),
            out_channels=_kept(written, choices, kernel.output.shape[-1]),
        )


def _term(
    space: PlanSpace, flow: Flow, call: Call, precision: Precision, twin: Call | None
) -> _Term:
    layer, sources = flow.layer[call.output], flow.sources[call.output]
    # An operator without a rule is compiled from its node: its shapes are part of it.
    fixed = call.kernel.op == "onnx"
    wanted: list[tuple[str, ...]] = []
    deciding = set(sources)
    for names in dict.fromkeys(flow.wanted.get(call.output, [])):
        if _combinations(space, deciding | set(names)) <= _MOST_COMBINATIONS:
            deciding |= set(names)
            wanted.append(names)
    return _Term(
        kernel=call.kernel,
        precision=precision,
        real=twin.kernel if twin is not None else None,
        layer=layer,
        sources=sources,
        wanted=tuple(wanted),
        is_output=call.output in flow.program.outputs,
        reshaped=call.output in flow.reshaped,
        channels=(None, None) if fixed else (flow.read[call.output], flow.channels[call.output]),
    )


def _combinations(space: PlanSpace, layers: Iterable[str]) -> int:
    return math.prod(len(space.precisions[name]) for name in layers)


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


def _input_table(
    space: PlanSpace, flows: Mapping[Precision, Flow], first: Mapping[str, Precision]
) -> CostTable:
    """What runs before any layer: it follows the layers that read it."""
    calls = {
        form: [c for c in flows[precision].program.calls if not flows[precision].sources[c.output]]
        for form, precision in first.items()
    }
    readers = dict.fromkeys(
        name
        for form, precision in first.items()
        for tensor in (
            *flows[precision].program.inputs, *(c.output for c in calls[form]),
        )
        for names in flows[precision].wanted.get(tensor, [])
        for name in names
    )  # fmt: skip
    deciding: list[str] = []
    for name in readers:
        if _combinations(space, (*deciding, name)) <= _MOST_COMBINATIONS:
            deciding.append(name)
    scope = tuple(PRECISION + name for name in deciding)
    kernels: dict[Combo, tuple[Kernel, ...]] = {}
    for combo, choices in _combos(space, scope):
        chosen = [activation_dtype(precision_of(option)) for option in choices.values()]
        wanted = dict.fromkeys(chosen or [REAL])
        # The programs share what they do alike, such as the change of layout.
        kernels[combo] = tuple(
            dict.fromkeys(c.kernel for form in first if form in wanted for c in calls[form])
        )
    return CostTable(
        name="input", variables=scope, kernels=kernels, weight_bytes=dict.fromkeys(kernels, 0)
    )
