"""The store: what goes in comes out, whatever other processes do, and its errors help."""

import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from millifit.errors import RunFolderError
from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.profiler.rows import facts, kernel_cells
from millifit.profiler.schema import STEPS
from millifit.profiler.store import Store, default_store_path
from millifit.profiler.tuned import Tuned
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples, TimingPolicy


def measured(
    number: int, *, target: str = "t1", outcome: Samples | Failed | None = None
) -> Measurement:
    flat = TensorType(shape=(1, number), dtype="float32")
    return Measurement(
        kernel=Kernel(op="relu", inputs=(flat,), output=flat, precision="fp32"),
        target_key=target,
        versions="apache-tvm 0.27",
        policy=TimingPolicy(working_set_bytes=1024),
        environment={"cpu": "a CPU", "load_1min": "0.10"},
        outcome=outcome or Samples(run_s=(0.1 + 0.2, 1e-7 / 3)),
    )


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    """Times come back to the last bit, failures with their reason, keys included."""
    kept = [measured(1), measured(2, outcome=Failed(reason="no answer within 30 s"))]
    assert Store(tmp_path / "new" / "s.sqlite").add(*kept) == 2
    store = Store(tmp_path / "new" / "s.sqlite")
    assert store.measurements() == kept
    assert store.get([kept[1].key, "absent"]) == {kept[1].key: kept[1]}
    assert store.get([]) == {}


def test_measurements_are_told_apart_by_target(tmp_path: Path) -> None:
    """Listing and counting may be limited to a target."""
    store = Store(tmp_path / "s.sqlite")
    store.add(measured(1, target="t1"), measured(1, target="t2"))
    assert [m.target_key for m in store.measurements("t2")] == ["t2"]
    assert (store.count(), store.count("t1"), store.count("t3")) == (2, 1, 0)


def test_what_was_measured_stays_but_a_time_replaces_a_failure(tmp_path: Path) -> None:
    """A second time for a key is ignored; a success after a failure is not."""
    store = Store(tmp_path / "s.sqlite")
    time, failed = Samples(run_s=(1.0,)), Failed(reason="hung")
    assert store.add(measured(1, outcome=failed)) == 1
    assert store.add(measured(1, outcome=Failed(reason="again"))) == 0
    assert store.measurements() == [measured(1, outcome=failed)]
    assert store.add(measured(1, outcome=time)) == 1
    assert store.add(measured(1, outcome=Samples(run_s=(2.0,)))) == 0
    assert store.add(measured(1, outcome=failed)) == 0
    assert store.measurements() == [measured(1, outcome=time)]


def test_one_environment_is_stored_once(tmp_path: Path) -> None:
    """The facts of a sweep are not repeated with every kernel."""
    Store(tmp_path / "s.sqlite").add(*map(measured, range(1, 20)))
    with sqlite3.connect(tmp_path / "s.sqlite") as raw:
        assert raw.execute("SELECT count(*) FROM environment").fetchone() == (1,)


def _write(path: Path, first: int, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    for number in range(first, first + 40):
        Store(path).add(measured(number))


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """Three processes create and fill one store, with overlapping kernels."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(3)
    path = tmp_path / "s.sqlite"
    writers = [spawn.Process(target=_write, args=(path, 1 + 20 * i, start)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert {m.kernel.output.shape[1] for m in Store(path).measurements()} == set(range(1, 81))


def test_a_killed_writer_leaves_all_it_confirmed(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: the file is sound and every confirmed row is there."""
    script = f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store import Store, measured
        for number in range(1, 100000):
            Store(Path({str(tmp_path / "s.sqlite")!r})).add(measured(number))
            print(number, flush=True)
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    confirmed = [int(writer.stdout.readline()) for _ in range(50)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    confirmed += len(writer.stdout.read().splitlines())
    writer.wait()
    store = Store(tmp_path / "s.sqlite")
    assert confirmed >= 50
    assert confirmed <= store.count() <= confirmed + 1
    assert store.add(measured(10**6)) == 1
    with sqlite3.connect(tmp_path / "s.sqlite") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    """A schema from the future is refused, with what to do."""
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version = 99")
    with pytest.raises(RunFolderError, match=r"newer millifit \(schema 99.*Upgrade millifit"):
        Store(path).add(measured(1))


def _earlier(path: Path, version: int) -> None:
    """A store of an earlier version with one measurement."""
    kept = measured(1)
    with sqlite3.connect(path) as raw:
        for step in STEPS[:version]:
            raw.executescript(step)
        raw.execute("INSERT INTO environment (facts) VALUES (?)", (facts(kept.environment),))
        raw.execute(
            "INSERT INTO measurement VALUES (?, ?, ?, ?, ?, 1, ?, ?)",
            (*kernel_cells(kept)[:5], *kernel_cells(kept)[6:8]),
        )
        raw.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    """What it held stays; kernels can be tuned, networks measured and samples set aside."""
    path = tmp_path / "s.sqlite"
    _earlier(path, version)
    assert Store(path).measurements() == [measured(1)]
    tuned = Tuned(
        kernel=measured(1).kernel, target_key="t1", versions="v", choice=(("rows", 6),),
        trials={(("rows", 6),): Samples(run_s=(1.0,))},
    )  # fmt: skip
    Store(path).add_tuned(tuned)
    assert Store(path).tuned("t1", "v") == [tuned]
    assert Store(path).networks() == []
    again = replace(measured(1), outcome=Samples(run_s=(7.0,), energy_j=0.5), section=1)
    Store(path).supersede(again)
    assert Store(path).measurements() == [again]
    assert Store(path).superseded() == 1


def _upgrade(path: Path, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    assert Store(path).count() == 1


def test_processes_that_upgrade_at_once_do_it_once(tmp_path: Path) -> None:
    """Three processes open a store of the first version at the same moment; all of them read it."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(3)
    _earlier(tmp_path / "s.sqlite", 1)
    readers = [
        spawn.Process(target=_upgrade, args=(tmp_path / "s.sqlite", start)) for _ in range(3)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0, 0]


def network(number: int, *, failed: bool = False) -> NetworkMeasurement:
    """A network of three calls, two of which are of one kernel."""
    one, other = measured(number).kernel, measured(number + 1).kernel
    return NetworkMeasurement(
        name="net", space="squares", architecture="depth=2", calls=(one, other, one),
        kernel_policy=TimingPolicy(working_set_bytes=7), target_key="t1", versions="v",
        policy=NetworkTimingPolicy(min_rounds=3), environment={"cpu": "a CPU"}, section=2,
        outcome=Failed(reason="hung") if failed else Samples(run_s=(0.1 + 0.2, 0.3)),
        taken_at_s=1e9 + 0.1,
    )  # fmt: skip


def test_networks_come_back_with_their_calls_in_order(tmp_path: Path) -> None:
    """Calls, subject, policies and times are as they were; a network is kept once."""
    store = Store(tmp_path / "s.sqlite")
    kept = [network(1), network(5, failed=True)]
    assert store.add_networks(*kept, network(1)) == 2
    assert store.networks("t1") == kept
    assert store.networks("t2") == []
    again = replace(network(1), outcome=Samples(run_s=(0.2,)), section=3)
    store.supersede_networks(again)
    assert store.networks() == [again, kept[1]]
    assert store.superseded() == 1
    assert dict(kept[0].repeats) == {measured(1).kernel: 2, measured(2).kernel: 1}


def test_targets_are_known_by_the_networks_of_a_space(tmp_path: Path) -> None:
    """How many each has, without those of other spaces."""
    store = Store(tmp_path / "s.sqlite")
    store.add_networks(
        network(1),
        network(2),
        replace(network(1), target_key="a"),
        replace(network(3), target_key="b", space="circles"),
    )
    assert store.network_targets("squares") == {"a": 1, "t1": 2}
    assert store.network_targets("cubes") == {}


def test_sections_are_numbered_on_and_judged_later(tmp_path: Path) -> None:
    """A section has a number when it begins, and a verdict when its anchors were compared."""
    store = Store(tmp_path / "s.sqlite")
    first, second = (
        store.begin_section("t1", "v", began_s=float(n), environment={"cpu": str(n)})
        for n in range(2)
    )
    judged = replace(first, anchors={"k": 1e-3}, shift=0.31, drifting=True)
    store.judge(judged)
    assert store.sections("t1") == [judged, second]
    assert second.number == first.number + 1


def test_asking_for_tuned_kernels_makes_no_store(tmp_path: Path) -> None:
    """Compiling looks for winners, and must not leave an empty store behind."""
    assert Store(tmp_path / "s.sqlite").tuned("t1", "v") == []
    assert not (tmp_path / "s.sqlite").exists()


def test_a_damaged_tuned_kernel_is_named(tmp_path: Path) -> None:
    """A choice that is no choice is refused when it is read."""
    path = tmp_path / "s.sqlite"
    tuned = Tuned(
        kernel=measured(1).kernel, target_key="t1", versions="v", choice=(),
        trials={(): Samples(run_s=(1.0,))},
    )  # fmt: skip
    Store(path).add_tuned(tuned)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE tuned SET choice = '3'")
    with pytest.raises(RunFolderError, match="a tuned kernel is damaged"):
        Store(path).tuned("t1", "v")


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    """Garbage in place of a database is reported with a remedy, and not overwritten."""
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(RunFolderError, match=r"s\.sqlite'.*Move the file away"):
        Store(path).count()
    assert path.read_bytes() == b"not a database" * 100


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    """A database without millifit's schema gets no tables added to it."""
    path = tmp_path / "s.sqlite"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE measurement (x)")
    with pytest.raises(RunFolderError, match="holds no measurements"):
        Store(path).add(measured(1))


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    """A time edited to be negative is refused when it is read."""
    path = tmp_path / "s.sqlite"
    Store(path).add(measured(1))
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE measurement SET run_s = '[-1.0]'")
    with pytest.raises(RunFolderError, match=rf"'{measured(1).key}' is damaged.*positive"):
        Store(path).measurements()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file where a folder should be, and a folder where the file should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="Name a folder that you may write to"):
        Store(tmp_path / "file" / "s.sqlite").count()
    with pytest.raises(RunFolderError, match="may write to the file and its folder"):
        Store(tmp_path).count()


def _fill(path: Path, answer: object) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        for number in range(1, 10_000):
            Store(path).add(measured(number))
    except RunFolderError as error:
        answer.put(str(error))  # type: ignore[attr-defined]


def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    """When the file cannot grow the error says so, and what was stored can still be read."""
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    path = tmp_path / "s.sqlite"
    writer = spawn.Process(target=_fill, args=(path, answer))
    writer.start()
    message = answer.get(timeout=60)
    writer.join()
    assert "full" in message
    assert str(path) in message
    assert Store(path).count() > 10


def test_the_default_place_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_DATA_HOME where it is an absolute path, else ~/.local/share."""
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_store_path() == Path("/data/millifit/profile.sqlite")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_store_path() == Path("/home/someone/.local/share/millifit/profile.sqlite")
