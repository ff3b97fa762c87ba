"""One piece of memory for all tensors of a program, each at an offset of its own while it lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What kernels may assume of a tensor's address.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A tensor's size in bytes, and the first and the last call that needs it."""

    bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """Where tensors lie: an offset for each, and the bytes of all together."""

    offsets: tuple[int, ...]
    bytes: int


def arrange(lives: Sequence[Life]) -> Arena:
    """Offsets such that tensors that live at the same time do not overlap.

    The largest tensors come first, each at the lowest place that is free through its life: greedy
    by size, which for convolutional networks ends at or near the lower bound, the most bytes that
    live at any one time (2001.03288).
    """
    offsets = [0] * len(lives)
    placed: list[int] = []
    for index in sorted(range(len(lives)), key=lambda i: (-lives[i].bytes, lives[i].first, i)):
        life = lives[index]
        together = [i for i in placed if _meet(lives[i], life)]
        at = 0
        for other in sorted(together, key=lambda i: offsets[i]):
            if at + _aligned(life.bytes) <= offsets[other]:
                break
            at = max(at, offsets[other] + _aligned(lives[other].bytes))
        offsets[index] = at
        placed.append(index)
    ends = [offset + _aligned(life.bytes) for offset, life in zip(offsets, lives, strict=True)]
    return Arena(offsets=tuple(offsets), bytes=max(ends, default=0))


def _meet(one: Life, other: Life) -> bool:
    return one.first <= other.last and other.first <= one.last


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
