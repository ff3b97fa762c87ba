"""Devices elsewhere in a run: which target, which timer, and what is said where one is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
from roofline import RooflineTimer

from millifit.compress.evaluate import outputs
from millifit.errors import BundleError, TargetError
from millifit.pipeline import compile_model, fit, profile, verify
from millifit.pipeline.reach import DeviceAccess, reachable_target
from millifit.profiler.store import Store
from millifit.recipe import Recipe
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.credentials import Credentials
from millifit.targets.runner.network_timing import (
    Contender,
    ContenderResult,
    NetworkTimingPolicy,
)
from millifit.targets.target import Target

TOKEN = "a-token-of-a-board-on-paper"


class PaperBoard(RooflineTimer):
    """Stands for RemoteRunner: a board on paper that runs bundles alone, and may be lost."""

    contenders = frozenset({"bundle"})

    def __init__(
        self,
        address: DeviceAddress,
        target: Target,
        *,
        credentials: Credentials,
        lost_after_networks: int | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        assert credentials.token == TOKEN
        assert target.reach == "remote"
        self.address = address
        self._lost_after = lost_after_networks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_how: object) -> None:
        pass

    def facts(self) -> None:
        if self.address.port == 1:
            raise TargetError(f"no device answers at {self.address}.")

    def environment(self) -> dict[str, str]:
        return {"cpu": "paper board", "machine": "aarch64"}

    def time_networks(
        self,
        contenders: Mapping[str, Contender],
        *,
        policy: NetworkTimingPolicy,
        on_round: Callable[[int], None],
    ) -> Mapping[str, ContenderResult]:
        assert {each.kind for each in contenders.values()} == {"bundle"}
        if self._lost_after is not None and self.networks >= self._lost_after:
            raise TargetError("the board was lost.")
        return super().time_networks(contenders, policy=policy, on_round=on_round)


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[PaperBoard]:
    """The boards that were connected to."""
    made: list[PaperBoard] = []

    def connect(*arguments: Any, **options: Any) -> PaperBoard:
        made.append(PaperBoard(*arguments, **options))
        return made[-1]

    monkeypatch.setattr("millifit.pipeline.reach.RemoteRunner", connect)
    monkeypatch.setenv("MILLIFIT_DEVICE_TOKEN", TOKEN)
    return made


def test_a_target_is_here_or_at_an_address() -> None:
    """Only the one it is reached by tells a target from that of the catalog."""
    there = DeviceAccess(address="pi.local:9391")
    assert reachable_target("local", None, threads=1).reach == "local"
    found = reachable_target("rpi4", there, threads=2)
    assert (found.reach, found.threads, found.name) == ("remote", 2, "rpi4")
    with pytest.raises(TargetError, match=r"'rpi4' cannot be reached .* --device HOST:PORT"):
        reachable_target("rpi4", None, threads=1)


def test_an_address_that_is_none_is_refused_in_a_recipe() -> None:
    """The message shows the form."""
    with pytest.raises(ValueError, match=r"'pi.local' is no address .* HOST:PORT"):
        Recipe(demo=True, device="pi.local")


def test_a_fit_measures_on_the_device(
    make_recipe: Callable[..., Recipe], tmp_path: Path, boards: list[PaperBoard], here: str
) -> None:
    """Kernels, networks and outputs are the board's; ONNX Runtime is missing, with a reason."""
    recipe = make_recipe(tmp_path, target=here, device="paper:9391/rpi4")
    result = fit(recipe)
    assert result["met"]
    (board,) = boards
    assert str(board.address) == "paper:9391/rpi4"
    assert board.kernels
    assert result["device"] == {
        "cpu": "paper board", "machine": "aarch64", "gpu": None, "reach": "remote",
        "emulated": False,
    }  # fmt: skip
    assert result["environment"] == {"cpu": "paper board", "machine": "aarch64"}
    assert result["reference"] == {
        "onnxruntime_fp32_s": None, "onnxruntime_int8_s": None, "intervals": {},
        "missing": "only bundles run on the device",
    }  # fmt: skip
    assert "ONNX Runtime was not timed" in (tmp_path / "run" / "report.html").read_text()
    identity = json.loads((tmp_path / "run" / "identity.json").read_text())
    assert "device" not in identity


def test_a_fit_goes_on_at_another_address(
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
    boards: list[PaperBoard],
    monkeypatch: pytest.MonkeyPatch,
    here: str,
) -> None:
    """A board that is lost ends the run with what to do; another one finishes it."""
    connect = PaperBoard
    monkeypatch.setattr(
        "millifit.pipeline.reach.RemoteRunner",
        lambda *given, **options: connect(*given, lost_after_networks=1, **options),
    )
    with pytest.raises(TargetError, match=r"lost\. What was found is kept in .* --device of anoth"):
        fit(make_recipe(tmp_path, target=here, device="paper:9391"))
    kept = json.loads((tmp_path / "run" / "baseline.json").read_text())
    monkeypatch.setattr(
        "millifit.pipeline.reach.RemoteRunner",
        lambda *given, **options: boards.append(connect(*given, **options)) or boards[-1],
    )
    result = fit(make_recipe(tmp_path, target=here, device="spare:9391"))
    assert result["met"]
    assert json.loads((tmp_path / "run" / "baseline.json").read_text()) == kept
    assert len(boards[0].kernels) < len(result["kernels"]["baseline"])


def test_a_device_that_does_not_answer_is_said_first(
    make_recipe: Callable[..., Recipe], tmp_path: Path, boards: list[PaperBoard]
) -> None:
    """Before anything is loaded or trained."""
    with pytest.raises(TargetError, match="no device answers at paper:1"):
        fit(make_recipe(tmp_path, device="paper:1"))
    assert not (tmp_path / "run" / "baseline.onnx").exists()


def test_a_profile_keeps_the_environment_of_the_device(
    model: Path, tmp_path: Path, boards: list[PaperBoard], here: str
) -> None:
    """What was measured elsewhere says so."""
    found = profile(
        str(model), target=here, device=DeviceAccess(address="paper:9391"),
        store=str(tmp_path / "s.sqlite"), seconds=3600, until=0.5,
    )  # fmt: skip
    assert found["device"]["cpu"] == "paper board"
    stored = Store(tmp_path / "s.sqlite").measurements(find_target(here).key)
    assert {m.environment["cpu"] for m in stored} == {"paper board"}


@pytest.mark.usefixtures("arm_linker")
def test_a_bundle_is_verified_where_it_runs(
    model: Path,
    data: Path,
    tmp_path: Path,
    boards: list[PaperBoard],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """ONNX Runtime's output is the golden one of another machine's bundle, with its tolerance."""
    compile_model(str(model), targets=["rpi4"], out=tmp_path)
    bundle, there = tmp_path / "rpi4", DeviceAccess(address="paper:9391")
    network = simplify(read_network(model))
    answers = partial(outputs, network)
    monkeypatch.setattr(PaperBoard, "outputs", lambda _, _path, x, on_sample: answers(x))
    found = verify(bundle, device=there, data=str(data), model=str(model))
    assert found["golden"] == {"made_by": "onnxruntime", "tolerance": 1e-4}
    assert found["golden_error"] <= 1e-6
    assert found["agreement"]["top1_equal"] == 1
    assert found["device"]["reach"] == "remote"
    monkeypatch.setattr(PaperBoard, "outputs", lambda _, _path, x, on_sample: 1.01 * answers(x))
    with pytest.raises(BundleError, match="does not give its golden output on its device"):
        verify(bundle, device=there)
    with pytest.raises(BundleError, match=r"cannot run here: .*--device HOST:PORT"):
        verify(bundle)
