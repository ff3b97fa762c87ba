"""Writing a bundle: what is deployed. It loads and runs with the TVM runtime alone.

::

    bundle/
      manifest.json      target, versions, plan, types, sha256 of every other file and of itself
      library.so         the kernels and the program
      weights.bin        packed operands, each at a multiple of 64 bytes (see the manifest)
      golden.npz         an input and the output it must give

`manifest` reads it, `loaded_bundle` runs it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import RunFolderError
from millifit.targets.loaded_bundle import LoadedBundle, runs_here
from millifit.targets.manifest import ALIGNMENT, Manifest, plain_manifest, with_hashes
from millifit.targets.network import Array, TensorType
from millifit.targets.program import Program
from millifit.targets.target import Target


def write_bundle(
    path: Path,
    *,
    program: Program,
    target: Target,
    versions: str,
    golden_input: Array,
    details: Mapping[str, Any],
) -> Manifest:
    """Compile a program and write its bundle, all of it or nothing.

    `golden_input` is one input of the network; its output is computed by the bundle itself on this
    machine, or left out when the target is another one. An existing bundle at `path` is replaced.
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
        export_library(compiled, staging / "library.so", target)
        _write_weights(staging / "weights.bin", compiled.weights)
        output_types = tuple(program.types[name] for name in program.outputs)
        manifest = Manifest(
            name=program.name, target=target, versions=versions,
            input=program.types[program.inputs[0]], outputs=output_types,
            weights=tuple(
                TensorType(shape=w.shape, dtype=str(w.dtype)) for w in compiled.weights
            ),
            files={}, details=dict(details), tuned=program.tuned,
        )  # fmt: skip
        golden: dict[str, Any] = {"input": golden_input}
        if runs_here(target) is None:
            outputs = LoadedBundle(manifest, staging).run(golden_input)
            golden |= {f"output{i}": value for i, value in enumerate(outputs)}
        np.savez(staging / "golden.npz", **golden)
        manifest = with_hashes(manifest, staging)
        (staging / "manifest.json").write_text(
            json.dumps(plain_manifest(manifest), indent=1) + "\n"
        )
        _replace_folder(staging, path)
    except OSError as error:
        raise RunFolderError(
            f"cannot write the bundle '{path}': {error.strerror}. Free space or choose another "
            "folder; nothing was left behind."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _write_weights(path: Path, weights: tuple[Array, ...]) -> None:
    with path.open("wb") as file:
        for array in weights:
            file.write(array.tobytes())
            file.write(b"\0" * (-array.nbytes % ALIGNMENT))


def _replace_folder(staging: Path, path: Path) -> None:
    """Put a finished folder in place; a reader sees the old one or the new one."""
    staging.chmod(0o755)
    if not path.exists():
        staging.replace(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    path.replace(old / "was")
    staging.replace(path)
    shutil.rmtree(old, ignore_errors=True)
