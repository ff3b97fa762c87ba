"""Our code and ONNX Runtime on the same networks: latency, compile time, memory, share of the peak.

Every network runs on both sides in child processes of their own, in turn, round by round, batch 1
and as many threads; a ratio is the median of the rounds' ratios, with its 95 % interval. Integers
are the same QuantizeLinear / DequantizeLinear model on both sides, made by our own quantizer; ONNX
Runtime gets it with unsigned and with signed activations, and its faster one counts. Where our
quantizer leaves an activation function in fp32, ONNX Runtime computes the layer before in fp32,
too: `own_quantizer` has the ratio to the network as its own tool quantizes it (not with
``--quick``). Beside latency a row has

- `compile_s`: from the ONNX file to the finished bundle, untuned, with the compiler loaded;
- `workspace_bytes`: the buffers and scratch memory of an inference (see `comparison.own`), and
  `arena_peak_bytes`: what ONNX Runtime's arena handed out for one (see `comparison.reference`);
- `fraction_of_peak`: multiply-adds of convolutions and matrix products in a second, over what the
  cores were measured to do in registers (see `comparison.peak`). Above 1 where
  Winograd's filtering, or leaving out what nobody reads, saves counted multiply-adds;
- `busy_threads`: how many threads worked, by the operating system's account;
- `correct`: whether our outputs are ONNX Runtime's. A wrong network counts in no figure;
- `kernels`: those that cost most over ONNX Runtime, printed for networks above their bar.

A network that does not compile is a row with an `error`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, get_args

from benchmarks.comparison.rows import blank, rows_of
from benchmarks.comparison.summary import bars, losing, summarize
from benchmarks.models import MODELS
from benchmarks.setting import data_folder, setting, write_result
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.target import Precision

_SEED = 0
_QUICK_MODELS = ("MobileNetV2", "ResNet-18", "DS-CNN")
_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "w7a8")
_POLICY = NetworkTimingPolicy(max_rounds=30, limit_s=15.0)
_QUICK_POLICY = NetworkTimingPolicy(turn_s=0.02, min_rounds=6, max_rounds=8, limit_s=1.5)


def compare(
    names: Sequence[str],
    precisions: Sequence[Precision],
    threads: Sequence[int],
    policy: NetworkTimingPolicy,
    *,
    own_quantizer: bool,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of one model after the other.

    They are made in another process, which is replaced when it is lost: not even a crash of the
    compiler ends the benchmark.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=1, mp_context=context)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            made = pool.submit(
                rows_of, name, precisions=precisions, threads=threads, policy=policy,
                folder=Path(folder), seed=_SEED, own_quantizer=own_quantizer,
            )  # fmt: skip
            try:
                yield made.result()
            except BrokenProcessPool:
                pool = ProcessPoolExecutor(max_workers=1, mp_context=context)
                yield _failed(name, precisions, threads, "the process that compiles was lost")
            except Exception as error:  # whatever a model does, the others are still compared
                yield _failed(name, precisions, threads, f"{type(error).__name__}: {error}")
    pool.shutdown()


def _failed(
    name: str, precisions: Sequence[Precision], threads: Sequence[int], error: str
) -> list[dict[str, Any]]:
    """Rows that say why they have no figures; w7a8 has none on most processors anyway."""
    return [
        blank(name, precision, count) | {"error": error}
        for count in threads
        for precision in precisions
        if precision != "w7a8"
    ]


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    start = f"{row['model']:18} {row['precision']:5} {row['threads']}t "
    if row["error"]:
        print(f"{start} ERROR {row['error'][:160]}", flush=True)
        return
    interval = f"[{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
    memory = row["workspace_bytes"] / row["arena_peak_bytes"]
    busy = row["busy_threads"]
    print(
        f"{start} ours {row['ours_s'] * 1e3:8.3f} ms  ORT {row['onnxruntime_form']:4} "
        f"{row['onnxruntime_s'] * 1e3:8.3f} ms  ratio {row['ratio']:.2f} {interval}  "
        f"peak {row['fraction_of_peak']:4.0%}  compile {row['compile_s']:4.1f} s  "
        f"memory {row['workspace_bytes'] / 1e6:6.2f} MB ({memory:.2f} of ORT)  "
        f"busy {busy['ours']}/{busy['onnxruntime']}{''.join(_remarks(row))}",
        flush=True,
    )


def _remarks(row: dict[str, Any]) -> Iterator[str]:
    if "over_fp32" in row:
        yield f"  of fp32 {row['over_fp32']['ratio']:.2f}"
    if "own_quantizer" in row:
        yield f"  of ORT's own quantizer {row['own_quantizer']['ratio']:.2f}"
    if not row["correct"]:
        yield f"  WRONG: {row['agreement']}"
    if row["without_rule"]:
        yield f"  without rule: {', '.join(row['without_rule'][:4])}"


def show_bars(reached: Sequence[dict[str, Any]]) -> None:
    """Every bar that the rows say something of, as met or missed."""
    for bar in reached:
        if bar["met"] is None:
            continue
        value = "none" if bar["value"] is None else f"{bar['value']:.2f}"
        missing = ", ".join(bar["without_figure"])
        print(
            f"{'met   ' if bar['met'] else 'MISSED'} {bar['name']}: {value}, at most "
            f"{bar['bar']:.2f}{f'; no figure of {missing}' if missing else ''}"
        )


def show_losing(rows: Sequence[dict[str, Any]]) -> None:
    """The kernels that lose, of every network above its bar."""
    for row in losing(rows):
        print(f"{row['model']} {row['precision']} {row['threads']}t, ratio {row['ratio']:.2f}:")
        for each in row["kernels"]:
            theirs = each["onnxruntime_s"]
            print(
                f"  {each['kernel']:18} {len(each['nodes']):3} x {each['shape'][0]} -> "
                f"{each['shape'][-1]}: ours {each['ours_s'] * 1e3:.3f} ms "
                f"({each['fraction_of_peak']:.0%} of peak), ORT "
                f"{'no such node' if theirs is None else f'{theirs * 1e3:.3f} ms'}"
                f"  e.g. {each['nodes'][0]}"
            )


def main() -> None:
    """Compare all networks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--quick", action="store_true", help="three networks on one thread, in under a minute"
    )
    parser.add_argument("--models", help=f"comma-separated, of: {', '.join(MODELS)}")
    parser.add_argument("--precisions", default=",".join(_PRECISIONS), help="comma-separated")
    parser.add_argument("--threads", help="comma-separated; default 1,2, with --quick 1")
    given = parser.parse_args()
    names = _QUICK_MODELS if given.quick else tuple(MODELS)
    names = tuple(given.models.split(",")) if given.models else names
    if unknown := [name for name in names if name not in MODELS]:
        parser.error(f"unknown model {', '.join(unknown)}: choose of {', '.join(MODELS)}")
    precisions = tuple(p for p in get_args(Precision) if p in given.precisions.split(","))
    cores = len(os.sched_getaffinity(0))
    asked = given.threads or ("1" if given.quick else "1,2")
    threads = [int(n) for n in asked.split(",") if int(n) <= cores]
    if data_folder() is None:
        print("no real models at hand: all weights are random (set MILLIFIT_DATA)")
    rows: list[dict[str, Any]] = []
    for made in compare(
        names, precisions, threads, _QUICK_POLICY if given.quick else _POLICY,
        own_quantizer=not given.quick,
    ):  # fmt: skip
        for row in made:
            show(row)
        rows += made
    summary, reached = summarize(rows), bars(rows)
    show_bars(reached)
    if summary["int_own_quantizer_geomean"] is not None:
        print(
            f"       integers over ONNX Runtime with its own quantizer: geomean "
            f"{summary['int_own_quantizer_geomean']:.2f}, worst "
            f"{summary['int_own_quantizer_worst']:.2f}"
        )
    show_losing(rows)
    write_result(given.json, {**setting(_SEED), "rows": rows, "summary": summary, "bars": reached})


if __name__ == "__main__":
    main()
