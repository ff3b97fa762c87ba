"""A tiny trained network, its data, and one finished run, for all tests of the pipeline."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from roofline import RooflineTimer
from tiny import MakeRecipe

from millifit.models import from_module
from millifit.pipeline import fit
from millifit.recipe import Recipe
from millifit.targets.catalog import add_target, find_target
from millifit.targets.importer.onnx_file import write_network


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Training in several threads takes longer here than it gains."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as ``tiny.onnx``."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    module, example = tiny.network()
    write_network(from_module(module, example, name="tiny"), path)
    return path


@pytest.fixture(scope="session")
def data(model: Path) -> Path:
    """400 labelled digits as ``digits.npz``: 80 calibrate, 120 decide, 200 validate."""
    x, y = tiny.validation()
    path = model.with_name("digits.npz")
    np.savez(path, x=x, y=y)
    return path


@pytest.fixture(scope="session")
def make_recipe(model: Path, data: Path) -> MakeRecipe:
    """The recipe of a run in a folder, with a store beside it."""

    def made(folder: Path, **changes: Any) -> Recipe:
        settings: dict[str, Any] = {
            "model": str(model), "data": str(data), "run": str(folder / "run"),
            "store": str(folder / "store.sqlite"), "budget": "60%", "max_drop": 2.0,
        }  # fmt: skip
        return Recipe.model_validate(settings | changes)

    return made


@pytest.fixture(scope="session")
def finished(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, and its store beside it: for reading only."""
    folder = tmp_path_factory.mktemp("finished")
    fit(make_recipe(folder), timer=RooflineTimer())
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run and its store, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture
def here(_home: None) -> str:
    """A target that runs on this machine, and of which plans do not depend on its dot product."""
    local = find_target("local")
    add_target(dataclasses.replace(local, name="here", dot_product="none", source="a test"))
    return "here"
