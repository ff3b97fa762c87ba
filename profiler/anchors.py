"""Anchors: the few kernels that are measured through a whole run to tell whether it drifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from millifit.targets.kernel import Kernel

_MOST = 4
_FEWEST = 3


def choose_anchors(measured: Mapping[Kernel, float], *, most: int = _MOST) -> tuple[Kernel, ...]:
    """Kernels of different operators and sizes, from those measured so far with their seconds.

    They stand at even steps from the fastest to the slowest, each of an operator and precision that
    no other one has, as long as there is one within its share of the sizes.
    """
    ordered = sorted(measured, key=lambda kernel: (measured[kernel], kernel.key))
    if len(ordered) <= most:
        return tuple(ordered)
    chosen: list[Kernel] = []
    for part in range(most):
        share = ordered[part * len(ordered) // most : (part + 1) * len(ordered) // most]
        chosen.append(_unlike(share, chosen))
    return tuple(chosen)


def enough(measured: Mapping[Kernel, float]) -> bool:
    """Whether anchors can be chosen yet."""
    return len(measured) >= 2 * _FEWEST


def _unlike(share: Sequence[Kernel], chosen: Sequence[Kernel]) -> Kernel:
    """The middle one of a share, of a family that is not chosen yet if there is any."""
    families = {(kernel.op, kernel.precision) for kernel in chosen}
    fresh = [kernel for kernel in share if (kernel.op, kernel.precision) not in families]
    pick = fresh or share
    return pick[len(pick) // 2]
