"""Compiles one target after another: ``python -m millifit.targets.runner.compile_worker``.

A process of its own (see `compile_pool`), so that several targets are compiled at once, and a
compiler that crashes takes nothing with it. It loads TVM and no more: models come as ONNX files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import MillifitError
from millifit.targets.bundle import write_bundle
from millifit.targets.importer.onnx_file import read_network
from millifit.targets.importer.simplify import simplify
from millifit.targets.kernel import Kernel
from millifit.targets.lower import lower
from millifit.targets.program import without_rule
from millifit.targets.runner.serving import serve
from millifit.targets.target import Target

Job = Mapping[str, Any]


def compile_job(job: Job) -> dict[str, Any]:
    """Compile a network for a target into a bundle, and say what came of it, in JSON types.

    A job has `network` (an ONNX file in normal form) and its `name`, `target`, `choices` of tuned
    kernels, `golden` (an .npz of an input and, if known, outputs), `out`, `versions`, `details`.
    """
    began = time.perf_counter()
    target = Target.from_dict(job["target"])
    network = simplify(read_network(Path(job["network"]))).replace(name=job["name"])
    choices = {
        Kernel.from_dict(each["kernel"]): tuple((name, value) for name, value in each["choice"])
        for each in job["choices"]
    }
    program = lower(network, target).with_choices(choices)
    with np.load(job["golden"], allow_pickle=False) as golden:
        outputs = [golden[f"output{i}"] for i in range(len(golden.files) - 1)]
        write_bundle(
            Path(job["out"]), program=program, target=target, versions=job["versions"],
            golden_input=golden["input"], golden_output=outputs or None, details=job["details"],
        )  # fmt: skip
    return {
        "kernels": len(program.kernels),
        "without_rule": without_rule(program),
        "tuned": len(program.tuned),
        "seconds": time.perf_counter() - began,
    }


def answer(job: Job) -> dict[str, Any]:
    """What `compile_job` says, or ``{"reason": why not}``."""
    try:
        return compile_job(job)
    except MillifitError as error:
        return {"reason": str(error)}


def _answered(job: Job) -> dict[str, object]:
    try:
        return {"value": answer(job)}
    except Exception as error:  # a mistake for one target is no reason to stop the others
        return {"value": {"reason": f"unexpected {type(error).__name__}: {error}"}}


def main() -> None:
    """Serve on the pipes."""
    serve(lambda request: _answered(request["job"]))


if __name__ == "__main__":
    main()
