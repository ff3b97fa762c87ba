"""Whether the TVM runtime of a device runs what this workstation compiles."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata

_RUNTIME, _FFI = "apache-tvm", "apache-tvm-ffi"


def runtime_mismatch(
    versions: Mapping[str, str], here: Mapping[str, str] | None = None
) -> str | None:
    """None where the device's runtime fits, else what is wrong and what to do.

    TVM must be of the same release, its foreign function interface of the same minor version.
    """
    here = here or {name: metadata.version(name) for name in (_RUNTIME, _FFI)}
    if _RUNTIME not in versions:
        return (
            "there is no TVM runtime on the device. Run there: "
            f"pip install {_RUNTIME}=={here[_RUNTIME]} {_FFI}=={here[_FFI]}; and start its server "
            "again, which says what is missing."
        )
    for name, parts in ((_RUNTIME, 3), (_FFI, 2)):
        if _release(versions.get(name, ""), parts) != _release(here[name], parts):
            return (
                f"the device has {name} {versions.get(name, 'of no version')}, this machine "
                f"{here[name]}. Run on the device: pip install {name}=={here[name]}; and start its "
                "server again."
            )
    return None


def _release(version: str, parts: int) -> tuple[str, ...]:
    """The first numbers of a version: ``0.27.0.post1`` has ``("0", "27", "0")``."""
    return tuple(re.findall(r"\d+", version)[:parts])
