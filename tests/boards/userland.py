"""An arm64 Debian userland with Python and the TVM runtime, to be run under qemu-user.

Nothing is installed on the machine and nothing needs root: apt resolves, fetches and verifies the
arm64 packages in folders of its own, they are unpacked without being configured, and the aarch64
wheels of the package index are unpacked beside them. qemu finds the files by ``-L``, so there is no
chroot and no binfmt_misc; a program that only forks, as the device server does, never notices.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.debian import install

CPU = "cortex-a76"
_SUITE, _PYTHON = "bookworm", "python3.11"
_PACKAGES = (_PYTHON, "libstdc++6")
_WHEELS = ("numpy", "apache-tvm", "apache-tvm-ffi", "ml-dtypes", "typing-extensions", "psutil")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux2014")
# What a device without a compiler can do without: 300 of 350 MB.
_LEFT_OUT = re.compile(r"tvm/(3rdparty|include|lib/libtvm_(compiler|runtime_cuda)\.so)|.*/tests?/")
_NEEDED = ("qemu-user-static", "g++-aarch64-linux-gnu", "debian-archive-keyring")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
# Read before tests give themselves other homes.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millifit" / "board"

# Prints the instruction set extensions that the emulator announces, as /proc/cpuinfo names them.
_FEATURES = """
import ctypes
names = ('fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma'
         ' lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm').split()
announced = ctypes.CDLL(None).getauxval(16)
print(*(name for bit, name in enumerate(names) if announced >> bit & 1))
"""
_WARM = "import ssl, hmac, json, socket, zipfile, numpy, tvm, tvm.rpc.server, tvm.runtime.vm"


class PackagesMissingError(Exception):
    """The machine lacks packages, and may not install them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Userland:
    """Unpacked files, and the emulator that runs what is among them."""

    folder: Path
    emulator: str

    def command(self, *arguments: str) -> list[str]:
        """The command line of the userland's Python."""
        root = self.folder / "root"
        python = root / "usr" / "bin" / _PYTHON
        return [self.emulator, "-cpu", CPU, "-L", str(root), str(python), *arguments]

    @property
    def environment(self) -> Mapping[str, str]:
        """What its Python must find in the environment."""
        return {
            "PYTHONPATH": str(self.folder / "site"),
            "TVM_USE_RUNTIME_LIB": "1",
            "PATH": os.environ["PATH"],
        }

    def run(self, code: str) -> str:
        """What a piece of Python prints there."""
        done = subprocess.run(
            self.command("-c", code), env=dict(self.environment), capture_output=True, text=True,
            check=True, timeout=300,
        )  # fmt: skip
        return done.stdout


def userland(cache: Path = CACHE, *, say: Callable[[str], None] = lambda _: None) -> Userland:
    """The userland of this recipe, made if it is not in `cache`: whole, or not at all.

    Raises PackagesMissingError, saying what to install, where that cannot be done here.
    """
    emulator = _emulator()
    folder = cache / _recipe_key()
    with _alone(cache):
        if not folder.exists():
            staging = Path(tempfile.mkdtemp(prefix=".making-", dir=cache))
            try:
                _make(Userland(folder=staging, emulator=emulator), say)
                staging.replace(folder)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return Userland(folder=folder, emulator=emulator)


def _emulator() -> str:
    for attempt in (1, 2):
        found = list(filter(None, map(shutil.which, ("qemu-aarch64-static", "qemu-aarch64"))))
        compiler = shutil.which("aarch64-linux-gnu-g++")
        if found and compiler and _KEYRING.exists() and shutil.which("apt-get"):
            return found[0]
        if attempt == 1:
            install(_NEEDED)
    raise PackagesMissingError(
        f"the emulated board needs Debian or Ubuntu and: sudo apt-get install {' '.join(_NEEDED)}"
    )


def _recipe_key() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update("\n".join(_pins()).encode())
    return digest.hexdigest()[:16]


def _pins() -> list[str]:
    """The wheels with the versions of constraints.txt."""
    known = dict(
        line.split("==") for line in _CONSTRAINTS.read_text().split() if line.count("==") == 1
    )
    return [f"{name}=={known[name]}" for name in _WHEELS]


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One process at a time makes a userland."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(made: Userland, say: Callable[[str], None]) -> None:
    say(f"unpacking Debian {_SUITE} for arm64 from {_mirror()}")
    _unpack_packages(made.folder)
    say("unpacking the wheels for aarch64")
    _unpack_wheels(made.folder)
    say("starting Python under the emulator")
    _describe_processor(made)
    made.run(_WARM)  # compiles what is imported
    for name in ("apt", "wheels"):
        shutil.rmtree(made.folder / name)


def _unpack_packages(folder: Path) -> None:
    """Fetch the packages and all that they depend on, as if nothing were installed."""
    apt = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial", "parts"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(
        f"deb [arch=arm64 signed-by={_KEYRING}] {_mirror()} {_SUITE} main\n"
    )
    (apt / "apt.conf").write_text(f"""
        Dir::State "{apt}/state"; Dir::State::status "{apt}/status"; Dir::Cache "{apt}/cache";
        Dir::Etc::sourcelist "{apt}/sources.list"; Dir::Etc::sourceparts "{apt}/parts";
        Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "{apt}/parts";
        APT::Architecture "arm64"; APT::Architectures "arm64"; APT::Sandbox::User "";
        Acquire::Languages "none"; Acquire::Retries "3"; Debug::NoLocking "true";
    """)
    environment = os.environ | {"APT_CONFIG": str(apt / "apt.conf")}
    fetch = ["install", "-y", "--no-install-recommends", "--download-only", *_PACKAGES]
    for arguments in (["update"], fetch):
        _run(["apt-get", "-q", *arguments], environment)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        _run(["dpkg", "-x", str(package), str(folder / "root")], os.environ)


def _mirror() -> str:
    """The mirror that the machine's own apt uses, if it is Debian's."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    mirrors = [line.rstrip("/") for line in listed.stdout.split()]
    return next((each for each in mirrors if each.endswith("/debian")), _DEFAULT_MIRROR)


def _unpack_wheels(folder: Path) -> None:
    platforms = [option for name in _PLATFORMS for option in ("--platform", f"{name}_aarch64")]
    _run(
        [
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"),
            *("--python-version", "3.11", *platforms, "-d", str(folder / "wheels"), *_pins()),
        ],
        os.environ,
    )
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if not _LEFT_OUT.match(name)]
            archive.extractall(folder / "site", wanted)


def _describe_processor(made: Userland) -> None:
    """Write the /proc/cpuinfo of the processor that is emulated: qemu-user shows the host's."""
    version = subprocess.run(
        [made.emulator, "--version"], capture_output=True, text=True, check=True
    ).stdout.split()[2]
    block = (
        f"model name\t: Cortex-A76 emulated by qemu {version}\nFeatures\t: {made.run(_FEATURES)}"
    )
    (made.folder / "root" / "proc").mkdir()
    text = "\n".join(f"processor\t: {core}\n{block}" for core in range(os.cpu_count() or 1))
    (made.folder / "root" / "proc" / "cpuinfo").write_text(text)


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, env=dict(environment), capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode != 0:
        raise RuntimeError(f"'{' '.join(command[:3])}' failed: {done.stderr.strip()[-1000:]}")
