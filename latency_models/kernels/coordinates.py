"""Kernels as points: which ones differ in one dimension only.

A kernel is nine sizes and the rest of it. Kernels with equal rests and equal sizes but for one
dimension lie on a line; `lines` numbers the lines, so that neighbours are found by sorting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.latency_models.archive import State
from millifit.latency_models.prediction import Flags
from millifit.targets.kernel import Kernel

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp] | Flags

SIZES = (
    "batch", "in_height", "in_width", "in_channels", "out_height", "out_width", "out_channels",
    "kernel_height", "kernel_width",
)  # fmt: skip

Axis = Literal["batch", "map", "in_channels", "out_channels", "channels", "kernel"]
AXES: tuple[Axis, ...] = get_args(Axis)
# Axes whose sizes are padded to whole vectors.
CHANNEL_AXES: tuple[Axis, ...] = ("in_channels", "out_channels", "channels")

_MOVING: dict[Axis, tuple[str, ...]] = {
    "batch": ("batch",),
    "map": ("in_height", "in_width", "out_height", "out_width"),
    "in_channels": ("in_channels",),
    "out_channels": ("out_channels",),
    "channels": ("in_channels", "out_channels"),
    "kernel": ("kernel_height", "kernel_width"),
}
_FREE_CHANNELS = ("conv2d", "dense")
_APART = ("kernel", "pads")  # attributes that are sizes, or follow from them


def _hash(value: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "little")


# Odd multipliers: sums of sizes times these differ where the sizes do, but for chances of 2^-60.
_MULTIPLIERS = np.array([_hash(name) | 1 for name in SIZES], np.uint64)
_OF_RATIO = np.uint64(_hash("ratio") | 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """Points of n kernels. Equal kernels have equal `identities`, in any process."""

    identities: Hashes  # [n]
    families: Hashes  # [n], of operator and precision
    points: Hashes  # [n], of everything but the padding, which follows from the sizes
    sizes: Integers  # [n, SIZES]; 0 where an operator has none
    free_channels: Flags  # [n]: input and output channels vary apart from each other

    @classmethod
    def of(cls, kernels: Sequence[Kernel]) -> Self:
        """The points of some kernels, in order."""
        numbers = _Numbers()
        rows, rest, padding, families, free = [], [], [], [], []
        for kernel in kernels:
            attributes = dict(kernel.attributes)
            rows.append(_sizes(kernel, attributes))
            rest.append(numbers.of(_rest(kernel)))
            padding.append(numbers.of((attributes.get("kernel"), attributes.get("pads"))))
            families.append(numbers.of((kernel.op, kernel.precision)))
            free.append(kernel.op in _FREE_CHANNELS)
        sizes = np.array(rows, np.int64).reshape(len(rows), len(SIZES))
        points = np.array(rest, np.uint64) + sizes.astype(np.uint64) @ _MULTIPLIERS
        return cls(
            identities=points + np.array(padding, np.uint64),
            families=np.array(families, np.uint64),
            points=points,
            sizes=sizes,
            free_channels=np.array(free, bool),
        )

    def __len__(self) -> int:
        return len(self.points)

    def take(self, rows: Rows) -> Coordinates:
        """Some kernels, by number or by flag."""
        return Coordinates(
            identities=self.identities[rows],
            families=self.families[rows],
            points=self.points[rows],
            sizes=self.sizes[rows],
            free_channels=self.free_channels[rows],
        )

    def to_state(self) -> State:
        """Plain arrays; `from_state` is the inverse."""
        return State(
            kind="coordinates",
            arrays={
                "identities": self.identities,
                "families": self.families,
                "points": self.points,
                "sizes": self.sizes,
                "free_channels": self.free_channels,
            },
        )

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The points that `to_state` described; DataError where they are none."""
        made = cls(
            identities=state.array("identities", ndim=1),
            families=state.array("families", ndim=1),
            points=state.array("points", ndim=1),
            sizes=state.array("sizes", ndim=2),
            free_channels=state.array("free_channels", ndim=1),
        )
        if made.sizes.shape != (len(made), len(SIZES)):
            raise DataError("the saved kernels are of another form. Save the model again.")
        return made

    def lines(self, axis: Axis) -> tuple[Hashes, Integers, Flags]:
        """The line of every kernel along an axis, where it lies on it, and whether it has one:
        three times ``[n]``.
        """
        moving = [SIZES.index(name) for name in _MOVING[axis]]
        lines = self.points - self.sizes[:, moving].astype(np.uint64) @ _MULTIPLIERS[moving]
        if axis == "map":
            lines += self._ratios() * _OF_RATIO
        return lines, self.places(axis), self._on_line(axis)

    def places(self, axis: Axis) -> Integers:
        """Where on its line every kernel lies: ``[n]``."""
        return self.sizes[:, SIZES.index(_MOVING[axis][0])]

    def _ratios(self) -> Hashes:
        """How much smaller maps come out than they went in, rounded; 0 where one value is left."""
        read, made = (
            self.sizes[:, SIZES.index("in_height")],
            self.sizes[:, SIZES.index("out_height")],
        )
        ratio = np.rint(np.log2(np.maximum(read, 1) / np.maximum(made, 1)))
        return np.where(made > 1, ratio + 64, 0).astype(np.uint64)

    def _on_line(self, axis: Axis) -> Flags:
        sizes = dict(zip(SIZES, self.sizes.T, strict=True))
        on: Flags
        match axis:
            case "batch":
                on = sizes["batch"] > 0
            case "map":
                on = (sizes["in_height"] == sizes["in_width"]) & (sizes["in_height"] > 1)
                on &= sizes["out_height"] == sizes["out_width"]
            case "in_channels" | "out_channels":
                on = self.free_channels & (sizes[axis] > 0)
            case "channels":
                on = ~self.free_channels & (sizes["in_channels"] == sizes["out_channels"])
                on &= sizes["in_channels"] > 0
            case "kernel":
                on = (sizes["kernel_height"] == sizes["kernel_width"]) & (
                    sizes["kernel_height"] > 0
                )
        return on


class _Numbers:
    """Hashes of values, each worked out once."""

    def __init__(self) -> None:
        self._known: dict[object, int] = {}

    def of(self, value: object) -> int:
        number = self._known.get(value)
        if number is None:
            number = self._known[value] = _hash(value)
        return number


def _sizes(kernel: Kernel, attributes: dict[str, Any]) -> tuple[int, ...]:
    area = attributes.get("kernel", (0, 0))
    if not (isinstance(area, tuple) and len(area) == 2):
        area = (0, 0)
    batch, *read = _map(kernel.inputs[0].shape if kernel.inputs else ())
    return (batch, *read, *_map(kernel.output.shape)[1:], *area)


def _map(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(N, H, W, C) of any shape: (10, 64) is 10 maps of 1x1x64, more than four have none."""
    match shape:
        case (n, h, w, c):
            return n, h, w, c
        case (n, h, c):
            return n, h, 1, c
        case (n, c):
            return n, 1, 1, c
        case (c,):
            return 1, 1, 1, c
        case _:
            return 0, 0, 0, 0


def _rest(kernel: Kernel) -> tuple[object, ...]:
    """All of a kernel that is none of its sizes."""
    first = kernel.inputs[0].shape if kernel.inputs else ()
    output = kernel.output.shape
    shapes = [output, *(read.shape for read in kernel.inputs)]
    unusual = tuple(shapes) if max(map(len, shapes)) > 4 else tuple(map(len, shapes))
    others = tuple(
        "output" if read.shape == output else "input" if read.shape == first else read.shape
        for read in kernel.inputs[1:]
    )
    return (
        kernel.op,
        kernel.precision,
        tuple(read.dtype for read in kernel.inputs),
        kernel.output.dtype,
        tuple(pair for pair in kernel.attributes if pair[0] not in _APART),
        kernel.epilogue,
        kernel.choice,
        unusual,
        others,
    )
