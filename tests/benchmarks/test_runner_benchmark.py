"""The benchmark of the runner: what it measures, on a small network."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import runner
from tests.targets.native_runner import built


@pytest.fixture(scope="session")
def folder() -> Path:
    """The program's, built before tests have homes of their own."""
    return built().parent


def test_starts_are_timed_from_outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process takes longer than its own start-up, and sizes are of the real files."""
    monkeypatch.setattr(runner, "_NETWORK", "ResNet-8")
    monkeypatch.setattr(runner, "build", lambda _part: folder)
    found = runner.measure(4)
    assert (found["network"], found["process_s"]["n"]) == ("ResNet-8", 4)
    assert 0 < found["start_up_s"]["median"] < found["process_s"]["median"]
    assert found["latency_s"]["n"] == 200
    assert 50_000 < found["program_bytes"] < 200_000
    assert found["bars"]["program under 200 kB"]
    assert set(found["runtime_bytes"]) == {"libtvm_runtime.so", "libtvm_ffi.so"}
