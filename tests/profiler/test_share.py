"""Sharing a profile as Parquet: nothing is lost, and nothing wrong gets in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millifit.errors import DataError, RunFolderError
from millifit.profiler.measurement import Measurement
from millifit.profiler.share import export_parquet, import_parquet
from millifit.profiler.store import Store
from millifit.targets.kernel import Kernel
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy


@pytest.fixture
def store(tmp_path: Path, target: Target, kernels: list[Kernel]) -> Store:
    """Three times and a failure."""
    outcomes: list[Samples | Failed] = [Samples(run_s=(n * 1e-3, n / 3)) for n in (1, 2, 3)]
    made = Store(tmp_path / "s.sqlite")
    made.add(
        *(
            Measurement(
                kernel=kernel,
                target_key=target.key,
                versions="apache-tvm 0.27",
                policy=TimingPolicy(),
                environment={"cpu": "a CPU"},
                outcome=outcome,
            )
            for kernel, outcome in zip(
                kernels, [*outcomes, Failed(reason="no answer within 30 s")], strict=True
            )
        )
    )
    return made


def test_a_profile_survives_the_journey(tmp_path: Path, store: Store, target: Target) -> None:
    """Exported and imported, every measurement is the same; importing twice adds nothing."""
    assert export_parquet(store, tmp_path / "p.parquet") == 4
    other = Store(tmp_path / "other.sqlite")
    assert import_parquet(tmp_path / "p.parquet", other) == 4
    assert other.measurements() == store.measurements()
    assert import_parquet(tmp_path / "p.parquet", other) == 0
    assert export_parquet(store, tmp_path / "q.parquet", "another target") == 0
    assert import_parquet(tmp_path / "q.parquet", other) == 0


@pytest.mark.parametrize(
    ("row", "change", "reason"),
    [
        (0, {"run_s": [1e-3, -1e-3]}, "positive and finite"),
        (1, {"run_s": [0.0]}, "positive and finite"),
        (2, {"run_s": [float("nan")]}, "positive and finite"),
        (2, {"run_s": []}, "positive and finite"),
        (2, {"run_s": [None]}, "real number"),
        (3, {"run_s": [1e-3]}, "either 'run_s' or 'failure'"),
        (3, {"failure": None}, "either 'run_s' or 'failure'"),
        (0, {"key": "0" * 24}, "its key is '000"),
        (0, {"target_key": "another"}, "but its content's is"),
        (0, {"kernel": "{"}, "Expecting property name"),
        (0, {"kernel": "[]"}, "row 1"),
        (0, {"policy": '{"patience": 3}'}, "patience"),
        (0, {"environment": "3"}, "'environment' should be"),
        (0, {"versions": None}, "'versions' is missing"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_imported(
    tmp_path: Path, store: Store, row: int, change: dict[str, Any], reason: str
) -> None:
    """Negative, zero, missing or inconsistent values: the row is named, the store untouched."""
    path = tmp_path / "p.parquet"
    export_parquet(store, path)
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[row].update(change)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    other = Store(tmp_path / "other.sqlite")
    with pytest.raises(DataError, match=rf"p\.parquet', row {row + 1}: .*") as error:
        import_parquet(path, other)
    assert reason in str(error.value)
    assert other.count() == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.drop_columns(["run_s"]), "'run_s' should be list<"),
        (lambda t: t.set_column(0, "key", pa.array([1, 2, 3, 4])), "'key' should be string"),
    ],
)
def test_another_table_is_refused(
    tmp_path: Path, store: Store, damage: Callable[[Any], Any], message: str
) -> None:
    """A missing column or one of another type is named."""
    path = tmp_path / "p.parquet"
    export_parquet(store, path)
    pq.write_table(damage(pq.read_table(path)), path)
    with pytest.raises(DataError, match=message):
        import_parquet(path, store)


@pytest.mark.parametrize("content", [b"", b"PAR1 not quite", None])
def test_a_file_that_is_no_parquet_is_named(
    tmp_path: Path, store: Store, content: bytes | None
) -> None:
    """Empty, damaged and absent files."""
    path = tmp_path / "p.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read '.*p\.parquet' as Parquet"):
        import_parquet(path, store)


def test_an_export_that_cannot_be_written_leaves_nothing(tmp_path: Path, store: Store) -> None:
    """A file where the folder should be: an error that says so, and no half file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        export_parquet(store, tmp_path / "file" / "p.parquet")
    assert not list(tmp_path.glob("*.parquet"))
