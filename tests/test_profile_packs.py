"""The commands for what was measured, from the command line to the file and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from millifit.cli import app

TABLE = "type,H,Cin,Cout,K,S,time\n" + "".join(
    f"conv,{hw},{channels},64,3,1,{time}\n"
    for hw, channels, time in ((56, 64, 3.0), (28, 64, 0.9), (14, 64, 0.3), (7, 64, 0.1))
)
MAPPING = "op=type,in_hw=H,in_ch=Cin,out_ch=Cout,kernel=K,stride=S,latency_ms=time"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the table."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(TABLE)
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["profile", *arguments])


def imported(store: str, *more: str, table: str = "t.csv") -> dict[str, Any]:
    """A table in a store, and what was said of it."""
    options = ("--map", MAPPING, "--device", "phone", "--store", store, "--json", "j.json", *more)
    done = run("import", table, *options)
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(Path("j.json").read_text())
    return found


def test_a_table_goes_round(here: Path) -> None:
    """Imported, shown, exported, and imported again elsewhere."""
    found = imported("s.sqlite")
    assert (found["new_measurements"], found["rows"], found["targets"]) == (4, 4, ["phone/fp32"])
    shown = run("show", "s.sqlite", "--json", "show.json")
    assert "4 kernels in s.sqlite" in shown.stdout
    (line,) = json.loads(Path("show.json").read_text())
    assert (line["target"], line["kind"], line["measured"]) == ("phone/fp32", "conv2d", 4)
    assert run("export", "p.parquet", "--store", "s.sqlite").exit_code == 0
    assert run("export", "q.parquet", "--store", "s.sqlite", "--target", "a/b").exit_code == 0
    assert "0 kernels" in run("show", "q.parquet").stdout
    again = run("import", "p.parquet", "--store", "other.sqlite")
    assert "4 new measurements in other.sqlite" in again.stdout


def test_a_page_is_written(here: Path) -> None:
    """show --html writes the page beside the table."""
    imported("s.sqlite")
    assert run("show", "--store", "s.sqlite", "--html", "p.html").exit_code == 0
    assert "Latency against work on phone/fp32" in Path("p.html").read_text()


def test_bad_rows_refuse_or_are_left_out(here: Path) -> None:
    """The row is named; with --skip-bad the others are imported and the row is said."""
    Path("t.csv").write_text(TABLE.replace(",0.3", ",-0.3"))
    refused = run("import", "t.csv", "--map", MAPPING, "--device", "phone", "--store", "s.sqlite")
    assert refused.exit_code == 1
    assert "row 3: a latency of -0.0003 s" in refused.stderr
    assert imported("s.sqlite", "--skip-bad")["skipped"] == [
        {"row": 3, "reason": "a latency of -0.0003 s"}
    ]


def test_two_profiles_are_compared(here: Path) -> None:
    """A kernel ten times slower has changed; the JSON has all ratios and families."""
    imported("a.sqlite")
    Path("u.csv").write_text(TABLE.replace(",0.3", ",3.0"))
    imported("b.sqlite", table="u.csv")
    done = run("diff", "a.sqlite", "b.sqlite", "--json", "d.json")
    assert done.exit_code == 0
    assert "conv2d fp32: median unchanged, 1 of 4 changed" in done.stdout
    found = json.loads(Path("d.json").read_text())
    assert found["changes"][0]["ratio"] == pytest.approx(10)
    assert found["families"]["conv2d fp32"] == {"common": 4, "changed": 1, "median_ratio": 1.0}


def test_packs_and_stores_are_merged(here: Path) -> None:
    """What both have differently is chosen and said, contradictions one by one."""
    imported("a.sqlite")
    Path("u.csv").write_text(TABLE.replace(",0.3", ",3.0"))
    imported("b.sqlite", table="u.csv")
    run("export", "b.parquet", "--store", "b.sqlite")
    done = run("merge", "a.sqlite", "b.parquet", "--to", "m.parquet", "--json", "m.json")
    assert "contradiction: conv2d fp32 on phone/fp32: 0.3, 3 ms; kept a.sqlite" in done.stdout
    assert "4 measurements written to m.parquet" in done.stdout
    assert len(json.loads(Path("m.json").read_text())["choices"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "absent.sqlite"), 2),
        (("show", "absent.parquet"), 2),
        (("diff", "t.csv", "t.csv"), 1),
        (("merge", "absent.sqlite", "--to", "m.parquet"), 2),
        (("import", "t.csv"), 2),
        (("import", "t.csv", "--map", "nonsense=H"), 2),
        (("import", "t.csv", "--as", "nonsense"), 2),
        (("import", "absent.csv"), 1),
        (("export", "p.parquet", "--store", "absent.sqlite"), 2),
        (("show", "t.csv", "--target", "toaster"), 2),
    ],
)
def test_wrong_use(here: Path, arguments: tuple[str, ...], code: int) -> None:
    """Wrong use exits with 2, a file that cannot be used with 1; no store is made on the way."""
    assert run(*arguments).exit_code == code
    assert not list(here.glob("*.sqlite"))
