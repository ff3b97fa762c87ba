"""The difference of two profiles: which kernels changed by more than the noise.

Hundreds of kernels are compared at once, so a few differ by chance at any fixed level. Those that
are said to have changed are chosen so that at most a stated share of them is expected to be chance:
Benjamini and Hochberg, "Controlling the false discovery rate" (J. R. Stat. Soc. B 57, 1995).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.packs.pack import Pack
from millifit.profiler.packs.sheet import SPREAD
from millifit.targets.kernel import Kernel
from millifit.targets.timing import Samples

FALSE_DISCOVERIES = 0.05
"""Share of what is called changed that may be chance."""
_NORMAL_95 = 1.959964
_HALF_NORMAL = 0.6745
# Fewer values do not show how far they scatter.
_FEWEST = 8
# A median's error relative to that of the mean of as many normal samples.
_MEDIAN = math.sqrt(math.pi / 2)
# The same machine, measured anew another day, is rarely closer than this.
_LEAST_NOISE = 0.005
# Nor is it, where a machine is fit to be measured, further apart than this by itself.
_MOST_NOISE = 0.05
# What a single sample is taken to be worth where nothing says how noisy a profile is.
_UNKNOWN_NOISE = 0.05

_Subject = tuple[str, ...]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One kernel or network in both profiles.

    `ratio` is the second median over the first, between `low` and `high` with 95 %; `chance` is the
    probability of such a ratio, or one further from 1, where nothing changed.
    """

    name: str
    family: str
    subject: Kernel | str
    before_s: float
    after_s: float
    ratio: float
    low: float
    high: float
    chance: float
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two profiles side by side: what is in both, largest change first, and in one alone.

    `shift` is the median ratio of all that is in both, and `noise` the standard deviation, as a
    share, that two runs differ by where nothing changed: what the samples of one do not show.
    """

    changes: tuple[Change, ...]
    only_before: int
    only_after: int
    failed: int
    shift: float
    noise: float

    def families(self) -> dict[str, tuple[int, int, float]]:
        """By family: how many there are, how many changed, and their median ratio."""
        found: dict[str, list[Change]] = {}
        for change in self.changes:
            found.setdefault(change.family, []).append(change)
        return {
            family: (
                len(all_),
                sum(change.changed for change in all_),
                float(np.median([change.ratio for change in all_])),
            )
            for family, all_ in sorted(found.items())
        }


def compare(before: Pack, after: Pack, *, share: float = FALSE_DISCOVERIES) -> Comparison:
    """Compare what two profiles have in common; at most `share` of the changes are chance.

    What is compared is the same kernel (or network) in the same class of timing; of several, the
    one with the most samples. Which target and versions it was is not asked: comparing two of them
    is what one does this for.
    """
    first, second = _by_subject(before), _by_subject(after)
    common = [subject for subject in first if subject in second]
    pairs = [
        (subject, one.outcome, other.outcome)
        for subject in common
        if isinstance((one := first[subject]).outcome, Samples)
        and isinstance((other := second[subject]).outcome, Samples)
    ]
    errors = np.array(
        [math.hypot(_error(first[subject]), _error(second[subject])) for subject, *_ in pairs]
    )
    logs = np.array([math.log(b.median_s / a.median_s) for _, a, b in pairs])
    between = _between(before, after, logs, errors)
    errors = np.hypot(errors, between)
    chances = np.array([math.erfc(z / math.sqrt(2)) for z in np.abs(logs) / errors])
    changed = discoveries(chances, share)
    changes = [
        _change(first[subject], second[subject], float(log), float(error), chance, bool(is_one))
        for (subject, *_), log, error, chance, is_one in zip(
            pairs, logs, errors, chances.tolist(), changed, strict=True
        )
    ]
    return Comparison(
        changes=tuple(sorted(changes, key=lambda c: (not c.changed, -abs(math.log(c.ratio))))),
        only_before=len(first) - len(common),
        only_after=len(second) - len(common),
        failed=len(common) - len(pairs),
        shift=float(np.exp(np.median(logs))) if len(logs) else 1.0,
        noise=between,
    )


def discoveries(chances: Floats, share: float) -> npt.NDArray[np.bool_]:
    """Which of n probabilities count as discoveries, by Benjamini and Hochberg's procedure.

    The k smallest do, for the largest k whose k-th smallest is at most ``share * k / n``: of 0.01,
    0.02 and 0.9 with a share of 0.05 the first two.
    """
    n = len(chances)
    order = np.argsort(chances)
    below = chances[order] <= share * np.arange(1, n + 1) / max(1, n)
    found = np.zeros(n, np.bool_)
    if below.any():
        found[order[: int(np.flatnonzero(below)[-1]) + 1]] = True
    return found


def _by_subject(pack: Pack) -> dict[_Subject, Measurement | NetworkMeasurement]:
    found: dict[_Subject, Measurement | NetworkMeasurement] = {}
    measured: Iterable[Measurement | NetworkMeasurement] = [*pack.kernels, *pack.networks]
    for one in measured:
        subject = _subject(one)
        if subject not in found or _samples(one) > _samples(found[subject]):
            found[subject] = one
    return found


def _subject(one: Measurement | NetworkMeasurement) -> _Subject:
    if isinstance(one, Measurement):
        return "kernel", one.kernel.key, str(one.policy.working_set_bytes)
    return "network", one.name, one.space, one.architecture, str(one.batch)


def _samples(one: Measurement | NetworkMeasurement) -> int:
    return len(one.outcome.run_s) if isinstance(one.outcome, Samples) else 0


def _error(one: Measurement | NetworkMeasurement) -> float:
    """Standard error of the logarithm of a median, by its samples' interval or what is stated."""
    outcome = one.outcome
    assert isinstance(outcome, Samples)
    if len(outcome.run_s) > 2:
        low, high = outcome.interval_s
        return math.log(high / low) / (2 * _NORMAL_95)
    stated = one.environment.get(SPREAD)
    if stated is not None:
        return float(stated) / outcome.median_s
    return _UNKNOWN_NOISE * _MEDIAN / math.sqrt(len(outcome.run_s))


def _between(before: Pack, after: Pack, logs: Floats, errors: Floats) -> float:
    """What two runs differ by beyond the noise within each measurement.

    Where both were measured in several sections, it is how far the anchors of these are apart.
    Otherwise the bulk of what is in both tells: half of the ratios lie within 0.6745 standard
    deviations of their median whatever the few that changed do, and what their own errors do not
    explain of that is noise between the runs, unless it is far more than machines differ by.
    """
    drifts = [_drift(pack) for pack in (before, after)]
    if None not in drifts:
        return max(_LEAST_NOISE, math.hypot(*(drift for drift in drifts if drift is not None)))
    if len(logs) < _FEWEST:
        return _LEAST_NOISE
    spread = float(np.median(np.abs(logs - np.median(logs)))) / _HALF_NORMAL
    unexplained = spread**2 - float(np.median(errors)) ** 2
    return min(_MOST_NOISE, max(_LEAST_NOISE, math.sqrt(max(0.0, unexplained))))


def _drift(pack: Pack) -> float | None:
    """Standard deviation of the logarithm of an anchor's time from section to section.

    None where no anchor was measured often enough.
    """
    times: dict[str, list[float]] = {}
    for section in pack.sections:
        for key, seconds in section.anchors.items():
            times.setdefault(key, []).append(math.log(seconds))
    spreads = [
        float(np.median(np.abs(np.array(found) - np.median(found)))) / _HALF_NORMAL
        for found in times.values()
        if len(found) >= _FEWEST
    ]
    return float(np.median(spreads)) if spreads else None


def _change(
    before: Measurement | NetworkMeasurement,
    after: Measurement | NetworkMeasurement,
    log: float,
    error: float,
    chance: float,
    changed: bool,
) -> Change:
    assert isinstance(before.outcome, Samples)
    assert isinstance(after.outcome, Samples)
    if isinstance(before, Measurement):
        subject: Kernel | str = before.kernel
        name = described(before.kernel)
        family = f"{before.kernel.op} {before.kernel.precision}"
    else:
        name = subject = before.name
        family = f"networks {before.space}".strip()
    return Change(
        name=name,
        family=family,
        subject=subject,
        before_s=before.outcome.median_s,
        after_s=after.outcome.median_s,
        ratio=math.exp(log),
        low=math.exp(log - _NORMAL_95 * error),
        high=math.exp(log + _NORMAL_95 * error),
        chance=chance,
        changed=changed,
    )


def described(kernel: Kernel) -> str:
    """A kernel in short: 'conv2d 3x3/2 g4 56x56x64 -> 28x28x128 +relu'."""
    attributes: Mapping[str, object] = dict(kernel.attributes)
    parts = [kernel.op]
    window, strides = attributes.get("kernel"), attributes.get("strides")
    if isinstance(window, tuple):
        stride = strides[0] if isinstance(strides, tuple) else 1
        parts.append("x".join(map(str, window)) + (f"/{stride}" if stride != 1 else ""))
    if attributes.get("groups", 1) != 1:
        parts.append(f"g{attributes['groups']}")
    source = kernel.inputs[0].shape if kernel.inputs else ()
    parts.append(f"{_shape(source)} -> {_shape(kernel.output.shape)}")
    return " ".join([*parts, *(f"+{step}" for step in kernel.epilogue)])


def _shape(shape: Sequence[int]) -> str:
    """Without a batch of one."""
    kept = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
    return "x".join(map(str, kept)) or "1"
