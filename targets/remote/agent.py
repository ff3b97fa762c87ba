"""The single file for boards: the modules that a device's server loads, as one zip archive.

Python runs it as it is. The same sources give the same bytes, on any machine.
"""

from __future__ import annotations

import ast
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import millifit
from millifit.files import write_atomically

_START = "millifit.targets.remote.agent_main"
# What the server imports inside functions, where there is a GPU.
_FOR_GPUS = ("millifit.targets.detect_gpu", "millifit.targets.native")
_FIRST_LINE = b"#!/usr/bin/env python3\n"
_OLDEST = (1980, 1, 1, 0, 0, 0)  # that a zip archive can say
_CALL = f"from {_START} import main\nmain()\n"


def write_agent(path: Path) -> Path:
    """Write the single file to `path`, executable."""
    write_atomically(path, agent_bytes())
    path.chmod(0o755)
    return path


def agent_bytes() -> bytes:
    """The archive."""
    root = Path(millifit.__file__).parent.parent
    packed = io.BytesIO()
    packed.write(_FIRST_LINE)
    with zipfile.ZipFile(packed, "w") as archive:
        _add(archive, "__main__.py", _CALL.encode())
        for name in sorted(modules()):
            file = _file(root, name)
            assert file is not None
            _add(archive, file.relative_to(root).as_posix(), file.read_bytes())
    return packed.getvalue()


def modules() -> set[str]:
    """The modules of millifit that the server loads, packages included.

    Imports inside functions are not followed: they are the compiler's, which no board needs.
    """
    root = Path(millifit.__file__).parent.parent
    found: set[str] = set()
    waiting = [_START, *_FOR_GPUS]
    while waiting:
        name = waiting.pop()
        if name in found or not name.startswith("millifit"):
            continue
        file = _file(root, name)
        if file is None:
            continue  # what is imported is a name in a module
        found.add(name)
        package = name.rpartition(".")[0]
        waiting += [package, *_imports(ast.parse(file.read_text(encoding="utf-8")))]
    return found


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(root: Path, name: str) -> Path | None:
    place = root.joinpath(*name.split("."))
    for file in (place / "__init__.py", place.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=_OLDEST)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3  # Unix, wherever it is written
    archive.writestr(entry, content)
