"""A result.json as a run on a MobileNetV2-like network writes it, made up but plausible."""

from __future__ import annotations

import random
from typing import Any

# expansion, output channels, repeats, stride of every block of MobileNetV2
BLOCKS = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]
GFLOPS = {("conv2d", "fp32"): 82e9, ("conv2d", "int8"): 190e9}
GFLOPS |= {("depthwise_conv2d", "fp32"): 48e9, ("depthwise_conv2d", "int8"): 78e9}
GFLOPS |= {("dense", "fp32"): 9e9, ("dense", "int8"): 27e9}


def interval(median: float, spread: float, n: int | None = None) -> dict[str, Any]:
    """A 95 % interval of `spread` (fraction) around `median` seconds."""
    plain = {"median": median, "low": median * (1 - spread), "high": median * (1 + spread * 1.2)}
    return plain if n is None else plain | {"n": n}


def layers() -> list[tuple[str, str, int, float, int]]:
    """Name, kernel operator, output channels, FLOPs and weights of every layer."""
    found = [("features.0.0/Conv", "conv2d", 32, 2 * 112 * 112 * 32 * 27.0, 864)]
    channels, side = 32, 112
    for block, (expand, out, repeats, stride) in enumerate(BLOCKS):
        for repeat in range(repeats):
            name = f"features.{block + 1}.{repeat}"
            hidden = channels * expand
            if expand > 1:
                flops = 2.0 * side * side * channels * hidden
                found.append((f"{name}/expand/Conv", "conv2d", hidden, flops, channels * hidden))
            side //= stride if repeat == 0 else 1
            flops = 2.0 * side * side * hidden * 9
            found.append((f"{name}/depthwise/Conv", "depthwise_conv2d", hidden, flops, hidden * 9))
            flops = 2.0 * side * side * hidden * out
            found.append((f"{name}/project/Conv", "conv2d", out, flops, hidden * out))
            channels = out
    found.append(("features.18/Conv", "conv2d", 1280, 2.0 * 7 * 7 * 320 * 1280, 320 * 1280))
    found.append(("classifier.1/Gemm", "dense", 1000, 2.0 * 1280 * 1000, 1280 * 1000))
    return found


def kernels(precisions: dict[str, str], kept: dict[str, float], seed: int) -> list[dict[str, Any]]:
    """Kernels with times; those of the changed precision at the end are predicted."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for name, op, channels, flops, _weights in layers():
        precision = precisions[name]
        share = kept.get(name, 1.0)
        seconds = flops * share / GFLOPS[op, precision] * rng.uniform(0.9, 1.2) + 2e-6
        predicted = precision == "int8" and rng.random() < 0.12
        spread = 0.12 if predicted else 0.008
        rows.append(
            {
                "name": name,
                "op": op,
                "precision": precision,
                "output_dtype": "uint8" if precision == "int8" else "float32",
                "shape": [1, 7, 7, int(channels * share)],
                "seconds": seconds,
                "low_s": seconds * (1 - spread),
                "high_s": seconds * (1 + spread),
                "origin": "predicted" if predicted else "measured",
            }
        )
    extra = [("pool/GlobalAveragePool", "global_avg_pool", "fp32", 9e-6)]
    if "int8" in precisions.values():
        extra += [("input/quantize", "quantize", "int8", 6.1e-5)]
    for name, op, precision, seconds in extra:
        rows.append(
            {
                "name": name,
                "op": op,
                "precision": precision,
                "output_dtype": "uint8" if op == "quantize" else "float32",
                "shape": [1, 1280],
                "seconds": seconds,
                "low_s": seconds * 0.99,
                "high_s": seconds * 1.01,
                "origin": "measured",
            }
        )
    return rows


def trials(baseline_s: float, count: int) -> list[dict[str, Any]]:
    """A search from nearly all fp32 to nearly all int8; every fourth trial was measured."""
    rng = random.Random(4)
    rows: list[dict[str, Any]] = []
    for index in range(count):
        share = index / (count - 1)
        predicted = baseline_s * (1 - 0.5 * share**0.8) * rng.uniform(0.985, 1.03)
        accuracy = 0.794 - 0.012 * share**3 - rng.uniform(0, 0.006)
        measured = predicted * rng.uniform(0.985, 1.05) if index % 4 == 3 else None
        rows.append(
            {
                "index": index,
                "predicted_s": interval(predicted, 0.04),
                "latency_s": None if measured is None else interval(measured, 0.012, 41),
                "accuracy": round(accuracy * 650) / 650,
                "size_bytes": int(13.9e6 - 10.2e6 * share),
                "precisions": {"int8": round(53 * share), "fp32": 53 - round(53 * share)},
                "kept_channels": 1.0,
                "feasible": predicted < 0.6 * baseline_s and accuracy > 0.784,
                "note": "" if index else "the baseline, quantized nowhere",
            }
        )
    return rows


def sample_result() -> dict[str, Any]:
    """A MobileNetV2 fitted to 60 % of its latency."""
    names = [layer[0] for layer in layers()]
    fp32 = dict.fromkeys(names, "fp32")
    mixed = {name: "fp32" if i in (0, 2, 5, 51) else "int8" for i, name in enumerate(names)}
    kept = {name: 0.75 for name in names if name.startswith("features.6") and "project" not in name}
    before, after = kernels(fp32, {}, seed=1), kernels(mixed, kept, seed=2)
    baseline_s = sum(row["seconds"] for row in before) * 1.04
    compressed_s = sum(row["seconds"] for row in after) * 1.05
    plan = [
        {
            "layer": name,
            "op": "Gemm" if op == "dense" else "Conv",
            "precision": mixed[name],
            "channels": int(channels * kept.get(name, 1.0)),
            "channels_before": channels,
            "weight_bytes": int(weights * kept.get(name, 1.0))
            * (1 if mixed[name] == "int8" else 4),
        }
        for name, op, channels, _flops, weights in layers()
    ]
    return {
        "schema": 1,
        "model": "mobilenet_v2_imagenet.onnx",
        "target": "local",
        "target_cpu": "AMD EPYC 7B13",
        "runtime_threads": 1,
        "seed": 0,
        "budget": {
            "text": "60%",
            "latency_s": baseline_s * 0.6,
            "size_bytes": None,
            "max_accuracy_drop": 0.015,
        },
        "baseline": {
            "latency_s": interval(baseline_s, 0.006, 61),
            "accuracy": 516 / 650,
            "size_bytes": 13_964_571,
            "peak_memory_bytes": 31_457_280,
        },
        "compressed": {
            "latency_s": interval(compressed_s, 0.008, 61),
            "accuracy": 511 / 650,
            "size_bytes": 3_834_112,
            "peak_memory_bytes": 12_058_624,
        },
        "reference": {
            "onnxruntime_fp32_s": baseline_s * 1.19,
            "onnxruntime_int8_s": baseline_s * 0.82,
            "intervals": {
                "onnxruntime_fp32": interval(baseline_s * 1.19, 0.01, 61),
                "onnxruntime_int8": interval(baseline_s * 0.82, 0.012, 61),
            },
        },
        "predicted_s": interval(compressed_s * 0.985, 0.03),
        "met": True,
        "plan": plan,
        "trials": trials(baseline_s, 33),
        "kernels": {"baseline": before, "compressed": after},
        "without_rule": [],
        "environment": {
            "cpu": "AMD EPYC 7B13",
            "cores": "2",
            "governor": "performance",
            "load": "0.31",
            "apache-tvm": "0.27.0.post1",
            "onnxruntime": "1.31.1",
            "python": "3.11.7",
        },
        "stages": [
            {"name": "profile", "seconds": 74.2},
            {"name": "model", "seconds": 1.3},
            {"name": "search", "seconds": 48.9},
            {"name": "compress", "seconds": 3.1},
            {"name": "compile", "seconds": 21.7},
            {"name": "verify", "seconds": 30.4},
        ],
    }
