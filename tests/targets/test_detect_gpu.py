"""The GPUs at hand as targets: OpenCL's as the driver says, CUDA's as nvidia-smi lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from millifit.errors import TargetError
from millifit.targets import detect_gpu
from millifit.targets.catalog import find_target
from millifit.targets.detect_gpu import (
    cuda_devices,
    detect_gpu_target,
    gpu_targets,
    parse_cuda_devices,
    reachable_gpus,
)
from millifit.targets.device_facts import GpuFacts
from millifit.targets.loaded_bundle import runs_here
from millifit.targets.target import Target

H200 = GpuFacts(
    api="cuda", name="NVIDIA H200", arch="sm_90",
    features=("fp16", "dp4a", "tensor_cores_fp16", "tensor_cores_int8"),
)  # fmt: skip


def test_pocl_is_a_target_of_this_machine(opencl: Target) -> None:
    """OpenCL on the processor: found by name, listed, and what runs here."""
    assert opencl.reach == "local"
    assert opencl.gpu is not None
    assert (opencl.gpu.api, opencl.gpu.subgroup, opencl.fp32_lanes) == ("opencl", 1, 4)
    assert find_target("pocl-opencl") == opencl
    assert {"local-opencl", "pocl-opencl"} <= {target.name for target in gpu_targets()}
    assert runs_here(opencl) is None
    assert [gpu.name for gpu in reachable_gpus() if gpu.api == "opencl"] == [opencl.gpu.name]


def test_nvidia_smi_is_read() -> None:
    """Name and compute capability; other lines are left out."""
    turing = "NVIDIA T4, 7.5\n"
    (t4,) = parse_cuda_devices(turing)
    assert (t4.name, t4.arch, "tensor_cores_int8" in t4.features) == ("NVIDIA T4", "sm_75", True)
    assert parse_cuda_devices("NVIDIA H200, 9.0\n\nNo devices were found\na, b, c\nx, [N/A]") == (
        H200,
    )


@pytest.mark.parametrize("script", ["exit 9", "echo nonsense"])
def test_broken_nvidia_smi_means_no_device(tmp_path: Path, script: str) -> None:
    """One that fails or says something else is as good as none."""
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    assert cuda_devices((str(fake),)) == ()
    assert cuda_devices((str(tmp_path / "missing"),)) == ()


def test_cuda_device_is_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one listed, with its multiprocessors where they are known."""
    monkeypatch.setattr(detect_gpu, "cuda_devices", lambda: (H200,))
    target = detect_gpu_target("local-cuda")
    assert target.gpu is not None
    assert (target.gpu.arch, target.gpu.compute_units, target.fp32_lanes) == ("sm_90", 132, 8)
    assert target.precisions == ("fp32", "fp16", "int8")


def test_no_cuda_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one the message says what to do instead."""
    monkeypatch.setattr(detect_gpu, "cuda_devices", lambda: ())
    with pytest.raises(TargetError, match="compile for a GPU of the catalog"):
        detect_gpu_target("local-cuda")
