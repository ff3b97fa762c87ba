"""What doctor says of GPUs: nothing is missing where there is none, and how to get what is."""

from __future__ import annotations

from pathlib import Path

import pytest

from millifit import doctor
from millifit.targets import cuda_compiler, detect_gpu
from millifit.targets.catalog import find_target
from millifit.targets.device_facts import GpuFacts
from millifit.targets.target import Target


def test_opencl_devices_are_listed(opencl: Target) -> None:
    """Name, platform, driver and features of each."""
    assert opencl.gpu is not None
    found = doctor.opencl()
    assert found.state == "ok"
    assert found.detail.startswith(f"{opencl.gpu.name} (Portable Computing Language ")
    assert found.detail.endswith("fp16_storage")


def test_runtime_is_missed_only_where_there_is_a_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver without our runtime is worth a remark; a machine without a driver is not."""
    monkeypatch.delenv("MILLIFIT_OPENCL_LIBRARY", raising=False)
    without = doctor.opencl([tmp_path])
    assert (without.state, without.remedy) == ("ok", "")
    (tmp_path / "some.icd").touch()
    with_one = doctor.opencl([tmp_path])
    assert (with_one.state, with_one.remedy) == ("warning", "run: millifit device build")


def test_broken_runtime_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that cannot be loaded is a warning, not the end of doctor."""
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setenv("MILLIFIT_OPENCL_LIBRARY", str(broken))
    found = doctor.opencl()
    assert found.state == "warning"
    assert "broken.so' cannot be loaded" in found.detail


def test_cuda_device_wants_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler is missed where there is a device for it, and named where there is one."""
    monkeypatch.setattr(cuda_compiler, "compiler_name", str)
    monkeypatch.setattr(detect_gpu, "cuda_devices", tuple)
    assert doctor.cuda().state == "ok"
    assert doctor.cuda().detail == "no device; compiler: not installed"
    h200 = GpuFacts(api="cuda", name="NVIDIA H200", arch="sm_90")
    monkeypatch.setattr(detect_gpu, "cuda_devices", lambda: (h200,))
    assert doctor.cuda().state == "warning"
    assert doctor.cuda().detail == "NVIDIA H200 (sm_90); no compiler"
    assert doctor.cuda().remedy.endswith("pip install 'millifit[cuda]'")
    monkeypatch.setattr(cuda_compiler, "compiler_name", lambda: "nvrtc")
    assert doctor.cuda().detail == "NVIDIA H200 (sm_90); compiler: nvrtc"


def test_code_for_a_phones_gpu_is_generated() -> None:
    """Both halves: the processor's and the GPU's."""
    found = doctor.code_generation(find_target("pixel4-gpu"))
    assert found.state == "ok"
    assert found.detail == "LLVM generates code for cortex-a76, TVM opencl code for Adreno 640"
