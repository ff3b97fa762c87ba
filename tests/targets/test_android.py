"""run-on-android against an adb whose devices are folders: what it does, and what fails."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native_runner import RUNTIME, built
from onnx import helper
from onnx_models import answer, onnx_model, random
from programs import lowered

from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.manifest import manifest_text, read_manifest
from millifit.targets.native import Toolchain
from millifit.targets.portfolio import write_portfolio
from tests.boards.userland import CPU, PackagesMissingError, Userland, userland

SCRIPT = Path(__file__).resolve().parents[2] / "targets" / "native" / "android" / "run-on-android"
LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so")
ABI = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}[platform.machine()]
MODEL = onnx_model([helper.make_node("Relu", ["x"], ["y"], "r")])
X = random(1, 1, 4, 8, 8)


def bundle_for(target: str, path: Path) -> Path:
    device = find_target(target)
    write_bundle(
        path, program=lowered(MODEL, device), target=device, versions="v", golden_input=X,
        golden_output=answer(MODEL, X), details={},
    )  # fmt: skip
    return path


def runtime_in(folder: Path, program: Path, places: list[Path]) -> Path:
    """What is pushed: the program, and the runtime's libraries beside it."""
    folder.mkdir()
    shutil.copy(program, folder)
    for name in LIBRARIES:
        shutil.copy(next(place / name for place in places if (place / name).exists()), folder)
    return folder


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime for devices of this machine's architecture."""
    folder = tmp_path_factory.mktemp("android") / "the runtime"
    return runtime_in(folder, built(), list(map(Path, RUNTIME.split(":"))))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for this machine, in a folder whose name needs quoting."""
    return bundle_for("local", tmp_path_factory.mktemp("bundles") / "it's $HOME (1)")


class Phones:
    """Fake devices, and the script run with them."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder = folder
        self.runtime = runtime
        self.devices: dict[str, dict[str, Any]] = {}

    def add(self, serial: str, **facts: Any) -> dict[str, Any]:
        root = self.folder / serial
        (root / "data" / "local" / "tmp").mkdir(parents=True)
        device = {"state": "device", "abis": f"{ABI},armeabi", "root": str(root)} | facts
        self.devices[serial] = device
        return device

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        state = self.folder / "state.json"
        state.write_text(json.dumps({"devices": self.devices}))
        adb = self.folder / "adb"
        adb.write_text(f'#!/bin/sh\nexec {sys.executable} {SCRIPT_ADB} "$@"\n')
        adb.chmod(0o755)
        setting = {
            "FAKE_ADB": str(state),
            "ADB": str(adb),
            "MILLIFIT_ANDROID_RUNTIME": str(self.runtime),
        }
        return subprocess.run(
            [str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False,
            env=os.environ | setting | environment, timeout=300, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def succeeds(self, *words: object, **environment: str) -> str:
        done = self.run(*words, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *words: object, code: int = 1, **environment: str) -> str:
        done = self.run(*words, **environment)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert done.stderr.startswith("error: "), done.stderr
        return done.stderr

    def left(self) -> list[str]:
        """What lies on the devices."""
        places = (self.folder / serial / "data" / "local" / "tmp" for serial in self.devices)
        return [entry.name for place in places for entry in place.iterdir()]

    def pushed(self) -> list[str]:
        """Names of the files that were pushed, with their folder."""
        calls = map(json.loads, (self.folder / "state.log").read_text().splitlines())
        return ["/".join(Path(c[3]).parts[-2:]) for c in calls if len(c) > 3 and c[2] == "push"]


SCRIPT_ADB = Path(__file__).with_name("fake_adb.py")


@pytest.fixture
def phones(tmp_path: Path, runtime: Path) -> Phones:
    """No device yet."""
    return Phones(tmp_path, runtime)


def test_bundle_runs_on_the_device(phones: Phones, bundle: Path, tmp_path: Path) -> None:
    """It is pushed, run on the given input, its results are fetched, and nothing is left behind."""
    phones.add("R5CT")
    np.save(tmp_path / "my x.npy", -X)
    files = ("--input", tmp_path / "my x.npy", "--output", tmp_path / "my y.npy")
    shown = phones.succeeds(*files, "--json", tmp_path / "r.json", bundle, "--", "--repeat", 3)
    assert "small for local on" in shown
    np.testing.assert_array_equal(np.load(tmp_path / "my y.npy"), np.maximum(-X, 0))
    found = json.loads((tmp_path / "r.json").read_text())
    assert (len(found["run_s"]), found["golden_error"]) == (3, None)
    assert phones.left() == []


@pytest.fixture(scope="session")
def arm() -> tuple[Userland, Path]:
    """An emulated userland, and the runner for it."""
    try:
        board = userland()
    except PackagesMissingError as error:
        pytest.skip(str(error))
    return board, built(Toolchain(prefix="aarch64-linux-gnu"))


def test_arm64_bundle_runs_on_an_emulated_phone(arm: tuple[Userland, Path], tmp_path: Path) -> None:
    """Everything is for arm64 and runs under qemu: the runner, the runtime and the bundle."""
    board, program = arm
    site = board.folder / "site"
    runtime = runtime_in(tmp_path / "rt", program, [site / "tvm" / "lib", site / "tvm_ffi" / "lib"])
    phones = Phones(tmp_path, runtime)
    emulator = f"{board.emulator} -cpu {CPU} -L {board.folder / 'root'}"
    phones.add("PIXEL", abis="arm64-v8a,armeabi-v7a,armeabi", emulator=emulator)
    bundle = bundle_for("arm64-emulated", tmp_path / "b")
    shown = phones.succeeds(bundle, "--", "--verify")
    assert "small for arm64-emulated on aarch64" in shown
    assert "golden output  given" in shown
    assert phones.left() == []


def test_portfolio_gives_the_device_its_variant(
    phones: Phones, bundle: Path, tmp_path: Path
) -> None:
    """The device chooses among the manifests, and gets the files of one variant only."""
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    board = dataclasses.replace(find_target("local"), name="board", triple="riscv64-linux-gnu")
    manifest = dataclasses.replace(read_manifest(other), target=board)
    (other / "manifest.json").write_text(manifest_text(manifest))
    write_portfolio(tmp_path / "all", {"board": other, "here": bundle})
    phones.add("R5CT")
    shown = phones.succeeds(tmp_path / "all", "--", "--verify")
    assert "variant: here" in shown
    assert "small for local on" in shown
    pushed = phones.pushed()
    assert "board/manifest.json" in pushed
    assert "here/weights.bin" in pushed
    assert "board/weights.bin" not in pushed
    write_portfolio(tmp_path / "all", {"board": other})
    assert "no variant of portfolio 'bundle' runs on this device" in phones.fails(tmp_path / "all")
    assert phones.left() == []


def test_device_is_chosen_by_its_serial(phones: Phones, bundle: Path) -> None:
    """With several devices one has to be named; one that is not connected is not guessed."""
    phones.add("A1")
    phones.add("B2")
    said = phones.fails(bundle, code=2)
    assert "several devices are connected (A1 B2): choose one with -s SERIAL" in said
    assert "no device 'C3' is connected" in phones.fails("-s", "C3", bundle)
    phones.succeeds("-s", "B2", bundle, "--", "--verify")
    assert phones.left() == []


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "no device: connect one, and allow USB debugging"),
        ("unauthorized", "does not trust this computer yet: accept the question on its screen"),
        ("offline", "does not answer: connect it again"),
    ],
)
def test_device_that_cannot_be_used_is_explained(
    phones: Phones, bundle: Path, state: str | None, said: str
) -> None:
    """No device, one that was not authorized, and one that sleeps are told apart."""
    if state is not None:
        phones.add("R5CT", state=state)
    assert said in phones.fails(bundle)


def test_wrong_abi_is_named(phones: Phones, bundle: Path) -> None:
    """A device of another architecture gets nothing pushed."""
    phones.add("OLD", abis="armeabi-v7a,armeabi")
    said = phones.fails(bundle)
    assert "device 'OLD' runs armeabi-v7a,armeabi, the program in" in said
    assert f"is for {ABI}: build it for the device" in said
    assert phones.pushed() == []


def test_full_storage_is_named_and_cleaned(phones: Phones, bundle: Path) -> None:
    """Where the device fills up the error says how much is needed; what was pushed is removed."""
    phones.add("FULL", room_bytes=3_000_000)
    said = phones.fails(bundle)
    assert "device 'FULL' is full: " in said
    assert " MB are needed in /data/local/tmp at most; free some" in said
    assert phones.left() == []


def test_tampered_bundle_fails_as_on_the_device(
    phones: Phones, bundle: Path, tmp_path: Path
) -> None:
    """The runner's own error and code are handed on, and the device is cleaned."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "golden.npz").write_bytes(b"x")
    phones.add("R5CT")
    assert "golden.npz does not match its sha256" in phones.fails(copy)
    assert "there is no option '--speed'" in phones.fails(bundle, "--", "--speed", code=2)
    assert phones.left() == []


def test_lost_connection_is_named(phones: Phones, bundle: Path) -> None:
    """A device that goes away while the network runs is no result."""
    phones.add("GONE", lost_on="./millifit-run")
    said = phones.fails(bundle)
    assert "the connection to device 'GONE' was lost while it ran: error: closed" in said


def test_options_reach_the_runner_as_they_are(phones: Phones, bundle: Path) -> None:
    """What the device's shell would expand or run is one word to the runner."""
    phones.add("R5CT")
    for word in ("--$(touch /tmp/x)", "--it's", "--a b;c", "--`id`"):
        assert f"there is no option '{word}'" in phones.fails(bundle, "--", word, code=2)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--speed"], 2, "there is no option '--speed'"),
        (["-s"], 2, "-s takes a value"),
        ([], 2, "name a bundle"),
        (["{bundle}", "other"], 2, "one bundle at a time"),
        (["--runtime", "", "{bundle}"], 2, "name the folder of the runtime for Android"),
        (["--runtime", "/none", "{bundle}"], 1, "'/none' has no millifit-run"),
        (["/none"], 1, "'/none' is no bundle and no portfolio"),
        (["--input", "/none.npy", "{bundle}"], 1, "'/none.npy' is no file"),
    ],
)
def test_wrong_use_is_explained(
    phones: Phones, bundle: Path, words: list[str], code: int, said: str
) -> None:
    """What is wrong with a command is said before any device is asked."""
    given = [word.format(bundle=bundle) for word in words]
    assert said in phones.fails(*given, code=code)


def test_missing_adb_says_how_to_get_it(phones: Phones, bundle: Path) -> None:
    """Without adb the error names the package."""
    assert "adb is not installed" in phones.fails(bundle, ADB="/none/adb")


def test_unwritable_result_is_named(phones: Phones, bundle: Path) -> None:
    """A place here that cannot be written is an error, and the device is cleaned."""
    phones.add("R5CT")
    said = phones.fails("--json", "/none/r.json", bundle, "--", "--verify")
    assert "cannot write '/none/r.json'" in said
    assert phones.left() == []


def test_help_names_every_option(phones: Phones) -> None:
    """--help is the manual."""
    shown = phones.succeeds("--help")
    for option in ("-s SERIAL", "--runtime", "--input", "--output", "--json", "--public-key"):
        assert option in shown
