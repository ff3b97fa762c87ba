"""When to ask for memory before it is needed."""

from __future__ import annotations

from millifit.targets.network import TensorType

LINE_BYTES = 64
_NEAR_BYTES = 128 << 10


def is_far(kind: TensorType) -> bool:
    """Whether a map is larger than the nearest caches hold, so that asking for it ahead pays."""
    return kind.bytes > _NEAR_BYTES
