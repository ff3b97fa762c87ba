"""A bundle: what is deployed. It loads and runs with the TVM runtime alone.

::

    bundle/
      manifest.json      target, versions, plan, types, sha256 of every other file and of itself
      library.so         the kernels and the program
      weights.bin        packed operands, each at a multiple of 64 bytes (see the manifest)
      golden.npz         an input and the output it must give

Nothing in a bundle is unpickled; the library is code and runs only after every hash was checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import BundleError, RunFolderError
from millifit.targets.detect import ARM_EXTENSIONS
from millifit.targets.network import Array, TensorType
from millifit.targets.program import Program
from millifit.targets.target import Target

SCHEMA = 1
_ALIGNMENT = 64
_FILES = ("library.so", "weights.bin", "golden.npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself."""

    name: str
    target: Target
    versions: str
    input: TensorType
    outputs: tuple[TensorType, ...]
    weights: tuple[TensorType, ...]
    files: Mapping[str, str]
    details: Mapping[str, Any]
    tuned: tuple[Mapping[str, Any], ...] = ()  # see Program.tuned


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
        manifest = _with_hashes(manifest, staging)
        (staging / "manifest.json").write_text(json.dumps(_plain(manifest), indent=1) + "\n")
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
            file.write(b"\0" * (-array.nbytes % _ALIGNMENT))


def _with_hashes(manifest: Manifest, folder: Path) -> Manifest:
    return replace(manifest, files={name: _sha256(folder / name) for name in _FILES})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _plain(manifest: Manifest) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **asdict(manifest)}))
    return {**plain, "sha256": _digest(plain)}


def _digest(plain: Mapping[str, Any]) -> str:
    """The hash of all that a manifest says but this."""
    said = {key: value for key, value in plain.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle.

    Raises BundleError where it is missing, damaged, changed or of a newer millifit.
    """
    file = path / "manifest.json"
    try:
        plain = json.loads(file.read_text())
        if plain["schema"] != SCHEMA:
            raise BundleError(
                f"bundle '{path}' has schema {plain['schema']}, this millifit reads {SCHEMA}: "
                "compile it again with this version"
            )
        if plain["sha256"] != _digest(plain):
            raise BundleError(
                f"bundle '{path}' was changed after it was written: manifest.json does not match "
                "its sha256. Do not use it; compile the bundle again."
            )
        target = dict(plain["target"])
        target["features"] = tuple(target["features"])
        target["precisions"] = tuple(target["precisions"])
        return Manifest(
            name=plain["name"], target=Target(**target), versions=plain["versions"],
            input=_tensor(plain["input"]), outputs=tuple(map(_tensor, plain["outputs"])),
            weights=tuple(map(_tensor, plain["weights"])), files=dict(plain["files"]),
            details=dict(plain["details"]), tuned=tuple(plain.get("tuned", ())),
        )  # fmt: skip
    except OSError as error:
        raise BundleError(
            f"'{path}' is no bundle: manifest.json cannot be read ({error.strerror}). Name the "
            "folder that 'millifit compile' or 'millifit fit' wrote."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"the manifest of bundle '{path}' is damaged ({error}): compile the bundle again"
        ) from error


def _tensor(plain: Mapping[str, Any]) -> TensorType:
    return TensorType(shape=tuple(int(n) for n in plain["shape"]), dtype=str(plain["dtype"]))


def check_files(path: Path, manifest: Manifest) -> None:
    """Compare every file with its hash; raises BundleError naming the first that differs."""
    for name in _FILES:
        file = path / name
        if name not in manifest.files or not file.is_file():
            raise BundleError(f"bundle '{path}' is incomplete: {name} is missing")
        if _sha256(file) != manifest.files[name]:
            raise BundleError(
                f"bundle '{path}' was changed after it was written: {name} does not match its "
                "sha256. Do not use it; compile the bundle again."
            )


def runs_here(target: Target, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """None if this machine runs the target's code, else the reason why not."""
    machine = target.triple.split("-")[0]
    if machine != platform.machine():
        return f"it is for {machine}, this machine is {platform.machine()}"
    try:
        flags = set(cpuinfo.read_text().split())
    except OSError:
        return None  # nothing to compare with
    missing = sorted(_needed_flags(target) - flags)
    return f"this processor lacks {', '.join(missing)}" if missing else None


def _needed_flags(target: Target) -> set[str]:
    """What /proc/cpuinfo shows of the instructions that the target's code uses."""
    if target.triple.startswith("aarch64"):
        return {flag for name, flags in ARM_EXTENSIONS if name in target.features for flag in flags}
    needed = {"avx512f", "avx512bw", "avx512vl"} if target.vector_bits == 512 else set()
    if target.vector_bits == 256:
        needed = {"avx2", "fma"}
    needed |= {"avx512_vnni": {"avx512_vnni"}, "avx_vnni": {"avx_vnni"}}.get(
        target.dot_product, set()
    )
    if "+avx512bf16" in target.features:
        needed |= {"avx512_bf16"}
    return needed


class LoadedBundle:
    """A bundle in memory, ready to run. Inputs are fixed in shape: the network's, batch 1."""

    def __init__(self, manifest: Manifest, path: Path) -> None:
        import tvm
        from tvm.runtime.vm import VirtualMachine

        self.manifest = manifest
        # Bound to one core each, the pool's threads would bind the caller, too, for good.
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        configure = tvm.get_global_func("runtime.config_threadpool", allow_missing=True)
        if configure is not None and manifest.target.threads > 1:
            configure(1, manifest.target.threads)
        self._device = tvm.cpu()
        self._machine = VirtualMachine(_load_library(path / "library.so"), self._device)
        self._main = self._machine["main"]
        self._weights = _read_weights(path / "weights.bin", manifest)
        self._input: Any = None

    def set_input(self, x: Array) -> None:
        """Copy an input, shaped as the manifest says, to where `invoke` reads it."""
        self._input = self._given(x)
        # A closure with everything bound: one call, no conversion of arguments.
        self._machine.save_function("main", "bound", self._input, *self._weights)
        self._bound = self._machine["bound"]

    def invoke(self) -> Any:
        """Run once on the input set last; returns the runtime's own tensors."""
        return self._bound()

    def observe(self, hear: Callable[[str, bool, tuple[Any, ...]], None]) -> None:
        """Run once on the input set last; `hear` is told of every call of the runtime.

        It gets the name of what is called, whether the call begins or ended, and its arguments.
        """

        def instrument(_called: Any, name: str, begins: bool, _made: Any, *given: Any) -> None:
            hear(name, begins, given)

        self._machine.set_instrument(instrument)
        try:
            self._main(self._input, *self._weights)
        finally:
            self._machine.set_instrument(_silent)

    def run(self, x: Array) -> tuple[Array, ...]:
        """Run on one input and return the outputs."""
        made = self._main(self._given(x), *self._weights)
        if len(self.manifest.outputs) == 1:
            return (made.numpy(),)
        return tuple(made[i].numpy() for i in range(len(self.manifest.outputs)))

    def _given(self, x: Array) -> Any:
        import tvm

        expected = self.manifest.input
        if tuple(x.shape) != expected.shape:
            raise BundleError(
                f"bundle '{self.manifest.name}' takes an input of shape {expected.shape}, "
                f"got {tuple(x.shape)}: convert the input"
            )
        return tvm.runtime.tensor(np.ascontiguousarray(x, dtype=expected.dtype))


def _silent(*_: Any) -> None:
    """Hears nothing: the runtime cannot be without an instrument again once it had one."""


def _load_library(path: Path) -> Any:
    """Load a library from a copy of its own, which need not outlive the call.

    The dynamic linker knows libraries by the path they were opened with: a bundle that replaced
    another at the same path would get the other's code.
    """
    import tvm

    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            shutil.copyfile(path, copy)
            return tvm.runtime.load_module(str(copy))
    except OSError as error:
        raise BundleError(
            f"cannot load '{path}' from a copy in '{tempfile.gettempdir()}' ({error.strerror}). "
            "Free some space there, or set TMPDIR to another folder."
        ) from error


def _read_weights(path: Path, manifest: Manifest) -> list[Any]:
    import tvm

    blob = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    made, at = [], 0
    for kind in manifest.weights:
        if at + kind.bytes > len(blob):
            raise BundleError(f"'{path}' is shorter than its manifest says: compile it again")
        values = blob[at : at + kind.bytes].view(kind.dtype).reshape(kind.shape)
        made.append(tvm.runtime.tensor(values))
        at += kind.bytes + (-kind.bytes % _ALIGNMENT)
    return made


def load_bundle(path: Path) -> LoadedBundle:
    """Check a bundle and load it.

    Raises BundleError for missing or changed files, and for a bundle made for another processor.
    """
    manifest = read_manifest(path)
    check_files(path, manifest)
    reason = runs_here(manifest.target)
    if reason is not None:
        raise BundleError(
            f"bundle '{path}' was compiled for target '{manifest.target.name}' and cannot run "
            f"here: {reason}. Compile it for this machine: millifit compile MODEL --target local"
        )
    return LoadedBundle(manifest, path)
