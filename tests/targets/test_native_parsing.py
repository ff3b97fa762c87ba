"""What the runner reads: JSON, NumPy's files and hashes, whole and damaged, under a sanitizer."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from native_runner import sanitized

Parse = Callable[[str, Sequence[bytes]], list[str]]

ARRAYS = {
    "input": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4),
    "output0": np.arange(10, dtype=np.float16),
    "output1": np.array(3, np.int64),
}
MANIFEST = {
    "schema": 2, "name": "größer \"x\" \\ / \n \U0001f600", "empty": [], "none": None,
    "input": {"shape": [1, 3, 224, 224], "dtype": "float32"}, "flags": [True, False],
    "numbers": [0, -1, 1.5e-7, -2e10, 2**63 - 1, -(2**63)], "deep": [[[{"a": [{}]}]]],
}  # fmt: skip


@pytest.fixture(scope="session")
def parse(tmp_path_factory: pytest.TempPathFactory) -> Parse:
    """Parses files as the runner does: ``"ok ..."`` or ``"no ..."`` for each."""
    program = sanitized() / "millifit-parse"
    folder = tmp_path_factory.mktemp("files")

    def parsed(kind: str, contents: Sequence[bytes]) -> list[str]:
        files = [folder / str(number) for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        done = subprocess.run(
            [program, kind, *files], capture_output=True, text=True, errors="replace", check=False
        )
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line[:3] in ("ok ", "no ")]
        assert len(lines) == len(contents)
        return lines

    return parsed


def npy(array: np.ndarray, *, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def damaged(whole: bytes, *, count: int, seed: int) -> list[bytes]:
    """Cut, with some bytes changed, with a piece repeated or left out."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        content = bytearray(whole)
        at, end = sorted(int(each) for each in rng.integers(0, len(whole), 2))
        match number % 4:
            case 0:
                del content[at:]
            case 1:
                for place in rng.integers(0, len(whole), rng.integers(1, 9)):
                    content[place] = int(rng.choice([0, 0xFF, 0x7F, rng.integers(256)]))
            case 2:
                content[at:at] = whole[at:end]
            case _:
                del content[at:end]
        made.append(bytes(content))
    return made


def test_json_of_python_is_read(parse: Parse) -> None:
    """Whatever Python writes is read, with any indent, escaped or not, NaN and infinity too."""
    texts = [
        json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
        for value in (MANIFEST, [], {}, "", 0, None, True, [float("nan"), float("-inf")])
        for indent in (None, 1)
        for ascii_only in (True, False)
    ]
    assert parse("json", texts) == ["ok "] * len(texts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a value at byte 0"),
        ('{"a": 1', "expected ',' or '}' at byte 7"),
        ('{"a" 1}', "expected ':'"),
        ("{1: 2}", "expected a key"),
        ("[1,]", "expected a value"),
        ("[1 2]", "expected ',' or ']'"),
        ('"abc', "a string has no end"),
        ('"\t"', "a control character in a string"),
        ('"\\x"', "an unknown escape"),
        ('"\\u12"', "expected four hexadecimal digits"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('"\\ud800\\u0041"', "half of a surrogate pair"),
        ("01", "a leading zero"),
        ("1.", "expected a digit"),
        ("1e", "expected a digit"),
        ("-", "expected a value"),
        ("nul", "expected a value"),
        ("1 1", "something follows the end at byte 2"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
    ],
)
def test_wrong_json_is_refused(parse: Parse, text: str, said: str) -> None:
    """Each mistake is named, with its place; what is nested without end is refused."""
    (line,) = parse("json", [text.encode()])
    assert line.startswith("no ")
    assert said in line


def test_numpys_files_are_read(parse: Parse) -> None:
    """All element types, shapes and versions of .npy, and the archives that savez writes."""
    types = ("f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "b1")
    contents = [npy(np.zeros((2, 3), kind)) for kind in types]
    assert [line.split(" of ")[0] for line in parse("npy", contents)] == ["ok (2, 3)"] * len(types)
    others = [np.zeros(()), np.zeros(5), np.zeros((0, 3)), np.zeros((1,) * 8)]
    shapes = [line.removeprefix("ok ").split(" of ")[0] for line in map(one(parse), others)]
    assert shapes == ["()", "(5,)", "(0, 3)", "(1, 1, 1, 1, 1, 1, 1, 1)"]
    assert parse("npy", [npy(np.zeros(4), version=(2, 0))]) == ["ok (4,) of float64"]
    (line,) = parse("npz", [npz(**ARRAYS)])
    assert line == (
        "ok input (1, 2, 3, 4) of float32; output0 (10,) of float16; output1 () of int64; "
    )


def one(parse: Parse) -> Callable[[np.ndarray], str]:
    return lambda array: parse("npy", [npy(array)])[0]


def header(text: str) -> bytes:
    """A .npy file with that header and no data."""
    raw = text.encode()
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is no .npy file"),
        (b"\x93NUMPY\x01\x00\xff\xff", "it is cut short"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "it is cut short"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (9,), }"), "it is cut short"),
        (header("{'descr': '<f4', 'fortran_order': True, 'shape': (), }"), "Fortran order"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (), }"), "type '|O' are not"),
        (header("{'descr': '>f4', 'fortran_order': False, 'shape': (), }"), "type '>f4' are not"),
        (header("{'descr': '<f4', 'shape': (), }"), "its header is incomplete"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"), "is damaged"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 2)}"), "large"),
        (
            header("{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000,2000000000,9)}"),
            "a shape is too large",
        ),
        (header("{'other': 1}"), "an unknown key"),
        (header("{'descr': '<f4"), "its header is damaged"),
    ],
)
def test_wrong_npy_is_refused(parse: Parse, content: bytes, said: str) -> None:
    """Each mistake of a .npy file is named; sizes are believed only where the bytes are there."""
    (line,) = parse("npy", [content])
    assert line.startswith("no ")
    assert said in line


def test_wrong_npz_is_refused(parse: Parse) -> None:
    """Compressed archives, cut ones and other files are told apart."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **ARRAYS)
    compressed, whole = stream.getvalue(), npz(**ARRAYS)
    lines = parse(
        "npz", [compressed, whole[:-30], b"", b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 18]
    )
    assert [line.removeprefix("no ") for line in lines] == [
        "it is compressed", "it is no zip file", "it is no zip file", "it is no zip file",
        "it is cut short",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["json", "npy", "npz"])
def test_damaged_files_never_crash(parse: Parse, kind: str) -> None:
    """Of 600 damaged files each is read or refused, and no memory is misused."""
    text = json.dumps(MANIFEST, indent=1).encode()
    whole = {"json": text, "npy": npy(ARRAYS["input"]), "npz": npz(**ARRAYS)}[kind]
    assert parse(kind, [whole])[0].startswith("ok ")
    lines = parse(kind, damaged(whole, count=600, seed=7))
    assert sum(line.startswith("no ") for line in lines) > 300


def test_hashes_are_sha256(parse: Parse) -> None:
    """At every length around a block, in plain C++ and by the processor's own instructions."""
    rng = np.random.default_rng(1)
    contents = [rng.bytes(length) for length in (*range(1, 131), 1000, 4096, 100_001)]
    wanted = [hashlib.sha256(content).hexdigest() for content in contents]
    assert parse("sha256", contents) == [f"ok {digest} {digest}" for digest in wanted]
