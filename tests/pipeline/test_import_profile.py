"""Importing: what cannot be right is named with its row, and nothing is half imported."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from millifit.errors import DataError, RunFolderError, UsageError
from millifit.pipeline.packs import import_profile
from millifit.profiler.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.sqlite")


@pytest.fixture
def table() -> pd.DataFrame:
    """Convolutions of a device of 10^10 multiply-adds per second that takes 20 us per call."""
    sizes = [(hw, channels) for hw in (2, 7, 14, 56) for channels in (8, 16, 32, 64, 128)]
    table = pd.DataFrame(sizes, columns=["in_hw", "in_ch"])
    macs = 9 * table["in_hw"] ** 2 * table["in_ch"] ** 2
    return table.assign(op="conv2d", kernel=3, device="phone", latency_s=20e-6 + macs / 1e10)


@pytest.fixture
def imported(tmp_path: Path, store: Store):
    """Imports a table from a CSV file."""

    def run(table: pd.DataFrame, **options: Any) -> dict[str, Any]:
        table.to_csv(tmp_path / "t.csv", index=False)
        return import_profile(tmp_path / "t.csv", store, **options)

    return run


def test_a_table_is_imported_once(imported, store: Store, table: pd.DataFrame) -> None:
    """All rows are new at first, and none when it is imported again."""
    found = imported(table)
    assert (found["rows"], found["kernels"], found["new_kernels"]) == (20, 20, 20)
    assert found["targets"] == ["phone/fp32"]
    assert found["skipped"] == found["notes"] == []
    assert imported(table)["new_kernels"] == 0
    assert store.count("phone/fp32") == 20


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-1e-3, "row 9: a latency of -0.001 s"),
        (0.0, "row 9: a latency of 0 s"),
        (np.nan, "row 9: it has no latency"),
        (np.inf, "row 9: a latency of inf s"),
        (1e7, "row 9: a latency of 1e.07 s is absurd"),
        (1e-12, "row 9: a latency of 1e-12 s is absurd"),
        (1.02e-9, "row 9: .* multiply-adds and .* bytes per second, more than any device"),
        (1.0, "row 9: .* times what the other rows of 'conv2d' lead one to expect"),
    ],
)
def test_impossible_latencies(
    imported, store: Store, table: pd.DataFrame, value: float, reason: str
) -> None:
    """The row is named and nothing is stored; with skip_bad all others are."""
    table.loc[8, "latency_s"] = value
    with pytest.raises(DataError, match=rf"{reason}.*Nothing was imported.*--skip-bad"):
        imported(table)
    assert store.count() == 0
    found = imported(table, skip_bad=True)
    assert [skipped["row"] for skipped in found["skipped"]] == [9]
    assert store.count() == 19


@pytest.mark.parametrize(
    ("column", "reason"),
    [("energy_j", "row 2: an energy of -1 J"), ("latency_std_s", "row 2: a standard deviation of")],
)
def test_negative_companions(imported, table: pd.DataFrame, column: str, reason: str) -> None:
    """Energy and spread cannot be less than nothing either; missing they may be."""
    values = [None, -1.0, *[0.1] * (len(table) - 2)]
    with pytest.raises(DataError, match=reason):
        imported(table.assign(**{column: values}))


def test_many_bad_rows_are_counted(imported, table: pd.DataFrame) -> None:
    """The first five are named."""
    table.loc[:6, "latency_s"] = -1.0
    with pytest.raises(DataError, match=r"row 5: .*; and 2 more rows"):
        imported(table)


def test_a_call_of_nothing_that_takes_long(imported) -> None:
    """An identity of sixteen values does not take 50 ms."""
    table = pd.DataFrame({"op": ["identity"], "in_ch": 16, "latency_ms": 50, "device": "d"})
    with pytest.raises(DataError, match=r"row 1: .* less than any device"):
        imported(table)


@pytest.mark.parametrize(
    ("column", "said"),
    [("latency_ms", "too fast or more: is the column in a larger unit"),
     ("latency_us", "too fast or more: is the column in a larger unit")],
)  # fmt: skip
def test_seconds_taken_for_less(imported, table: pd.DataFrame, column: str, said: str) -> None:
    """A column 1000 or 1,000,000 times too small is noticed by what no device can do."""
    table = table.rename(columns={"latency_s": column})
    with pytest.raises(DataError, match=said):
        imported(table)


@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_small_units_taken_for_seconds(
    imported, store: Store, table: pd.DataFrame, factor: float
) -> None:
    """A column 1000 times too large is noticed by what even the smallest kernel takes."""
    table = table.assign(latency_s=table["latency_s"] * factor)
    with pytest.raises(DataError, match=r"phone/fp32: even the smallest kernels .* smaller unit"):
        imported(table)
    assert store.count() == 0


def test_a_slow_device_may_be_trusted(imported, table: pd.DataFrame) -> None:
    """Who knows the unit says so; what was doubted is still told."""
    table = table.assign(latency_s=table["latency_s"] * 1e3)
    found = imported(table, trust_units=True)
    assert found["new_kernels"] == 20
    assert "even the smallest kernels" in found["notes"][0]


def test_a_known_device_tells_the_unit(imported, store: Store) -> None:
    """Three kernels tell nothing by themselves, but by what the store knows of them."""
    table = pd.DataFrame(
        {"op": "dense", "in_ch": [64, 128, 256], "out_ch": 1000, "device": "phone"}
    ).assign(latency_s=[1e-3, 2e-3, 4e-3])
    imported(table)
    with pytest.raises(DataError, match=r"3 rows are known already, and take 0\.001 times as long"):
        imported(table.assign(latency_s=table["latency_s"] / 1e3))
    assert store.count() == 3


def test_other_kernels_of_a_known_device_tell_the_unit(
    imported, store: Store, table: pd.DataFrame
) -> None:
    """None of the rows is known, but what the device's other kernels take is."""
    imported(table)
    other = table.assign(in_ch=table["in_ch"] + 4, latency_s=table["latency_s"] / 1e3)
    with pytest.raises(DataError, match="by the 20 kernels that are known of it, rows take 0"):
        imported(other)
    assert imported(other.assign(latency_s=table["latency_s"]))["new_kernels"] == 20


def test_some_rows_in_another_unit(imported, table: pd.DataFrame) -> None:
    """A few rows 1000 times the others are named one by one."""
    table.loc[[2, 17], "latency_s"] *= 1e3
    found = imported(table, skip_bad=True)
    assert [skipped["row"] for skipped in found["skipped"]] == [3, 18]


def test_rows_that_contradict_each_other(imported, table: pd.DataFrame) -> None:
    """Repeats within the noise are samples; far beyond it both rows are named."""
    close = table.iloc[[0, 1]].assign(latency_s=table["latency_s"] * 1.1)
    found = imported(pd.concat([table, close]))
    assert (found["rows"], found["kernels"]) == (22, 20)
    far = table.iloc[[0]].assign(latency_s=table["latency_s"] * 6)
    with pytest.raises(DataError, match="row 1: rows 1, 21 are one measurement, but say 2"):
        imported(pd.concat([table, far]))


def test_unknown_operators_are_reported(imported, table: pd.DataFrame) -> None:
    """They are kept under their own name, and said."""
    found = imported(table.assign(op=["Swizzle", *table["op"][1:]]))
    assert found["notes"] == ["operators that have no name here keep their own: 'Swizzle' (1 rows)"]


def test_networks_far_from_the_others_are_told(imported, store: Store) -> None:
    """A network a thousand times faster than most is a note, for such networks exist."""
    table = pd.DataFrame({"network": [f"n{i}" for i in range(20)], "device": "phone"})
    found = imported(table.assign(latency_ms=[5e-3, *np.linspace(8, 12, 19)]))
    assert "phone: 1 of 20 networks" in found["notes"][0]
    assert len(store.networks()) == found["new_networks"] == 20


def test_a_known_table_needs_no_device(tmp_path: Path, store: Store) -> None:
    """Its columns say everything; an option that contradicts them is refused."""
    table = pd.DataFrame(
        {
            "device": "phone", "device_name": "A phone", "device_class": "mobile", "batch": 1,
            "source_key": "phone", "arch_index": [0, 1], "arch": ["|a|", "|b|"],
            "latency_s": [1e-3, 2e-3], "latency_resolution_s": None,
        }
    )  # fmt: skip
    table.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="states its device: leave --device out"):
        import_profile(tmp_path / "t.parquet", store, mapping={"device": "x"})
    found = import_profile(tmp_path / "t.parquet", store)
    assert (found["source"], found["new_networks"]) == ("architectures", 2)
    with pytest.raises(UsageError, match="leave --map out"):
        import_profile(tmp_path / "t.parquet", store, source="architectures", mapping={"op": "x"})


def test_a_truncated_table_is_named(tmp_path: Path, table: pd.DataFrame, store: Store) -> None:
    """Half a Parquet file is no table and no pack; the store is not even made."""
    path = tmp_path / "t.parquet"
    table.to_parquet(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"cannot read '.*t\.parquet'.*cut off"):
        import_profile(path, store)
    assert not (tmp_path / "s.sqlite").exists()


def test_a_store_that_cannot_be_used(imported, store: Store, table: pd.DataFrame) -> None:
    """A file that is no store is refused with what to do."""
    store._path.write_text("something else")
    with pytest.raises(RunFolderError, match=r"s\.sqlite"):
        imported(table)
