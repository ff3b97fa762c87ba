"""What a session answers: files by their digests, bundles by checked names, workers that end."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from millifit.targets.remote.message import pack, unpack
from millifit.targets.remote.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session that may hold 1000 bytes."""
    lifeline, held = os.pipe()
    made = Session(tmp_path, most_bytes=1000, lifeline=lifeline)
    yield made
    made.close()
    os.close(held)
    os.close(lifeline)


def ask(session: Session, content: bytes = b"", **request: Any) -> dict[str, Any]:
    return unpack(session.answer(pack(request, content)))[0]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_lies_under_its_own_digest(session: Session, tmp_path: Path) -> None:
    """No name that a peer chose becomes a path."""
    assert ask(session, b"content", do="put") == {"value": digest(b"content")}
    assert (tmp_path / "files" / digest(b"content")).read_bytes() == b"content"


def test_a_bundle_is_made_of_uploaded_files(session: Session, tmp_path: Path) -> None:
    """By the names that the manifest knows, folders included."""
    for content in (b"one", b"two"):
        ask(session, content, do="put")
    files = {"manifest.json": digest(b"one"), "parts/library.so": digest(b"two")}
    name = ask(session, do="assemble", files=files)["value"]
    folder = tmp_path / "bundles" / name
    assert (folder / "manifest.json").read_bytes() == b"one"
    assert (folder / "parts" / "library.so").read_bytes() == b"two"
    assert ask(session, do="assemble", files=files)["value"] == name


@pytest.mark.parametrize(
    "name", ["../escaped", "/etc/passwd", "a/../../b", ".hidden", "a//b", "", "a\nb", "x" * 101]
)
def test_a_name_that_leads_elsewhere_is_refused(
    session: Session, tmp_path: Path, name: str
) -> None:
    """Nothing is written outside of the session's folder."""
    ask(session, b"one", do="put")
    before = sorted(tmp_path.rglob("*"))
    assert (
        "is no name of a file in a bundle"
        in (
            ask(session, do="assemble", files={"good": digest(b"one"), name: digest(b"one")})[
                "error"
            ]
        )
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("named", ["../files", "0" * 63, "", None, "g" * 64])
def test_what_is_no_digest_is_refused(session: Session, named: str | None) -> None:
    """Files and bundles are named by digests, which cannot lead elsewhere."""
    assert "is no digest" in ask(session, do="assemble", files={"a": named})["error"]
    run = {"worker": "w", "environment": {}, "timeout_s": 1, "files": {}, "ask": {"do": "memory"}}
    assert "is no bundle" in ask(session, do="run", **run, bundle=named)["error"]


def test_a_file_that_was_not_uploaded_is_named(session: Session) -> None:
    """So that the workstation sends it."""
    said = ask(session, do="assemble", files={"a": "0" * 64})
    assert said["missing"] == "0" * 64


def test_the_oldest_files_make_room_but_not_those_of_a_bundle(
    session: Session, tmp_path: Path
) -> None:
    """A long sweep uploads more than a board can keep."""
    contents = [bytes([n]) * 400 for n in range(3)]
    ask(session, contents[0], do="put")
    ask(session, do="assemble", files={"a": digest(contents[0])})
    ask(session, contents[1], do="put")
    assert ask(session, contents[2], do="put") == {"value": digest(contents[2])}
    held = {path.name for path in (tmp_path / "files").iterdir()}
    assert held == {digest(contents[0]), digest(contents[2])}


def test_what_cannot_make_room_is_refused(session: Session, tmp_path: Path) -> None:
    """The limit is what the person at the device decided."""
    said = ask(session, bytes(1001), do="put")
    assert "1 bytes more than the 1000 that the device allows (--max-upload)" in said["error"]
    assert list((tmp_path / "files").iterdir()) == []


def test_what_is_forgotten_makes_room(session: Session) -> None:
    """A bundle that was timed needs no place any more."""
    ask(session, bytes(900), do="put")
    ask(session, do="assemble", files={"a": digest(bytes(900))})
    assert "error" in ask(session, b"x" * 900, do="put")
    ask(session, do="forget", workers=["never there"])
    assert ask(session, b"x" * 900, do="put") == {"value": digest(b"x" * 900)}


@pytest.mark.parametrize(
    "message", [b"", b"\x00", b"\xff\xff\xff\xff{}", b"\x02\x00\x00\x00[]", b"\x02\x00\x00\x00{}"]
)
def test_garbage_is_answered_with_an_error(session: Session, message: bytes) -> None:
    """The session goes on."""
    assert "error" in unpack(session.answer(message))[0]
    assert ask(session, b"x", do="put") == {"value": digest(b"x")}


def test_an_unknown_request_is_named(session: Session) -> None:
    """An older server than the workstation's millifit says what it does not know."""
    assert "unknown request 'dance'" in ask(session, do="dance")["error"]


def test_the_environment_is_the_devices(session: Session) -> None:
    """Facts that are kept with measurements."""
    value = ask(session, do="environment")["value"]
    assert {"cpu", "governor", "temperature_c", "kernel", "apache-tvm"} <= value.keys()


def test_a_worker_ends_when_it_is_forgotten(session: Session) -> None:
    """Its memory is the next network's."""
    run = {"worker": "w", "timeout_s": 5, "files": {}, "ask": {"do": "memory"}}
    value = ask(session, do="run", environment={"TVM_NUM_THREADS": "3"}, **run)["value"]
    assert value["process_bytes"] > 1 << 20
    pid = session._workers["w"].pid
    ask(session, do="forget", workers=["w"])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
