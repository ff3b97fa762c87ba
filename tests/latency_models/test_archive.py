"""Saved models: what is written is what is read, and nothing in a file is trusted."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from millifit.errors import DataError
from millifit.latency_models.archive import State, read_state, write_state


def a_state() -> State:
    part = State(kind="trees", arrays={"values": np.arange(3, dtype=np.float32)})
    return State(
        kind="kernel",
        facts={"lanes": 16, "families": ["conv2d", "dense"]},
        arrays={"values": np.eye(2), "counts": np.array([1, 2], np.int64)},
        parts={"correction": part},
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Facts, arrays with their types, and nested parts survive."""
    path = tmp_path / "model.npz"
    write_state(a_state(), path)
    again = read_state(path)
    assert again.kind == "kernel"
    assert again.facts == a_state().facts
    np.testing.assert_array_equal(again.array("values", ndim=2), np.eye(2))
    assert again.array("counts").dtype == np.int64
    part = again.part("correction", kind="trees")
    assert part.array("values").tolist() == [0, 1, 2]


def test_a_file_that_would_run_code_does_not(tmp_path: Path) -> None:
    """An array of pickled objects inside the file is refused without being loaded."""
    hit = tmp_path / "hit"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(hit).write_text, ("run",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.npy", buffer.getvalue())
    with pytest.raises(DataError, match="is no saved latency model"):
        read_state(path)
    assert not hit.exists()


@pytest.mark.parametrize("content", [b"", b"not a model", pickle.dumps([1, 2])])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """The message names the file and says what to do."""
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"model\.npz' is no saved latency model.*Save the model"):
        read_state(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """Half of a model is no model."""
    path = tmp_path / "model.npz"
    write_state(a_state(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="is no saved latency model"):
        read_state(path)


def test_a_newer_file_asks_for_an_upgrade(tmp_path: Path) -> None:
    """A version that is not known yet is not guessed at."""
    path = tmp_path / "model.npz"
    header = json.dumps({"format": "millifit latency model", "version": 99, "state": {}})
    np.savez(path, header=np.frombuffer(header.encode(), np.uint8))
    with pytest.raises(DataError, match=r"newer millifit.*Upgrade"):
        read_state(path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    """The size is looked at before anything is unpacked."""
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.npy", "w") as out:
        for _ in range(1025):
            out.write(bytes(2**20))
    with pytest.raises(DataError, match=r"would unpack to 1\.0 GiB"):
        read_state(path)


def test_objects_are_not_written(tmp_path: Path) -> None:
    """Only numbers go into a file, so that only numbers have to come out."""
    odd = State(kind="kernel", arrays={"things": np.array([object()])})
    with pytest.raises(ValueError, match="'things' of kernel holds objects"):
        write_state(odd, tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


def test_what_a_state_lacks_is_named() -> None:
    """A missing array, fact or part is an error for people, not a KeyError."""
    with pytest.raises(DataError, match="the saved kernel has no 'weights'"):
        a_state().array("weights")
    with pytest.raises(DataError, match="'values' of the saved kernel has 2 dimensions, not 1"):
        a_state().array("values", ndim=1)
    with pytest.raises(DataError, match="has no 'seed'"):
        a_state().fact("seed")
    with pytest.raises(DataError, match="has no roofline 'correction'"):
        a_state().part("correction", kind="roofline")
