"""Targets by name: the shipped ones, the user's file and its mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from millifit.errors import UnknownTarget, UsageError
from millifit.targets.catalog import add_target, default_user_file, find_target, list_targets

SHIPPED = ("x86-avx2", "x86-avx512-vnni", "rpi4", "rpi5", "graviton3")
BOARD = """\
[board]
triple = "aarch64-linux-gnu"
mcpu = "cortex-a55"
vector_bits = 128
vector_registers = 32
dot_product = "none"
cores = 2
l1_bytes = 32768
l2_bytes = 131072
l3_bytes = 0
cpu = "a board"
reach = "none"
"""


def _user_file(folder: Path, text: str) -> Path:
    path = folder / "targets.toml"
    path.write_text(text)
    return path


def test_the_catalog_lists_local_first() -> None:
    """Without a user file there are the machine at hand and the shipped targets."""
    targets = list_targets()
    assert tuple(t.name for t in targets) == ("local", *SHIPPED)
    assert targets[0].reach == "local"
    assert all(t.reach == "none" and t.source for t in targets[1:])


@pytest.mark.parametrize(
    ("name", "mcpu", "bits", "registers", "dot_product", "l1_bytes"),
    [
        ("x86-avx2", "x86-64-v3", 256, 16, "avx2_pmaddwd", 32768),
        ("x86-avx512-vnni", "cascadelake", 512, 32, "avx512_vnni", 32768),
        ("rpi4", "cortex-a72", 128, 32, "neon_smull", 32768),
        ("rpi5", "cortex-a76", 128, 32, "neon_sdot", 65536),
        ("graviton3", "neoverse-v1", 128, 32, "neon_i8mm", 65536),
    ],
)
def test_shipped_targets(
    name: str, mcpu: str, bits: int, registers: int, dot_product: str, l1_bytes: int
) -> None:
    """The shipped targets are the processors that their names say."""
    target = find_target(name, threads=2)
    assert (target.mcpu, target.vector_bits, target.vector_registers) == (mcpu, bits, registers)
    assert (target.dot_product, target.l1_bytes, target.threads) == (dot_product, l1_bytes, 2)


def test_unknown_targets_get_close_matches_and_the_list() -> None:
    """The message suggests what was meant and lists what there is."""
    with pytest.raises(UnknownTarget) as refused:
        find_target("rpi")
    words = str(refused.value)
    assert words.startswith("no target 'rpi'. Did you mean rpi")
    assert words.endswith(f"There are: local, {', '.join(SHIPPED)}.")


def test_threads_must_fit_the_cores() -> None:
    """More threads than cores, and none, are wrong use."""
    for threads in (0, 5):
        with pytest.raises(UsageError, match=f"{threads} threads on 'rpi4': choose 1 to 4"):
            find_target("rpi4", threads=threads)
    with pytest.raises(UsageError, match="threads on 'local'"):
        find_target("local", threads=100_000)


def test_a_target_that_was_added_is_found(tmp_path: Path) -> None:
    """A target survives the user's file exactly, beside what the file had before."""
    path = tmp_path / "new" / "targets.toml"
    odd = 'a "quoted" cpu \\ with µ'
    mine = dataclasses.replace(find_target("rpi5"), name="mine", cpu=odd, features=("+dotprod",))
    add_target(mine, path)
    add_target(dataclasses.replace(mine, name="mine.2"), path)
    assert find_target("mine", user_file=path) == mine
    assert [t.name for t in list_targets(path)] == ["local", *SHIPPED, "mine", "mine.2"]


def test_adding_keeps_comments(tmp_path: Path) -> None:
    """What the user wrote in the file stays as it is."""
    path = _user_file(tmp_path, "# mine\n" + BOARD)
    add_target(dataclasses.replace(find_target("rpi4"), name="other"), path)
    assert path.read_text().startswith("# mine\n" + BOARD)


def test_the_user_s_file_is_under_xdg_config_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path, the user's file is where the desktop standard puts it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert default_user_file() == Path("/somewhere/millifit/targets.toml")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_user_file() == Path("/home/me/.config/millifit/targets.toml")


@pytest.mark.parametrize("name", ["local", "rpi4", "mine"])
def test_a_name_is_given_once(tmp_path: Path, name: str) -> None:
    """'local', shipped names and names in the file cannot be added again."""
    path = tmp_path / "targets.toml"
    add_target(dataclasses.replace(find_target("rpi4"), name="mine"), path)
    with pytest.raises(UsageError, match=f"'{name}' exists"):
        add_target(dataclasses.replace(find_target("rpi4"), name=name), path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[board]", "[board", "not valid TOML"),
        ("[board]", "[rpi4]", "'rpi4' is a name of millifit's own"),
        ("[board]", '["a board"]', "'a board' is no name"),
        ("mcpu =", "mpcu =", "'mpcu': unknown key, did you mean mcpu"),
        ("cores = 2", 'cores = "2"', "'cores': Input should be a valid integer"),
        ("cores = 2", "cores = 2.5", "'cores'"),
        ("cores = 2", "cores = 0", "'cores': must be 1 or more"),
        ("cores = 2", "", "'cores': "),
        ("cores = 2", "cores = 2\nthreads = 3", "'threads': must be 1 to 2"),
        ("cores = 2", 'cores = 2\nfeatures = "+sve"', "'features'"),
        ("cores = 2", "cores = 2\nprecisions = []", "'precisions': must name at least one"),
        ("cores = 2", 'cores = 2\nprecisions = ["bf16"]', "'bf16' needs another device"),
        ("vector_bits = 128", "vector_bits = 100", "'vector_bits': 100 is none of"),
        ('dot_product = "none"', 'dot_product = "sdot"', "'dot_product'"),
        ("l3_bytes = 0", "l3_bytes = -1", "'l3_bytes': must be 0 or more"),
        ("l1_bytes = 32768", "l1_bytes = 0", "'l1_bytes': must be 1 or more"),
        ('reach = "none"', 'reach = "moon"', "'reach'"),
        ("[board]", "name = 3\n[board]", "'name' is no table"),
    ],
)
def test_mistakes_in_the_user_s_file_are_named(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    """Every mistake is wrong use and names the file and the key."""
    assert old in BOARD
    path = _user_file(tmp_path, BOARD.replace(old, new, 1))
    with pytest.raises(UsageError, match=words) as refused:
        find_target("board", user_file=path)
    assert str(path) in str(refused.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """A binary file, and a folder in its place, are wrong use."""
    path = tmp_path / "targets.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        list_targets(path)
    with pytest.raises(UsageError, match="cannot be read"):
        list_targets(tmp_path)


def test_an_invalid_target_is_not_written(tmp_path: Path) -> None:
    """A target that the file could not be read back with is refused before it is written."""
    path = tmp_path / "targets.toml"
    with pytest.raises(UsageError, match="'vector_bits'"):
        add_target(dataclasses.replace(find_target("rpi4"), name="odd", vector_bits=96), path)
    assert not path.exists()
