"""Portfolios: several bundles of one network, of which a device gets the one that fits."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx_models import onnx_model, random
from programs import lowered

from millifit.errors import BundleError, RunFolderError, UsageError
from millifit.targets.bundle import write_bundle
from millifit.targets.catalog import find_target
from millifit.targets.device_facts import DeviceFacts, GpuFacts
from millifit.targets.loaded_bundle import choose_here, load_bundle
from millifit.targets.manifest import manifest_text, read_manifest
from millifit.targets.portfolio import (
    Latency,
    Portfolio,
    Variant,
    choose,
    is_portfolio,
    read_portfolio,
    variant_folder,
    write_portfolio,
)
from millifit.targets.seal import sealed, unsealed
from millifit.targets.target import Gpu, Target

MODEL = onnx_model([helper.make_node("Relu", ["x"], ["y"], "r")], {}, shape=(1, 4, 8, 8))
X = random(1, 1, 4, 8, 8)
ADRENO = Gpu(
    api="opencl", name="Adreno 640", compute_units=2, subgroup=64, max_threads=256,
    shared_bytes=32768, features=("fp16",),
)  # fmt: skip


def retargeted(bundle: Path, out: Path, target: Target) -> Path:
    """The same files, said to be for another target."""
    shutil.copytree(bundle, out)
    manifest = dataclasses.replace(read_manifest(out), target=target)
    (out / "manifest.json").write_text(manifest_text(manifest))
    return out


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of this machine, of a board, and of a phone's GPU."""
    folder = tmp_path_factory.mktemp("variants")
    here = find_target("local")
    write_bundle(
        folder / "here", program=lowered(MODEL, here), target=here, versions="v", golden_input=X,
        details={},
    )  # fmt: skip
    board = dataclasses.replace(here, name="board", triple="riscv64-linux-gnu")
    phone = dataclasses.replace(here, name="phone", gpu=ADRENO, precisions=())
    return {
        "here": folder / "here",
        "board": retargeted(folder / "here", folder / "board", board),
        "phone-gpu": retargeted(folder / "here", folder / "phone", phone),
    }


@pytest.fixture
def written(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A portfolio that may be spoilt."""
    write_portfolio(tmp_path / "all", bundles)
    return tmp_path / "all"


def listed(*targets: Target, latencies: tuple[float | None, ...] = ()) -> Portfolio:
    """A portfolio of targets, without its bundles."""
    known = [
        s if s is None else Latency(median_s=s, low_s=s, high_s=s, kind="measured")
        for s in latencies or (None,) * len(targets)
    ]
    return Portfolio(
        network="n",
        variants=tuple(
            Variant(name=each.name, target=each, manifest_sha256="", latency=latency)
            for each, latency in zip(targets, known, strict=True)
        ),
    )


def facts(*flags: str, gpus: tuple[GpuFacts, ...] = ()) -> DeviceFacts:
    """A device of 64-bit Arm."""
    return DeviceFacts(
        machine="aarch64", cpu="c", cores=4, memory_bytes=1, flags=frozenset(flags), gpus=gpus
    )


def test_portfolio_is_written_read_and_loaded(written: Path, bundles: dict[str, Path]) -> None:
    """It holds all bundles, GPUs preferred, and runs the one for this machine."""
    assert is_portfolio(written)
    assert not is_portfolio(bundles["here"])
    portfolio = read_portfolio(written)
    assert portfolio.network == read_manifest(bundles["here"]).name
    assert [variant.name for variant in portfolio.variants] == ["phone-gpu", "here", "board"]
    loaded = load_bundle(written)
    assert loaded.manifest.target.name == "local"
    np.testing.assert_array_equal(loaded.run(X)[0], np.maximum(X, 0))


def test_reasons_of_the_others_are_given(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice says why each other variant does not run here."""
    monkeypatch.setattr("millifit.targets.loaded_bundle.reachable_gpus", lambda: ())
    choice = choose_here(written)
    assert choice.variant.name == "here"
    assert set(choice.refused) == {"phone-gpu", "board"}
    assert choice.refused["phone-gpu"] == "no opencl device is reachable here"
    assert choice.refused["board"].startswith("it is for riscv64, this device is ")


def test_none_that_fits_gives_every_reason() -> None:
    """A device that no variant is for is told why, variant by variant, and the remedy."""
    portfolio = listed(find_target("rpi5"), find_target("x86-avx2"))
    with pytest.raises(
        BundleError, match=r"(?s)rpi5: this processor lacks .*x86.*it is for x86_64"
    ):
        choose(portfolio, facts("asimd"))


def test_better_instructions_are_preferred(tmp_path: Path, bundles: dict[str, Path]) -> None:
    """Written in any order, the variant that asks more of a processor comes first."""
    made = {
        name: retargeted(bundles["here"], tmp_path / name, find_target(name))
        for name in ("rpi4", "x86-avx2", "rpi5")
    }
    portfolio = write_portfolio(tmp_path / "all", made)
    assert [variant.name for variant in portfolio.variants] == ["x86-avx2", "rpi5", "rpi4"]
    assert choose(portfolio, facts("asimd")).variant.name == "rpi4"
    able = facts("asimd", "asimddp", "asimdhp", "fphp")
    assert choose(portfolio, able).variant.name == "rpi5"


def test_known_latencies_decide_where_all_are_known() -> None:
    """The fastest wins where every fitting variant was measured or predicted, else the first."""
    targets = (find_target("rpi5"), find_target("rpi4"))
    able = facts("asimd", "asimddp", "asimdhp", "fphp")
    assert choose(listed(*targets, latencies=(2e-3, 1e-3)), able).variant.name == "rpi4"
    assert choose(listed(*targets, latencies=(1e-3, 1e-3)), able).variant.name == "rpi5"
    assert choose(listed(*targets, latencies=(None, 1e-3)), able).variant.name == "rpi5"


def test_gpu_of_the_same_family_is_preferred() -> None:
    """On a Mali a variant for Mali goes before one for Adreno, and a processor's before it, too."""
    base = find_target("rpi4")
    adreno = dataclasses.replace(base, name="adreno", gpu=ADRENO, precisions=())
    mali = dataclasses.replace(
        adreno, name="mali", gpu=dataclasses.replace(ADRENO, name="Mali-G78")
    )
    device = facts("asimd", gpus=(GpuFacts(api="opencl", name="Mali-G715", features=("fp16",)),))
    assert choose(listed(adreno, mali), device).variant.name == "mali"
    assert choose(listed(adreno, base), device).variant.name == "rpi4"
    assert choose(listed(adreno), device).variant.name == "adreno"


def test_latencies_are_kept_with_their_kind(bundles: dict[str, Path], tmp_path: Path) -> None:
    """A latency that is known is in the list, labelled."""
    latency = Latency(median_s=1e-3, low_s=9e-4, high_s=2e-3, kind="predicted")
    write_portfolio(tmp_path / "all", {"here": bundles["here"]}, latencies={"here": latency})
    assert read_portfolio(tmp_path / "all").variants[0].latency == latency


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".hidden", "a b"])
def test_names_are_those_of_folders(bundles: dict[str, Path], tmp_path: Path, name: str) -> None:
    """A variant cannot be written elsewhere, and a list that points there is not followed."""
    with pytest.raises(UsageError, match="no name of a variant"):
        write_portfolio(tmp_path / "all", {name: bundles["here"]})
    assert list(tmp_path.iterdir()) == []
    write_portfolio(tmp_path / "all", {"here": bundles["here"]})
    file = tmp_path / "all" / "portfolio.json"
    plain = unsealed(file.read_bytes())
    plain["variants"][0]["name"] = name
    file.write_text(sealed(plain))
    with pytest.raises(BundleError, match=r"damaged .* no name of a variant"):
        load_bundle(tmp_path / "all")


def test_bundles_of_two_networks_are_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    """A portfolio is of one network."""
    other = Path(shutil.copytree(bundles["here"], tmp_path / "other"))
    manifest = dataclasses.replace(read_manifest(other), name="another")
    (other / "manifest.json").write_text(manifest_text(manifest))
    with pytest.raises(UsageError, match="holds one network, not another, "):
        write_portfolio(tmp_path / "all", {"a": bundles["here"], "b": other})
    with pytest.raises(UsageError, match="holds one network, not none"):
        write_portfolio(tmp_path / "all", {})


def test_changed_list_and_changed_manifest_are_found(written: Path) -> None:
    """One byte of the list, or a variant that was exchanged for another good one, is found."""
    manifest = written / "variants" / "here" / "manifest.json"
    changed = dataclasses.replace(read_manifest(manifest.parent), versions="other")
    manifest.write_text(manifest_text(changed))
    with pytest.raises(BundleError, match="manifest of 'here' does not match its sha256"):
        load_bundle(written)
    manifest.unlink()
    with pytest.raises(BundleError, match="incomplete: the manifest of 'here'"):
        variant_folder(written, choose_here(written).variant)
    file = written / "portfolio.json"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"portfolio .* (changed|damaged)"):
        read_portfolio(written)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": ', "[" * 100000])
def test_damaged_list_says_so(written: Path, text: str) -> None:
    """A list that is cut short or something else is damaged; a newer one is not guessed at."""
    (written / "portfolio.json").write_text(text)
    with pytest.raises(BundleError, match=r"list of portfolio .* is damaged"):
        read_portfolio(written)
    (written / "portfolio.json").write_text('{"schema": 2}')
    with pytest.raises(BundleError, match="has schema 2, this millifit reads 1"):
        read_portfolio(written)


def test_portfolio_is_replaced_and_unwritable_places_named(
    written: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    """A new portfolio takes the old one's place; a place that cannot be written is named."""
    write_portfolio(written, {"here": bundles["here"]})
    assert [path.name for path in (written / "variants").iterdir()] == ["here"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunFolderError, match=r"cannot write the portfolio '.*file/p'"):
        write_portfolio(tmp_path / "file" / "p", {"here": bundles["here"]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "file"]
