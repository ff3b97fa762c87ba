"""What a running profile knows: measurements, a model of them, and how good both are."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from millifit.latency_models.prediction import Flags, Floats
from millifit.pipeline.profile_model import Expectation, ProfileModel, fit_profile_model
from millifit.pipeline.profile_pool import Item, Pool, family, is_held_out
from millifit.profiler.active import first_kernels, next_kernels
from millifit.profiler.measurement import Measurement
from millifit.targets.timing import Failed, Samples

_RANDOM_SHARE = 0.1  # of what is measured, drawn from the held-out tenth as networks call it
_CHANCE_SHARE = 0.5  # of the rest, drawn likewise: where a model is sure of itself it may be wrong
_FIRST_FIT = 12  # measurements
_GROWTH = 1.4  # the model is fitted again when there are so many times more
_FIT_SHARE = 0.08  # of the time of a run may go into fitting


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Shares of the predicted time of networks that lie in kernels that were measured, and in
    kernels of whose operator and precision some were.
    """

    measured: float
    families: float
    networks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """How far the model is off on `n` kernels that it was not fitted on, which were drawn at random
    as networks call them: the median of the relative errors, and the share within 10 %.
    """

    n: int
    median: float
    within_10: float


class Knowledge:
    """What is known of the items of a pool, and what to measure next."""

    def __init__(
        self,
        pool: Pool,
        fresh: Pool,
        *,
        vector_lanes: int,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fresh` are the networks that coverage is said of."""
        self._pool = pool
        self._fresh = fresh
        self._lanes = vector_lanes
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._clock = clock
        self._numbers = {item: number for number, item in enumerate(pool.items)}
        self._measured: dict[Item, Measurement] = {}
        self._doubted: Set[int] = frozenset()
        self._model: ProfileModel | None = None
        self._expected: Expectation | None = None  # of the pool's items
        self._fresh_s: Floats = np.ones(len(fresh.items))
        self._tested_s: dict[Item, float] = {}  # what the model says of held-out items
        self._fitted_on = 0
        self._fit_s = 0.0
        self.fit_total_s = 0.0

    @property
    def measured(self) -> Mapping[Item, Measurement]:
        """The newest measurement of every item, failures included."""
        return self._measured

    def learn(self, measurements: Iterable[Measurement]) -> None:
        """Take measurements in; those of items outside of the pool help the model, too."""
        for each in measurements:
            self._measured[each.kernel, each.policy] = each

    def doubt(self, sections: Set[int]) -> None:
        """Leave what was measured in some sections out of model and errors.

        Unless that is more than half of all: then the machine is never calm, and doubtful times
        are better than none.
        """
        self._doubted = sections

    def in_doubt(self) -> list[Item]:
        """The items measured in doubted sections."""
        return [item for item, each in self._measured.items() if each.section in self._doubted]

    def pool_measured(self) -> list[Item]:
        """The items of the pool that are measured."""
        return [item for item in self._pool.items if item in self._measured]

    def sum_of(self, calls: Sequence[Item]) -> float | None:
        """Seconds of calls as measured, or as expected where they are not; None where a kernel does
        not run, or nothing is known at all.
        """
        unknown = list(dict.fromkeys(item for item in calls if item not in self._measured))
        if unknown and self._model is None:
            return None
        expected = self._model.expect(unknown).seconds if self._model and unknown else ()
        seconds = dict(zip(unknown, map(float, expected), strict=True))
        for item in calls:
            outcome = self._measured[item].outcome if item in self._measured else None
            if isinstance(outcome, Failed):
                return None
            if outcome is not None:
                seconds[item] = outcome.median_s
        return sum(seconds[item] for item in calls)

    @property
    def pool(self) -> Pool:
        """What is to be known."""
        return self._pool

    def broken(self, calls: Iterable[Item]) -> Failed | None:
        """Why some kernel among calls does not run, if that is known of one."""
        outcomes = (self._measured[item].outcome for item in calls if item in self._measured)
        return next((outcome for outcome in outcomes if isinstance(outcome, Failed)), None)

    def missing(self) -> list[Item]:
        """The items of the pool that are not measured."""
        return [item for item in self._pool.items if item not in self._measured]

    def seconds(self) -> dict[Item, float]:
        """The medians of what was measured and is not in doubt."""
        timed = {
            item: (each.outcome.median_s, each.section in self._doubted)
            for item, each in self._measured.items()
            if isinstance(each.outcome, Samples)
        }
        never_calm = 2 * sum(doubted for _, doubted in timed.values()) > len(timed)
        return {item: s for item, (s, doubted) in timed.items() if never_calm or not doubted}

    def next(self, count: int) -> list[Item]:
        """What to measure next, at most `count`, in order: chosen, drawn at random, held out."""
        known = np.array([item in self._measured for item in self._pool.items], bool)
        drawn = self._drawn(self._pool.held_out & ~known, round(_RANDOM_SHARE * count))
        active = self._active(known, count - len(drawn))
        if len(drawn) + len(active) < count:  # nothing more is gained: what is left, in order
            taken = set(drawn) | set(active)
            left = [int(n) for n in np.flatnonzero(~known) if int(n) not in taken]
            active += left[: count - len(taken)]
        # Drawn ones come evenly between the others, so that a part of the batch has its tenth, too.
        places = [(place + 0.5) / max(1, len(active)) for place in range(len(active))]
        places += [(place + 1.0) / (len(drawn) + 1) for place in range(len(drawn))]
        order = np.argsort(places, kind="stable")
        return [self._pool.items[(active + drawn)[number]] for number in order]

    def refit(self, *, elapsed_s: float) -> bool:
        """Fit the model anew if there is enough more to learn from, and time for it."""
        training = {
            item: seconds for item, seconds in self.seconds().items() if not is_held_out(item[0])
        }
        grown = len(training) >= max(_FIRST_FIT, _GROWTH * self._fitted_on)
        next_s = self._fit_s * _GROWTH
        affordable = self.fit_total_s + next_s <= _FIT_SHARE * elapsed_s or not self._fitted_on
        if not (grown and affordable):
            return False
        began = self._clock()
        self._model = fit_profile_model(training, vector_lanes=self._lanes, seed=self._seed)
        self._expected = self._model.expect(self._pool.items)
        self._fresh_s = self._model.expect(self._fresh.items).seconds
        self._tested_s = {}
        self._fit_s = self._clock() - began
        self.fit_total_s += self._fit_s
        self._fitted_on = len(training)
        return True

    def coverage(self) -> Coverage:
        """How much of the fresh networks is known. Without a model every call counts alike."""
        items = self._fresh.items
        families = {family(item) for item in self._measured}
        shares = self._fresh.shares(self._fresh_s)
        return Coverage(
            measured=float(shares[[item in self._measured for item in items]].sum()),
            families=float(shares[[family(item) in families for item in items]].sum()),
            networks=len(self._fresh.calls),
        )

    def held_out(self) -> HeldOut | None:
        """The model's error on what was held out; None while there is no model or no such kernel.

        Each of these kernels was predicted by a model that had not seen it, whenever it was
        measured: none is ever fitted on while the profile runs.
        """
        tests = {item: s for item, s in self.seconds().items() if is_held_out(item[0])}
        if self._model is None or not tests:
            return None
        new = [item for item in tests if item not in self._tested_s]
        self._tested_s |= dict(zip(new, map(float, self._model.expect(new).seconds), strict=True))
        errors = np.array([abs(self._tested_s[item] / s - 1) for item, s in tests.items()])
        return HeldOut(
            n=len(errors),
            median=float(np.median(errors)),
            within_10=float((errors <= 0.10).mean()),
        )

    def _drawn(self, allowed: Flags, wanted: int) -> list[int]:
        """Items at random, in proportion to how often networks call them."""
        weight = np.where(allowed, self._pool.frequency, 0.0)
        wanted = min(wanted, int((weight > 0).sum()))
        if not wanted:
            return []
        drawn = self._rng.choice(len(weight), wanted, replace=False, p=weight / weight.sum())
        return [int(number) for number in drawn]

    def _active(self, known: Flags, count: int) -> list[int]:
        """What is not held out: first each family's extremes, then half chosen and half drawn."""
        allowed = ~known & ~self._pool.held_out
        order = first_kernels(self._pool.families, self._sizes(), self._pool.frequency)
        first = [number for number in order if allowed[number]]
        if (first and self._fitted_on < len(order)) or self._expected is None:
            return first[:count]
        drawn = self._drawn(allowed, round(_CHANCE_SHARE * count))
        soon = known.copy()
        soon[drawn] = True
        error = self._pool.shares(self._expected.seconds) * self._expected.log_sd
        chosen = next_kernels(
            self._pool.x, self._pool.families, error, measured=soon & ~self._pool.held_out,
            allowed=allowed, count=count - len(drawn), rng=self._rng,
        )  # fmt: skip
        turns = itertools.zip_longest(chosen, drawn)
        return [number for turn in turns for number in turn if number is not None]

    def _sizes(self) -> Floats:
        """Bytes of inputs and output: an order within a family."""
        sizes = [
            sum(t.bytes for t in (*kernel.inputs, kernel.output)) for kernel, _ in self._pool.items
        ]
        return np.array(sizes, np.float64)
