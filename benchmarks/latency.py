"""How well latencies are predicted: measured tables of real devices, and this machine.

Every table is split as its protocol says, and the baselines are computed along with ours: nothing
is quoted. A row is one figure of one device. Rows with a bar say whether it is met; the others are
for information, such as the share of measurements within the 95 % interval. Bars come from what
was asked for; where that is "at least the baseline", the bar is the baseline's figure.

The tables are read from MILLIFIT_DEVICE_DATA, or ../shared/device_data; they are not part of this
repository. ``--curves FOLDER`` draws the error against the number of samples instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.latency_tables import gcn, mobile, speed, v100
from benchmarks.latency_tables.row import Row
from benchmarks.setting import setting, write_result

_SEED = 0
Table = Callable[[int], Iterable[Row]]


def tables(*, store: Path | None, profile_s: float | None) -> dict[str, Table]:
    """All tables by name, in the order they are made."""
    from benchmarks.latency_tables import few_shot, nasbench201, ofa, transformers

    def local(seed: int) -> Iterable[Row]:
        from benchmarks.latency_tables import local
        from millifit.progress import SILENT

        limit = {} if profile_s is None else {"profile_s": profile_s}
        return local.rows(seed, progress=SILENT, store=store, **limit)

    return {
        "mobile_ops": mobile.operator_rows,
        "mobile_networks": mobile.network_rows,
        "v100": v100.rows,
        "nasbench201": nasbench201.rows,
        "few_shot": few_shot.rows,
        "ofa": ofa.rows,
        "transformers": transformers.rows,
        "gcn": gcn.rows,
        "speed": speed.rows,
        "local": local,
    }


def show(row: Row) -> None:
    """One line of the table."""
    state = {True: "met", False: "MISSED", None: ""}[row["met"]]
    print(
        f"{row['task']:15} {row['device']:26} {row['metric']:17} {_number(row['value']):>9}  "
        f"baseline {_number(row['baseline']):>9}  bar {_bar(row['bar']):>9}  {state}".rstrip(),
        flush=True,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.3g}"


def _bar(bar: float | tuple[float, float] | None) -> str:
    return "-".join(map(_number, bar)) if isinstance(bar, tuple) else _number(bar)


def made(name: str, table: Table) -> list[Row]:
    """The rows of one table, each shown as it comes; with the seconds that the table took.

    A table whose files are absent has none, and says so.
    """
    began, rows = time.perf_counter(), []
    try:
        for row in table(_SEED):
            show(row)
            rows.append(row)
    except FileNotFoundError as error:
        print(f"{name}: left out: {error}", flush=True)
    took_s = time.perf_counter() - began
    print(f"{name}: {took_s:.0f} s", flush=True)
    return [row | {"table_took_s": took_s} for row in rows]


def main() -> None:
    """Make all tables, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--only", metavar="NAME[,NAME]", help="make only these tables")
    parser.add_argument("--curves", type=Path, metavar="FOLDER", help="draw learning curves here")
    parser.add_argument("--store", type=Path, help="local: keep the profile here, or use it again")
    parser.add_argument("--profile-for", type=float, metavar="SECONDS", help="local: time limit")
    given = parser.parse_args()
    if given.curves is not None:
        from benchmarks.latency_tables import curves

        curves.draw(given.curves, seed=_SEED)
        return
    chosen = tables(store=given.store, profile_s=given.profile_for)
    names = given.only.split(",") if given.only else list(chosen)
    if unknown := [name for name in names if name not in chosen]:
        parser.error(f"unknown table {', '.join(unknown)}: choose of {', '.join(chosen)}")
    rows = [row for name in names for row in made(name, chosen[name])]
    missed = [row for row in rows if row["met"] is False]
    judged = sum(row["met"] is not None for row in rows)
    print(f"{judged - len(missed)} of {judged} bars met")
    for row in missed:
        show(row)
    write_result(given.json, {**setting(_SEED), "rows": rows})


if __name__ == "__main__":
    main()
