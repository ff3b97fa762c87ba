"""The rows of one network: ours and ONNX Runtime, timed in turn, in every precision asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import own
from benchmarks.comparison.busy import BusyThreads
from benchmarks.comparison.peak import peak_macs_per_s
from benchmarks.comparison.reference import answers, profile
from benchmarks.comparison.slowest import slowest
from benchmarks.comparison.subject import Source, Subject
from benchmarks.comparison.work import macs_by_node
from benchmarks.models import MODELS
from millifit.pipeline.final import compare
from millifit.targets.bundle import write_bundle
from millifit.targets.detect import detect_local
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.loaded_bundle import LoadedBundle, load_bundle
from millifit.targets.lower import lower
from millifit.targets.program import Program
from millifit.targets.runner.environment import code_versions
from millifit.targets.runner.local_runner import LocalRunner
from millifit.targets.runner.network_timing import (
    Contender,
    ContenderResult,
    NetworkTimingPolicy,
    paired_ratio,
)
from millifit.targets.target import INTEGER, Precision, Target

Row = dict[str, Any]

_OWN_QUANTIZER = "onnxruntime own quantizer"
_FP32_TOLERANCE = 1e-4
# Of the share of values with which ONNX Runtime agrees with itself; a wrong network has near none.
_LEAST_WITHIN_TWO_STEPS = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """A subject compiled by us. `compile_s` is from the ONNX file to the finished bundle."""

    subject: Subject
    path: Path
    program: Program
    target: Target
    compile_s: float
    loaded: LoadedBundle


def rows_of(
    name: str,
    *,
    precisions: Sequence[Precision],
    threads: Sequence[int],
    policy: NetworkTimingPolicy,
    folder: Path,
    seed: int,
    own_quantizer: bool,
) -> list[Row]:
    """One row for every precision and number of threads; with an `error` where it has no figures.

    All contenders of one number of threads take turns in one timing, so that precisions can be
    compared, too. Precisions that this processor has no use for are left out. With `own_quantizer`
    integers are also compared with the network as ONNX Runtime's own tool quantizes it.
    """
    import millifit.targets.schedules.rules  # noqa: F401 - compile_s does not pay for imports

    found: list[Row] = []
    source = Source(name, folder, seed, own_quantizer=own_quantizer)
    for count in threads:
        target = detect_local(threads=count)
        rows: dict[Precision, Row] = {}
        compiled: dict[Precision, Ours] = {}
        for precision in [p for p in precisions if p in target.precisions]:
            rows[precision] = blank(name, precision, count)
            try:
                subject = source.subject(precision)
                compiled[precision] = _compiled(subject, target, folder / f"{precision}_{count}")
            except Exception as error:  # whatever does not compile, the others are compared
                rows[precision]["error"] = f"{type(error).__name__}: {error}"
        try:
            _fill(rows, compiled, policy)
        except Exception as error:  # a wrong or lost network is a row, too
            for precision in compiled:
                rows[precision]["error"] = f"{type(error).__name__}: {error}"
        found += rows.values()
    return found


def blank(name: str, precision: Precision, threads: int) -> Row:
    """A row without figures."""
    return {
        "model": name,
        "precision": precision,
        "threads": threads,
        "convolutional": MODELS[name].convolutional,
        "error": None,
    }


def _compiled(subject: Subject, target: Target, path: Path) -> Ours:
    began = time.perf_counter()
    network = simplify(read_network(subject.ours))
    program = lower(network, target)
    write_bundle(
        path, program=program, target=target, versions=code_versions(),
        golden_input=subject.inputs[:1], details={"network": network.name},
    )  # fmt: skip
    compile_s = time.perf_counter() - began
    loaded = load_bundle(path)
    loaded.set_input(subject.inputs[:1])
    return Ours(
        subject=subject, path=path, program=program, target=target, compile_s=compile_s,
        loaded=loaded,
    )  # fmt: skip


def _fill(
    rows: Mapping[Precision, Row], compiled: Mapping[Precision, Ours], policy: NetworkTimingPolicy
) -> None:
    """Time everything that compiled in turn, and complete its rows."""
    if not compiled:
        return
    timed, busy = _timed(compiled, policy)
    for precision, ours in compiled.items():
        forms = _files(compiled, precision)
        form = min(forms, key=lambda each: timed[f"onnxruntime {each}"].round_medians.median_s)
        own_name, other_name = f"ours {precision}", f"onnxruntime {form}"
        row, found = rows[precision], timed[own_name]
        profiled = profile(forms[form], ours.subject.inputs[:1], ours.target.threads)
        seconds = found.round_medians.median_s
        macs = sum(macs_by_node(ours.subject.network).values())
        best = ours.target.threads * peak_macs_per_s(ours.target, precision)
        row |= {
            "ours_s": seconds,
            "onnxruntime_s": timed[other_name].round_medians.median_s,
            **_ratio(found, timed[other_name]),
            "onnxruntime_form": form,
            "compile_s": ours.compile_s,
            "workspace_bytes": own.workspace_bytes(ours.loaded, ours.program, ours.target),
            "arena_peak_bytes": profiled.arena_peak_bytes,
            "arena_held_bytes": profiled.arena_held_bytes,
            "macs": macs,
            "fraction_of_peak": macs / seconds / best,
            "without_rule": [*dict.fromkeys(c.nodes[0] for c in ours.program.without_rule)],
            "busy_threads": {"ours": busy.get(own_name), "onnxruntime": busy.get(other_name)},
            "agreement": _agreement(ours),
            "kernels": slowest(ours.program, ours.loaded, profiled, ours.subject.network, best),
        }
        row["correct"] = _correct(precision, row["agreement"])
        if precision in INTEGER and _OWN_QUANTIZER in timed:
            row["own_quantizer"] = _ratio(found, timed[_OWN_QUANTIZER]) | {
                "onnxruntime_s": timed[_OWN_QUANTIZER].round_medians.median_s
            }
        if precision != "fp32" and "fp32" in compiled:
            row["over_fp32"] = _ratio(found, timed["ours fp32"])


def _files(compiled: Mapping[Precision, Ours], precision: Precision) -> Mapping[str, Path]:
    """What ONNX Runtime runs for a precision. Of integers always 8 bits, as users run them."""
    reference: Precision = "int8" if precision in INTEGER and "int8" in compiled else precision
    return compiled[reference].subject.files


def _timed(
    compiled: Mapping[Precision, Ours], policy: NetworkTimingPolicy
) -> tuple[Mapping[str, ContenderResult], Mapping[str, int]]:
    """Results and numbers of busy threads: ours by precision, ONNX Runtime's by form of file."""
    contenders: dict[str, Contender] = {}
    for precision, ours in compiled.items():
        given, threads = ours.subject.input_path, ours.target.threads
        contenders[f"ours {precision}"] = Contender(
            kind="bundle", path=ours.path, input_path=given, threads=threads
        )
        for form, path in _files(compiled, precision).items():
            contenders[f"onnxruntime {form}"] = Contender(
                kind="onnxruntime", path=path, input_path=given, threads=threads
            )
        if ours.subject.own_quantizer is not None:
            contenders[_OWN_QUANTIZER] = Contender(
                kind="onnxruntime", path=ours.subject.own_quantizer, input_path=given,
                threads=threads,
            )  # fmt: skip
    busy = BusyThreads(tuple(contenders))
    with LocalRunner() as runner:
        timed = runner.time_networks(contenders, policy=policy, on_round=busy.look)
    return timed, busy.count()


def _ratio(above: ContenderResult, below: ContenderResult) -> dict[str, float]:
    found = paired_ratio(above, below)
    return {"ratio": found.median, "ratio_low": found.low, "ratio_high": found.high}


def _agreement(ours: Ours) -> dict[str, float]:
    """How far our outputs are from ONNX Runtime's on the same file.

    `reference_within_two_steps` is how far ONNX Runtime agrees with itself where it does not
    optimize the graph: where rounded values meet sums in fp32, a last bit grows to a step.
    """
    x, path = ours.subject.inputs, ours.subject.ours
    made = [ours.loaded.run(x[i : i + 1])[0] for i in range(len(x))]
    oracle = answers(path, x)
    itself = compare(answers(path, x, optimized=False), oracle)
    return {
        **compare(np.concatenate(made), oracle),
        "reference_within_two_steps": itself["within_two_steps"],
    }


def _correct(precision: Precision, agreement: Mapping[str, float]) -> bool:
    if precision == "fp32":
        return agreement["largest_error"] <= _FP32_TOLERANCE
    least = min(1.0, agreement["reference_within_two_steps"]) * _LEAST_WITHIN_TWO_STEPS
    return agreement["within_two_steps"] >= least
