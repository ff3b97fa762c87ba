"""Writing a bundle: what is deployed. It loads and runs with the TVM runtime alone.

::

    bundle/
      manifest.json      target, versions, plan, types, sha256 of every other file and of itself
      manifest.json.sig  its Ed25519 signature, if it was signed (`signature`)
      library.so         the kernels and the program
      weights.bin        packed operands, each at a multiple of 64 bytes (see the manifest)
      golden.npz         an input and the output it must give

`manifest` reads it, `loaded_bundle` runs it, and so does ``millifit-run`` (targets/native/runner).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import RunFolderError
from millifit.targets.bundle_folder import replace_folder
from millifit.targets.loaded_bundle import LoadedBundle, runs_here
from millifit.targets.manifest import (
    ALIGNMENT,
    Golden,
    Manifest,
    manifest_text,
    read_manifest,
    with_hashes,
)
from millifit.targets.network import Array, TensorType
from millifit.targets.program import Program
from millifit.targets.relax_program import plan_memory
from millifit.targets.runner.first_run import measure_first_run
from millifit.targets.target import Precision, Target

# How far another implementation's output may be off, relative to its largest magnitude. Integers
# are rounded at other places, and a step of one quantizer is many in the layers behind it.
_TOLERANCE: Mapping[Precision, float] = {"fp16": 2e-2, "bf16": 5e-2, "int8": 5e-2, "w7a8": 5e-2}
_EXACT = 1e-4


def write_bundle(
    path: Path,
    *,
    program: Program,
    target: Target,
    versions: str,
    golden_input: Array,
    golden_output: Sequence[Array] | None = None,
    details: Mapping[str, Any],
    measure: bool = False,
) -> Manifest:
    """Compile a program and write its bundle, all of it or nothing.

    `golden_input` is one input of the network. Where this machine runs the target's code, the
    bundle computes the golden outputs itself; else they are `golden_output`, ONNX Runtime's, if
    given. With `measure`, what the bundle's first run takes here goes into the manifest, at the
    cost of a second. An existing bundle at `path` is replaced.
    """
    from millifit.targets.build import compile_program, export_library

    compiled = compile_program(program, target)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise RunFolderError(
            f"cannot write the bundle '{path}': {error.strerror}. Choose another folder."
        ) from error
    try:
        linker = export_library(compiled, staging / "library.so", target)
        _write_weights(staging / "weights.bin", compiled.weights)
        manifest = Manifest(
            name=program.name, target=target, versions=versions,
            input=program.types[program.inputs[0]],
            outputs=tuple(program.types[name] for name in program.outputs),
            weights=tuple(
                TensorType(shape=w.shape, dtype=str(w.dtype)) for w in compiled.weights
            ),
            files={}, details=dict(details), tuned=program.tuned,
            planned_memory_bytes=_planned_bytes(program, compiled.weights), linker=linker,
        )  # fmt: skip
        here = runs_here(target) is None
        outputs = LoadedBundle(manifest, staging).run(golden_input) if here else golden_output
        arrays = {f"output{i}": value for i, value in enumerate(outputs or ())}
        np.savez(staging / "golden.npz", input=golden_input, **arrays)  # type: ignore[arg-type]
        manifest = replace(manifest, golden=_golden(program, here=here, given=bool(arrays)))
        manifest = _seal(staging, manifest)
        if measure and here:
            manifest = measure_bundle(staging)
        replace_folder(staging, path)
    except OSError as error:
        raise RunFolderError(
            f"cannot write the bundle '{path}': {error.strerror}. Free space or choose another "
            "folder; nothing was left behind."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def measure_bundle(path: Path) -> Manifest:
    """Add what a bundle's first run takes to its manifest. It must run on this machine."""
    found = measure_first_run(path)
    manifest = replace(
        read_manifest(path),
        peak_memory_bytes=found.peak_memory_bytes,
        start_up_s=found.start_up_s,
    )
    return _seal(path, manifest)


def _golden(program: Program, *, here: bool, given: bool) -> Golden:
    """By whom the golden outputs were made, and how far a device may be off them."""
    if not given:
        return Golden()
    used = {kernel.precision for kernel in program.kernels}
    loosest = max((_TOLERANCE.get(precision, _EXACT) for precision in used), default=_EXACT)
    if not here:
        return Golden(made_by="onnxruntime", tolerance=loosest)
    return Golden(made_by="bundle", tolerance=_EXACT)


def _planned_bytes(program: Program, weights: Sequence[Array]) -> int:
    """Bytes of the inputs, of what the kernels write, and of the packed weights."""
    memory = plan_memory(program)
    alone = sum(program.types[name].bytes for name in memory.alone | set(program.inputs))
    return memory.arena.bytes + alone + sum(int(weight.nbytes) for weight in weights)


def _seal(folder: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of a folder that holds all other files."""
    manifest = with_hashes(manifest, folder)
    (folder / "manifest.json").write_text(manifest_text(manifest))
    return manifest


def _write_weights(path: Path, weights: tuple[Array, ...]) -> None:
    with path.open("wb") as file:
        for array in weights:
            file.write(array.tobytes())
            file.write(b"\0" * (-array.nbytes % ALIGNMENT))
