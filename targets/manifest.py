"""What a bundle says of itself, and whether its files are what it says.

Nothing in a bundle is unpickled; the library is code and runs only after every hash was checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from millifit.errors import BundleError
from millifit.targets.device_facts import needed_flags
from millifit.targets.network import TensorType
from millifit.targets.seal import BrokenSeal, sealed, unsealed
from millifit.targets.target import Target

SCHEMA = 2
ALIGNMENT = 64  # of every operand in weights.bin, in bytes
FILES = ("library.so", "weights.bin", "golden.npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Where a bundle's golden outputs come from, and how far it may be off them.

    `made_by` is ``bundle`` where it ran on the machine that compiled it, ``onnxruntime`` where that
    could only be computed by another implementation, and empty where there is no golden output.
    `tolerance` is of the largest deviation relative to the output's largest magnitude.
    """

    made_by: Literal["bundle", "onnxruntime", ""] = ""
    tolerance: float = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself.

    `planned_memory_bytes` are weights, inputs, outputs and all that lies between them, as planned.
    `peak_memory_bytes` and `start_up_s` (from opening its files to the first output, the runtime
    loaded already) were measured where it was compiled, if it runs there and was asked to: what
    another device measures belongs to the certificate of `verify`, because a manifest is hashed and
    perhaps signed. `linker` is the command that linked the library.
    """

    name: str
    target: Target
    versions: str
    input: TensorType
    outputs: tuple[TensorType, ...]
    weights: tuple[TensorType, ...]
    files: Mapping[str, str]
    details: Mapping[str, Any]
    tuned: tuple[Mapping[str, Any], ...] = ()  # see Program.tuned
    golden: Golden = Golden()
    planned_memory_bytes: int = 0
    peak_memory_bytes: int | None = None
    start_up_s: float | None = None
    linker: str = ""


def manifest_text(manifest: Manifest) -> str:
    """What manifest.json holds: the manifest, what its code needs, and its own hash.

    ``needs`` follows from the target; it is there so that a runner has no rules of its own.
    """
    said = {"schema": SCHEMA, "format": "bundle", **asdict(manifest)}
    said["needs"] = needs(manifest.target)
    return sealed(json.loads(json.dumps(said)))


def needs(target: Target) -> dict[str, Any]:
    """What a target's code needs of a device, for `device_facts.why_not` in another language."""
    gpu = target.gpu and {
        "api": target.gpu.api,
        "name": target.gpu.name,
        "arch": target.gpu.arch,
        "features": sorted({"fp16"} & set(target.gpu.features)),
    }
    return {"machine": target.machine, "flags": sorted(needed_flags(target)), "gpu": gpu}


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle.

    Raises BundleError where it is missing, damaged, changed or of another schema, and where it
    names files that a bundle does not have, such as some outside its folder.
    """
    file = path / "manifest.json"
    try:
        raw = file.read_bytes()
        plain = json.loads(raw)
        if plain["schema"] != SCHEMA:
            raise BundleError(
                f"bundle '{path}' has schema {plain['schema']}, this millifit reads {SCHEMA}: "
                "compile it again with this version"
            )
        return _manifest(unsealed(raw))
    except OSError as error:
        raise BundleError(
            f"'{path}' is no bundle: manifest.json cannot be read ({error.strerror}). Name the "
            "folder that 'millifit compile' or 'millifit fit' wrote."
        ) from error
    except BrokenSeal as error:
        raise BundleError(
            f"bundle '{path}' was changed after it was written: manifest.json does not match "
            "its sha256. Do not use it; compile the bundle again."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"the manifest of bundle '{path}' is damaged ({error}): compile the bundle again"
        ) from error


def _manifest(plain: Mapping[str, Any]) -> Manifest:
    strange = sorted(set(plain["files"]) - set(FILES))
    if strange:
        raise ValueError(f"a bundle has no file '{strange[0]}'")
    return Manifest(
        name=plain["name"], target=Target.from_dict(plain["target"]),
        versions=plain["versions"], input=_tensor(plain["input"]),
        outputs=tuple(map(_tensor, plain["outputs"])),
        weights=tuple(map(_tensor, plain["weights"])), files=dict(plain["files"]),
        details=dict(plain["details"]), tuned=tuple(plain["tuned"]),
        golden=Golden(**plain["golden"]),
        planned_memory_bytes=int(plain["planned_memory_bytes"]),
        peak_memory_bytes=plain["peak_memory_bytes"], start_up_s=plain["start_up_s"],
        linker=plain["linker"],
    )  # fmt: skip


def _tensor(plain: Mapping[str, Any]) -> TensorType:
    return TensorType(shape=tuple(int(n) for n in plain["shape"]), dtype=str(plain["dtype"]))


def check_files(path: Path, manifest: Manifest) -> None:
    """Compare every file with its hash; raises BundleError naming the first that differs."""
    for name in FILES:
        file = path / name
        if name not in manifest.files or not file.is_file():
            raise BundleError(f"bundle '{path}' is incomplete: {name} is missing")
        if sha256_of(file) != manifest.files[name]:
            raise BundleError(
                f"bundle '{path}' was changed after it was written: {name} does not match its "
                "sha256. Do not use it; compile the bundle again."
            )


def with_hashes(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with the hashes of the files in `folder`."""
    return replace(manifest, files={name: sha256_of(folder / name) for name in FILES})


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
