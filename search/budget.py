"""A budget: what a compressed network may cost, absolute or relative to what it replaces."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from millifit.errors import UsageError

_SECONDS = {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"), "µs": Decimal("1e-6")}
_VALID = "Write a share of the baseline such as '60%', or a time such as '8ms', '250us' or '0.5s'."
_FORM = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))\s*(?P<unit>%|[a-zµμ]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits as they were asked for; what is None is not limited.

    The latency is either `seconds` or a `fraction` of the baseline in (0, 1]. `max_accuracy_drop`
    is a fraction: 0.01 allows 75.3 % to become 74.3 %. `text` is the latency as it was written.
    """

    text: str = ""
    seconds: float | None = None
    fraction: float | None = None
    size_bytes: int | None = None
    max_accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and self.fraction is not None:
            raise UsageError("a latency budget is absolute or relative to the baseline, not both.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UsageError(
                f"a latency budget must be above 0 s, got {self.seconds:g} s. {_VALID}"
            )
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(
                f"a relative latency budget must be in (0, 1] of the baseline, "
                f"got {self.fraction:g}. {_VALID}"
            )
        if self.size_bytes is not None and self.size_bytes <= 0:
            raise UsageError(f"a size budget must be above 0 bytes, got {self.size_bytes}.")
        if self.max_accuracy_drop is not None and not 0 <= self.max_accuracy_drop <= 1:
            raise UsageError(
                f"the largest accuracy drop must be a fraction in [0, 1], "
                f"got {self.max_accuracy_drop:g}. Write 0.01 for one percentage point."
            )

    def latency_s(self, baseline_s: float) -> float:
        """The latency limit in seconds; infinite where latency is not limited.

        ``Budget(fraction=0.6).latency_s(0.010)`` is 0.006.
        """
        if self.seconds is not None:
            return self.seconds
        return math.inf if self.fraction is None else self.fraction * baseline_s

    def resolve(self, *, baseline_s: float, baseline_accuracy: float | None = None) -> Limits:
        """The budget as absolute limits, given what the baseline takes and achieves."""
        floor = None
        if self.max_accuracy_drop is not None and baseline_accuracy is not None:
            floor = baseline_accuracy - self.max_accuracy_drop
        return Limits(
            latency_s=self.latency_s(baseline_s), size_bytes=self.size_bytes, min_accuracy=floor
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A budget in absolute terms; what is None (or infinite) is not limited."""

    latency_s: float = math.inf
    size_bytes: int | None = None
    min_accuracy: float | None = None

    def accuracy_met(self, accuracy: float | None) -> bool:
        """Whether an accuracy keeps the limit; an unknown one keeps no limit but None.

        Accuracies are counts over counts, so a difference of 1e-9 is rounding.
        """
        if self.min_accuracy is None:
            return True
        return accuracy is not None and accuracy >= self.min_accuracy - 1e-9

    def missed(self, *, high_s: float, size_bytes: int, accuracy: float | None) -> tuple[str, ...]:
        """One line for every limit that is not kept; empty where all are.

        `high_s` is the upper bound of a measured latency.
        """
        lines: list[str] = []
        if high_s > self.latency_s:
            lines.append(f"latency {high_s * 1e3:.3f} ms above {self.latency_s * 1e3:.3f} ms")
        if self.size_bytes is not None and size_bytes > self.size_bytes:
            lines.append(f"size {size_bytes} bytes above {self.size_bytes}")
        if self.min_accuracy is not None and not self.accuracy_met(accuracy):
            known = "unknown" if accuracy is None else f"{accuracy:.2%}"
            lines.append(f"accuracy {known} below {self.min_accuracy:.2%}")
        return tuple(lines)


def parse_budget(
    text: str, *, size_bytes: int | None = None, max_accuracy_drop: float | None = None
) -> Budget:
    """Read a latency budget: ``"60%"``, ``"8ms"``, ``"0.5 s"`` or ``"250us"``.

    Raises `UsageError`, which repeats the text and shows the valid forms.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"budget '{text}' is not a share or a time. {_VALID}")
    number = Decimal(match["number"])
    unit = match["unit"].lower().replace("μ", "µ")
    if number <= 0:
        raise UsageError(f"budget '{text}' must be above zero. {_VALID}")
    if not unit:
        bare = match["number"]
        raise UsageError(f"budget '{text}' has no unit: did you mean {bare}ms or {bare}%? {_VALID}")
    if unit == "%":
        if number > 100:
            raise UsageError(f"budget '{text}' is above 100% of the baseline. {_VALID}")
        seconds, fraction = None, float(number / 100)
    elif unit in _SECONDS:
        seconds, fraction = float(number * _SECONDS[unit]), None
    else:
        raise UsageError(f"budget '{text}' has the unknown unit '{match['unit']}'. {_VALID}")
    return Budget(
        text=text.strip(),
        seconds=seconds,
        fraction=fraction,
        size_bytes=size_bytes,
        max_accuracy_drop=max_accuracy_drop,
    )
