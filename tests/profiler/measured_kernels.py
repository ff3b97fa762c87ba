"""Dense layers that were measured, as many samples as a test needs."""

from dataclasses import replace

from millifit.profiler.measurement import Measurement
from millifit.profiler.network_measurement import NetworkMeasurement
from millifit.targets.kernel import Kernel
from millifit.targets.network import TensorType
from millifit.targets.runner.network_timing import NetworkTimingPolicy
from millifit.targets.timing import Failed, Samples, TimingPolicy


def dense(width: int) -> Kernel:
    """A dense layer of 64 to `width` values."""
    return Kernel(
        op="dense",
        inputs=(TensorType(shape=(1, 64), dtype="float32"),),
        output=TensorType(shape=(1, width), dtype="float32"),
        precision="fp32",
    )


def measured(width: int, *run_s: float, **changes: object) -> Measurement:
    """A dense layer, or its failure where there are no samples."""
    plain = Measurement(
        kernel=dense(width), target_key="t", versions="v", policy=TimingPolicy(), environment={},
        outcome=Samples(run_s=run_s) if run_s else Failed(reason="hangs"),
    )  # fmt: skip
    return replace(plain, **changes)


def network(seconds: float, name: str = "net") -> NetworkMeasurement:
    """A network of no stated calls."""
    return NetworkMeasurement(
        name=name, calls=(), kernel_policy=TimingPolicy(), target_key="t", versions="v",
        policy=NetworkTimingPolicy(), environment={}, outcome=Samples(run_s=(seconds,) * 9),
    )  # fmt: skip
