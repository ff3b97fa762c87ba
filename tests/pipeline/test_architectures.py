"""Architectures learnt from a store, kept in a file, and predicted by their codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from millifit.errors import DataError, MeasurementError, UsageError
from millifit.latency_models.architectures.cells import OPERATORS
from millifit.latency_models.archive import State, read_state, write_state
from millifit.pipeline import learn_architectures, predict_architectures
from millifit.pipeline.architectures import encoder
from millifit.pipeline.measured_architectures import measured, place_of, places
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.packs.sheet import UNSTATED, UNSTATED_NETWORK
from millifit.profiler.store import Store
from millifit.search.space import code_of, random_candidate
from millifit.search.spaces import find_space
from millifit.targets.catalog import find_target
from millifit.targets.runner.environment import code_versions
from millifit.targets.timing import Failed, Samples

CELL = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|"
COSTS_S = {  # of each operator, in order of OPERATORS: relatives are alike, but for their speed
    "alpha/batch1": (0.0, 0.10e-3, 0.4e-3, 0.9e-3, 0.30e-3),
    "alpha/batch32": (0.0, 0.15e-3, 0.6e-3, 1.3e-3, 0.50e-3),
    "beta": (0.0, 0.12e-3, 0.5e-3, 1.0e-3, 0.35e-3),
    "new": (0.0, 0.22e-3, 0.9e-3, 1.9e-3, 0.64e-3),
}
MEASURED = {"alpha/batch1": 60, "alpha/batch32": 60, "beta": 60, "new": 10}


def cells(n: int, *, seed: int) -> list[str]:
    space = list(product(OPERATORS, repeat=6))
    rows = np.random.default_rng(seed).permutation(len(space))[:n]
    return [CELL.format(*space[row]) for row in rows]


def seconds_of(device: str, cell: str) -> float:
    """What a cell takes without noise."""
    costs = dict(zip(OPERATORS, COSTS_S[device], strict=True))
    operators = [part.split("~")[0] for part in cell.split("|") if "~" in part]
    return 1e-3 + sum(costs[operator] for operator in operators)


def network(
    target: str,
    code: str,
    seconds: float | None,
    *,
    space: str = "nasbench201",
    versions: str = "not stated",
) -> NetworkMeasurement:
    return NetworkMeasurement(
        name=code,
        space=space,
        architecture=code,
        calls=(),
        kernel_policy=UNSTATED,
        target_key=target,
        versions=versions,
        policy=UNSTATED_NETWORK,
        environment={},
        outcome=Failed(reason="lost") if seconds is None else Samples(run_s=(seconds,)),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three settings of two devices that are well known, and a new one with ten networks."""
    path = tmp_path_factory.mktemp("store") / "s.sqlite"
    kept = Store(path)
    rng = np.random.default_rng(0)
    for number, (device, n) in enumerate(MEASURED.items()):
        kept.add_networks(
            *(
                network(device, cell, seconds_of(device, cell) * float(np.exp(rng.normal(0, 0.01))))
                for cell in cells(n, seed=number)
            )
        )
    return str(path)


@pytest.fixture(scope="module")
def own(store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What was said of beta's own model, and its file."""
    out = str(tmp_path_factory.mktemp("own") / "beta.npz")
    found = learn_architectures(out=out, space="nasbench201", target="beta", store=store)
    return found, out


def errors(device: str, codes: Sequence[str], found: dict[str, Any]) -> np.ndarray:
    truth = np.array([seconds_of(device, code) for code in codes])
    predicted = np.array([each["latency_s"]["median"] for each in found["architectures"]])
    return np.abs(predicted / truth - 1)


def test_a_target_s_own_model_predicts_unseen_cells(own: tuple[dict[str, Any], str]) -> None:
    """Said to be good on what was held out, and it is."""
    found, out = own
    assert (found["model"], found["networks_measured"]) == ("additive", 60)
    assert found["held_out"]["networks"] == 60
    assert found["held_out"]["within_10"] > 0.9
    assert found["held_out"]["spearman"] > 0.95
    unseen = cells(50, seed=9)
    made = predict_architectures(unseen, latency_model=out)
    assert np.median(errors("beta", unseen, made)) < 0.03
    assert {each["origin"] for each in made["architectures"]} == {"predicted"}
    assert (made["space"], made["target"]) == ("nasbench201", "beta")


def test_ten_networks_are_enough_with_relatives(store: str, tmp_path: Path) -> None:
    """A device in the list stands for all its settings, which are one device."""
    found = learn_architectures(
        out=str(tmp_path / "new.npz"),
        space="nasbench201",
        target="new",
        sources=["alpha", "beta"],
        store=store,
    )
    assert found["from"] == ["alpha/batch1", "alpha/batch32", "beta"]
    assert set(found["likeness"]) == {"alpha", "beta"}
    assert found["held_out"]["networks"] == 10
    unseen = cells(50, seed=9)
    made = predict_architectures(unseen, latency_model=str(tmp_path / "new.npz"))
    assert np.median(errors("new", unseen, made)) < 0.04
    assert made["from"] == found["from"]


def test_too_few_networks_name_who_could_help(store: str, tmp_path: Path) -> None:
    """The message has the option to add, and nothing is written."""
    with pytest.raises(
        MeasurementError, match=r"has 10 networks.*needs 30.*--from alpha/batch1,alpha/batch32,beta"
    ):
        learn_architectures(
            out=str(tmp_path / "new.npz"), space="nasbench201", target="new", store=store
        )
    assert not (tmp_path / "new.npz").exists()


@pytest.mark.parametrize(
    ("target", "sources", "error", "said"),
    [
        ("beat", [], MeasurementError, r"on target 'beat'.*beta \(60\), new \(10\)"),
        ("local", [], MeasurementError, r"on target 'local'. These targets have some: alpha"),
        ("alpha", [], UsageError, r"several settings. Name one of: alpha/batch1, alpha/batch32"),
        ("new", ["gamma"], UsageError, r"--from: there are no networks.*on target 'gamma'"),
        ("beta", ["beta"], UsageError, "that is the target itself"),
        ("beta", ["new"], UsageError, "'new' has 10 networks.*20 or more"),
    ],
)
def test_a_target_without_networks_is_told_who_has_some(
    store: str, tmp_path: Path, target: str, sources: list[str], error: type[Exception], said: str
) -> None:
    """By name, with how many each has."""
    with pytest.raises(error, match=said):
        learn_architectures(
            out=str(tmp_path / "m.npz"),
            space="nasbench201",
            target=target,
            sources=sources,
            store=store,
        )


def test_another_batch_of_a_device_is_the_same_device(store: str) -> None:
    """What is before the first "/" groups the settings."""
    kept = Store(Path(store))
    asked = place_of("alpha/batch1", kept, "nasbench201", threads=1)
    others = places(["alpha", "beta"], kept, "nasbench201", threads=1, besides=asked)
    assert [(each.key, each.device) for each in others] == [
        ("alpha/batch32", "alpha"),
        ("beta", "beta"),
    ]


def test_what_cannot_be_learnt_from_is_counted(tmp_path: Path) -> None:
    """Failures, other versions, what did not run at all, and codes of no cell or another space."""
    kept = Store(tmp_path / "s.sqlite")
    good = cells(8, seed=0)
    kept.add_networks(
        network("t", good[7], 3e-3, versions="older"),
        *(network("t", code, 2e-3 + number * 1e-4) for number, code in enumerate(good[:5])),
        network("t", good[5], None),
        network("t", good[6], 3e-6),
        network("t", "no cell", 2e-3),
        network("t", good[0].replace(good[0].split("~")[0][1:], "mystery", 1), 2e-3),
        network("t", "a=1", 2e-3, space="another"),
    )
    found = measured(kept, place_of("t", kept, "nasbench201", threads=1), "nasbench201")
    assert len(found) == 5
    assert found.seconds == pytest.approx(2e-3 + np.arange(5) * 1e-4)
    assert found.left_out == {
        "other versions": 1, "failed": 1, "next to no time": 1, "not of the space": 2,
    }  # fmt: skip


def test_networks_measured_here_have_the_names_of_targets(tmp_path: Path) -> None:
    """Candidates of a space of ours, on a target of the catalog, of the present code alone."""
    space, target = find_space("mobilenet"), find_target("local")
    rng = np.random.default_rng(0)
    kept = Store(tmp_path / "s.sqlite")
    codes = [code_of(random_candidate(space, rng)) for _ in range(40)]
    kept.add_networks(
        network(target.key, codes[0], 9.0, space="mobilenet", versions="older"),
        *(
            network(target.key, code, 1e-3 * (5 + number), space="mobilenet",
                    versions=code_versions())
            for number, code in enumerate(codes)
        ),
    )  # fmt: skip
    out = str(tmp_path / "m.npz")
    found = learn_architectures(out=out, space="mobilenet", store=str(tmp_path / "s.sqlite"))
    assert (found["target"], found["networks_measured"]) == ("local", 40)
    assert found["left_out"] == {"other versions": 1}
    made = predict_architectures(codes[:2], latency_model=out, target="local")
    assert len(made["architectures"]) == 2
    state = read_state(Path(out))
    write_state(dataclasses.replace(state, facts={**state.facts, "versions": "older"}), Path(out))
    with pytest.raises(UsageError, match="learnt from networks of other code"):
        predict_architectures(codes[:2], latency_model=out)


@pytest.mark.parametrize("space", ["nasbench2", "hat", ""])
def test_an_unknown_space_is_named(tmp_path: Path, space: str) -> None:
    """With those that there are."""
    with pytest.raises(UsageError, match="Choose one of: mobilenet, nasbench201, ofa, hat-TASK"):
        learn_architectures(out="m.npz", space=space, store=str(tmp_path / "s.sqlite"))


@pytest.mark.parametrize("space", ["nasbench201", "ofa", "hat-wmt14ende", "mobilenet"])
def test_every_space_names_a_code_that_it_cannot_read(space: str) -> None:
    """As bad input, not as a mistake of ours."""
    with pytest.raises(DataError, match="'nonsense'"):
        encoder(space)(["nonsense"])


def test_a_bad_code_is_named_with_its_place(own: tuple[dict[str, Any], str]) -> None:
    """Among many, the one; an operator of another space is a guess that says so."""
    _, out = own
    good = cells(2, seed=9)
    with pytest.raises(DataError, match="architecture 3 of 3: 'nonsense' is no NAS-Bench-201 cell"):
        predict_architectures([*good, "nonsense"], latency_model=out)
    strange = CELL.format("mystery", *[OPERATORS[3]] * 5)
    (row,) = predict_architectures([strange], latency_model=out)["architectures"]
    assert (row["origin"], row["extrapolated"]) == ("unknown", True)
    with pytest.raises(UsageError, match="no architecture to predict"):
        predict_architectures([], latency_model=out)


@pytest.mark.parametrize("damage", ["absent", "truncated", "kind", "part", "target"])
def test_a_file_that_cannot_be_used_is_refused(
    own: tuple[dict[str, Any], str], tmp_path: Path, damage: str
) -> None:
    """By its name, with what to do."""
    state, path = read_state(Path(own[1])), tmp_path / "m.npz"
    target, error, said = None, DataError, r"m\.npz"
    match damage:
        case "absent":
            error, said = UsageError, "there is no file .*profile learn --space"
        case "truncated":
            path.write_bytes(Path(own[1]).read_bytes()[:500])
        case "kind":
            write_state(State(kind="device"), path)
            said = r"m\.npz': a saved 'device' prices no architectures"
        case "part":
            write_state(dataclasses.replace(state, parts={}), path)
        case "target":
            write_state(state, path)
            target, error, said = "rpi4", UsageError, "is of target 'beta', not of 'rpi4'"
    with pytest.raises(error, match=said):
        predict_architectures(cells(1, seed=1), latency_model=str(path), target=target)
