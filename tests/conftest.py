"""What all tests share: nothing is skipped in silence, and nobody's home is written to."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sample_result import sample_result

from millifit.targets.target import Target
from tests.debian import install

NOT_RUN = "under CI=true nothing may be skipped, but this was: "


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Under CI=true a skipped test fails, unless it needs a GPU."""
    report = yield
    expected = item.get_closest_marker("gpu") is not None or hasattr(report, "wasxfail")
    if report.skipped and not expected:
        _fail_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Under CI=true a file that skips itself as a whole fails."""
    report = yield
    if report.skipped:
        _fail_in_ci(report)
    return report


def _fail_in_ci(report: Any) -> None:
    if os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = NOT_RUN + str(reason)


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores and catalogs of the person who runs the tests stay as they are."""
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture
def result() -> Mapping[str, Any]:
    """A result.json of a plausible run, fresh for every test."""
    return sample_result()


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser that opens reports; installed where a root on Debian runs the tests."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if not any(map(shutil.which, names)):
        install(["chromium", "fonts-dejavu-core"])
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium: on Debian or Ubuntu run 'apt-get install chromium'")
    return Path(found)


@pytest.fixture(scope="session")
def arm_linker() -> str:
    """The linker for 64-bit Arm; installed where a root on Debian runs the tests."""
    name = "aarch64-linux-gnu-g++"
    if shutil.which(name) is None and platform.machine() != "aarch64":
        install(["g++-aarch64-linux-gnu"])
        if shutil.which(name) is None:
            pytest.skip(
                "no linker: on Debian or Ubuntu run 'apt-get install g++-aarch64-linux-gnu'"
            )
    return name


@pytest.fixture(scope="session")
def opencl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The target 'pocl-opencl', with the runtime built; installed where a root on Debian runs."""
    from millifit.targets.detect_gpu import detect_gpu_target
    from millifit.targets.native import build

    if not list(Path("/etc/OpenCL/vendors").glob("pocl*.icd")) or not shutil.which("cmake"):
        install(["cmake", "g++", "make", "ocl-icd-libopencl1", "opencl-headers", "pocl-opencl-icd"])
    if not list(Path("/etc/OpenCL/vendors").glob("pocl*.icd")):
        pytest.skip("no PoCL: on Debian or Ubuntu run 'apt-get install pocl-opencl-icd'")
    cache = tmp_path_factory.mktemp("opencl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLIFIT_OPENCL_LIBRARY", str(build("opencl") / "libmillifit_opencl.so"))
        patch.setenv("MILLIFIT_OPENCL_PLATFORM", "Portable Computing Language")
        patch.setenv("MILLIFIT_OPENCL_CACHE", str(cache))
        patch.setenv("POCL_CACHE_DIR", str(cache / "pocl"))
        yield detect_gpu_target("pocl-opencl")


@pytest.fixture
def browse(chromium: Path, tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Opens a file in Chromium; returns the page as drawn and what the console said."""

    def opened(page: Path, *options: str) -> tuple[str, str]:
        flags = (
            "headless no-sandbox disable-gpu disable-quic no-first-run disable-component-update "
            "disable-background-networking disable-sync dump-dom enable-logging=stderr v=0 "
            "virtual-time-budget=20000 window-size=1200,900"
        )
        command = [str(chromium), *(f"--{flag}" for flag in flags.split()), *options]
        command += [f"--user-data-dir={tmp_path / 'browser'}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, "\n".join(said)

    return opened
