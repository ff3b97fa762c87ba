"""Data sets: every source, how it is split and shaped, and what is refused with which words."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from millifit.data import Dataset, Preprocessing, Split, read_dataset
from millifit.errors import DataError, UsageError

Pixels = npt.NDArray[np.uint8]


def _read(source: Path | str, shape: tuple[int, ...] = (2, 3), **options: Any) -> Dataset:
    options = {"preprocessing": Preprocessing(), "seed": 0, **options}
    return read_dataset(str(source), sample_shape=shape, **options)


def _npz(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def _numbered(count: int, start: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Samples of (2, 3) that carry their number in every place, labelled by it."""
    numbers = np.arange(start, start + count)
    return {"x": np.broadcast_to(numbers[:, None, None], (count, 2, 3)) * 1.0, "y": numbers}


def _numbers(split: Split | None) -> list[int]:
    assert split is not None
    assert split.x.dtype == np.float32
    assert split.y is not None
    assert split.y.dtype == np.int64
    np.testing.assert_array_equal(split.x[:, 0, 0], split.y)
    return split.y.tolist()


def _picture(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _encoded(files: list[bytes], labels: list[int] | None = None) -> dict[str, npt.NDArray[Any]]:
    offsets = np.cumsum([0, *map(len, files)])
    data = np.frombuffer(b"".join(files), dtype=np.uint8)
    labels = list(range(len(files))) if labels is None else labels
    return {"data": data, "offsets": offsets, "labels": np.array(labels, dtype=np.int16)}


def _image_folder(folder: Path, **counts: int) -> Path:
    """Class folders of 8x8 images; every image is filled with its class's letter."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(folder / name / f"{i}.png")
    return folder


def test_one_file_is_split_without_overlap(tmp_path: Path) -> None:
    """20 % calibrates, 30 % decides, the rest validates; every sample is used once."""
    data = _read(_npz(tmp_path / "d.npz", **_numbered(100)))
    parts = [_numbers(s) for s in (data.calibration, data.search, data.validation)]
    assert [len(p) for p in parts] == [20, 30, 50]
    assert sorted(chain(*parts)) == list(range(100))
    assert data.train is None


def test_large_files_keep_most_for_validation(tmp_path: Path) -> None:
    """Calibration takes 512 samples at most, search 1024."""
    data = _read(_npz(tmp_path / "d.npz", **_numbered(5000)))
    assert [len(s.x) for s in (data.calibration, data.search, data.validation)] == [512, 1024, 3464]


def test_the_seed_decides_the_split(tmp_path: Path) -> None:
    """One seed gives one split, another gives another."""
    path = _npz(tmp_path / "d.npz", **_numbered(40))
    first, again, other = (_numbers(_read(path, seed=s).calibration) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_calibration_samples_leave_the_source_whole(tmp_path: Path) -> None:
    """Half of the calibration samples calibrate, half decide, all of the source validates."""
    source = _npz(tmp_path / "d.npz", **_numbered(5))
    calibration = _npz(tmp_path / "c.npz", **_numbered(10, start=100))
    data = _read(source, calibration=str(calibration))
    assert _numbers(data.validation) == [0, 1, 2, 3, 4]
    halves = [_numbers(data.calibration), _numbers(data.search)]
    assert [len(h) for h in halves] == [5, 5]
    assert sorted(chain(*halves)) == list(range(100, 110))


def test_calibration_samples_need_no_labels(tmp_path: Path) -> None:
    """Without labels, what decides has none either."""
    source = _npz(tmp_path / "d.npz", **_numbered(5))
    calibration = _npz(tmp_path / "c.npz", x=np.zeros((8, 2, 3)))
    data = _read(source, calibration=str(calibration))
    assert data.calibration.y is None
    assert data.search.y is None


def test_a_folder_of_files_by_name(tmp_path: Path) -> None:
    """calib*.npz and val*.npz in a folder are the calibration and the validation part."""
    _npz(tmp_path / "calib.npz", **_numbered(8, start=100))
    _npz(tmp_path / "val_even.npz", **_numbered(6))
    _npz(tmp_path / "test.npz", **_numbered(6, start=500))
    data = _read(tmp_path)
    assert _numbers(data.validation) == [0, 1, 2, 3, 4, 5]
    assert sorted(_numbers(data.calibration) + _numbers(data.search)) == list(range(100, 108))
    elsewhere = _read(tmp_path / "val_even.npz", calibration=str(tmp_path))
    assert _numbers(elsewhere.search) == _numbers(data.search)


def test_training_files_are_joined_and_drawn_from(tmp_path: Path) -> None:
    """Without calibration samples, some training samples calibrate or decide instead."""
    for i in range(5):
        _npz(tmp_path / f"train_{i}.npz", **_numbered(20, start=20 * i))
    _npz(tmp_path / "test.npz", **_numbered(6, start=500))
    data = _read(tmp_path)
    parts = [_numbers(s) for s in (data.calibration, data.search, data.train)]
    assert [len(p) for p in parts] == [10, 20, 70]
    assert sorted(chain(*parts)) == list(range(100))
    assert _numbers(data.validation) == list(range(500, 506))


def test_training_beside_calibration_stays_whole(tmp_path: Path) -> None:
    """With calibration samples, all training samples train."""
    _npz(tmp_path / "train.npz", **_numbered(9))
    _npz(tmp_path / "calibration.npz", **_numbered(4, start=50))
    _npz(tmp_path / "val.npz", **_numbered(3, start=90))
    data = _read(tmp_path)
    assert _numbers(data.train) == list(range(9))
    assert sorted(_numbers(data.calibration) + _numbers(data.search)) == [50, 51, 52, 53]


def test_a_folder_with_one_file_of_any_name(tmp_path: Path) -> None:
    """A folder that has one .npz file is that file."""
    _npz(tmp_path / "keywords.npz", **_numbered(10))
    assert len(_read(tmp_path).validation.x) == 5


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [((49, 10), (1, 49, 10)), ((6,), (1, 2, 3)), ((1, 2, 3), (2, 3)), ((4, 1, 1), (4,))],
)
def test_samples_are_reshaped(
    tmp_path: Path, stored: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    """Axes of one element come and go, and flat samples take any shape of as many elements."""
    x = np.random.default_rng(0).integers(-9, 9, (8, *stored), dtype=np.int8)
    source = _npz(tmp_path / "d.npz", x=x, y=np.arange(8, dtype=np.uint8))
    data = _read(source, wanted)
    assert data.validation.y is not None
    np.testing.assert_array_equal(data.validation.x, x.reshape(8, *wanted)[data.validation.y])


def test_channels_last_samples_are_transposed(tmp_path: Path) -> None:
    """Samples of (height, width, 3) become (3, height, width)."""
    x = np.stack([_picture(4, 5, seed) for seed in range(8)])
    data = _read(_npz(tmp_path / "d.npz", x=x, y=np.arange(8)), (3, 4, 5))
    assert data.validation.y is not None
    np.testing.assert_array_equal(data.validation.x, x[data.validation.y].transpose(0, 3, 1, 2))


def test_preprocessing_is_per_channel_and_in_float32(tmp_path: Path) -> None:
    """(x - mean) / std with one value, or one per channel."""
    source = _npz(tmp_path / "d.npz", x=np.full((8, 3, 2, 2), 10, np.uint8), y=np.zeros(8, int))
    each = Preprocessing(mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 0.5))
    found = _read(source, (3, 2, 2), preprocessing=each).validation.x
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0, :, 0, 0], [9.0, 4.0, 14.0])
    one = _read(source, (3, 2, 2), preprocessing=Preprocessing(mean=83, std=0.5)).validation.x
    np.testing.assert_array_equal(one, np.full((5, 3, 2, 2), -146.0))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (np.nan, 1.0), (0.0, (1.0, -1.0, 1.0))])
def test_preprocessing_that_makes_no_sense_is_refused(mean: Any, std: Any) -> None:
    """A std of zero or less, and numbers that are not finite, are wrong use."""
    with pytest.raises(UsageError, match="std greater than 0"):
        Preprocessing(mean=mean, std=std)


def test_preprocessing_for_other_channels_is_refused(tmp_path: Path) -> None:
    """Three means for one channel are wrong use."""
    source = _npz(tmp_path / "d.npz", x=np.zeros((8, 1, 4)), y=np.zeros(8, int))
    with pytest.raises(UsageError, match="mean has 3 values, the model's input 1 channels"):
        _read(source, (1, 4), preprocessing=Preprocessing(mean=(1.0, 2.0, 3.0)))


@pytest.mark.parametrize(("size", "start"), [((227, 227), (1, 1)), ((256, 230), (16, 3))])
def test_images_are_cropped_in_the_centre(
    tmp_path: Path, size: tuple[int, int], start: tuple[int, int]
) -> None:
    """227 to 224 starts at 1, 256 to 224 at 16; channels come first."""
    pictures = [_picture(*size, seed) for seed in range(4)]
    source = _npz(tmp_path / "d.npz", **_encoded([_png(p) for p in pictures]))
    found = _read(source, (3, 224, 224)).validation
    assert found.y is not None
    top, left = start
    wanted = pictures[found.y[0]][top : top + 224, left : left + 224].transpose(2, 0, 1)
    np.testing.assert_array_equal(found.x[0], wanted)


def test_larger_images_are_resized_before_the_crop(tmp_path: Path) -> None:
    """A 320x480 image for a model of 32 is resized to 37x55, which shows most of its height."""
    picture = np.zeros((320, 480, 3), np.uint8)
    picture[:160] = 255
    source = _npz(tmp_path / "d.npz", **_encoded([_png(picture)] * 4))
    found = _read(source, (3, 32, 32)).validation.x[0, 0]
    assert found[:14].min() == 255
    assert found[18:].max() == 0
    cropped = _read(source, (3, 32, 32), preprocessing=Preprocessing(resize=False)).validation.x
    np.testing.assert_array_equal(cropped[0, 0, 15:17, 0], [255, 0])


def test_smaller_images_need_to_be_asked_for(tmp_path: Path) -> None:
    """An image smaller than the model's input is an error, or enlarged where that is asked for."""
    source = _npz(tmp_path / "d.npz", **_encoded([_png(np.full((16, 20, 3), 7, np.uint8))] * 4))
    with pytest.raises(DataError, match=r"image 0 has 16x20 pixels, the model takes 32x32"):
        _read(source, (3, 32, 32))
    found = _read(source, (3, 32, 32), preprocessing=Preprocessing(resize=True)).validation
    np.testing.assert_array_equal(found.x, np.full((2, 3, 32, 32), 7.0))


def test_images_become_grey_for_models_of_one_channel(tmp_path: Path) -> None:
    """A model of (1, H, W) gets luminance."""
    source = _npz(tmp_path / "d.npz", **_encoded([_png(np.full((8, 8, 3), 9, np.uint8))] * 4))
    np.testing.assert_array_equal(_read(source, (1, 8, 8)).validation.x, np.full((2, 1, 8, 8), 9.0))


def test_no_more_images_than_asked_for_are_decoded(tmp_path: Path) -> None:
    """Of many images a seeded choice is decoded, whose labels stay with them."""
    files = [_png(np.full((8, 8, 3), i, np.uint8)) for i in range(50)]
    source = _npz(tmp_path / "d.npz", **_encoded(files))
    data = _read(source, (3, 8, 8), max_images=10)
    labels = []
    for split in (data.calibration, data.search, data.validation):
        assert split.y is not None
        np.testing.assert_array_equal(split.x[:, 0, 0, 0], split.y)
        labels += split.y.tolist()
    assert len(set(labels)) == 10
    assert max(labels) > 10


def test_class_folders_are_labelled_in_order(tmp_path: Path) -> None:
    """Classes are numbered by the sorted names of their folders."""
    data = _read(_image_folder(tmp_path / "data", b=4, a=4, c=4), (3, 8, 8))
    for split in (data.calibration, data.search, data.validation):
        assert split.y is not None
        np.testing.assert_array_equal(split.x[:, 0, 0, 0], split.y + ord("a"))
    assert len(data.validation.x) == 12 - 2 - 3


def test_class_folders_by_part_share_their_numbers(tmp_path: Path) -> None:
    """A class that one part lacks keeps its number in it."""
    _image_folder(tmp_path / "train", a=4, b=4, c=4)
    _image_folder(tmp_path / "val", a=1, c=2)
    data = _read(tmp_path, (3, 8, 8))
    assert data.validation.y is not None
    assert data.validation.y.tolist() == [0, 2, 2]
    assert data.train is not None
    assert len(data.train.x) == 12 - 1 - 2


def test_calibration_images_are_labelled_if_their_classes_are_known(tmp_path: Path) -> None:
    """Folders of the source's classes are labelled; others, and those beside a file, are not."""
    source = _image_folder(tmp_path / "source", a=2, b=2, c=2)
    known = _image_folder(tmp_path / "known", c=4)
    other = _image_folder(tmp_path / "other", c=2, d=2)
    flat = _image_folder(tmp_path / "flat", c=4) / "c"
    labelled = _read(source, (3, 8, 8), calibration=str(known)).search
    assert labelled.y is not None
    assert labelled.y.tolist() == [2, 2]
    for folder in (other, flat):
        assert _read(source, (3, 8, 8), calibration=str(folder)).search.y is None
    file = _npz(tmp_path / "d.npz", **_encoded([_png(_picture(8, 8))] * 4))
    assert _read(file, (3, 8, 8), calibration=str(known)).search.y is None


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of the user's in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    (tmp_path / "my_data.py").write_text(
        """
import numpy as np
from millifit.data import Dataset, Split

def numbered(count, start=0):
    y = np.arange(start, start + count)
    return np.broadcast_to(y[:, None, None], (count, 2, 3)) * 1.0, y

def pair(): return numbered(10)
def parts(): return {"train": numbered(20), "validation": numbered(5, 90)}
def unlabelled(): return {"calibration": (numbered(8)[0], None), "validation": numbered(5, 90)}
def dataset():
    splits = [Split(x=x, y=y) for x, y in (numbered(2), numbered(3, 10), numbered(4, 20))]
    return Dataset(calibration=splits[0], search=splits[1], validation=splits[2])
def wrong_shape():
    split = Split(x=np.zeros((4, 7), np.float32), y=None)
    return Dataset(calibration=split, search=split, validation=split)
def number(): return 5
def wrong_part(): return {"trian": numbered(5)}
def bare(): return {"validation": numbered(5)[0]}
def no_validation(): return {"train": numbered(9)}
def failing(): raise OSError("the disk is gone")
"""
    )
    return tmp_path


def test_functions_return_pairs_parts_or_data_sets(module: Path) -> None:
    """(x, y), a dict of parts and a Dataset are taken, from a module in the current directory."""
    assert len(_read("my_data:pair").validation.x) == 5
    parts = _read("my_data:parts")
    assert _numbers(parts.validation) == [90, 91, 92, 93, 94]
    assert len(_numbers(parts.train)) == 14
    assert _read("my_data:unlabelled").search.y is None
    whole = _read("my_data:dataset", preprocessing=Preprocessing(mean=5.0))
    assert _numbers(whole.search) == [10, 11, 12]
    assert whole.train is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_data:none", "module 'my_data' has no function 'none'"),
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("my_data:failing", "OSError: the disk is gone"),
        ("my_data:number", "it returned int"),
        ("my_data:wrong_part", "it returned a dict of 'trian' to tuple"),
        ("my_data:bare", "it returned a dict of 'validation' to ndarray"),
        ("my_data:no_validation", "no part named val"),
        ("my_data:wrong_shape", r"samples have shape \(7,\), the model takes \(2, 3\)"),
        ("nowhere", "no such file or folder, and not module:function"),
        ("", "no such file or folder, and not module:function"),
    ],
)
def test_functions_that_go_wrong_are_named(module: Path, name: str, words: str) -> None:
    """What cannot be imported, fails or returns something else is a DataError that says which."""
    with pytest.raises(DataError, match=words) as refused:
        _read(name)
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((8, 4, 5)), "y": np.zeros(8, int)}, r"shape \(4, 5\), .* \(2, 3\)"),
        ({"x": np.zeros((8, 3, 2)), "y": np.zeros(8, int)}, r"shape \(3, 2\), .* \(2, 3\)"),
        ({"x": np.zeros((8, 2, 3)), "y": np.zeros(7, int)}, "8 samples and 7 labels"),
        ({"x": np.zeros((8, 2, 3)), "y": np.full(8, 12)}, "labels are 12 to 12; .* 0 to 11"),
        ({"x": np.zeros((8, 2, 3)), "y": np.full(8, -1)}, "labels are -1 to -1"),
        ({"x": np.zeros((8, 2, 3)), "y": np.zeros(8)}, "labels have shape .* float64"),
        ({"x": np.zeros((8, 2, 3)), "y": np.zeros((8, 12), int)}, r"labels have shape \(8, 12\)"),
        ({"x": np.zeros((8, 2, 3))}, "labels .* are needed"),
        ({"x": np.zeros((1, 2, 3)), "y": np.zeros(1, int)}, "has 1 samples; 4 are the fewest"),
        ({"x": np.zeros((3, 2, 3)), "y": np.zeros(3, int)}, "has 3 samples; 4 are the fewest"),
        ({"x": np.zeros((0, 2, 3)), "y": np.zeros(0, int)}, "has no samples"),
        ({"x": np.array(1.0), "y": np.array(1)}, "has no samples"),
        ({"x": np.full((4, 2, 3), "a"), "y": np.zeros(4, int)}, "numbers are needed"),
        ({"images": np.zeros((8, 2, 3))}, "'x' and 'y', or"),
        ({"data": np.zeros(8, np.uint8)}, "'x' and 'y', or"),
        ({"x": np.array([{}, 1], dtype=object), "y": np.zeros(2, int)}, "pickled objects"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: Mapping[str, Any], words: str
) -> None:
    """Shapes, labels, counts, types and keys that do not fit are DataErrors that name the file."""
    path = _npz(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=words) as refused:
        _read(path, classes=12)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_numbered(tmp_path: Path, value: float) -> None:
    """The first sample with NaN or infinity is named."""
    arrays = _numbered(8)
    arrays["x"] = arrays["x"].copy()
    arrays["x"][5, 1, 2] = value
    with pytest.raises(DataError, match="sample 5 has values that are NaN or infinite"):
        _read(_npz(tmp_path / "d.npz", **arrays))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Missing, empty, cut and foreign files, and folders without data, each have their words."""
    path = tmp_path / "d.npz"
    with pytest.raises(DataError, match="no such file or folder"):
        _read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        _read(path)
    path.write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match=r"not an \.npz file"):
        _read(path)
    whole = _npz(path, **_numbered(8)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"not an \.npz file, or is damaged"):
        _read(path)
    path.write_bytes(whole[:60] + bytes(40) + whole[100:])
    with pytest.raises(DataError, match=r"d\.npz"):
        _read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither parts named"):
        _read(tmp_path / "empty")
    good = _npz(tmp_path / "good.npz", **_numbered(8))
    with pytest.raises(DataError, match=r"none\.npz: no such file or folder of calibration"):
        _read(good, calibration=str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match="empty has no images"):
        _read(good, calibration=str(tmp_path / "empty"))


def test_a_folder_with_training_alone_is_refused(tmp_path: Path) -> None:
    """Accuracy needs a part named val* or test*."""
    _npz(tmp_path / "train_0.npz", **_numbered(8))
    _npz(tmp_path / "train_1.npz", **_numbered(8))
    with pytest.raises(DataError, match=r"val\* or test\* among them"):
        _read(tmp_path)


def test_a_corrupt_image_is_named(tmp_path: Path) -> None:
    """An image that does not decode is named by its number, or by its path."""
    good = _png(_picture(8, 8))
    for bad in (b"no image", good[: len(good) // 2], b""):
        source = _npz(tmp_path / "d.npz", **_encoded([good, good, bad, good]))
        with pytest.raises(DataError, match=r"d\.npz: image 2 cannot be decoded"):
            _read(source, (3, 8, 8))
    folder = _image_folder(tmp_path / "data", a=4)
    (folder / "a" / "2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a/2\.png cannot be decoded"):
        _read(folder, (3, 8, 8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offsets": np.array([0, 5, 3, 9])}, "do not lie in 'data'"),
        ({"offsets": np.array([0, 5, 10**9])}, "do not lie in 'data'"),
        ({"offsets": np.array([-1, 5])}, "do not lie in 'data'"),
        ({"offsets": np.array([0.5, 1.0])}, "'offsets' integers"),
        ({"data": np.zeros(9, np.float32)}, "'data' must be uint8"),
        ({"labels": np.zeros(3, int)}, "4 samples and 3 labels"),
        ({"offsets": np.array([0])}, "has no images|0 samples and 4 labels"),
    ],
)
def test_encoded_images_that_do_not_fit_are_refused(
    tmp_path: Path, change: Mapping[str, npt.NDArray[Any]], words: str
) -> None:
    """Offsets outside the data or out of order, and wrong types, are DataErrors."""
    arrays = _encoded([_png(_picture(8, 8))] * 4) | change
    with pytest.raises(DataError, match=words):
        _read(_npz(tmp_path / "d.npz", **arrays), (3, 8, 8))


def test_images_need_a_model_of_images(tmp_path: Path) -> None:
    """Images for a model that takes vectors are a DataError with both."""
    source = _npz(tmp_path / "d.npz", **_encoded([_png(_picture(8, 8))] * 4))
    with pytest.raises(DataError, match=r"has images, the model takes samples of shape \(2, 3\)"):
        _read(source)
