"""Our bundles, torch.compile and eager PyTorch under CUDA graphs, in fp16 on the GPU of a machine.

All three run on the same inputs in turn, round by round, each inference timed by CUDA's events; a
ratio is the median of the rounds' ratios, with its 95 % interval. Every output is compared with
ONNX Runtime's in fp32 first. ``--check`` does that alone, once. ``--profile`` measures the kernels
of the networks on the GPU and writes them as a pack.

Without a GPU every bar is NOT MEASURED, and the result says so: it is never met by default.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_bars import LARGEST_RATIO, MODELS, TOLERANCE, bars, report
from benchmarks.setting import data_folder, setting, write_result
from millifit.errors import MillifitError
from millifit.targets.detect_gpu import cuda_devices, detect_gpu_target
from millifit.targets.runner.network_timing import (
    ContenderResult,
    NetworkTimingPolicy,
    hold_rounds,
    paired_ratio,
    result,
)
from millifit.targets.target import Target

_SEED = 0
_POLICY = NetworkTimingPolicy(min_rounds=8, max_rounds=30, limit_s=30.0)
NO_GPU = "no GPU"


def why_not() -> str:
    """Why nothing can be measured here; empty where it can."""
    return "" if cuda_devices() else NO_GPU


def row(name: str, batch: int, target: Target, *, check: bool) -> dict[str, Any]:
    """All contenders on one network and batch; errors alone with `check`."""
    from benchmarks import gpu_contenders as parts

    network, x = parts.batched(name, batch, _SEED)
    wanted = parts.oracle(network, x)
    made: dict[str, Any] = {"model": name, "batch": batch, "ratio": None, "errors": {}, "error": ""}
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for each, start in parts.contenders(network, x, target, Path(folder) / "bundle").items():
            running[each] = start()
            running[each].run()
            made["errors"][each] = parts.error(running[each].outputs(), wanted)
        if not check:
            made |= timings(
                hold_rounds(
                    {n: lambda c=c: parts.turn(c.run) for n, c in running.items()},  # type: ignore[misc]
                    policy=_POLICY, on_round=lambda _: None,
                )
            )  # fmt: skip
    return made


def timings(rounds: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Medians of every contender, and ours over the others, from the same rounds."""
    results = {n: _result(turns) for n, turns in rounds.items()}
    made: dict[str, Any] = {
        f"{name}_s": each.round_medians.median_s for name, each in results.items()
    }
    if "compiled" in results:
        over = paired_ratio(results["ours"], results["compiled"])
        made |= {"ratio": over.median, "ratio_interval": [over.low, over.high]}
    if "eager" in results:
        made["over_eager"] = asdict(paired_ratio(results["ours"], results["eager"]))
    return made


def _result(turns: Sequence[Sequence[float]]) -> ContenderResult:
    return result(turns, peak_memory_bytes=0, process_peak_bytes=0)


def show(made: Mapping[str, Any]) -> None:
    """One line of the table."""
    times = "  ".join(
        f"{name} {made[f'{name}_s'] * 1e3:.3f} ms"
        for name in ("ours", "compiled", "eager")
        if f"{name}_s" in made
    )
    errors = "  ".join(f"{name} off by {off:.1e}" for name, off in made["errors"].items())
    print(
        f"{made['model']:12} batch {made['batch']:2}  {times}  {errors} {made['error']}", flush=True
    )


def measured(names: Sequence[str], batches: Sequence[int], *, check: bool) -> list[dict[str, Any]]:
    """The rows of all networks; one that fails is a row with its `error`."""
    target = detect_gpu_target("local-cuda")
    rows = []
    for name in names:
        for batch in batches:
            try:
                made = row(name, batch, target, check=check)
            except (MillifitError, RuntimeError) as error:  # PyTorch raises RuntimeError
                text = f"{type(error).__name__}: {error}".splitlines()[0]
                made = {"model": name, "batch": batch, "ratio": None, "errors": {}, "error": text}
            show(made)
            rows.append(made)
    return rows


def write_profile(path: Path, names: Sequence[str]) -> None:
    """Measure the networks' kernels on the GPU with `millifit profile`, and write the pack."""
    import onnx

    from benchmarks import models

    command = str(Path(sys.executable).with_name("millifit"))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "gpu.sqlite"
        for name in names:
            file = Path(folder) / f"{name}.onnx"
            onnx.save(models.load(name, _SEED), file)
            subprocess.run(
                [command, "profile", file, "--target", "local-cuda", "--store", store], check=True
            )
        subprocess.run([command, "profile", "export", path, "--store", store], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the bars, write the result; 1 where anything failed or gave wrong outputs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows and bars here")
    parser.add_argument("--check", action="store_true", help="run everything once, time nothing")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--batches", default=",".join(map(str, LARGEST_RATIO)))
    parser.add_argument("--profile", type=Path, help="write a profile pack of the GPU here")
    given = parser.parse_args(arguments)
    names = given.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"unknown model {', '.join(unknown)}: choose of {', '.join(MODELS)}")
    if not all(text.isdigit() and int(text) > 0 for text in given.batches.split(",")):
        parser.error(f"batches are positive numbers, not '{given.batches}'")
    batches = [int(text) for text in given.batches.split(",")]
    missing = why_not()
    if missing:
        print(f"{missing} here: nothing can be measured")
    elif data_folder() is None:
        print("no real models at hand: all weights are random (set MILLIFIT_DATA)")
    rows = [] if missing else measured(names, batches, check=given.check)
    unmeasured = missing or ("only checked" if given.check else "not among the models or batches")
    for bar in bars(rows, unmeasured):
        print(bar.line)
    if given.profile and not missing:
        write_profile(given.profile, names)
    write_result(given.json, {**setting(_SEED), **report(rows, unmeasured)})
    wrong = any(made["errors"].get("ours", 0.0) > TOLERANCE for made in rows)
    return int(wrong or any(made["error"] for made in rows))


if __name__ == "__main__":
    sys.exit(main())
