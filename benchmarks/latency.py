"""How well latencies are predicted: measured tables of real devices, and this machine.

Every table is split as its protocol says, and the baselines are computed along with ours: nothing
is quoted. A row is one figure of one device. Rows with a bar say whether it is met; the others are
for information, such as the share of measurements within the 95 % interval. Bars come from what
was asked for; where that is "at least the baseline", the bar is the baseline's figure.

Tables are made side by side, one per core; what is timed (`speed`, `local`) comes last and alone.
The tables are read from MILLIFIT_DEVICE_DATA, or ../shared/device_data; they are not part of this
repository. ``--curves FOLDER`` draws the accuracy against the number of samples instead.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from benchmarks.latency_tables.row import Row
from benchmarks.setting import setting, write_result

_SEED = 0
Table = Callable[[int], Iterable[Row]]

# Those that take longest first, so that the cores are done at the same time.
SIDE_BY_SIDE = (
    "mobile_networks", "nasbench201", "few_shot", "v100", "mobile_ops", "gcn", "ofa",
    "transformers",
)  # fmt: skip
ALONE = ("speed", "local")


def rows_of(name: str, *, store: Path | None, profile_s: float | None) -> Iterable[Row]:
    """The rows of one table. FileNotFoundError where its files are absent."""
    from benchmarks.latency_tables import (
        few_shot,
        gcn,
        local,
        mobile,
        nasbench201,
        ofa,
        speed,
        transformers,
        v100,
    )
    from millifit.progress import SILENT

    if name == "local":
        limit = {} if profile_s is None else {"profile_s": profile_s}
        return local.rows(_SEED, progress=SILENT, store=store, **limit)
    tables: dict[str, Table] = {
        "mobile_ops": mobile.operator_rows,
        "mobile_networks": mobile.network_rows,
        "v100": v100.rows,
        "nasbench201": nasbench201.rows,
        "few_shot": few_shot.rows,
        "ofa": ofa.rows,
        "transformers": transformers.rows,
        "gcn": gcn.rows,
        "speed": speed.rows,
    }
    return tables[name](_SEED)


def made(name: str, store: Path | None, profile_s: float | None) -> tuple[list[Row], str]:
    """The rows of one table with the seconds that it took, and a remark."""
    began = time.perf_counter()
    try:
        rows = list(rows_of(name, store=store, profile_s=profile_s))
    except FileNotFoundError as error:
        return [], f"{name}: left out: {error}"
    except Exception as error:  # whatever a table does, the others are still made
        return [], f"{name}: FAILED: {type(error).__name__}: {error}"
    took_s = time.perf_counter() - began
    return [row | {"table_took_s": took_s} for row in rows], f"{name}: {took_s:.0f} s"


def run(
    names: Sequence[str], *, jobs: int, store: Path | None, profile_s: float | None
) -> Iterator[tuple[list[Row], str]]:
    """The tables in processes of their own, each computing on one core, as they are done."""
    context = multiprocessing.get_context("spawn")
    parts = (
        ([name for name in SIDE_BY_SIDE if name in names], jobs),
        ([name for name in ALONE if name in names], 1),
    )
    for part, workers in parts:
        with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
            begun = [pool.submit(made, name, store, profile_s) for name in part]
            for done in as_completed(begun):
                yield done.result()


def show(row: Row) -> None:
    """One line of the table."""
    state = {True: "met", False: "MISSED", None: ""}[row["met"]]
    print(
        f"{row['task']:15} {row['device']:38} {row['metric']:17} {_number(row['value']):>9}  "
        f"baseline {_number(row['baseline']):>9}  bar {_bar(row['bar']):>9}  {state}".rstrip(),
        flush=True,
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.3g}"


def _bar(bar: float | tuple[float, float] | None) -> str:
    return "-".join(f"{end:.2f}" for end in bar) if isinstance(bar, tuple) else _number(bar)


def main() -> None:
    """Make all tables, or those asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--only", metavar="NAME[,NAME]", help="make only these tables")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--curves", type=Path, metavar="FOLDER", help="draw learning curves here")
    parser.add_argument("--store", type=Path, help="local: keep the profile here, or use it again")
    parser.add_argument("--profile-for", type=float, metavar="SECONDS", help="local: time limit")
    given = parser.parse_args()
    if given.curves is not None:
        from benchmarks.latency_tables import curves

        curves.draw(given.curves, seed=_SEED)
        return
    known = (*SIDE_BY_SIDE, *ALONE)
    names = given.only.split(",") if given.only else known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown table {', '.join(unknown)}: choose of {', '.join(known)}")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # of the processes that make the tables
    rows: list[Row] = []
    for found, remark in run(
        names, jobs=given.jobs, store=given.store, profile_s=given.profile_for
    ):
        for row in found:
            show(row)
        print(remark, flush=True)
        rows += found
    missed = [row for row in rows if row["met"] is False]
    judged = sum(row["met"] is not None for row in rows)
    print(f"{judged - len(missed)} of {judged} bars met")
    for row in missed:
        show(row)
    write_result(given.json, {**setting(_SEED), "rows": rows})


if __name__ == "__main__":
    main()
