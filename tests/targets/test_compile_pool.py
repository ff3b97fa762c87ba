"""Several jobs of the compiler at a time: answers, crashes, and nothing left behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from millifit.targets.runner import compile_pool
from millifit.targets.runner.compile_pool import compile_jobs

# Answers as compile_worker does; what a job is called says what becomes of it.
FAKE = """
import json, os, signal, sys, time
for line in sys.stdin:
    request = json.loads(line)
    job = request["job"]
    open(os.path.join(job["folder"], str(os.getpid())), "w").close()
    if job["do"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job["do"] == "hang":
        time.sleep(600)
    if job["do"] == "slow":
        time.sleep(0.5)
    print(json.dumps({"id": request["id"], "value": {"done": job["do"], "pid": os.getpid()}}))
    sys.stdout.flush()
"""


@pytest.fixture(autouse=True)
def _fake_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_pool, "_COMMAND", (sys.executable, "-c", FAKE))


def _jobs(folder: Path, *names: str) -> list[dict[str, Any]]:
    return [{"do": name, "folder": str(folder)} for name in names]


def _running(folder: Path) -> list[str]:
    """The processes that took a job and are still there."""
    return [name.name for name in folder.iterdir() if Path("/proc", name.name).exists()]


def test_jobs_are_done_side_by_side(tmp_path: Path) -> None:
    """Every job is answered, by as many processes as were allowed, in the order of completion."""
    jobs = _jobs(tmp_path, "slow", "a", "b", "c")
    found = [answer for _, answer in compile_jobs(jobs, processes=2)]
    assert sorted(answer["done"] for answer in found) == ["a", "b", "c", "slow"]
    assert found[-1]["done"] == "slow"
    assert len({answer["pid"] for answer in found}) == 2
    assert os.getpid() not in {answer["pid"] for answer in found}
    assert _running(tmp_path) == []


def test_a_crash_is_the_answer_of_its_job_alone(tmp_path: Path) -> None:
    """The process is lost, the job says how, and the jobs behind it are done by another one."""
    jobs = _jobs(tmp_path, "a", "crash", "b", "crash", "c")
    found = list(compile_jobs(jobs, processes=1))
    assert [answer.get("done") for _, answer in found] == ["a", None, "b", None, "c"]
    assert [job["do"] for job, _ in found] == ["a", "crash", "b", "crash", "c"]
    assert found[1][1]["reason"].startswith(
        "the compiler did not finish: killed by signal 11 (SIGSEGV)"
    )
    assert _running(tmp_path) == []


def test_a_hung_compiler_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that takes too long is answered with that, and its process ended."""
    monkeypatch.setattr(compile_pool, "_LIMIT_S", 1.0)
    jobs = _jobs(tmp_path, "hang", "a")
    found = {job["do"]: answer for job, answer in compile_jobs(jobs, processes=2)}
    assert found["hang"] == {"reason": "the compiler did not finish: no answer within 1 s"}
    assert found["a"]["done"] == "a"
    assert _running(tmp_path) == []


def test_an_interrupt_ends_all_processes(tmp_path: Path) -> None:
    """Whoever stops listening, as Ctrl-C makes it, leaves no process behind, and at once."""
    answers = compile_jobs(_jobs(tmp_path, "a", "hang", "hang", "b"), processes=2)
    assert next(answers)[1]["done"] == "a"
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    began = time.monotonic()
    answers.close()
    assert time.monotonic() - began < 5
    assert _running(tmp_path) == []


def test_a_compiler_that_cannot_be_started_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every job then says so."""
    monkeypatch.setattr(compile_pool, "_COMMAND", ("/no/such/python",))
    found = [answer for _, answer in compile_jobs(_jobs(tmp_path, "a", "b"), processes=2)]
    assert found == [{"reason": "no process could be started: No such file or directory"}] * 2
