"""A run folder: files whole or absent, and one run at a time, always of one recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from millifit.errors import RunFolderError
from millifit.pipeline.run_folder import open_run


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Values and records survive the folder being closed; what was never written is None."""
    with open_run(tmp_path / "a" / "run", {"seed": 1}) as folder:
        assert folder.read("x.json") is None
        assert folder.lines("x.jsonl") == []
        folder.write("x.json", {"one": [1, None]})
        for number in range(3):
            folder.append("x.jsonl", {"number": number})
    with open_run(tmp_path / "a" / "run", {"seed": 1}) as folder:
        assert folder.read("x.json") == {"one": [1, None]}
        assert folder.lines("x.jsonl") == [{"number": n} for n in range(3)]


@pytest.mark.parametrize("end", ["", "{", '{"number": ', "\x00", "\xff"])
def test_record_that_was_cut_off_is_left_out(tmp_path: Path, end: str) -> None:
    """Records before a damaged last one count, and the next one follows them."""
    with open_run(tmp_path, {}) as folder:
        folder.append("x.jsonl", {"number": 0})
        folder.append("x.jsonl", {"number": 1})
        file = tmp_path / "x.jsonl"
        file.write_bytes(file.read_bytes() + end.encode("latin-1"))
        assert folder.lines("x.jsonl") == [{"number": 0}, {"number": 1}]
        folder.append("x.jsonl", {"number": 2})
        assert [record["number"] for record in folder.lines("x.jsonl")] == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_damaged_file_is_named_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    """What is not JSON is a RunFolderError that says which file to remove."""
    (tmp_path / "x.json").write_bytes(content)
    with (
        open_run(tmp_path, {}) as folder,
        pytest.raises(RunFolderError, match=r"x\.json' cannot be read .* Remove it"),
    ):
        folder.read("x.json")


def test_folder_where_a_file_should_be_is_named(tmp_path: Path) -> None:
    """Records that cannot be read for another reason are a RunFolderError, too."""
    (tmp_path / "x.jsonl").mkdir()
    with (
        open_run(tmp_path, {}) as folder,
        pytest.raises(RunFolderError, match=r"x\.jsonl' cannot be read"),
    ):
        folder.lines("x.jsonl")


def test_run_of_another_identity_is_refused(tmp_path: Path) -> None:
    """Every key that differs is named, missing ones too; the folder stays as it is."""
    with open_run(tmp_path, {"a": 1, "b": 2, "c": (3,)}) as folder:
        folder.write("baseline.json", {})
    before = (tmp_path / "identity.json").read_bytes()
    with (
        pytest.raises(RunFolderError, match=r"holds another run \(different: b, d\)\. Choose"),
        open_run(tmp_path, {"a": 1, "b": 3, "c": (3,), "d": 4}),
    ):
        pass
    assert (tmp_path / "identity.json").read_bytes() == before


def test_identity_that_is_none_is_another(tmp_path: Path) -> None:
    """An identity file with something else in it is that of another run."""
    (tmp_path / "identity.json").write_text("[]")
    (tmp_path / "baseline.json").write_text("{}")
    with (
        pytest.raises(RunFolderError, match=r"holds another run \(different: a\)"),
        open_run(tmp_path, {"a": 1}),
    ):
        pass


def test_run_that_found_nothing_gives_way(tmp_path: Path) -> None:
    """Before the baseline is measured a mended recipe takes the folder over, from the start."""
    with open_run(tmp_path, {"data": "bad.npz"}):
        (tmp_path / "baseline.onnx").write_text("of the first")
        (tmp_path / "baseline").mkdir()
        (tmp_path / "notes.txt").write_text("mine")
    with open_run(tmp_path, {"data": "good.npz"}) as folder:
        assert folder.read("identity.json") == {"data": "good.npz"}
    assert {entry.name for entry in tmp_path.iterdir()} == {".lock", "identity.json", "notes.txt"}


@pytest.mark.parametrize("name", ["baseline.onnx", "baseline", "result.json", "trials.jsonl"])
def test_files_that_no_run_made_are_left_alone(tmp_path: Path, name: str) -> None:
    """A folder with files of the person's own under our names is refused and not touched."""
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(RunFolderError, match=f"has a '{name}' that no run made. Choose another"),
        open_run(tmp_path, {"a": 1}),
    ):
        pass
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "identity.json").exists()


def test_folder_in_use_is_refused_until_it_is_free(tmp_path: Path) -> None:
    """A folder that is open is not opened again; closing it, also by an error, lets go of it."""
    with (
        open_run(tmp_path, {}),
        pytest.raises(RunFolderError, match="is in use by another run"),
        open_run(tmp_path, {}),
    ):
        pass
    with pytest.raises(KeyError), open_run(tmp_path, {}):
        raise KeyError
    with open_run(tmp_path, {}):
        pass


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A folder below a file is a RunFolderError that names it."""
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunFolderError, match=r"cannot write the run folder '.*file/run'.*--run"),
        open_run(tmp_path / "file" / "run", {}),
    ):
        pass
