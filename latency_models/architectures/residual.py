"""What costs leave of log seconds: a Gaussian process that knows the device's drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import scipy.linalg

from millifit.latency_models.architectures import gaussian
from millifit.latency_models.architectures.covariance import (
    ARCHITECTURE_TERMS,
    STATE_TERMS,
    Pairs,
    Subjects,
)
from millifit.latency_models.architectures.drift import Cycle, Section, find_cycles, find_sections
from millifit.latency_models.architectures.gaussian import Fitted, Start
from millifit.latency_models.archive import State
from millifit.latency_models.prediction import Floats

_MOST_FOR_PARAMETERS = 900
_CYCLES_TRIED = 2
_ALIKE = 0.02  # relative difference below which two periods are one
_WORTHWHILE = 0.99  # the error that a cycle has to reach, of that without it
_LARGEST_ERROR = 0.3  # of log seconds, in the comparison of models


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """The process, given the `targets` ``[n]`` of the subjects that were measured.

    `sections` and `cycles` are the drift that was noticed. Made by `fit_residual`.
    """

    subjects: Subjects
    targets: Floats
    fitted: Fitted
    sections: tuple[Section, ...]
    cycles: tuple[Cycle, ...]
    _factor: Floats = field(repr=False)  # of the covariance of the subjects
    _explained: Floats = field(repr=False)

    @classmethod
    def of(
        cls,
        subjects: Subjects,
        targets: Floats,
        fitted: Fitted,
        sections: tuple[Section, ...] = (),
        cycles: tuple[Cycle, ...] = (),
    ) -> Self:
        """The process with parameters that are known."""
        factor = gaussian.factor(fitted, Pairs.of(subjects, subjects))
        explained = scipy.linalg.cho_solve((factor, True), targets, check_finite=False)
        return cls(
            subjects=subjects,
            targets=targets,
            fitted=fitted,
            sections=sections,
            cycles=cycles,
            _factor=factor,
            _explained=explained,
        )

    def predict(self, asked: Subjects) -> tuple[Floats, Floats]:
        """Residual log seconds ``[m]`` and their deviation, which an ordinary measurement's noise
        is part of; of the typical state for subjects without a place in the order.
        """
        terms = ARCHITECTURE_TERMS if asked.order is None else None
        shared = gaussian.total(self.fitted, Pairs.of(asked, self.subjects), terms)
        own = gaussian.total(self.fitted, Pairs.with_itself(asked), terms)
        explained = scipy.linalg.solve_triangular(
            self._factor, shared.T, lower=True, check_finite=False
        )
        left = np.maximum(own - (explained**2).sum(axis=0), 0.0)
        return shared @ self._explained, np.sqrt(left + self.fitted.noise_variance)

    def state(self) -> Floats:
        """What the device's state added to log seconds at each measurement: ``[n]``."""
        shared = gaussian.total(self.fitted, Pairs.of(self.subjects, self.subjects), STATE_TERMS)
        added: Floats = shared @ self._explained
        return added

    def left_out(self) -> tuple[Floats, Floats]:
        """Each measurement's error where the others predict it, and its deviation: ``[n]``."""
        return _left_out(self.fitted, Pairs.of(self.subjects, self.subjects), self.targets)

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        arrays = {
            "features": self.subjects.features,
            "relative": self.subjects.relative,
            "targets": self.targets,
            "noise": self.fitted.noise,
        }
        if self.subjects.order is not None:
            arrays["order"] = self.subjects.order
        facts = {
            "terms": list(self.fitted.terms),
            "logs": [list(logs) for logs in self.fitted.logs],
            "noise_variance": self.fitted.noise_variance,
            "sections": [[s.first, s.last, s.shift, s.rows] for s in self.sections],
            "cycles": [[c.period, c.reach, c.score] for c in self.cycles],
        }
        return State(kind="residual", facts=facts, arrays=arrays)

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The process that `to_state` described; DataError where something of it is missing."""
        return cls.of(
            Subjects(
                features=state.array("features", ndim=2),
                relative=state.array("relative", ndim=2),
                order=state.array("order", ndim=1) if "order" in state.arrays else None,
            ),
            state.array("targets", ndim=1),
            Fitted(
                terms=tuple(state.fact("terms")),
                logs=tuple(tuple(logs) for logs in state.fact("logs")),
                noise_variance=float(state.fact("noise_variance")),
                noise=state.array("noise", ndim=1),
            ),
            tuple(
                Section(first=first, last=last, shift=shift, rows=rows)
                for first, last, shift, rows in state.fact("sections")
            ),
            tuple(
                Cycle(period=period, reach=reach, score=score)
                for period, reach, score in state.fact("cycles")
            ),
        )


def fit_residual(subjects: Subjects, targets: Floats, *, seed: int) -> Residual:
    """The likeliest process for `targets` ``[n]``, and the drift that it shows.

    A cycle is part of it where it lowers the leave-one-out error.
    """
    pairs = Pairs.of(subjects, subjects)
    starts = _starts(subjects.order)
    fitted = gaussian.fit(starts, pairs, targets, most=_MOST_FOR_PARAMETERS, seed=seed)
    if subjects.order is None:
        return Residual.of(subjects, targets, fitted)
    unexplained = _without_state(fitted, pairs, targets)
    sections = find_sections(subjects.order, unexplained, seed=seed)
    best, kept = _left_out_error(fitted, pairs, targets), None
    for cycle in _distinct(find_cycles(subjects.order, unexplained, seed=seed))[:_CYCLES_TRIED]:
        tried = gaussian.fit(
            [*starts, _cycle_start(cycle)], pairs, targets, most=_MOST_FOR_PARAMETERS, seed=seed
        )
        error = _left_out_error(tried, pairs, targets)
        if "cycle" in tried.terms and error < _WORTHWHILE * best:
            period = float(np.exp(tried.logs[tried.terms.index("cycle")][1]))
            best, fitted, kept = error, tried, replace(cycle, period=period)
    return Residual.of(subjects, targets, fitted, sections, () if kept is None else (kept,))


def _starts(order: Floats | None) -> list[Start]:
    starts = [
        Start(term="linear", logs=(-5.0,), bounds=((-14.0, 4.0),)),
        Start(term="shape", logs=(-5.0, 0.0), bounds=((-14.0, 2.0), (-3.0, 3.0))),
    ]
    if order is None:
        return starts
    span = float(max(np.ptp(order), 20.0))
    medium, quick = np.log(max(span / 60, 4.0)), np.log(2.0)
    slow_bounds = (medium, np.log(2 * span))
    return [
        *starts,
        Start(
            term="slow", logs=(-6.0, float(np.log(span / 8))), bounds=((-14.0, 2.0), slow_bounds)
        ),
        Start(
            term="quick",
            logs=(-6.0, float((medium + quick) / 2)),
            bounds=((-14.0, 2.0), (float(quick), float(medium))),
        ),
    ]


def _cycle_start(cycle: Cycle) -> Start:
    period = float(np.log(cycle.period))
    return Start(
        term="cycle",
        logs=(-5.0, period, -0.3, float(np.log(cycle.reach))),
        bounds=((-14.0, 2.0), (period - 0.03, period + 0.03), (-2.5, 1.0), (3.0, 14.0)),
    )


def _distinct(cycles: Sequence[Cycle]) -> list[Cycle]:
    distinct: list[Cycle] = []
    for cycle in cycles:
        if all(abs(cycle.period / other.period - 1) > _ALIKE for other in distinct):
            distinct.append(cycle)
    return distinct


def _without_state(fitted: Fitted, pairs: Pairs, targets: Floats) -> Floats:
    """What the architectures leave unexplained, the device's state included: ``[n]``."""
    inverse = gaussian.inverted(gaussian.factor(fitted, pairs))
    shared = gaussian.total(fitted, pairs, ARCHITECTURE_TERMS)
    left: Floats = targets - shared @ (inverse @ targets)
    return left


def _left_out(fitted: Fitted, pairs: Pairs, targets: Floats) -> tuple[Floats, Floats]:
    """Rasmussen and Williams 2006, equation 5.12, with the noise of an ordinary measurement."""
    inverse = gaussian.inverted(gaussian.factor(fitted, pairs))
    own = np.diag(inverse)
    uncertain = np.maximum(1 / own - fitted.noise, 0.0) + fitted.noise_variance
    return (inverse @ targets) / own, np.sqrt(uncertain)


def _left_out_error(fitted: Fitted, pairs: Pairs, targets: Floats) -> float:
    errors, _ = _left_out(fitted, pairs, targets)
    return float(np.minimum(np.abs(errors), _LARGEST_ERROR).mean())
