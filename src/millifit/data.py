"""Data sets: which samples calibrate, which decide, which are kept for the final accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from millifit.errors import DataError
from millifit.samples import (
    Floats,
    Labels,
    Preprocessing,
    Reading,
    class_folders,
    from_arrays,
    from_images,
    from_npz,
)
from millifit.user_code import call_function, names_function

__all__ = ["Dataset", "Preprocessing", "Split", "read_dataset"]

_FEWEST = 4  # samples that can be split
_ROLES = {"train": "train", "calib": "calibration", "val": "validation", "test": "validation"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Preprocessed samples ``[N, *sample]`` in float32 and their labels ``[N]``, if any."""

    x: Floats
    y: Labels | None

    def take(self, chosen: npt.NDArray[np.int64]) -> Split:
        """The samples at these positions."""
        return Split(x=self.x[chosen], y=None if self.y is None else self.y[chosen])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Disjoint samples, by use.

    `calibration` finds activation ranges, `search` (held out) ranks single decisions, `validation`
    gives the accuracy of finished networks, `train` is for fine-tuning.
    """

    calibration: Split
    search: Split
    validation: Split
    train: Split | None = None


def read_dataset(
    source: str,
    *,
    sample_shape: tuple[int, ...],
    preprocessing: Preprocessing,
    calibration: str | None = None,
    classes: int | None = None,
    seed: int,
    max_images: int = 4096,
) -> Dataset:
    """Read a data set for a model that takes samples of `sample_shape`, without the batch.

    `source` is an .npz file (``x``, ``y``, or encoded images), a folder of class folders with
    images, a folder with parts named train*, calib*, val* or test* (.npz files or such folders), or
    ``module:function`` that returns a Dataset, ``(x, y)``, or a dict of "train", "calibration" and
    "validation" to ``(x, y)``.

    - one part: calibration 20 % (at most 512), search 30 % (at most 1024), validation the rest
    - calibration samples given: one half calibrates, one half decides, all else is validation
    - training samples given but no calibration: 10 % (at most 512) of them calibrate, 20 % (at most
      1024) decide, the rest trains

    Images of class folders in `calibration` are labelled only where `source` has the same classes.
    Of every part at most `max_images` images, chosen by `seed`, are decoded. Raises DataError.
    """
    reading = Reading(
        sample_shape=tuple(sample_shape),
        preprocessing=preprocessing,
        classes=classes,
        limit=max_images,
        rng=np.random.default_rng(seed),
    )
    path = Path(source)
    names: list[str] = []
    if source and path.exists():
        places = _places(path)
        names = _class_names(places)
        parts = {role: _read(found, names, reading) for role, found in places.items()}
    elif names_function(source):
        returned = call_function(source, error=DataError)
        if isinstance(returned, Dataset):
            return _checked(returned, source, reading)
        parts = _returned_parts(returned, source, reading)
    else:
        raise DataError(
            f"{source}: no such file or folder, and not module:function either. Give the path of "
            "an .npz file or of a folder of images."
        )
    if calibration is not None:
        parts["calibration"] = _calibration(Path(calibration), names, reading)
    return _dataset(parts, source, reading.rng)


def _dataset(parts: Mapping[str, Split], source: str, rng: np.random.Generator) -> Dataset:
    validation, train = parts.get("validation"), parts.get("train")
    if validation is None:
        raise DataError(f"{source} has no part named val* or test*, which accuracy is measured on.")
    if validation.y is None:
        raise DataError(
            f"{source}: labels ('y' or 'labels') are needed to measure accuracy. Add them."
        )
    if "calibration" in parts:
        given = parts["calibration"]
        ranges, search = _drawn(given, (0.5,), (len(given.x),), "calibration", rng)
        return Dataset(calibration=ranges, search=search, validation=validation, train=train)
    if train is not None:
        ranges, search, rest = _drawn(train, (0.1, 0.2), (512, 1024), f"{source} (train)", rng)
        return Dataset(calibration=ranges, search=search, validation=validation, train=rest)
    ranges, search, rest = _drawn(validation, (0.2, 0.3), (512, 1024), source, rng)
    return Dataset(calibration=ranges, search=search, validation=rest)


def _drawn(
    split: Split,
    shares: Sequence[float],
    limits: Sequence[int],
    origin: str,
    rng: np.random.Generator,
) -> list[Split]:
    """Disjoint random parts of these shares, at least one sample each, and what is left."""
    count = len(split.x)
    if count < _FEWEST:
        raise DataError(
            f"{origin} has {count} samples; {_FEWEST} are the fewest to split. Add more of them."
        )
    order = rng.permutation(count)
    sizes = [
        max(1, min(int(count * share), limit)) for share, limit in zip(shares, limits, strict=True)
    ]
    return [split.take(np.sort(chosen)) for chosen in np.split(order, np.cumsum(sizes))]


def _places(path: Path) -> dict[str, list[Path]]:
    """The files and image folders of every role; a source of one part is its validation."""
    if path.is_file():
        return {"validation": [path]}
    entries = sorted(e for e in path.iterdir() if not e.name.startswith("."))
    archives = [e for e in entries if e.suffix == ".npz"]
    folders = [e for e in entries if e.is_dir()]
    for found in (archives, folders):
        named = {
            prefix: [e for e in found if e.name.lower().startswith(prefix)] for prefix in _ROLES
        }
        if named["val"]:
            named["test"] = []  # beside a validation part, a test part is not ours to look at
        places = {_ROLES[prefix]: those for prefix, those in named.items() if those}
        if "validation" in places:
            return places
    if len(archives) == 1:
        return {"validation": archives}
    if not archives and class_folders(path):
        return {"validation": [path]}
    raise DataError(
        f"{path} has neither parts named train*, calib*, val* or test* (.npz files or folders of "
        "class folders), with val* or test* among them, nor folders of images, one per class."
    )


def _class_names(places: Mapping[str, Sequence[Path]]) -> list[str]:
    """All class folders of all parts: a class that one part lacks keeps its number in it."""
    folders = (place for found in places.values() for place in found if place.is_dir())
    return sorted({name for folder in folders for name in class_folders(folder)})


def _read(places: Sequence[Path], class_names: Sequence[str], reading: Reading) -> Split:
    read = []
    reading = dataclasses.replace(reading, limit=max(1, reading.limit // len(places)))
    for place in places:
        if place.is_dir():
            x, y = from_images(place, class_names=class_names, reading=reading)
        else:
            x, y = from_npz(place, reading=reading)
        read.append(Split(x=x, y=y))
    labels = [split.y for split in read if split.y is not None]
    joined = np.concatenate(labels) if len(labels) == len(read) else None
    return Split(x=np.concatenate([split.x for split in read]), y=joined)


def _calibration(path: Path, class_names: Sequence[str], reading: Reading) -> Split:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder of calibration samples.")
    if path.is_file():
        return _read([path], class_names, reading)
    parts = sorted(path.glob("calib*"))
    if parts:
        return _read(parts, _shared_names(parts, class_names), reading)
    return _read([path], _shared_names([path], class_names), reading)


def _shared_names(folders: Sequence[Path], class_names: Sequence[str]) -> Sequence[str]:
    """`class_names` where the folders have no others; none where their classes are unknown."""
    found = _class_names({"calibration": folders})
    return class_names if set(found) <= set(class_names) else []


def _returned_parts(returned: object, source: str, reading: Reading) -> dict[str, Split]:
    """The parts of what a user's function returned: ``(x, y)`` or a dict of them."""
    parts = {"validation": returned}
    if isinstance(returned, Mapping):
        parts = dict(returned)
    read: dict[str, Split] = {}
    for role, part in parts.items():
        if role not in _ROLES.values() or not isinstance(part, tuple) or len(part) != 2:
            raise DataError(
                f"'{source}' must return a Dataset, (x, y), or a dict of 'train', 'calibration' "
                f"and 'validation' to (x, y); it returned {_described(returned)}."
            )
        x, y = from_arrays(*part, origin=f"'{source}' ({role})", reading=reading)
        read[role] = Split(x=x, y=y)
    return read


def _described(returned: object) -> str:
    if not isinstance(returned, Mapping):
        return type(returned).__name__
    parts = ", ".join(f"{key!r} to {type(part).__name__}" for key, part in returned.items())
    return f"a dict of {parts or 'nothing'}"


def _checked(dataset: Dataset, source: str, reading: Reading) -> Dataset:
    """The user's own data set, which the user preprocessed: shapes, values and labels checked."""
    as_it_is = dataclasses.replace(reading, preprocessing=Preprocessing())
    splits = {}
    for role in ("calibration", "search", "validation", "train"):
        split = getattr(dataset, role)
        if role == "train" and split is None:
            continue
        x, y = from_arrays(split.x, split.y, origin=f"'{source}' ({role})", reading=as_it_is)
        splits[role] = Split(x=x, y=y)
    return Dataset(**splits)
