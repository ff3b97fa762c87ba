"""Fits under a budget, end to end, on real networks: latency, accuracy, and what it took.

Each row is one run of `millifit fit` in a fresh run folder; all latencies of a row are measured in
turn, in one run. Rows of networks whose data is not at hand (see `setting.data_folder`) are left
out and named.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.setting import data_folder, setting, write_result
from millifit import pipeline
from millifit.recipe import Recipe

_SEED = 0
_KWS_SCALE = 0.5847029089927673


def recipes(data: Path | None) -> dict[str, dict[str, Any]]:
    """The runs, by name."""
    runs: dict[str, dict[str, Any]] = {"digits demo": {"demo": True, "budget": "50%"}}
    if data is not None:
        runs["MobileNetV2"] = {
            "model": str(data / "models/mobilenet_v2_imagenet.onnx"),
            "data": str(data / "imagenet"), "mean": (127.5,), "std": (127.5,),
            "budget": "60%", "max_drop": 1.5,
        }  # fmt: skip
        runs["DS-CNN keyword spotting"] = {
            "model": str(data / "models/ds_cnn_kws.onnx"), "data": str(data / "kws/kws01_mfcc.npz"),
            "mean": (83.0,), "std": (1 / _KWS_SCALE,), "budget": "60%", "max_drop": 1.0,
        }  # fmt: skip
    return runs


def run(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One fit in a folder and with a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = pipeline.fit(
            Recipe(run=f"{folder}/run", store=f"{folder}/store.sqlite", seed=_SEED, **settings)
        )
        took_s = time.perf_counter() - began
    reference = found["reference"]
    baseline, compressed = found["baseline"], found["compressed"]
    return {
        "network": name,
        "threads": found["runtime_threads"],
        "budget": found["budget"]["text"],
        "met": found["met"],
        "baseline_s": baseline["latency_s"]["median"],
        "compressed_s": compressed["latency_s"]["median"],
        "ratio": found["ratio"],
        "onnxruntime_fp32_s": reference["onnxruntime_fp32_s"],
        "onnxruntime_int8_s": reference["onnxruntime_int8_s"],
        "baseline_over_onnxruntime": baseline["latency_s"]["median"]
        / reference["onnxruntime_fp32_s"],
        "accuracy_before": baseline["accuracy"],
        "accuracy_after": compressed["accuracy"],
        "predicted_s": found["predicted_s"],
        "agreement": found["agreement"],
        "trials": len(found["trials"]),
        "stages_s": {stage["name"]: stage["seconds"] for stage in found["stages"]},
        "took_s": took_s,
    }


def bars(row: dict[str, Any]) -> list[dict[str, Any]]:
    """What a fit has to reach: name, value, bar, and whether it is met."""
    agreement = row["agreement"]
    found = [
        ("budget kept (upper bound over budget)", row["met"], True, row["met"]),
        (
            "baseline fp32 over ONNX Runtime fp32, at most",
            row["baseline_over_onnxruntime"],
            1.3,
            row["baseline_over_onnxruntime"] <= 1.3,
        ),
        (
            "top-1 equal to ONNX Runtime on the same network, at least",
            agreement["top1_equal"],
            0.995,
            agreement["top1_equal"] >= 0.995,
        ),
        (
            "values within 2 of 255 steps of ONNX Runtime, at least",
            agreement["within_two_steps"],
            0.99,
            agreement["within_two_steps"] >= 0.99,
        ),
    ]
    return [{"name": n, "value": v, "bar": b, "met": met} for n, v, b, met in found]


def main() -> None:
    """Run all fits and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--only", help="the one network to run")
    given = parser.parse_args()
    data = data_folder()
    if data is None:
        print("no real data at hand: only the demo is run (set MILLIFIT_DATA)")
    rows = []
    for name, settings in recipes(data).items():
        if given.only is not None and given.only != name:
            continue
        row = run(name, settings)
        row["bars"] = bars(row)
        rows.append(row)
        print(
            f"{name:24} baseline {row['baseline_s'] * 1e3:7.3f} ms "
            f"({row['baseline_over_onnxruntime']:.2f} of ONNX Runtime fp32)  compressed "
            f"{row['compressed_s'] * 1e3:7.3f} ms = {row['ratio']['median']:.1%} "
            f"[{row['ratio']['low']:.1%}, {row['ratio']['high']:.1%}]  accuracy "
            f"{row['accuracy_before']:.2%} -> {row['accuracy_after']:.2%}  "
            f"{'met' if row['met'] else 'MISSED'}  {row['took_s']:.0f} s",
            flush=True,
        )
        for bar in row["bars"]:
            if not bar["met"]:
                print(f"  MISSED: {bar['name']} {bar['bar']}: {bar['value']}", flush=True)
    write_result(given.json, {**setting(_SEED), "rows": rows})


if __name__ == "__main__":
    main()
