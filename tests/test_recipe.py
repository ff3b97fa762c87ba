"""Recipes: what a file and flags add up to, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from millifit.errors import UsageError
from millifit.recipe import Recipe, resolve_recipe, run_name, write_recipe


def test_flags_override_the_file(tmp_path: Path) -> None:
    """A flag wins over the file, the file over the default."""
    file = tmp_path / "recipe.yaml"
    file.write_text("model: net.onnx\nbudget: 8ms\nthreads: 2\nmean: [1, 2, 3]\n")
    recipe = resolve_recipe(file, {"budget": "50%"})
    assert recipe == Recipe(
        model="net.onnx", budget="50%", threads=2, mean=(1.0, 2.0, 3.0), run="runs/net"
    )


def test_stored_recipe_reads_back_equal(tmp_path: Path) -> None:
    """What the run folder keeps gives the same run again."""
    flags = {"model": "my.nets:tiny", "std": "0.5,0.25", "input_shape": "1x3x32x32"}
    recipe = resolve_recipe(None, flags | {"max_drop": "none", "epochs": "3"})
    assert recipe.std == (0.5, 0.25)
    assert recipe.input_shape == (1, 3, 32, 32)
    assert recipe.max_drop is None
    assert recipe.epochs == 3
    assert resolve_recipe(write_recipe(recipe, tmp_path / "run" / "recipe.yaml")) == recipe
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.yaml"]


def test_demo_brings_its_own_settings() -> None:
    """The demo is fitted to half its latency, unless told otherwise."""
    assert resolve_recipe(flags={"demo": True}).budget == "50%"
    assert resolve_recipe(flags={"demo": True}).run == "runs/demo"
    assert resolve_recipe(flags={"demo": True, "budget": "70%"}).budget == "70%"


def test_stored_demo_recipe_reads_back_equal(tmp_path: Path) -> None:
    """A demo's recipe has no model, and is valid nevertheless."""
    recipe = resolve_recipe(flags={"demo": True, "seed": 3})
    assert resolve_recipe(write_recipe(recipe, tmp_path / "recipe.yaml")) == recipe


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("nets/mobile.v2.onnx", "mobile.v2"),
        ("my.nets:tiny", "tiny"),
        ("a b.onnx", "a_b"),
        ("..", "fit"),
    ],
)
def test_run_is_named_after_the_model(model: str, name: str) -> None:
    """Run folders have plain names."""
    assert run_name(model) == name


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"budget": "0"}, "budget '0' must be above zero"),
        ({"budget": "-5ms"}, "budget '-5ms' must be above zero"),
        ({"budget": "abc"}, "budget 'abc' is not a share or a time"),
        ({"budget": 60}, "'budget' is 60: input should be a valid string"),
        ({"threads": 0}, "'threads' is 0: input should be greater than or equal to 1"),
        ({"max_drop": -1}, "'max_drop' is -1: input should be greater than or equal to 0"),
        ({"max_drop": float("nan")}, "'max_drop' is nan: input should be"),
        ({"std": "0"}, "'std' is '0': every value must be above 0"),
        ({"mean": "red"}, "'mean.0' is 'red': input should be a valid number"),
        ({"input_shape": "1x0"}, "'input_shape.1' is '0'"),
        ({"thread": 2}, "unknown key 'thread'. Known keys: model, data"),
        ({"model": None}, "there is no model: name an ONNX file or module:function"),
        ({"demo": True}, "--demo brings its own model and data"),
    ],
)
def test_wrong_setting_names_file_key_and_remedy(
    tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    """What is wrong is named with its value, from a file with the file's name."""
    file = tmp_path / "recipe.yaml"
    file.write_text("model: net.onnx\n")
    with pytest.raises(UsageError, match=re.escape(f"recipe '{file}': {message}")):
        resolve_recipe(file, flags)


def test_every_mistake_is_named_at_once() -> None:
    """Two mistakes make two lines."""
    with pytest.raises(UsageError) as caught:
        resolve_recipe(None, {"model": "net.onnx", "threads": 0, "seed": -1})
    assert [line.split("'")[1] for line in str(caught.value).splitlines()] == ["threads", "seed"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read recipe"),
        ("", "has no keys"),
        ("- model\n", "has no keys"),
        ("1: 2\n", "has no keys"),
        ("model: [\n", "is not valid YAML"),
        (b"\xff\xfe\xff", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_unreadable_recipe_is_named(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    """Missing, empty, broken and dangerous files are refused by name."""
    file = tmp_path / "recipe.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message) as caught:
        resolve_recipe(file)
    assert str(file) in str(caught.value)
