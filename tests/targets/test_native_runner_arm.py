"""The runner cross-compiled for 64-bit Arm, on the emulated board's userland."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from native_runner import NativeRunner, built
from onnx import helper
from onnx_models import answer, onnx_model, random
from programs import lowered

from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.native import Toolchain
from millifit.targets.portfolio import write_portfolio
from tests.boards.userland import CPU, PackagesMissingError, userland

MODEL = onnx_model(
    [
        helper.make_node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "r"),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], "p"),
    ],
    {"w": random(0, 8, 4, 3, 3)},
)
X = random(1, 1, 4, 8, 8)


@pytest.fixture(scope="session")
def board() -> NativeRunner:
    """The runner under qemu, with the aarch64 wheels' libraries."""
    try:
        found = userland()
    except PackagesMissingError as error:
        pytest.skip(str(error))
    program = built(Toolchain(prefix="aarch64-linux-gnu"))
    site = found.folder / "site"
    return NativeRunner(
        command=(found.emulator, "-cpu", CPU, "-L", str(found.folder / "root"), str(program)),
        environment={"MILLIFIT_RUNTIME": f"{site / 'tvm' / 'lib'}:{site / 'tvm_ffi' / 'lib'}"},
    )


@pytest.fixture(scope="session")
def here() -> NativeRunner:
    """The runner of this machine."""
    return NativeRunner(command=(str(built()),))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for the board, its golden output ONNX Runtime's."""
    path, target = tmp_path_factory.mktemp("bundles") / "board", find_target("arm64-emulated")
    write_bundle(
        path, program=lowered(MODEL, target), target=target, versions="v", golden_input=X,
        golden_output=answer(MODEL, X), details={},
    )  # fmt: skip
    return path


def test_bundle_of_the_board_gives_what_onnx_runtime_does(
    board: NativeRunner, bundle: Path, tmp_path: Path
) -> None:
    """Compiled here and run there, the output is that of ONNX Runtime; hashes by Arm's own code."""
    files = ("--output", tmp_path / "y.npy", "--json", tmp_path / "r.json")
    board.succeeds(bundle, "--verify", *files)
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), answer(MODEL, X)[0], rtol=1e-5, atol=1e-6
    )
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["target"], found["device"]) == ("arm64-emulated", "aarch64")
    assert found["golden_error"] <= found["golden_tolerance"] == 1e-4


def test_bundle_of_the_board_does_not_run_here(here: NativeRunner, bundle: Path) -> None:
    """On a machine of another architecture the runner says so before it loads any code."""
    assert "cannot run here: it is for aarch64, this device is" in here.fails(bundle)


def test_portfolio_gives_the_board_its_variant(
    board: NativeRunner, bundle: Path, tmp_path: Path
) -> None:
    """Of variants for Arm with more and with fewer instructions, the board gets what it can run."""
    variants = {"board": bundle}
    for name in ("graviton3", "rpi4"):
        target = find_target(name)
        variants[name] = tmp_path / name
        write_bundle(
            variants[name], program=lowered(MODEL, target), target=target, versions="v",
            golden_input=X, golden_output=answer(MODEL, X), details={},
        )  # fmt: skip
    write_portfolio(tmp_path / "all", variants)
    done = board.run(tmp_path / "all", "--choose")
    assert done.stdout == f"{tmp_path}/all/variants/board\n"
    assert done.stderr == "not graviton3: this processor lacks i8mm\n"
