"""The runner in C++: what it computes, measures and says, and that nothing damaged crashes it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from native_runner import RUNTIME, NativeRunner, built, sanitized
from onnx import TensorProto, helper
from onnx_models import answer, onnx_model, random
from programs import lowered

from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.manifest import manifest_text, read_manifest, sha256_of
from millifit.targets.portfolio import write_portfolio
from millifit.targets.seal import sealed, unsealed
from millifit.targets.signature import sign
from millifit.targets.target import Gpu, Target
from millifit.targets.timing import median_interval
from tests.signing import keys

MODEL = onnx_model(
    [
        helper.make_node("Conv", ["x", "w"], ["c"], "c", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "r"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "p"),
        helper.make_node("Flatten", ["p"], ["y"], "f"),
    ],
    {"w": random(0, 8, 4, 3, 3)},
)
X = random(1, 1, 4, 8, 8)
PARTS = ("golden.npz", "library.so", "weights.bin")
GPU = Gpu(
    api="cuda", name="Old", arch="sm_50a", compute_units=1, subgroup=32, max_threads=1024,
    shared_bytes=49152,
)  # fmt: skip


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network for this machine."""
    path, here = tmp_path_factory.mktemp("bundles") / "small", find_target("local")
    write_bundle(
        path, program=lowered(MODEL, here), target=here, versions="v", golden_input=X, details={}
    )
    return path


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle to be spoilt."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def runner() -> NativeRunner:
    """The program as people get it."""
    return NativeRunner(command=(str(built()),))


@pytest.fixture(scope="session")
def careful() -> NativeRunner:
    """The program that ends at the first memory error; for everything that is damaged."""
    environment = {"MILLIFIT_RUNTIME": RUNTIME, "ASAN_OPTIONS": "detect_leaks=0"}
    return NativeRunner(command=(str(sanitized() / "millifit-run"),), environment=environment)


def resealed(bundle: Path, **changes: object) -> None:
    """Change a manifest as one who knows its hash would."""
    file = bundle / "manifest.json"
    file.write_text(sealed(unsealed(file.read_bytes()) | changes))


def retargeted(bundle: Path, target: Target) -> None:
    """Say that the files are for another target."""
    manifest = dataclasses.replace(read_manifest(bundle), target=target)
    (bundle / "manifest.json").write_text(manifest_text(manifest))


def test_bundle_runs_and_is_timed(runner: NativeRunner, bundle: Path, tmp_path: Path) -> None:
    """The golden output is given, written, and timed; medians are those of the samples."""
    shown = runner.succeeds(
        bundle, "--repeat", 15, "--warmup", 1, "--json", tmp_path / "r.json", "--output",
        tmp_path / "y.npy",
    )  # fmt: skip
    assert "golden output  given, relative error 0 (at most 0.0001)" in shown
    np.testing.assert_allclose(
        np.load(tmp_path / "y.npy"), answer(MODEL, X)[0], rtol=1e-5, atol=1e-6
    )
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["network"], found["target"], found["threads"]) == ("small", "local", 1)
    assert (found["files"], found["signature"], found["golden_error"]) == ("unchanged", None, 0)
    low_s, high_s = median_interval(found["run_s"])
    assert found["latency_s"] == {
        "median": pytest.approx(np.median(found["run_s"]), rel=1e-6),
        "low": pytest.approx(low_s, rel=1e-6), "high": pytest.approx(high_s, rel=1e-6), "n": 15,
    }  # fmt: skip
    assert 0 < found["start_up_s"] < 60
    assert 2**20 < found["peak_memory_bytes"] < 2**30


def test_given_input_is_run(runner: NativeRunner, bundle: Path, tmp_path: Path) -> None:
    """Another input gives what the bundle gives in Python; --verify checks the golden one, too."""
    np.save(tmp_path / "x.npy", -X)
    for more in ([], ["--verify"]):
        files = ("--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy")
        runner.succeeds(bundle, *files, *more)
        (wanted,) = load_bundle(bundle).run(-X)
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), wanted)


def test_several_outputs_are_written(runner: NativeRunner, tmp_path: Path) -> None:
    """Each output has a file of its own, and each is compared with its golden one."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], "r"),
        helper.make_node("Neg", ["y"], ["z"], "n"),
    ]
    model = onnx_model(nodes, {})
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, X.shape))
    here = find_target("local")
    write_bundle(
        tmp_path / "b", program=lowered(model, here), target=here, versions="v", golden_input=X,
        details={},
    )  # fmt: skip
    runner.succeeds(tmp_path / "b", "--verify", "--output", tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.maximum(X, 0))
    np.testing.assert_array_equal(np.load(tmp_path / "out.1.npy"), -np.maximum(X, 0))


def test_more_threads_give_the_same(runner: NativeRunner, bundle: Path, tmp_path: Path) -> None:
    """The number of threads may be another than the bundle was compiled for."""
    runner.succeeds(bundle, "--threads", 2, "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["threads"] == 2


def test_program_is_small(runner: NativeRunner) -> None:
    """Stripped, it is under 200 kB."""
    assert Path(runner.command[0]).stat().st_size < 200_000


@pytest.mark.parametrize("name", PARTS)
def test_changed_missing_and_unlisted_files_are_found(
    careful: NativeRunner, copy: Path, name: str
) -> None:
    """One changed byte, a missing file and a missing hash are each an error that names the file."""
    file = copy / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert f"was changed after it was written: {name} does not match" in careful.fails(copy)
    file.unlink()
    assert f"is incomplete: {name} (No such file" in careful.fails(copy)
    file.mkdir()
    assert f"is incomplete: {name} (Is a directory" in careful.fails(copy)
    hashes = dict(read_manifest(copy).files)
    file.rmdir()
    file.write_bytes(b"")
    resealed(copy, files={other: hashes[other] for other in hashes if other != name})
    assert f"is incomplete: {name} has no hash" in careful.fails(copy)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_changed_byte_of_the_manifest_is_found(
    careful: NativeRunner, copy: Path, place: float
) -> None:
    """Wherever a byte is changed, the manifest is damaged or changed."""
    file = copy / "manifest.json"
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    said = careful.fails(copy)
    assert "manifest" in said
    assert "is damaged" in said or "was changed" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 1}, "has schema 1, this runner reads 2: compile it again"),
        ({"schema": "2"}, "a value is no whole number"),
        ({"files": {"../secret": ""}}, "a bundle has no file '../secret'"),
        ({"input": {"shape": [1, -4], "dtype": "float32"}}, "a negative extent"),
        ({"input": {"shape": [2**40, 2**40], "dtype": "float32"}}, "a shape is too large"),
        ({"input": {"shape": [2**80], "dtype": "float32"}}, "no whole number"),
        ({"input": {"shape": [1], "dtype": "complex"}}, "element type 'complex' is unknown"),
        ({"weights": 3}, "a value is no list"),
        ({"needs": None}, "'needs' is missing"),
        ({"golden": {"made_by": "bundle", "tolerance": "1"}}, "a value is no number"),
    ],
)  # fmt: skip
def test_senseless_manifest_is_damaged(
    careful: NativeRunner, copy: Path, changes: dict[str, object], said: str
) -> None:
    """A sealed manifest of wrong types, sizes and names is refused before anything is loaded."""
    resealed(copy, **changes)
    assert said in careful.fails(copy)


def test_weights_shorter_than_stated_are_refused(careful: NativeRunner, copy: Path) -> None:
    """A manifest that promises more weights than there are does not read past the end."""
    weights = unsealed((copy / "manifest.json").read_bytes())["weights"]
    resealed(copy, weights=[*weights, {"shape": [1000], "dtype": "float32"}])
    assert "weights.bin' is shorter than its manifest says" in careful.fails(copy)


def test_what_is_no_bundle_says_so(careful: NativeRunner, tmp_path: Path) -> None:
    """A missing folder and an empty one are no bundles."""
    for place in (tmp_path / "missing", tmp_path):
        said = careful.fails(place)
        assert f"'{place}' is no bundle: manifest.json cannot be read (No such file" in said


def test_code_of_another_device_is_refused(careful: NativeRunner, copy: Path) -> None:
    """Another architecture and a missing instruction are named."""
    resealed(copy, needs={"machine": "riscv64", "flags": [], "gpu": None})
    assert "cannot run here: it is for riscv64, this device is" in careful.fails(copy)
    machine = find_target("local").machine
    resealed(copy, needs={"machine": machine, "flags": ["avx9", "fpx"], "gpu": None})
    assert "cannot run here: this processor lacks avx9, fpx." in careful.fails(copy)


def test_library_that_does_not_load_says_why(careful: NativeRunner, copy: Path) -> None:
    """A library that is none, with the right hash, is the runtime's error and no crash."""
    (copy / "library.so").write_bytes(b"\x7fELF and nothing else")
    hashes = dict(read_manifest(copy).files) | {"library.so": sha256_of(copy / "library.so")}
    resealed(copy, files=hashes)
    assert "the TVM runtime says: " in careful.fails(copy)


def test_missing_runtime_is_named_with_the_remedy(
    careful: NativeRunner, bundle: Path, tmp_path: Path
) -> None:
    """Without TVM's libraries, and with a broken one, the error says what to put where."""
    for folder in ("", str(tmp_path)):
        said = careful.fails(bundle, MILLIFIT_RUNTIME=folder)
        assert "the TVM runtime cannot be opened (libtvm_ffi.so: cannot open" in said
        assert "beside millifit-run, or name their folder in MILLIFIT_RUNTIME" in said
    (tmp_path / "libtvm_ffi.so").write_bytes(b"no library")
    said = careful.fails(bundle, MILLIFIT_RUNTIME=str(tmp_path))
    assert "the TVM runtime cannot be opened" in said


def test_gpu_that_is_not_there_is_named(careful: NativeRunner, copy: Path, tmp_path: Path) -> None:
    """Bundles for GPUs say which runtime or device is missing, and what to do."""
    here = find_target("local")
    retargeted(copy, dataclasses.replace(here, name="old", gpu=GPU, precisions=()))
    said = careful.fails(copy)
    assert "runtime for CUDA cannot be opened" in said or "cannot run here: " in said
    phone = dataclasses.replace(GPU, api="opencl", arch="")
    retargeted(copy, dataclasses.replace(here, name="phone", gpu=phone, precisions=()))
    missing = str(tmp_path / "libmillifit_opencl.so")
    said = careful.fails(copy, MILLIFIT_OPENCL_LIBRARY=missing)
    assert "the runtime for OpenCL cannot be opened" in said
    assert "'millifit device build' makes it" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((1, 8, 8, 4), np.float32), "takes an input (1, 4, 8, 8) of float32"),
        (np.zeros((1, 4, 8, 8), np.float64), "has one (1, 4, 8, 8) of float64: convert it"),
        (np.asfortranarray(X), "it is in Fortran order"),
        (np.array(["a"]), "elements of type '<U1' are not read"),
        (b"", "it is no .npy file"),
        (None, "cannot be read (No such file"),
    ],
)  # fmt: skip
def test_unusable_inputs_are_named(
    careful: NativeRunner, bundle: Path, tmp_path: Path, content: np.ndarray | bytes | None,
    said: str,
) -> None:  # fmt: skip
    """Another shape, type or order, a text and a missing file are told apart."""
    file = tmp_path / "x.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content)
    assert said in careful.fails(bundle, "--input", file)


@pytest.mark.parametrize(("change", "allowed"), [(1.00005, True), (1.001, False), (np.nan, False)])
def test_golden_output_must_be_given(
    careful: NativeRunner, copy: Path, change: float, allowed: bool
) -> None:
    """An output within the tolerance of the manifest passes; one outside, or NaN, does not."""
    with np.load(copy / "golden.npz") as golden:
        arrays = dict(golden)
    np.savez(
        copy / "golden.npz", input=arrays["input"], output0=arrays["output0"] * np.float32(change)
    )
    hashes = dict(read_manifest(copy).files) | {"golden.npz": sha256_of(copy / "golden.npz")}
    resealed(copy, files=hashes)
    if allowed:
        assert "golden output  given" in careful.succeeds(copy, "--verify")
    else:
        assert "does not give its golden output on this device" in careful.fails(copy, "--verify")


def test_bundle_without_golden_output_is_run_and_not_verified(
    careful: NativeRunner, copy: Path
) -> None:
    """It can be run, but --verify says that there is nothing to compare with."""
    np.savez(copy / "golden.npz", input=X)
    hashes = dict(read_manifest(copy).files) | {"golden.npz": sha256_of(copy / "golden.npz")}
    resealed(copy, files=hashes)
    assert "golden" not in careful.succeeds(copy)
    assert "has no golden output: compile it again" in careful.fails(copy, "--verify")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "name a bundle"),
        (["b", "--speed"], "there is no option '--speed'"),
        (["b", "--repeat"], "--repeat takes a value"),
        (["b", "--repeat", "-1"], "--repeat takes a number from 0 to 1000000, not '-1'"),
        (["b", "--threads", "many"], "--threads takes a number from 1 to 1024, not 'many'"),
        (["b", "c"], "one bundle at a time, not 'b' and 'c'"),
    ],
)
def test_wrong_use_is_explained(careful: NativeRunner, options: list[str], said: str) -> None:
    """Wrong options end with code 2 and say what is right."""
    assert said in careful.fails(*options, code=2)


def test_help_says_everything(runner: NativeRunner) -> None:
    """--help names every option."""
    shown = runner.succeeds("--help")
    for option in ("input", "output", "repeat", "warmup", "threads", "json", "verify",
                   "public-key", "choose"):  # fmt: skip
        assert f"--{option}" in shown


def test_unwritable_results_are_named(careful: NativeRunner, bundle: Path, tmp_path: Path) -> None:
    """A place that cannot be written is named, and nothing is left beside it."""
    for option in ("--output", "--json"):
        said = careful.fails(bundle, option, tmp_path / "no" / "file")
        assert f"cannot write '{tmp_path / 'no' / 'file'}' (No such file" in said
    assert list(tmp_path.iterdir()) == []


def test_signature_is_checked(careful: NativeRunner, copy: Path, tmp_path: Path) -> None:
    """Only what the owner of the key signed runs; a missing or false signature is told apart."""
    key, public = keys(tmp_path)
    options = (copy, "--verify", "--public-key", public)
    assert "is not signed (No such file" in careful.fails(*options)
    sign(copy, key)
    assert "signature      valid" in careful.succeeds(*options)
    signature = copy / "manifest.json.sig"
    signature.write_bytes(signature.read_bytes()[::-1])
    assert f"was not signed by the owner of '{public}'" in careful.fails(*options)
    sign(copy, key)
    resealed(copy, name="other")
    assert "or was changed since" in careful.fails(*options)
    assert "is no public Ed25519 key" in careful.fails(copy, "--public-key", key)
    assert "cannot be read" in careful.fails(copy, "--public-key", tmp_path / "none.pem")


def test_key_is_refused_where_nothing_can_check_it(
    careful: NativeRunner, copy: Path, tmp_path: Path
) -> None:
    """On a device without OpenSSL a key is an error, not an unchecked run."""
    key, public = keys(tmp_path)
    sign(copy, key)
    for name in ("libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"):
        (tmp_path / name).write_bytes(b"no library")
    said = careful.fails(copy, "--public-key", public, LD_LIBRARY_PATH=str(tmp_path))
    assert "signatures are checked by OpenSSL's libcrypto, which is not on this device" in said


def test_portfolio_runs_the_variant_that_fits(
    careful: NativeRunner, bundle: Path, copy: Path, tmp_path: Path
) -> None:
    """The variant of this machine runs, the others' reasons are given, and --choose names it."""
    here = find_target("local")
    retargeted(copy, dataclasses.replace(here, name="board", triple="riscv64-linux-gnu"))
    whole = tmp_path / "all"
    write_portfolio(whole, {"board": copy, "here": bundle})
    careful.succeeds(whole, "--verify", "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["bundle"], found["target"]) == (f"{whole}/variants/here", "local")
    assert found["refused"] == [f"board: it is for riscv64, this device is {here.machine}"]
    assert careful.succeeds(whole, "--choose") == f"{whole}/variants/here\n"
    (whole / "variants" / "here" / "manifest.json").write_text("{}")
    assert "the manifest of 'here' does not match its sha256" in careful.fails(whole)
    write_portfolio(whole, {"board": copy})
    said = careful.fails(whole)
    assert "no variant of portfolio" in said
    assert "board: it is for riscv64" in said
