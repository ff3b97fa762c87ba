"""Samples and labels from arrays, files of arrays, and images: shaped and scaled for a model."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from millifit.errors import DataError, UsageError

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# Images up to this many times the model's size are cropped only; larger ones are first resized to
# 8/7 of it, the usual 256 pixels for a model of 224.
_CROP_ONLY = 1.15
_RESIZED = 8 / 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How samples become what the model was trained on: ``(x - mean) / std`` in float32.

    `mean` and `std` are one number or one per channel, on the scale of the stored values (0..255
    for images). Images are cropped in the centre. `resize`: None resizes images that are over 15 %
    larger than the model's input, True also enlarges smaller ones, False only crops.
    """

    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    resize: bool | None = None

    def __post_init__(self) -> None:
        values = np.concatenate([np.ravel(self.mean), np.ravel(self.std)])
        if not np.isfinite(values).all() or np.min(self.std) <= 0:
            raise UsageError(
                f"mean {self.mean} and std {self.std}: both must be finite, std greater than 0."
            )

    def scaled(self, x: npt.NDArray[Any]) -> Floats:
        """``x`` ``[N, C, ...]`` as the model wants it."""
        shape = (-1, *[1] * (x.ndim - 2))  # [C, 1, 1] for [N, C, H, W]
        factors = []
        for name, value in (("mean", self.mean), ("std", self.std)):
            factor = np.asarray(value, dtype=np.float32).reshape(shape)
            channels = x.shape[1] if x.ndim > 1 else 1
            if len(factor) not in (1, channels):
                raise UsageError(
                    f"{name} has {len(factor)} values, the model's input {channels} channels."
                )
            factors.append(factor)
        scaled: Floats = x.astype(np.float32)
        scaled -= factors[0]
        scaled /= factors[1]
        return scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What every source is read with. `limit` bounds the images decoded, of one source."""

    sample_shape: tuple[int, ...]
    preprocessing: Preprocessing
    classes: int | None
    limit: int
    rng: np.random.Generator


def from_arrays(
    x: object, y: object, *, origin: str, reading: Reading
) -> tuple[Floats, Labels | None]:
    """Arrays as they are stored to ``x`` ``[N, *sample]`` and ``y`` ``[N]``, checked.

    For a model of ``(1, 49, 10)`` samples of ``(49, 10)`` gain the channel; for one of
    ``(3, 32, 32)`` samples of ``(32, 32, 3)`` are transposed.
    """
    values = np.asarray(x)
    if values.dtype.kind not in "iufb":
        raise DataError(
            f"{origin}: samples have type {values.dtype}, numbers are needed. Convert them."
        )
    if values.ndim < 1 or not len(values):
        raise DataError(f"{origin} has no samples.")
    shaped = _shaped(values, reading.sample_shape, origin)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(shaped.reshape(len(shaped), -1)).all(axis=1)))
        raise DataError(f"{origin}: sample {bad} has values that are NaN or infinite. Remove it.")
    labels = None if y is None else _labels(y, len(values), origin, reading.classes)
    return reading.preprocessing.scaled(shaped), labels


def _shaped(x: npt.NDArray[Any], wanted: tuple[int, ...], origin: str) -> npt.NDArray[Any]:
    found = x.shape[1:]
    if found == wanted:
        return x
    if len(wanted) == 3 and found == (wanted[1], wanted[2], wanted[0]):
        return np.moveaxis(x, -1, 1)
    flat = 1 in (len(found), len(wanted)) and math.prod(found) == math.prod(wanted)
    if flat or [d for d in found if d != 1] == [d for d in wanted if d != 1]:
        return x.reshape(len(x), *wanted)
    raise DataError(
        f"{origin}: samples have shape {found}, the model takes {wanted}. "
        "Store samples of the model's shape, or use a model of theirs."
    )


def _labels(y: object, samples: int, origin: str, classes: int | None) -> Labels:
    labels = np.asarray(y)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(
            f"{origin}: labels have shape {labels.shape} and type {labels.dtype}; "
            "one integer per sample is needed."
        )
    if len(labels) != samples:
        raise DataError(
            f"{origin} has {samples} samples and {len(labels)} labels. Store one label per sample."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        bound = " or more" if classes is None else f" to {classes - 1}, the model's classes"
        raise DataError(
            f"{origin}: labels are {low} to {high}; they must be 0{bound}. "
            "Number the classes as the model does."
        )
    return labels.astype(np.int64)


def from_npz(path: Path, *, reading: Reading) -> tuple[Floats, Labels | None]:
    """Samples of an .npz file: arrays ``x``, ``y``, or encoded images.

    Encoded images are ``data`` (the bytes of all files), ``offsets`` ``[N + 1]`` and ``labels``
    ``[N]``. Nothing is unpickled.
    """
    arrays = _npz_arrays(path)
    y = arrays.get("y", arrays.get("labels"))
    if "x" in arrays:
        return from_arrays(arrays["x"], y, origin=str(path), reading=reading)
    if "data" not in arrays or "offsets" not in arrays:
        raise DataError(
            f"{path}: arrays 'x' and 'y', or 'data', 'offsets' and 'labels' are needed; "
            f"of these it has {' and '.join(map(repr, arrays)) or 'none'}. Save it with them."
        )
    data, offsets = arrays["data"].reshape(-1), arrays["offsets"].reshape(-1)
    if data.dtype != np.uint8 or offsets.dtype.kind not in "iu" or not len(offsets):
        raise DataError(
            f"{path}: 'data' must be uint8 and 'offsets' integers, one more than images."
        )
    offsets = offsets.astype(np.int64)
    if offsets[0] < 0 or offsets[-1] > len(data) or (np.diff(offsets) < 0).any():
        raise DataError(f"{path}: 'offsets' do not lie in 'data' ({len(data)} bytes) in order.")
    labels = None if y is None else _labels(y, len(offsets) - 1, str(path), reading.classes)

    def source(i: int) -> tuple[io.BytesIO, str]:
        return io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes()), f"{path}: image {i}"

    return _decoded(source, len(offsets) - 1, labels, origin=str(path), reading=reading)


def _npz_arrays(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    if not path.stat().st_size:
        raise DataError(f"{path} is empty. Write or copy it again.")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an .npz file, or is damaged. Save it with numpy.savez.")
    wanted = ("x", "y", "data", "offsets", "labels")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if key in wanted}
    except ValueError as refused:
        raise DataError(
            f"{path} has pickled objects or damaged arrays, which are not read: {refused}. "
            "Save plain arrays of numbers."
        ) from refused
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as broken:
        raise DataError(f"{path} cannot be read: {broken}. Write or copy it again.") from broken


def class_folders(folder: Path) -> list[str]:
    """Names of the subfolders that have images, sorted."""
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and _image_files(entry)
    )


def _image_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in _IMAGE_SUFFIXES)


def from_images(
    folder: Path, *, class_names: Sequence[str], reading: Reading
) -> tuple[Floats, Labels | None]:
    """Images of a folder: labelled by subfolder, or without labels if they lie in it directly.

    A label is the position of the subfolder's name in `class_names`; without names, none is given.
    """
    found = class_folders(folder)
    pairs = [(file, name) for name in found for file in _image_files(folder / name)]
    pairs = pairs or [(file, "") for file in _image_files(folder)]
    if not pairs:
        raise DataError(f"{folder} has no images ({', '.join(_IMAGE_SUFFIXES)}).")
    labels = None
    if found and class_names:
        numbers = {name: i for i, name in enumerate(class_names)}
        stated = [numbers[name] for _, name in pairs]
        labels = _labels(stated, len(pairs), str(folder), reading.classes)

    def source(i: int) -> tuple[Path, str]:
        return pairs[i][0], str(pairs[i][0])

    return _decoded(source, len(pairs), labels, origin=str(folder), reading=reading)


def _decoded(
    source: Callable[[int], tuple[io.BytesIO | Path, str]],
    count: int,
    labels: Labels | None,
    *,
    origin: str,
    reading: Reading,
) -> tuple[Floats, Labels | None]:
    """Decode all images, or a random choice of `limit` of them, in their order."""
    shape = reading.sample_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"{origin} has images, the model takes samples of shape {shape}. "
            "Images need a model of (3, height, width) or (1, height, width)."
        )
    if not count:
        raise DataError(f"{origin} has no images.")
    chosen = np.arange(count)
    if count > reading.limit:
        chosen = np.sort(reading.rng.choice(count, size=reading.limit, replace=False))
    pixels = np.empty((len(chosen), *shape), dtype=np.uint8)
    for i, index in enumerate(chosen):
        file, name = source(int(index))
        pixels[i] = _pixels(file, name, shape, resize=reading.preprocessing.resize)
    return reading.preprocessing.scaled(pixels), None if labels is None else labels[chosen]


def _pixels(
    file: io.BytesIO | Path, name: str, shape: tuple[int, ...], *, resize: bool | None
) -> npt.NDArray[np.uint8]:
    """One image as ``[C, H, W]``, resized and cropped."""
    channels, height, width = shape
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as broken:
        raise DataError(f"{name} cannot be decoded: {broken}. Remove or replace it.") from broken
    larger = min(image.height / height, image.width / width)
    if larger < 1 and not resize:
        raise DataError(
            f"{name} has {image.height}x{image.width} pixels, the model takes {height}x{width}. "
            "Use larger images, or ask for resizing."
        )
    if larger < 1 or (larger > _CROP_ONLY and resize is not False):
        factor = (1 if larger < 1 else _RESIZED) / larger
        # Rounding must not make a side shorter than the crop.
        size = (max(width, round(image.width * factor)), max(height, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BILINEAR)
    top, left = (image.height - height) // 2, (image.width - width) // 2
    pixels = np.asarray(image)[top : top + height, left : left + width]
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
