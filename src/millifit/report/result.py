"""What a run found out, as checked values: the content of result.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from millifit.errors import RunFolderError

SCHEMA = 1

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]


class Value(BaseModel):
    """Immutable; keys of later versions are let through."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Interval(Value):
    """A median with its 95 % interval, in seconds."""

    median: Seconds
    low: Seconds
    high: Seconds
    n: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"needs low <= median <= high, got {self.low, self.median, self.high}")
        return self


class Ratio(Value):
    """One latency over another of the same rounds, with its 95 % interval."""

    median: float
    low: float
    high: float


class Budget(Value):
    """What was asked for; None where nothing was."""

    text: str
    latency_s: Seconds | None = None
    size_bytes: Bytes | None = None
    max_accuracy_drop: Fraction | None = None


class Subject(Value):
    """One network as measured: accuracy is a fraction, sizes are in bytes."""

    latency_s: Interval
    accuracy: Fraction | None
    size_bytes: Bytes
    peak_memory_bytes: Bytes


class ReferenceIntervals(Value):
    """ONNX Runtime's latencies with their intervals."""

    onnxruntime_fp32: Interval | None = None
    onnxruntime_int8: Interval | None = None


class Reference(Value):
    """ONNX Runtime on the same machine, measured in turn with ours; `missing` is why it is not."""

    onnxruntime_fp32_s: Seconds | None
    onnxruntime_int8_s: Seconds | None
    missing: str | None = None
    intervals: ReferenceIntervals = ReferenceIntervals()


class Device(Value):
    """What measured: this machine, or a device elsewhere; what is `emulated` has no speed."""

    cpu: str
    machine: str
    gpu: str | None
    reach: str
    emulated: bool


class Layer(Value):
    """What was decided for one layer."""

    layer: str
    op: str
    precision: str
    channels: int
    channels_before: int
    weight_bytes: Bytes

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        stored = {"int8": 8, "w7a8": 7, "w8": 8, "w4": 4, "fp16": 16, "bf16": 16}
        return stored.get(self.precision, 32)


class Trial(Value):
    """One plan that was considered; `latency_s` is None where it was predicted only."""

    index: int
    predicted_s: Interval
    latency_s: Interval | None
    accuracy: Fraction | None
    size_bytes: Bytes
    precisions: dict[str, int]
    kept_channels: Fraction
    feasible: bool
    note: str = ""

    @property
    def layers(self) -> str:
        """How many layers have which precision, e.g. ``"12 int8, 3 fp32"``."""
        ordered = sorted(self.precisions.items(), key=lambda entry: (-entry[1], entry[0]))
        return ", ".join(f"{count} {precision}" for precision, count in ordered)

    @property
    def best_known_s(self) -> Interval:
        """The measured latency, or the predicted one where nothing was measured."""
        return self.latency_s or self.predicted_s


class KernelTime(Value):
    """Seconds of one fused operator, measured or predicted."""

    name: str
    op: str
    precision: str
    seconds: Seconds
    low_s: Seconds
    high_s: Seconds
    origin: Literal["measured", "predicted"]
    output_dtype: str = ""
    shape: Any = None


class Kernels(Value):
    """The kernels of the network before and after."""

    baseline: tuple[KernelTime, ...]
    compressed: tuple[KernelTime, ...]


class WithoutRule(Value):
    """A node that runs without a schedule rule of ours."""

    node: str
    op: str


class Stage(Value):
    """A part of the run and how long it took."""

    name: str
    seconds: Seconds


class Result(Value):
    """Everything the report shows."""

    # "schema" is a method of pydantic's models
    version: Literal[1] = Field(alias="schema")
    model: str
    target: str
    target_cpu: str
    device: Device | None = None
    runtime_threads: int
    seed: int
    budget: Budget
    baseline: Subject
    compressed: Subject
    ratio: Ratio | None = None
    reference: Reference
    predicted_s: Interval
    met: bool
    problems: tuple[str, ...] = ()
    plan: tuple[Layer, ...]
    trials: tuple[Trial, ...]
    kernels: Kernels
    without_rule: tuple[WithoutRule, ...] = ()
    environment: dict[str, str] = {}
    stages: tuple[Stage, ...] = ()

    @property
    def relative_bound(self) -> float | None:
        """The upper bound of the ratio to the baseline, where the budget is about that ratio.

        Ratios are taken within each round, so drift of the machine does not touch them.
        """
        relative = self.ratio is not None and self.budget.text.endswith("%")
        return self.ratio.high if relative and self.ratio is not None else None

    @property
    def emulated(self) -> bool:
        """Whether times are an emulator's."""
        return self.device is not None and self.device.emulated

    @property
    def accuracy_drop(self) -> float | None:
        """Accuracy lost, as a fraction; None where there are no labels."""
        before, after = self.baseline.accuracy, self.compressed.accuracy
        return None if before is None or after is None else before - after


def parse_result(plain: Mapping[str, Any], *, source: str = "result") -> Result:
    """Check the content of a result.json.

    Raises RunFolderError naming `source`, every missing or wrong key, and what to do.
    """
    if plain.get("schema") != SCHEMA:
        raise RunFolderError(
            f"{source}: schema is {plain.get('schema')!r}, this version reads {SCHEMA}. "
            "Write it again with 'millifit fit', or use the version of millifit that wrote it."
        )
    try:
        return Result.model_validate(plain)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()}"
            for problem in error.errors()[:5]
        )
        raise RunFolderError(
            f"{source} is incomplete or damaged: {problems}. Run 'millifit fit' again with the "
            "same command to write it anew."
        ) from error


def read_plain(path: Path) -> dict[str, Any]:
    """Read a result.json, or the one in a run folder, without checking its keys.

    Raises RunFolderError when it is missing, empty, not JSON, or not an object.
    """
    file = path / "result.json" if path.is_dir() else path
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(
            f"cannot read '{file}': {error.strerror}. Name a run folder that 'millifit fit' "
            "finished, or its result.json."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(
            f"'{file}' is not JSON: {error}. Run 'millifit fit' again to write it anew."
        ) from error
    if not isinstance(plain, dict):
        raise RunFolderError(f"'{file}' holds no result. Name the result.json of a run folder.")
    return plain
