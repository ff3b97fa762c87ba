"""Lines of kernels, who lies between whom, and corrections that only stay where they help."""

from dataclasses import replace

import numpy as np
import pytest

from millifit.latency_models.kernels.coordinates import AXES, Coordinates
from millifit.latency_models.kernels.interpolation import Interpolation, Measured, fit_interpolation
from millifit.latency_models.kernels.lines import Lines, Neighbours, interpolated
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType


def conv(
    size: int = 28, read: int = 32, made: int = 64, area: int = 3, op: str = "conv2d",
    precision: str = "fp32", batch: int = 1,
) -> Kernel:  # fmt: skip
    return Kernel(
        op=op,
        inputs=(TensorType(shape=(batch, size, size, read), dtype="float32"),),
        output=TensorType(shape=(batch, size, size, made), dtype="float32"),
        precision=precision,  # type: ignore[arg-type]
        attributes=(("kernel", (area, area)), ("pads", (area // 2,) * 4), ("strides", (1, 1))),
        epilogue=("relu",),
    )


LINE = [conv(made=channels) for channels in (16, 24, 32, 48, 64, 96)]


def test_equal_kernels_are_one_point() -> None:
    """Identities tell kernels apart by everything, padding included."""
    same, other = conv(), replace(conv(), attributes=(("kernel", (3, 3)), ("pads", (0,) * 4)))
    first, again, third = Coordinates.of([conv(), same, other]).identities
    assert first == again != third
    many = [conv(size, read, made) for size in (7, 14) for read in (8, 9) for made in (8, 9, 10)]
    assert len(set(Coordinates.of(many).identities.tolist())) == len(many)


@pytest.mark.parametrize(
    ("axis", "other"),
    [
        ("out_channels", conv(made=65)),
        ("in_channels", conv(read=33)),
        ("map", conv(size=14)),
        ("kernel", conv(area=5)),
        ("batch", conv(batch=2)),
    ],
)
def test_a_line_is_one_dimension(axis: str, other: Kernel) -> None:
    """Two kernels that differ in one dimension share the line of that axis, and no other."""
    coordinates = Coordinates.of([conv(), other])
    shared = []
    for each in AXES:
        lines, _, on = coordinates.lines(each)
        if lines[0] == lines[1] and on.all():
            shared.append(each)
    assert shared == [axis]


def test_channels_of_a_depthwise_convolution_move_together() -> None:
    """Input and output channels are one dimension there, not two."""
    narrow, wide = (conv(read=c, made=c, op="depthwise_conv2d") for c in (16, 32))
    lines, at, on = Coordinates.of([narrow, wide]).lines("channels")
    assert lines[0] == lines[1]
    assert at.tolist() == [16, 32]
    assert on.all()
    assert not Coordinates.of([narrow]).lines("out_channels")[2].any()


def test_neighbours_are_the_nearest_on_either_side() -> None:
    """40 lies between 32 and 48; what is outside, or on another line, lies between none."""
    lines = Lines.of(Coordinates.of(LINE), "out_channels")
    asked = [conv(made=40), conv(made=8), conv(made=200), conv(made=40, area=5)]
    found = lines.between(Coordinates.of(asked))
    assert found.asked.tolist() == [0]
    assert [LINE[found.below[0]], LINE[found.above[0]]] == [conv(made=32), conv(made=48)]


def test_leaving_out_is_between_the_others() -> None:
    """Each kernel of a line but the first and the last."""
    found = Lines.of(Coordinates.of(LINE), "out_channels").left_out()
    assert sorted(found.asked.tolist()) == [1, 2, 3, 4]
    assert [(b, a) for b, a in zip(found.below, found.above, strict=True)] == [
        (n - 1, n + 1) for n in found.asked
    ]


def test_without_lines_nothing_is_between() -> None:
    """One kernel, or none, makes no line."""
    for kernels in ([], LINE[:1]):
        lines = Lines.of(Coordinates.of(kernels), "map")
        assert len(lines.between(Coordinates.of(LINE)).asked) == 0
        assert len(lines.left_out().asked) == 0


def test_interpolation_is_linear_in_logarithms_or_a_staircase() -> None:
    """64 is the geometric middle of 32 and 128; in vectors of 32, 40 costs what 64 costs."""
    values, places = np.array([0.0, 1.0, 2.0]), np.array([32, 64, 128])

    def between(below: int, above: int, at: int) -> Neighbours:
        one = np.array([0])
        return Neighbours(
            asked=one, below=np.array([below]), above=np.array([above]), at=np.array([at])
        )

    assert interpolated(values, between(0, 2, 64), places) == pytest.approx([1.0])
    assert interpolated(values, between(0, 1, 40), places)[0] == pytest.approx(
        np.log(40 / 32) / np.log(2)
    )
    assert interpolated(values, between(0, 1, 40), places, lanes=32) == pytest.approx([1.0])


def grid() -> tuple[list[Kernel], np.ndarray]:
    kernels = [
        conv(size=size, read=read, made=made)
        for size in (7, 14, 28)
        for read in (16, 64)
        for made in range(16, 144, 16)
    ]
    sizes = Coordinates.of(kernels).sizes
    return kernels, np.log(sizes[:, 6] * sizes[:, 3] * sizes[:, 1] ** 2.0) - 25


def test_a_trend_that_is_off_along_a_line_is_corrected() -> None:
    """Its error differs from line to line: neighbours tell it, and the width shrinks."""
    kernels, log_s = grid()
    coordinates = Coordinates.of(kernels)
    off = 0.3 * np.sin(coordinates.sizes[:, 1] + coordinates.sizes[:, 3])
    made = fit_interpolation(
        Measured(coordinates=coordinates, log_s=log_s, trend_log_s=log_s - off), vector_lanes=8
    )
    assert "out_channels" in made.lines
    asked, truth = [conv(size=14, read=64, made=24)], np.log(24 * 64 * 14**2.0) - 25
    trend = np.array([truth - 0.3 * np.sin(14 + 64)])
    corrected, family = made.correct(Coordinates.of(asked), trend)
    assert family.tolist() == [0]
    assert abs(corrected[0] - truth) < 0.02
    assert made.widths[0] < 0.7


def test_noise_is_not_interpolated() -> None:
    """Where neighbours say nothing of a kernel's error the trend stays as it is."""
    kernels, log_s = grid()
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(kernels))
    coordinates = Coordinates.of(kernels)
    made = fit_interpolation(
        Measured(coordinates=coordinates, log_s=log_s + noise, trend_log_s=log_s), vector_lanes=8
    )
    trend = np.array([1.0])
    corrected, _ = made.correct(Coordinates.of([conv(size=14, read=64, made=24)]), trend)
    assert abs(corrected[0] - 1.0) < 0.05


def test_without_a_trend_lines_are_monotone() -> None:
    """Between neighbours that grow, what is made grows, and never leaves their range."""
    kernels, log_s = grid()
    made = fit_interpolation(
        Measured(coordinates=Coordinates.of(kernels), log_s=log_s), vector_lanes=8
    )
    asked = [conv(size=14, read=64, made=channels) for channels in range(16, 129)]
    values, family = made.correct(Coordinates.of(asked), np.zeros(len(asked)))
    assert (family == 0).all()
    assert (np.diff(values) >= -1e-12).all()


def test_a_saved_interpolation_is_the_same() -> None:
    """Arrays only, and every correction to the last digit."""
    kernels, log_s = grid()
    made = fit_interpolation(
        Measured(coordinates=Coordinates.of(kernels), log_s=log_s), vector_lanes=8
    )
    loaded = Interpolation.from_state(made.to_state())
    asked = Coordinates.of([conv(size=14, read=64, made=n) for n in (17, 50, 100, 500)])
    for ours, theirs in zip(
        made.correct(asked, np.zeros(4)), loaded.correct(asked, np.zeros(4)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
