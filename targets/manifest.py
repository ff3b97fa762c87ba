"""What a bundle says of itself, and whether its files are what it says.

Nothing in a bundle is unpickled; the library is code and runs only after every hash was checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from millifit.errors import BundleError
from millifit.targets.network import TensorType
from millifit.targets.target import Target

SCHEMA = 1
ALIGNMENT = 64  # of every operand in weights.bin, in bytes
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


def plain_manifest(manifest: Manifest) -> dict[str, Any]:
    """What manifest.json holds: the manifest in JSON types, and its own hash."""
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
        return Manifest(
            name=plain["name"], target=Target.from_dict(plain["target"]),
            versions=plain["versions"], input=_tensor(plain["input"]),
            outputs=tuple(map(_tensor, plain["outputs"])),
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


def with_hashes(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with the hashes of the files in `folder`."""
    return replace(manifest, files={name: _sha256(folder / name) for name in _FILES})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
