"""Imports point down the pipeline, go in no circles, and load heavy packages late."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "millifit"

# Lowest first. A part imports itself and the parts on lines above its own.
ORDER = (
    ("errors", "progress", "__init__"),
    ("files", "user_code"),
    ("samples",),
    ("data",),
    ("targets",),
    ("profiler",),
    ("latency_models",),
    ("compress",),
    ("search",),
    ("recipe", "doctor"),
    ("report",),
    ("demo", "models"),
    ("pipeline",),
    ("console",),
    ("cli",),
)
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {}
    for path in sorted(_python_files(SOURCE)):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(("millifit", *(parts[:-1] if parts[-1] == "__init__" else parts)))
        found[name] = path
    return found


def _python_files(folder: Path) -> Iterator[Path]:
    # rglob follows links to folders from Python 3.13 on only
    for path in folder.iterdir():
        if path.is_dir():
            yield from _python_files(path)
        elif path.suffix == ".py":
            yield path


MODULES = modules()


def imports(name: str) -> set[str]:
    """Modules of millifit that a module imports anywhere, but for type checking alone."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import at line {node.lineno}"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return {other for other in found if other.split(".")[0] == "millifit" and other != name}


def part(name: str) -> str:
    """The part of the package a module belongs to: 'millifit.targets.build' -> 'targets'."""
    return [*name.split("."), "__init__"][1]


def test_all_stages_are_looked_at() -> None:
    """The stage folders are reached through their links."""
    assert {part(name) for name in MODULES} >= {
        "targets", "profiler", "latency_models", "compress", "search", "report", "cli",
    }  # fmt: skip
    assert "millifit.targets.target" in imports("millifit.compress.plan")


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_downwards(name: str) -> None:
    """A module imports its own part and those below it."""
    assert part(name) in RANK, f"'{part(name)}' has no place yet: put it into ORDER"
    upward = {
        other
        for other in imports(name)
        if part(other) != part(name) and RANK[part(other)] >= RANK[part(name)] and other in MODULES
    }
    assert upward == set()


def test_imports_go_in_no_circles() -> None:
    """No module reaches itself, imports inside functions included."""
    graph = {name: imports(name) & set(MODULES) for name in MODULES}
    while leaves := {name for name, others in graph.items() if not others & set(graph)}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert graph == {}


def test_imported_names_exist() -> None:
    """Every module of millifit that is imported is there."""
    missing = {(name, other) for name in MODULES for other in imports(name) if other not in MODULES}
    assert missing == set()


@pytest.mark.parametrize("statement", ["import millifit", "import millifit.cli"])
def test_import_is_light(statement: str) -> None:
    """Neither the package nor its command line loads torch, tvm or onnxruntime."""
    heavy = "{'torch', 'tvm', 'onnxruntime'}"
    check = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
