"""Kernels and networks timed in child processes: crashes, hangs, garbage, and the real thing."""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from millifit.errors import MeasurementError, TargetError
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.runner import machine_lock
from millifit.targets.runner.local_runner import LocalRunner
from millifit.targets.runner.machine_lock import exclusive
from millifit.targets.runner.network_timing import Contender, NetworkTimingPolicy
from millifit.targets.target import Target
from millifit.targets.timing import Failed, Samples, TimingPolicy

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
HERE = Target(
    name="here", triple="x86_64-linux-gnu", mcpu="x86-64", vector_bits=128, vector_registers=16,
    dot_product="none", cores=1, l1_bytes=2**15, l2_bytes=2**20, l3_bytes=2**23, cpu="a CPU",
    reach="local",
)  # fmt: skip
QUICK = NetworkTimingPolicy(turn_s=0.002, warmup_s=0.0, min_rounds=2, max_rounds=2)


@pytest.fixture(autouse=True)
def _own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not wait for a millifit that times something on the same machine."""
    monkeypatch.setattr(machine_lock, "lock_path", lambda: tmp_path / "lock")


def kernel(op: str) -> Kernel:
    flat = TensorType(shape=(1, 8), dtype="float32")
    return Kernel(op=op, inputs=(flat,), output=flat, precision="fp32")


def outcomes(*ops: str, timeout_s: float = 20.0) -> list[Samples | Failed]:
    with LocalRunner(command=FAKE, timeout_s=timeout_s) as runner:
        timed = runner.time_kernels(map(kernel, ops), HERE, TimingPolicy(), seed=0)
        return [outcome for _, outcome in timed]


def test_samples_come_back_in_order() -> None:
    """A kernel's samples are the child's numbers, unchanged."""
    assert outcomes("relu") == [Samples(run_s=(1e-3, 2e-3, 3e-3))]


def test_one_child_serves_all_kernels() -> None:
    """Starting the compiler costs seconds, so the child is kept from kernel to kernel."""
    first, second = outcomes("pid", "pid")
    assert isinstance(first, Samples)
    assert first == second


def test_a_child_has_all_cores_even_if_a_library_bound_this_thread_to_one() -> None:
    """TVM's thread pool binds its caller; a child that inherited this would time on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert outcomes("cores") == [Samples(run_s=(float(len(cores)),))]
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("crash", "killed by signal 11 (SIGSEGV)"),
        ("garbage", "answered b'Segmentation of the graph: done', which is no answer to request 2"),
        ("leave", "ended with exit code 7: out of registers"),
        ("refuse", "ValueError: no rule for this shape"),
        ("zero", "a child answered [0.0] in place of seconds"),
    ],
)
def test_a_bad_kernel_is_a_failure_and_the_next_one_is_timed(op: str, reason: str) -> None:
    """Whatever a kernel does to its child is recorded as its failure; the sweep goes on."""
    assert outcomes(op, "relu") == [
        Failed(reason=reason),
        Samples(run_s=(1e-3, 2e-3, 3e-3)),
    ]


def test_a_hanging_kernel_is_given_up_after_its_time() -> None:
    """A child that does not answer is killed, and a fresh one takes over."""
    start = time.monotonic()
    assert outcomes("hang", "relu", timeout_s=1.0) == [
        Failed(reason="no answer within 1 s"),
        Samples(run_s=(1e-3, 2e-3, 3e-3)),
    ]
    assert time.monotonic() - start < 20


def test_a_child_that_cannot_start_is_no_kernels_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation raises; it must not be stored as the failure of a kernel."""
    monkeypatch.setenv("FAKE_PREPARE", "leave")
    with pytest.raises(MeasurementError, match=r"does not start: ended with exit code 7: out of"):
        outcomes("relu")


def test_another_machines_target_is_refused() -> None:
    """Timing a target that is only compiled for would file this machine's numbers under it."""
    board = Target(**{**{f: getattr(HERE, f) for f in HERE.__slots__}, "reach": "none"})
    with LocalRunner(command=FAKE) as runner, pytest.raises(TargetError, match="'here' is not"):
        next(runner.time_kernels([kernel("relu")], board, TimingPolicy(), seed=0))


def _hold_lock(path: Path, held: object, seconds: float) -> None:
    machine_lock.lock_path = lambda: path
    with exclusive(lambda: None):
        held.set()  # type: ignore[attr-defined]
        time.sleep(seconds)


def test_kernels_are_pulled_only_once_the_machine_is_free(tmp_path: Path) -> None:
    """While another process times, no kernel is pulled; then the caller's generator decides."""
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    other = spawn.Process(target=_hold_lock, args=(tmp_path / "lock", held, 1.0))
    other.start()
    held.wait(20)
    free_at = time.monotonic() + 0.9
    pulled: list[float] = []

    def kernels() -> Iterator[Kernel]:
        pulled.append(time.monotonic())
        yield kernel("relu")

    with LocalRunner(command=FAKE) as runner:
        assert len(list(runner.time_kernels(kernels(), HERE, TimingPolicy(), seed=0))) == 1
    other.join()
    assert len(pulled) == 1
    assert pulled[0] >= free_at


def contender(tmp_path: Path, name: str) -> Contender:
    return Contender(kind="bundle", path=tmp_path / name, input_path=tmp_path / "x.npy")


def test_networks_are_summed_up_by_round(tmp_path: Path) -> None:
    """All samples are kept, and every round gives one median."""
    rounds: list[int] = []
    with LocalRunner(command=FAKE) as runner:
        results = runner.time_networks(
            {name: contender(tmp_path, name) for name in "ab"},
            policy=QUICK,
            on_round=rounds.append,
        )
    assert rounds == [1, 2]
    assert list(results) == ["a", "b"]
    assert results["a"].samples.run_s == (2e-3, 1e-3, 3e-3, 2e-3, 1e-3, 3e-3)
    assert results["a"].round_medians.run_s == (2e-3, 2e-3)
    assert results["a"].peak_memory_bytes == 1000
    assert results["a"].process_peak_bytes == 5000


def test_a_contender_that_crashes_is_named(tmp_path: Path) -> None:
    """The message says which of the networks died, and of what."""
    with (
        LocalRunner(command=FAKE) as runner,
        pytest.raises(MeasurementError, match=r"'ours' \(bundle at .*crash'\).*signal 11"),
    ):
        runner.time_networks(
            {"ours": contender(tmp_path, "crash")}, policy=QUICK, on_round=lambda _: None
        )


def test_onnxruntime_is_timed_for_real(tmp_path: Path) -> None:
    """The real worker loads an ONNX file, times it, and says how much memory it took."""
    weight = np.ones((512, 512), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 512])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 512])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.ones((1, 512), np.float32))
    entrant = Contender(
        kind="onnxruntime", path=tmp_path / "model.onnx", input_path=tmp_path / "x.npy"
    )
    with LocalRunner() as runner:
        timed = runner.time_networks({"ort": entrant}, policy=QUICK, on_round=lambda _: None)
    assert len(timed["ort"].samples.run_s) >= 10
    assert 1e-6 < timed["ort"].samples.median_s < 1e-1
    assert timed["ort"].peak_memory_bytes >= weight.nbytes
    assert timed["ort"].process_peak_bytes > timed["ort"].peak_memory_bytes


def test_a_kernel_is_timed_for_real() -> None:
    """The real worker compiles a kernel and times it; an operator without a rule is a failure."""
    size = TensorType(shape=(1, 16, 16, 64), dtype="float32")
    relu = Kernel(op="relu", inputs=(size,), output=size, precision="fp32")
    with LocalRunner(timeout_s=60) as runner:
        timed = dict(
            runner.time_kernels([relu, kernel("nonsense")], HERE, TimingPolicy(limit_s=0.1), seed=0)
        )
    made = timed[relu]
    assert isinstance(made, Samples)
    assert 1e-7 < made.median_s < 1e-2
    failed = timed[kernel("nonsense")]
    assert isinstance(failed, Failed)
    assert "nonsense" in failed.reason
