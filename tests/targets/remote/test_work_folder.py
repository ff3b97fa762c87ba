"""Throw-away folders: for one user, removed with the server, and later where it was killed."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from millifit.errors import TargetError
from millifit.targets.remote import work_folder
from millifit.targets.remote.work_folder import WorkFolders


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_folders_are_private_and_go_with_the_server(tmp_path: Path) -> None:
    """Nobody else may look at what was uploaded."""
    folders = WorkFolders()
    assert stat.S_IMODE(folders.root.stat().st_mode) == 0o700
    first, second = folders.new(), folders.new()
    assert first != second
    assert first.parent == folders.root
    first.mkdir()
    (first / "file").write_text("uploaded")
    folders.close()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """After a power failure nobody is there to clear up."""
    begin = (
        "import os, signal, tempfile; tempfile.tempdir = '{0}'\n"
        "from millifit.targets.remote.work_folder import WorkFolders\n"
        "WorkFolders().new().mkdir(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", begin.format(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    folders = WorkFolders()
    assert list(tmp_path.iterdir()) == [folders.root]
    folders.close()


def test_what_a_running_server_has_stays(tmp_path: Path) -> None:
    """Two servers of one user do not touch each other's folders."""
    first, second = WorkFolders(), WorkFolders()
    assert sorted(tmp_path.iterdir()) == sorted([first.root, second.root])
    for folders in (first, second):
        folders.close()


def test_a_session_cannot_keep_its_folder_by_its_mode(tmp_path: Path) -> None:
    """Code that was uploaded may have taken away the right to look into it."""
    folder = tmp_path / "session"
    (folder / "locked" / "deep").mkdir(parents=True)
    (folder / "locked" / "deep" / "file").write_text("x")
    (folder / "locked").chmod(0o500)
    work_folder.remove(folder)
    assert not folder.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    """What a session's link leads to is somebody else's."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("kept")
    folder = tmp_path / "session"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    work_folder.remove(folder)
    assert (tmp_path / "elsewhere" / "file").read_text() == "kept"
    assert os.listdir(tmp_path) == ["elsewhere"]  # noqa: PTH208


def test_no_place_for_folders_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With what to do."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(TargetError, match=r"cannot make a folder in .* set TMPDIR"):
        WorkFolders()
