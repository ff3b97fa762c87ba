"""Compiling for targets: a bundle for each, or why there is none."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import tiny
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millifit.compress.evaluate import outputs
from millifit.errors import RunFolderError, UnknownTarget, UsageError
from millifit.models import from_module
from millifit.pipeline import compile_model
from millifit.pipeline.reach import DeviceAccess
from millifit.progress import Silent
from millifit.targets.catalog import add_target, find_target
from millifit.targets.importer.onnx_file import read_network, write_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.loaded_bundle import load_bundle
from millifit.targets.manifest import check_files, read_manifest
from millifit.targets.portfolio import read_portfolio
from millifit.targets.signature import check_signature

pytestmark = pytest.mark.usefixtures("arm_linker")


class Notes(Silent):
    """Keeps the lines that would have been shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)


@pytest.fixture
def unknown_processor(_home: None) -> str:
    """A target that looks like one, and for which LLVM generates nothing."""
    rpi4 = find_target("rpi4")
    add_target(dataclasses.replace(rpi4, name="vax", triple="vax-linux-gnu", features=()))
    return "vax"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private key and its public half."""
    folder = tmp_path_factory.mktemp("keys")
    pem = serialization.Encoding.PEM
    key = Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "pub.pem").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return folder / "key.pem", folder / "pub.pem"


def test_compile_replaces_and_names_targets(here: str, model: Path, tmp_path: Path) -> None:
    """A bundle for every target named, each once, in a folder of its name; made again each time."""
    (tmp_path / here).mkdir()
    (tmp_path / here / "old").touch()
    found = compile_model(str(model), targets=["local", here, "local"], out=tmp_path)
    assert [bundle["target"] for bundle in found["bundles"]] == ["local", here]
    assert found["failed"] == []
    assert {path.name for path in tmp_path.iterdir()} == {"local", here}
    assert not (tmp_path / here / "old").exists()
    for bundle in found["bundles"]:
        path = Path(bundle["bundle"])
        manifest = read_manifest(path)
        assert (manifest.target.name, manifest.golden.made_by) == (bundle["target"], "bundle")
        assert bundle["without_rule"] == []
        assert bundle["size_bytes"] < sum(file.stat().st_size for file in path.iterdir())
        assert 0 < bundle["start_up_s"] < 10
        assert bundle["peak_memory_bytes"] > 0
    outputs_of = [load_bundle(tmp_path / name) for name in ("local", here)]
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    first, second = (loaded.run(x)[0] for loaded in outputs_of)
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def test_one_target_that_fails_does_not_stop_the_others(
    unknown_processor: str, model: Path, tmp_path: Path
) -> None:
    """It is among the failed with its reason, has no folder, and the others have whole bundles."""
    notes = Notes()
    names = ["rpi4", unknown_processor, "mi8se-cpu"]
    found = compile_model(str(model), targets=names, out=tmp_path / "new", progress=notes)
    assert [bundle["target"] for bundle in found["bundles"]] == ["rpi4", "mi8se-cpu"]
    (failed,) = found["failed"]
    assert failed["target"] == unknown_processor
    assert "did not compile" in failed["reason"]
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"rpi4", "mi8se-cpu"}
    assert sorted(line.partition(":")[0] for line in notes.lines) == sorted(names)
    x = np.load(tmp_path / "new" / "rpi4" / "golden.npz")["input"]
    wanted = outputs(simplify(read_network(model)), x)
    for bundle in found["bundles"]:
        path = Path(bundle["bundle"])
        manifest = read_manifest(path)
        check_files(path, manifest)
        text = (path / "manifest.json").read_bytes()
        assert bundle["manifest_sha256"] == hashlib.sha256(text).hexdigest()
        assert bundle["planned_memory_bytes"] == manifest.planned_memory_bytes > 0
        assert (bundle["start_up_s"], bundle["peak_memory_bytes"]) == (None, None)
        assert bundle["linker"].startswith("aarch64-linux-gnu-g")
        assert manifest.golden.made_by == "onnxruntime"
        np.testing.assert_array_equal(np.load(path / "golden.npz")["output0"], wanted)


def test_batches_are_for_targets_that_take_them(tmp_path: Path) -> None:
    """CUDA takes several samples at a time, golden outputs of all of them; a processor refuses."""
    module, example = tiny.network()
    many = from_module(module, example.repeat(100, 1, 1, 1), name="many")
    write_network(many, tmp_path / "many.onnx")
    found = compile_model(
        str(tmp_path / "many.onnx"), targets=["t4", "rpi4"], out=tmp_path / "bundles"
    )
    assert [row["target"] for row in found["bundles"]] == ["t4"]
    assert "has batch 100" in found["failed"][0]["reason"]
    with np.load(tmp_path / "bundles" / "t4" / "golden.npz") as golden:
        np.testing.assert_allclose(
            golden["output0"], outputs(many, golden["input"]), rtol=1e-5, atol=1e-6
        )


def test_where_all_fail_nothing_is_left(
    unknown_processor: str, model: Path, tmp_path: Path
) -> None:
    """Not even the folder, where it was not there before."""
    found = compile_model(str(model), targets=[unknown_processor], out=tmp_path / "new")
    assert found["bundles"] == []
    assert list(tmp_path.iterdir()) == []


def test_a_network_in_half_precision(model: Path, tmp_path: Path) -> None:
    """All layers that gain from it; a processor's depthwise layers stay as they are."""
    found = compile_model(str(model), targets=["rpi5"], out=tmp_path, precision="fp16")
    assert (found["precision"], found["failed"]) == ("fp16", [])
    manifest = read_manifest(tmp_path / "rpi5")
    assert manifest.details["precision"] == "fp16"
    assert {weight.dtype for weight in manifest.weights} == {"float16", "float32"}
    assert manifest.golden.tolerance == 2e-2


@pytest.mark.parametrize(
    ("targets", "precision", "words"),
    [
        (["rpi5", "rpi4"], "fp16", "fp16 is not among the precisions of rpi4"),
        (["pixel4-gpu"], "w8", "w8 is not among the precisions of pixel4-gpu"),
        (["rpi5"], "int8", "int8 needs data.*'millifit compress'"),
    ],
)
def test_a_precision_that_cannot_be(
    model: Path, tmp_path: Path, targets: list[str], precision: str, words: str
) -> None:
    """Wrong use before anything is compiled."""
    with pytest.raises(UsageError, match=words):
        compile_model(str(model), targets=targets, out=tmp_path, precision=precision)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("targets", "tune"), [(["rpi4"], None), (["rpi4", "rpi5"], 5.0)])
def test_a_device_is_for_tuning_one_target(
    model: Path, tmp_path: Path, targets: list[str], tune: float | None
) -> None:
    """Nothing else is measured, and a device is of one kind."""
    device = DeviceAccess(address="127.0.0.1:1")
    with pytest.raises(UsageError, match="a device is for tuning one target"):
        compile_model(str(model), targets=targets, out=tmp_path, device=device, tune=tune)


def test_unknown_target_is_refused_before_anything_is_compiled(model: Path, tmp_path: Path) -> None:
    """One name that is no target, and nothing is written for the others either."""
    with pytest.raises(UnknownTarget, match="no target 'rpi44'"):
        compile_model(str(model), targets=["local", "rpi44"], out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(model: Path, tmp_path: Path) -> None:
    """A file in its place; it stays as it was."""
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"cannot write into '.*file'"):
        compile_model(str(model), targets=["local"], out=tmp_path / "file")
    assert (tmp_path / "file").is_file()


def test_missing_cross_compiler_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a linker for another architecture nothing is written, and its package is named."""
    monkeypatch.setattr("platform.machine", lambda: "vax")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    found = compile_model(str(model), targets=["rpi4"], out=tmp_path)
    assert "needs aarch64-linux-gnu-g" in found["failed"][0]["reason"]
    assert list(tmp_path.iterdir()) == []


def test_a_signed_portfolio(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """All bundles in one folder, signed; a portfolio replaces the portfolio that was there."""
    private, public = keys
    out = tmp_path / "new" / "portfolio"
    out.mkdir(parents=True)
    (out / "portfolio.json").touch()
    (out / "old").touch()
    names = ["rpi4", "mi8se-cpu"]
    found = compile_model(str(model), targets=names, out=out, portfolio=True, key=private)
    assert (found["portfolio"], found["signed"]) == (str(out), True)
    assert [b["bundle"] for b in found["bundles"]] == [
        str(out / "variants" / name) for name in names
    ]
    assert {v.name for v in read_portfolio(out).variants} == set(names)
    check_signature(out, public)
    assert {path.name for path in out.iterdir()} == {
        "portfolio.json", "portfolio.json.sig", "variants"
    }  # fmt: skip
    assert list(out.parent.iterdir()) == [out]


def test_signed_bundles(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Every bundle has a signature of its own."""
    private, public = keys
    compile_model(str(model), targets=["rpi4"], out=tmp_path, key=private)
    check_signature(tmp_path / "rpi4", public)


def test_what_would_be_lost_or_not_signed_is_refused_at_once(model: Path, tmp_path: Path) -> None:
    """A portfolio in a folder with other things, and a key that is none; nothing is touched."""
    (tmp_path / "mine").touch()
    with pytest.raises(UsageError, match="exists and is no portfolio"):
        compile_model(str(model), targets=["rpi4"], out=tmp_path, portfolio=True)
    with pytest.raises(UsageError, match="is no private key"):
        compile_model(str(model), targets=["rpi4"], out=tmp_path / "b", key=tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
