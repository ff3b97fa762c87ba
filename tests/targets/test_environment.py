"""What is kept with a measurement about the machine and the code."""

from pathlib import Path

import pytest

import millifit
from millifit.targets.runner import environment
from millifit.targets.runner.environment import code_versions, describe_environment


def test_every_fact_says_something() -> None:
    """Facts are texts, never empty: what cannot be read says so."""
    facts = describe_environment()
    assert {"cpu", "cores", "governor", "load_1min", "kernel", "python", "apache-tvm"} <= set(facts)
    assert all(isinstance(fact, str) and fact for fact in facts.values())


def test_the_unreadable_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that shows nothing the governor is 'unreadable' rather than absent."""
    monkeypatch.setattr(environment, "_lines", lambda path: [])
    assert describe_environment()["governor"] == "unreadable"


def test_a_changed_schedule_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One changed byte in a rule, or a renamed rule, changes the version."""
    monkeypatch.setattr(environment, "_SOURCES", ("schedules", "build.py"))
    monkeypatch.setattr(millifit, "__file__", str(tmp_path / "__init__.py"))
    (tmp_path / "schedules").mkdir()
    (tmp_path / "build.py").write_text("")
    rule = tmp_path / "schedules" / "rule.py"
    rule.write_text("tile = 6")
    first = code_versions()
    assert code_versions() == first
    rule.write_text("tile = 8")
    second = code_versions()
    rule.rename(rule.with_name("other.py"))
    assert len({first, second, code_versions()}) == 3
