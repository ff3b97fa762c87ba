"""The knapsack as a mixed-integer linear program.

For every variable v and option o there is a binary x[v,o] with sum_o x[v,o] = 1. A factor over
several variables has one continuous z[c] >= 0 per allowed combination c, tied to its variables by

    sum over c with c[v] = o of z[c]  =  x[v,o]      for every v of the factor and every option o.

With binary x this leaves z no freedom: it is 1 at the chosen combination and 0 elsewhere, so the
linearization is exact, and a combination missing from the table cannot be chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import coo_array, csr_array

from millifit.search.knapsack import LOSS, Exclusion, Option, Problem

Vector = npt.NDArray[np.float64]

# HiGHS works to absolute tolerances (1e-6 on a row and on the gap), so rows and objective are
# scaled until those are far below anything that a sum of seconds or losses can resolve.
_ROW_SCALE = 1e3
_OBJECTIVE_SCALE = 1e6
_TIE = 1e-8  # weight of the tie-break, relative to the range of the objective


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProgram:
    """Columns: first x[v,o] variable by variable, then z[c] factor by factor.

    `costs` are [columns] per resource and for `LOSS`; `blocks` are the first columns of each
    variable and factor, of whose columns a solution chooses one; `equalities` [rows, columns].
    """

    offsets: Mapping[str, int]
    options: Mapping[str, tuple[Option, ...]]
    binaries: int
    blocks: npt.NDArray[np.int64]
    costs: Mapping[str, Vector]
    fixed: Mapping[str, float]
    upper: Vector
    equalities: csr_array
    right: Vector

    def choices(self, solution: Vector) -> dict[str, Option]:
        """The chosen option of every variable in a solution [columns]."""
        return {
            name: options[int(np.argmax(solution[self.offsets[name] :][: len(options)]))]
            for name, options in self.options.items()
        }

    def span(self, resource: str) -> float:
        """How far the sum of a resource can vary at most."""
        cost = self.costs[resource]
        most = np.maximum.reduceat(cost, self.blocks)
        return float((most - np.minimum.reduceat(cost, self.blocks)).sum())


def linearize(problem: Problem) -> LinearProgram:
    """The columns, costs and consistency rows of `problem`."""
    offsets: dict[str, int] = {}
    binaries = 0
    for variable in problem.variables:
        offsets[variable.name] = binaries
        binaries += len(variable.options)
    columns = binaries + sum(len(f.costs) for f in problem.factors if len(f.variables) > 1)
    place = {
        (v.name, option): offsets[v.name] + i
        for v in problem.variables
        for i, option in enumerate(v.options)
    }
    costs = {name: np.zeros(columns) for name in (LOSS, *problem.resources)}
    upper = np.ones(columns)
    _fill_unary(problem, place, costs, upper)
    rows = _Rows()
    for variable in problem.variables:
        row = rows.add(right=1.0)
        for option in variable.options:
            rows.put(row, place[variable.name, option], 1.0)
    blocks = list(offsets.values()) + _fill_coupled(problem, place, costs, rows, binaries)
    return LinearProgram(
        offsets=offsets,
        options={v.name: v.options for v in problem.variables},
        binaries=binaries,
        blocks=np.array(blocks, dtype=np.int64),
        costs=costs,
        fixed=problem.fixed,
        upper=upper,
        equalities=rows.matrix(columns),
        right=np.array(rows.right),
    )


def minimum(
    program: LinearProgram,
    *,
    minimize: str,
    limits: Mapping[str, float],
    excluded: Sequence[Exclusion],
    time_limit_s: float,
) -> OptimizeResult:
    """Solve for the least `minimize` within `limits`; scipy's result as it is."""
    constraints = [LinearConstraint(program.equalities, program.right, program.right)]
    for resource, limit in limits.items():
        cost = program.costs[resource]
        bound = limit - program.fixed.get(resource, 0.0)
        scale = _ROW_SCALE / (max(abs(bound), float(np.abs(cost).max())) or 1.0)
        constraints.append(LinearConstraint(cost[None, :] * scale, -np.inf, bound * scale))
    for rule in excluded:
        row = np.zeros(len(program.upper))
        for name, option in rule.choices.items():
            row[program.offsets[name] + program.options[name].index(option)] = 1.0
        constraints.append(LinearConstraint(row[None, :], -np.inf, row.sum() - rule.distance))
    return milp(
        _objective(program, minimize, limits),
        integrality=(np.arange(len(program.upper)) < program.binaries).astype(np.int8),
        bounds=Bounds(0.0, program.upper),
        constraints=constraints,
        options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
    )


def _objective(program: LinearProgram, minimize: str, limits: Mapping[str, float]) -> Vector:
    """The scaled objective, with the tie-break that `allocate.solve` documents."""
    others = [r for r in sorted({LOSS, *(limits or program.costs)}) if r != minimize]
    objective = program.costs[minimize] * (_OBJECTIVE_SCALE / (program.span(minimize) or 1.0))
    for resource in others:
        share = _TIE * _OBJECTIVE_SCALE / len(others)
        objective = objective + program.costs[resource] * (share / (program.span(resource) or 1.0))
    return objective


def _fill_unary(
    problem: Problem,
    place: Mapping[tuple[str, Option], int],
    costs: Mapping[str, Vector],
    upper: Vector,
) -> None:
    """Losses, forbidden options, and factors over one variable: all of them are costs of x."""
    for variable in problem.variables:
        for option, loss in zip(variable.options, variable.loss, strict=True):
            costs[LOSS][place[variable.name, option]] = loss
            if option in variable.forbidden:
                upper[place[variable.name, option]] = 0.0
    options = {v.name: v.options for v in problem.variables}
    for factor in problem.factors:
        if len(factor.variables) > 1:
            continue
        for option in options[factor.variables[0]]:
            at = place[factor.variables[0], option]
            if (option,) not in factor.costs:
                upper[at] = 0.0
            for resource, amount in factor.costs.get((option,), {}).items():
                costs[resource][at] += amount


def _fill_coupled(
    problem: Problem,
    place: Mapping[tuple[str, Option], int],
    costs: Mapping[str, Vector],
    rows: _Rows,
    first: int,
) -> list[int]:
    """Columns z[c] from `first` on and their consistency rows; returns where factors start."""
    options = {v.name: v.options for v in problem.variables}
    starts: list[int] = []
    column = first
    for factor in problem.factors:
        if len(factor.variables) == 1:
            continue
        tie = {(v, o): rows.add(right=0.0) for v in factor.variables for o in options[v]}
        for variable_option, row in tie.items():
            rows.put(row, place[variable_option], -1.0)
        if factor.costs:
            starts.append(column)
        for combo, cost in factor.costs.items():
            for name, option in zip(factor.variables, combo, strict=True):
                rows.put(tie[name, option], column, 1.0)
            for resource, amount in cost.items():
                costs[resource][column] = amount
            column += 1
    return starts


class _Rows:
    """A sparse matrix under construction, and its right-hand side."""

    def __init__(self) -> None:
        self.right: list[float] = []
        self._entries: list[tuple[int, int, float]] = []

    def add(self, *, right: float) -> int:
        """Begin a row; returns its number."""
        self.right.append(right)
        return len(self.right) - 1

    def put(self, row: int, column: int, value: float) -> None:
        """Set one entry."""
        self._entries.append((row, column, value))

    def matrix(self, columns: int) -> csr_array:
        """The rows so far, [rows, columns]."""
        at_row, at_column, values = zip(*self._entries, strict=True)
        shape = (len(self.right), columns)
        return csr_array(coo_array((values, (at_row, at_column)), shape=shape))
