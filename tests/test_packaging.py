"""What is built is what runs: wheel and source archive hold real files, and the wheel works."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("targets", "profiler", "latency_models", "compress", "search")
NEEDED = (
    "py.typed",
    "targets/catalog.toml",
    "report/page.css",
    "report/page.js",
    "cli/__init__.py",
    *(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "targets" / "native").rglob("*")
        if path.suffix in (".cc", ".h", ".txt") or path.name == "run-on-android"
    ),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built from a copy of the tree."""
    copy, out = tmp_path_factory.mktemp("tree") / "millifit", tmp_path_factory.mktemp("dist")
    kept = ("pyproject.toml", "README.md", "LICENSE", "src", *STAGES)
    copy.mkdir()
    for name in kept:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, copy / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(source, copy / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def sources() -> set[str]:
    """Python files of the package, relative to it."""
    files = [path for stage in STAGES for path in (ROOT / stage).rglob("*.py")]
    names = {path.relative_to(ROOT).as_posix() for path in files}
    package = ROOT / "src" / "millifit"
    return names | {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] not in STAGES
    }


def test_wheel_holds_every_file(built: Path) -> None:
    """All modules and data files are in the wheel, once, under millifit/."""
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packed = {name.removeprefix("millifit/") for name in names if name.endswith(".py")}
    assert packed == sources()
    assert {f"millifit/{name}" for name in NEEDED} <= set(names)
    assert len(names) == len(set(names))
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_source_archive_holds_real_files(built: Path) -> None:
    """The linked stage folders are in the archive as files, so that it builds anywhere."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        members = opened.getmembers()
    files = {member.name.split("/src/millifit/")[-1] for member in members if member.isfile()}
    assert sources() | set(NEEDED) <= files
    assert [member.name for member in members if member.issym() or member.islnk()] == []


def test_wheel_works_in_a_fresh_environment(built: Path, tmp_path: Path) -> None:
    """Installed from the wheel, every module is imported from there, and the executable runs."""
    (wheel,) = built.glob("*.whl")
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True)
    packages = next(home.glob("lib/python*/site-packages"))
    # The dependencies of the environment at hand; an editable install there stays out of sight,
    # since .pth files are read in the first folder only.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = (
        "import importlib, pkgutil, millifit\n"
        "names = [m.name for m in pkgutil.walk_packages(millifit.__path__, 'millifit.')]\n"
        "for name in names: print(name, importlib.import_module(name).__file__)"
    )
    done = subprocess.run(
        [str(python), "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    places = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {f"millifit.{stage}" for stage in STAGES} <= set(places)
    assert [n for n, file in places.items() if not file.startswith(str(packages))] == []
    listed = subprocess.run(
        [str(home / "bin" / "millifit"), "targets", "list"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "x86-avx2" in listed.stdout
