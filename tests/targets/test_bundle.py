"""Bundles: written whole or not at all, checked before they run, and running alone."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx_models import answer, onnx_model, random
from programs import lowered

from millifit.errors import BundleError, CompileError, RunFolderError
from millifit.targets import bundle as bundle_module
from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.device_facts import probe, why_not
from millifit.targets.loaded_bundle import LoadedBundle, load_bundle
from millifit.targets.manifest import Golden, check_files, read_manifest
from millifit.targets.program import Program
from millifit.targets.runner.first_run import measure_first_run
from millifit.targets.seal import sealed, unsealed
from millifit.targets.target import Target

FILES = {"golden.npz", "library.so", "manifest.json", "weights.bin"}
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


@pytest.fixture(scope="session")
def target() -> Target:
    return find_target("local")


@pytest.fixture(scope="session")
def program(target: Target) -> Program:
    return lowered(MODEL, target)


@pytest.fixture(scope="session")
def written(program: Program, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle, for all that only read it."""
    path = tmp_path_factory.mktemp("bundles") / "small"
    write(path, program, target)
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    """A bundle to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


def write(path: Path, program: Program, target: Target, *, note: str = "") -> None:
    write_bundle(
        path, program=program, target=target, versions="v1", golden_input=X,
        details={"note": note, "plan": {"c": "fp32"}},
    )  # fmt: skip


def edited(path: Path, **changes: object) -> None:
    """Change keys of a manifest, as a newer version or a tool that knows its hash would."""
    file = path / "manifest.json"
    plain = unsealed(file.read_bytes()) | changes
    file.write_text(sealed(plain))


def test_bundle_is_written_loaded_and_run(written: Path, target: Target) -> None:
    """A bundle computes what ONNX does, gives its golden output, and says what it is."""
    assert {file.name for file in written.iterdir()} == FILES
    loaded = load_bundle(written)
    (made,) = loaded.run(X)
    np.testing.assert_allclose(made, answer(MODEL, X)[0], rtol=1e-5, atol=1e-6)
    with np.load(written / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["input"], X)
        np.testing.assert_array_equal(golden["output0"], made)
    manifest = read_manifest(written)
    assert (manifest.name, manifest.target, manifest.versions) == ("small", target, "v1")
    assert (manifest.input.shape, manifest.outputs[0].shape) == ((1, 4, 8, 8), (1, 8))
    assert manifest.details == {"note": "", "plan": {"c": "fp32"}}
    check_files(written, manifest)


def test_invoke_runs_on_the_input_set_last(written: Path) -> None:
    """What is timed, a bound call, gives what `run` gives."""
    loaded = load_bundle(written)
    for x in (X, -X):
        loaded.set_input(x)
        np.testing.assert_array_equal(loaded.invoke().numpy(), loaded.run(x)[0])


def test_wrong_input_shape_is_refused(written: Path) -> None:
    """An input of another shape is a BundleError with both shapes, however it is given."""
    loaded = load_bundle(written)
    for call in (loaded.run, loaded.set_input):
        with pytest.raises(BundleError, match=r"shape \(1, 4, 8, 8\), got \(1, 8, 8, 4\)"):
            call(np.zeros((1, 8, 8, 4), np.float32))


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_changed_byte_is_found(copy: Path, name: str, place: float) -> None:
    """One changed byte in any file, wherever, is a BundleError; the files' own names it."""
    file = copy / name
    content = bytearray(file.read_bytes())
    at = int(place * len(content))
    content[at] ^= 0x01
    file.write_bytes(content)
    with pytest.raises(BundleError, match="manifest" if name == "manifest.json" else name):
        load_bundle(copy)


@pytest.mark.parametrize("name", sorted(FILES))
def test_missing_or_cut_file_is_found(copy: Path, name: str) -> None:
    """A file that is shorter than it was, or missing, is a BundleError that names it."""
    said = "manifest" if name == "manifest.json" else name
    file = copy / name
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(BundleError, match=said):
        load_bundle(copy)
    file.unlink()
    with pytest.raises(BundleError, match=said):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["shape", "dtype"])
def test_every_byte_of_the_manifest_counts(written: Path, copy: Path, name: str) -> None:
    """A plausible change, such as of a number, is found as well as one that breaks the syntax."""
    file = copy / "manifest.json"
    plain = json.loads(file.read_text())
    plain["input"][name] = {"shape": [1, 4, 8, 9], "dtype": "float64"}[name]
    file.write_text(json.dumps(plain, indent=1) + "\n")
    with pytest.raises(BundleError, match=r"changed .* manifest\.json"):
        read_manifest(copy)
    assert read_manifest(written).input.dtype == "float32"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": ', "\x00\x01"])
def test_damaged_manifest_says_so(copy: Path, text: str) -> None:
    """A manifest that is empty, cut short, or something else is damaged, and the remedy named."""
    (copy / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest .* is damaged .* compile the bundle again"):
        read_manifest(copy)


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    """A missing folder, an empty one and a file are no bundles."""
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty", "file"):
        with pytest.raises(BundleError, match=rf"{name}' is no bundle: manifest\.json cannot"):
            load_bundle(tmp_path / name)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "extra.bin"])
def test_file_outside_the_folder_is_refused(copy: Path, name: str) -> None:
    """A manifest that names a file which no bundle has, such as one elsewhere, is not followed."""
    edited(copy, files=dict(read_manifest(copy).files) | {name: "0" * 64})
    with pytest.raises(BundleError, match=f"damaged .a bundle has no file '{name}'"):
        load_bundle(copy)


def test_newer_schema_says_so(copy: Path) -> None:
    """A bundle of a newer millifit is not guessed at."""
    edited(copy, schema=3)
    with pytest.raises(BundleError, match="has schema 3, this millifit reads 2: compile it again"):
        read_manifest(copy)


def test_weights_shorter_than_stated_are_refused(copy: Path) -> None:
    """A manifest that promises more weights than there are does not read past the end."""
    manifest = read_manifest(copy)
    more = dataclasses.replace(manifest, weights=(*manifest.weights, manifest.input))
    with pytest.raises(BundleError, match=r"weights\.bin' is shorter than its manifest says"):
        LoadedBundle(more, copy)


def test_bundle_of_another_device_is_refused(copy: Path) -> None:
    """A bundle for another architecture does not load, and says how to get one that does."""
    edited(copy, target=dataclasses.asdict(find_target("rpi4")) | {"triple": "riscv64-linux-gnu"})
    with pytest.raises(BundleError, match=r"'rpi4' and cannot run here: it is for riscv64.*local"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("bits", "dot", "flags", "reason"),
    [
        (128, "none", "fpu sse2", None),
        (256, "none", "fpu avx2 fma", None),
        (256, "none", "fpu avx2", "this processor lacks fma"),
        (256, "avx_vnni", "avx2 fma", "this processor lacks avx_vnni"),
        (512, "none", "avx2 fma avx512f avx512bw avx512vl", None),
        (512, "avx512_vnni", "avx512f avx512bw avx512vl", "this processor lacks avx512_vnni"),
        (512, "avx512_vnni", "avx2 fma", "lacks avx512_vnni, avx512bw, avx512f, avx512vl"),
    ],
)  # fmt: skip
def test_missing_instructions_are_named(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    bits: int, dot: str, flags: str, reason: str | None,
) -> None:  # fmt: skip
    """What the code needs and the processor's flags lack is named; nothing is run to find out."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    wanted = dataclasses.replace(
        target, triple="x86_64-linux-gnu", features=(), vector_bits=bits, dot_product=dot
    )
    found = why_not(wanted, probe(cpuinfo=tmp_path / "cpuinfo"))
    assert found is None if reason is None else reason in str(found)
    assert why_not(wanted, probe(cpuinfo=tmp_path / "missing")) is None  # nothing to compare with


def test_missing_arm_instructions_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle with dot products and fp16 runs on a Cortex-A76 and not on a Cortex-A72."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    place = tmp_path / "cpuinfo"
    place.write_text("Features : fp asimd fphp asimdhp asimddp\n")
    assert why_not(find_target("rpi5"), probe(cpuinfo=place)) is None
    assert why_not(find_target("graviton3"), probe(cpuinfo=place)) == "this processor lacks i8mm"
    place.write_text("Features : fp asimd\n")
    assert why_not(find_target("rpi4"), probe(cpuinfo=place)) is None
    found = why_not(find_target("rpi5"), probe(cpuinfo=place))
    assert found == "this processor lacks asimddp, asimdhp, fphp"


def test_existing_bundle_is_replaced(copy: Path, program: Program, target: Target) -> None:
    """A new bundle takes the place of the old one, and nothing else is left beside it."""
    (copy / "extra").write_text("of the old one")
    write(copy, program, target, note="second")
    assert read_manifest(copy).details["note"] == "second"
    assert {file.name for file in copy.iterdir()} == FILES
    assert [file.name for file in copy.parent.iterdir()] == ["copy"]
    load_bundle(copy)


def test_failure_leaves_the_old_bundle(
    copy: Path, program: Program, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails while a bundle is written, the one that was there stays whole, alone."""

    def fails(*_arguments: object) -> None:
        raise CompileError("the linker is gone")

    monkeypatch.setattr("millifit.targets.build.export_library", fails)
    with pytest.raises(CompileError):
        write(copy, program, target, note="second")
    assert read_manifest(copy).details["note"] == ""
    assert [file.name for file in copy.parent.iterdir()] == ["copy"]
    load_bundle(copy)


def test_unwritable_folder_is_named(program: Program, target: Target, tmp_path: Path) -> None:
    """A place below a file is a RunFolderError that names it, and nothing is left behind."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match=r"cannot write the bundle '.*file/b'.*another folder"):
        write(tmp_path / "file" / "b", program, target)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_full_disk_leaves_nothing_behind(
    program: Program, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while a bundle is written is a RunFolderError; no half bundle stays."""
    real = bundle_module._write_weights

    def fill(path: Path, weights: tuple[np.ndarray, ...]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        real(path, weights)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(bundle_module, "_write_weights", fill)
    try:
        with pytest.raises(RunFolderError, match=r"cannot write the bundle .* Free space"):
            write(tmp_path / "b", program, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_bundle_for_another_machine_has_no_golden_output(
    program: Program, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the code cannot run its output is left out, and everything else is there."""
    monkeypatch.setattr(bundle_module, "runs_here", lambda _target: "another machine")
    write(tmp_path / "b", program, target)
    with np.load(tmp_path / "b" / "golden.npz") as golden:
        assert golden.files == ["input"]
    check_files(tmp_path / "b", read_manifest(tmp_path / "b"))


def test_bundle_for_another_machine_has_the_oracles_output(
    program: Program, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the code cannot run, ONNX Runtime's output is golden, and its tolerance recorded."""
    monkeypatch.setattr(bundle_module, "runs_here", lambda _target: "another machine")
    write_bundle(
        tmp_path / "b", program=program, target=target, versions="v1", golden_input=X,
        golden_output=answer(MODEL, X), details={}, measure=True,
    )  # fmt: skip
    manifest = read_manifest(tmp_path / "b")
    assert manifest.golden == Golden(made_by="onnxruntime", tolerance=1e-4)
    assert (manifest.peak_memory_bytes, manifest.start_up_s) == (None, None)
    with np.load(tmp_path / "b" / "golden.npz") as golden:
        np.testing.assert_array_equal(golden["output0"], answer(MODEL, X)[0])


def test_memory_is_planned_and_measured(program: Program, target: Target, tmp_path: Path) -> None:
    """The plan counts input, output, weights and what lies between; the first run was measured."""
    write_bundle(
        tmp_path / "b", program=program, target=target, versions="v1", golden_input=X, details={},
        measure=True,
    )  # fmt: skip
    manifest = read_manifest(tmp_path / "b")
    weights = sum(kind.bytes for kind in manifest.weights)
    between = manifest.planned_memory_bytes - weights - X.nbytes - 8 * 4
    assert 8 * 8 * 8 * 4 <= between <= 3 * 8 * 8 * 8 * 4
    assert manifest.golden == Golden(made_by="bundle", tolerance=1e-4)
    assert manifest.start_up_s is not None
    assert 0 < manifest.start_up_s < 60
    assert manifest.peak_memory_bytes is not None
    assert 0 < manifest.peak_memory_bytes < 2**30


def test_first_run_that_fails_says_why(copy: Path) -> None:
    """What the child process said last is the error."""
    (copy / "library.so").write_bytes(b"")
    with pytest.raises(BundleError, match=r"failed in its first run: .*BundleError.*library\.so"):
        measure_first_run(copy)


def test_bundle_needs_the_tvm_runtime_alone(written: Path) -> None:
    """In a process where torch, onnx and the compiler cannot be loaded it gives its golden output.

    TVM_USE_RUNTIME_LIB makes TVM load its runtime library only, as on a device without the rest.
    """
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'sklearn', 'scipy', 'pandas', 'pydantic'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from millifit.targets.loaded_bundle import load_bundle\n"
        "path = Path(sys.argv[1])\n"
        "golden = np.load(path / 'golden.npz')\n"
        "(made,) = load_bundle(path).run(golden['input'])\n"
        "maps = Path('/proc/self/maps').read_text()\n"
        "print(np.array_equal(made, golden['output0']), 'libtvm_runtime' in maps,\n"
        "      'libtvm.so' in maps or 'libtvm_compiler' in maps)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(written)], capture_output=True, text=True, check=False,
        env=os.environ | {"TVM_USE_RUNTIME_LIB": "1"},
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


def test_weights_are_aligned(written: Path) -> None:
    """Every operand starts at a multiple of 64 bytes, so that vector loads are aligned."""
    manifest = read_manifest(written)
    whole = sum(kind.bytes + (-kind.bytes % 64) for kind in manifest.weights)
    assert (written / "weights.bin").stat().st_size == whole
