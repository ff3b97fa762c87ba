"""A recipe: everything that decides what `fit` and `search` do, from a YAML file and flags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from millifit.errors import UsageError
from millifit.files import write_atomically
from millifit.search.budget import parse_budget
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.target import Precision

DEMO = {"budget": "50%", "run": "runs/demo"}

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Recipe(BaseModel):
    """What to fit, to what, and how hard to try.

    `mean` and `std` give x = (raw - mean) / std, one value or one per channel. `budget` is "60%"
    of the baseline's measured latency or a time such as "8ms". `max_drop` is in points of accuracy
    (1.0 is one image in a hundred; None: no limit). `precisions` are those that layers may have
    besides fp32 (None: int8, w7a8 and, on a GPU, fp16, where the target has them). `tune` is for
    how many seconds kernels are tuned before anything is priced. `device` is the address of the
    server on the device that `target` is, if it is not this machine; with it go the files of its
    token and of the authority of its certificate. Paths are relative to the working directory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    data: str | None = None
    calibration: str | None = None
    mean: tuple[Finite, ...] | None = None
    std: tuple[Finite, ...] | None = None
    input_shape: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    target: str = "local"
    device: str | None = None
    device_token_file: str | None = None
    device_ca: str | None = None
    threads: int = Field(default=1, ge=1, le=1024)
    budget: str = "60%"
    max_drop: float | None = Field(default=1.0, ge=0, le=100, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**32)
    run: str = Field(default="runs/fit", min_length=1)
    store: str | None = None
    precisions: tuple[Precision, ...] | None = None
    prune: bool = True
    epochs: int | None = Field(default=None, ge=0)
    trials: int = Field(default=6, ge=1, le=1000)
    tune: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    demo: bool = False

    @field_validator("mean", "std", "input_shape", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """One number stands for a list of one; text is what was typed: "0.5,0.5" or "1x3x32x32"."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.replace("x", ",").split(","))
        return (value,) if isinstance(value, int | float) else value

    @field_validator("precisions", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """What was typed: "fp32,int8"."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(","))
        return value

    @field_validator("max_drop", mode="before")
    @classmethod
    def _no_limit(cls, value: object) -> object:
        return None if isinstance(value, str) and value.strip().lower() == "none" else value

    @field_validator("budget")
    @classmethod
    def _budget(cls, value: str) -> str:
        try:
            parse_budget(value)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return value

    @field_validator("device")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                DeviceAddress.parse(value)
            except UsageError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not all(part > 0 for part in value):
            raise ValueError("every value must be above 0")
        return value

    @model_validator(mode="after")
    def _something_to_fit(self) -> Recipe:
        if self.model is None and not self.demo:
            raise ValueError(
                "there is no model: name an ONNX file or module:function, or use --demo"
            )
        if self.model is not None and self.demo:
            raise ValueError("--demo brings its own model and data: leave the model out")
        return self


def resolve_recipe(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a file (or the defaults) with `flags` laid over it.

    Only flags that were given belong in `flags`. Raises UsageError naming the file, the key and
    what to change.
    """
    settings = {} if path is None else read_settings(path)
    settings |= flags or {}
    if settings.get("demo"):
        settings = DEMO | settings
    elif "run" not in settings and isinstance(settings.get("model"), str):
        settings["run"] = f"runs/{run_name(settings['model'])}"
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise UsageError(_explain(error, path)) from error


def read_settings(path: Path) -> dict[str, Any]:
    """The keys of a YAML recipe, not yet checked against `Recipe`."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read recipe '{path}': {error.strerror}. Name an existing YAML file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"recipe '{path}' is not valid YAML: {' '.join(str(error).split())}. "
            "Write one 'key: value' a line."
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise UsageError(f"recipe '{path}' has no keys. Write 'model: network.onnx' and so on.")
    return loaded


def write_recipe(recipe: Recipe, path: Path) -> Path:
    """Store the resolved recipe; reading it back gives an equal one."""
    plain = recipe.model_dump(mode="json")
    return write_atomically(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def run_name(model: str) -> str:
    """A folder name for a model: 'nets/mobile.onnx' -> 'mobile', 'my.nets:tiny' -> 'tiny'."""
    last = model.rsplit(":", 1)[-1] if ":" in model else Path(model).stem
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in last).strip(".")
    return kept or "fit"


def _explain(error: ValidationError, path: Path | None) -> str:
    """One line per mistake: where, what, and what is accepted."""
    source = "options" if path is None else f"recipe '{path}'"
    return "\n".join(_line(source, dict(problem)) for problem in error.errors())


def _line(source: str, problem: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not key:
        return f"{source}: {message}."
    if problem["type"] == "extra_forbidden":
        return f"{source}: unknown key '{key}'. Known keys: {', '.join(Recipe.model_fields)}."
    if problem["type"] == "value_error" and key in message:
        return f"{source}: {message}"
    reason = f"{message[:1].lower()}{message[1:]}".removesuffix(".")
    return f"{source}: '{key}' is {problem['input']!r}: {reason}. Change '{key}'."
