"""Sharing a profile as Parquet: nothing is lost, and nothing wrong gets in."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millifit.errors import DataError, RunFolderError
from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.packs.pack import Added, Pack, pack_of
from millifit.profiler.packs.parquet import is_pack, read_pack, write_pack
from millifit.profiler.share import export_parquet, import_parquet
from millifit.profiler.store import Store
from millifit.targets.kernel import Kernel
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy


@pytest.fixture
def measurements(target: Target, kernels: list[Kernel]) -> list[Measurement]:
    """Three times, one of them with its energy, and a failure."""
    outcomes: list[Samples | Failed] = [
        Samples(run_s=(1e-3, 1 / 3)), Samples(run_s=(2e-3,), energy_j=0.25), Samples(run_s=(3e-3,)),
        Failed(reason="no answer within 30 s"),
    ]  # fmt: skip
    return [
        Measurement(
            kernel=kernel,
            target_key=target.key,
            versions="apache-tvm 0.27",
            policy=TimingPolicy(),
            environment={"cpu": "a CPU"},
            outcome=outcome,
        )
        for kernel, outcome in zip(kernels, outcomes, strict=True)
    ]


@pytest.fixture
def network(target: Target, kernels: list[Kernel]) -> NetworkMeasurement:
    """A network that calls its first kernel twice."""
    return NetworkMeasurement(
        name="net", space="mobilenet", architecture="w=1", batch=1,
        calls=(kernels[0], kernels[1], kernels[0]), kernel_policy=TimingPolicy(),
        target_key=target.key, versions="apache-tvm 0.27", policy=NetworkTimingPolicy(),
        environment={"cpu": "a CPU"}, outcome=Samples(run_s=(5e-3, 6e-3)), taken_at_s=1e9,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, measurements: list[Measurement], network: NetworkMeasurement) -> Store:
    """All of them, and the second kernel measured in a section."""
    made = Store(tmp_path / "s.sqlite")
    section = made.begin_section(network.target_key, "v", began_s=1e9, environment={"load": "0.1"})
    made.judge(replace(section, anchors={"a": 1e-3}, shift=0.01))
    measurements[1] = replace(measurements[1], section=section.number, taken_at_s=1e9 + 1)
    made.add(*measurements)
    made.add_networks(network)
    return made


def test_a_profile_survives_the_journey(tmp_path: Path, store: Store) -> None:
    """Exported and imported, every measurement is the same; importing twice adds nothing."""
    assert export_parquet(store, tmp_path / "p.parquet") == Added(kernels=4, networks=1)
    other = Store(tmp_path / "other.sqlite")
    assert import_parquet(tmp_path / "p.parquet", other) == Added(kernels=4, networks=1)
    assert pack_of(other) == pack_of(store)
    assert import_parquet(tmp_path / "p.parquet", other) == Added(kernels=0, networks=0)
    assert pack_of(other) == pack_of(store)


def test_only_one_target_is_exported(tmp_path: Path, store: Store) -> None:
    """Of another target there is nothing, and an empty pack can be imported."""
    nothing = Added(kernels=0, networks=0)
    assert export_parquet(store, tmp_path / "q.parquet", "another target") == nothing
    assert import_parquet(tmp_path / "q.parquet", store) == nothing


def test_sections_are_numbered_behind_those_that_are_there(tmp_path: Path, store: Store) -> None:
    """A kernel's section is another number in a store that has sections, but the same section."""
    export_parquet(store, tmp_path / "p.parquet")
    other = Store(tmp_path / "other.sqlite")
    for _ in range(3):
        other.begin_section("t", "v", began_s=2e9, environment={})
    import_parquet(tmp_path / "p.parquet", other)
    (measured,) = [m for m in other.measurements() if m.section is not None]
    assert measured.section == 4
    assert next(s for s in other.sections() if s.number == 4).anchors == {"a": 1e-3}


def test_the_first_version_is_still_read(tmp_path: Path, measurements: list[Measurement]) -> None:
    """A file without networks, sections and a stated version holds kernels."""
    path = tmp_path / "p.parquet"
    plain = [replace(measurements[0]), replace(measurements[3])]
    write_pack(Pack(kernels=tuple(plain)), path)
    table = pq.read_table(path)
    later = ["subject", "network", "energy_j", "section", "taken_at_s"]
    pq.write_table(table.drop_columns(later).replace_schema_metadata(None), path)
    assert is_pack(path)
    assert read_pack(path) == Pack(kernels=tuple(plain))


@pytest.mark.parametrize(
    ("version", "message"),
    [(b"3", r"newer millifit \(version 3 of packs.*Upgrade"), (b"x", "states the version")],
)
def test_another_version_is_named(
    tmp_path: Path, store: Store, version: bytes, message: str
) -> None:
    """A file of a later version is refused with what to do."""
    path = tmp_path / "p.parquet"
    export_parquet(store, path)
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"millifit.pack": version}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(DataError, match=message):
        read_pack(path)


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
        (1, {"energy_j": -1.0}, "energy"),
        (4, {"network": None}, "'network' is missing"),
        (4, {"network": json.dumps({"name": "n"})}, "row 5"),
        (4, {"run_s": [-1.0]}, "positive and finite"),
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
        (lambda t: t.set_column(0, "key", pa.array([1, 2, 3, 4, 5])), "'key' should be string"),
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


@pytest.mark.parametrize("kept", [None, b"", b"PAR1 not quite", 0.5])
def test_a_file_that_is_no_parquet_is_named(
    tmp_path: Path, store: Store, kept: bytes | float | None
) -> None:
    """Absent, empty, damaged and cut off files."""
    path = tmp_path / "p.parquet"
    if isinstance(kept, float):
        export_parquet(store, path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
    elif kept is not None:
        path.write_bytes(kept)
    assert not is_pack(path)
    with pytest.raises(DataError, match=r"cannot read '.*p\.parquet' as Parquet"):
        import_parquet(path, store)


def test_an_export_that_cannot_be_written_leaves_nothing(tmp_path: Path, store: Store) -> None:
    """A file where the folder should be: an error that says so, and no half file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        export_parquet(store, tmp_path / "file" / "p.parquet")
    assert not list(tmp_path.glob("*.parquet"))
