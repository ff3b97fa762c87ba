"""The OpenCL runtime: memory, copies, launches, events, and errors that say what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from opencl_code import TwiceAndOne, compiled, runnable
from tvm.script import ir as I  # noqa: N812
from tvm.script import tirx as T  # noqa: N812

from millifit.errors import MissingDependency, TargetError
from millifit.targets.native import list_opencl, load_opencl, opencl_devices, opencl_index
from millifit.targets.target import Gpu, Target

N = 256


def _function(name: str) -> Any:
    return tvm.get_global_func(f"millifit.opencl.{name}")


def _ramp() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.arange(N, dtype=np.float32).reshape(64, 4)


def _on_device(value: Any) -> Any:
    return tvm.runtime.tensor(value, device=tvm.opencl(0))


def test_device_tells_what_it_is(opencl: Target) -> None:
    """PoCL is found by name, with its work-group size and without arithmetic in half precision."""
    (device,) = list_opencl()
    assert (device.index, device.platform) == (0, "Portable Computing Language")
    assert opencl.gpu is not None
    assert opencl.gpu.name == device.name
    assert opencl.precisions == ("fp32", "fp16")
    assert not device.is_gpu
    assert device.compute_units == len(os.sched_getaffinity(0))
    assert tvm.opencl(0).max_threads_per_block == device.max_threads
    assert tvm.opencl(0).device_name == device.name
    assert not tvm.opencl(1).exist
    assert [gpu.api for gpu in opencl_devices()] == ["opencl"]


def test_values_survive_the_way_there_and_back(opencl: Target) -> None:
    """Host to device, device to device and back; tensors without values, too."""
    value = _ramp()
    first = _on_device(value)
    second = tvm.runtime.empty(value.shape, "float32", device=tvm.opencl(0))
    first.copyto(second)
    assert np.array_equal(second.numpy(), value)
    assert _on_device(np.zeros((0, 4), np.float32)).numpy().shape == (0, 4)


def test_kernel_runs_in_the_middle_of_memory(opencl: Target) -> None:
    """A view at an offset is read and written there, and nothing else is."""
    memory = _on_device(np.zeros(3 * N, np.float32))
    # TVM hands kernels the offset of a view in elements.
    source = memory._create_view((64, 4), "float32", relative_byte_offset=4 * N)
    target = memory._create_view((64, 4), "float32", relative_byte_offset=8 * N)
    _on_device(_ramp()).copyto(source)
    runnable(opencl)["main"](source, target)
    expected = np.concatenate([np.zeros((64, 4)), _ramp(), 2 * _ramp() + 1]).reshape(-1)
    assert np.array_equal(memory.numpy(), expected)


def test_library_in_a_file_runs_in_a_fresh_process(opencl: Target, tmp_path: Path) -> None:
    """An exported library is loaded by a process that has the runtime alone, no compiler."""
    compiled(opencl).export_library(str(tmp_path / "code.so"))
    script = (
        "import numpy as np, tvm\n"
        "from millifit.targets.native import load_opencl\n"
        "load_opencl()\n"
        f"code = tvm.runtime.load_module({str(tmp_path / 'code.so')!r})\n"
        "a = tvm.runtime.tensor(np.ones((64, 4), np.float32), device=tvm.opencl(0))\n"
        "b = tvm.runtime.empty((64, 4), 'float32', device=tvm.opencl(0))\n"
        "code['main'](a, b)\n"
        "print(b.numpy().min(), b.numpy().max())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        env=os.environ | {"TVM_USE_RUNTIME_LIB": "1"},
    )  # fmt: skip
    assert done.stdout.split() == ["3.0", "3.0"], done.stderr[-2000:]


def test_events_have_the_seconds_of_every_launch(opencl: Target) -> None:
    """Three launches, three times; launches before and after are not counted."""
    run = runnable(opencl)["main"]
    a, b = _on_device(_ramp()), _on_device(_ramp())
    run(a, b)
    _function("events_begin")(0)
    for _ in range(3):
        run(a, b)
    seconds = list(_function("events_seconds")(0))
    run(a, b)
    assert len(seconds) == 3
    assert all(0 < each < 0.1 for each in seconds)
    assert list(_function("events_seconds")(0)) == []


def test_memory_is_counted_and_given_back(opencl: Target) -> None:
    """What tensors take is freed with them, and the most there was is remembered."""
    before = _function("live_bytes")()
    _function("forget_peak")()
    tensors = [_on_device(np.zeros(1000, np.float32)) for _ in range(5)]
    assert _function("live_bytes")() == before + 20_000
    del tensors
    assert _function("live_bytes")() == before
    assert _function("peak_bytes")() == before + 20_000


def test_threads_do_not_mix_up_arguments(opencl: Target) -> None:
    """Four threads launch one kernel at once, each on memory of its own."""
    run = runnable(opencl)["main"]
    wrong: list[int] = []

    def work(number: int) -> None:
        value = np.full((64, 4), number, np.float32)
        a, b = _on_device(value), _on_device(value)
        for _ in range(50):
            run(a, b)
            if not np.array_equal(b.numpy(), 2 * value + 1):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_work_group_that_is_too_large_is_refused_by_name(opencl: Target) -> None:
    """The error has OpenCL's call and code, the kernel and the sizes."""

    @I.ir_module
    class Huge:
        @T.prim_func
        def main(A: T.Buffer((8192,), "float32")) -> None:  # noqa: N805
            for i in T.thread_binding(8192, thread="threadIdx.x"):
                A[i] = T.float32(1)

    said = r"clEnqueueNDRangeKernel failed for kernel 'main_kernel' in work-groups of 8192 x 1 x 1 "
    said += r"\(the device '.*' runs at most \d+ of it\): CL_INVALID_WORK_GROUP_SIZE"
    with pytest.raises(Exception, match=said):
        runnable(opencl, Huge)["main"](_on_device(np.zeros(8192, np.float32)))


def test_memory_that_is_too_large_is_refused_with_the_sizes(opencl: Target) -> None:
    """Asking for a petabyte tells how much at most."""
    with pytest.raises(
        Exception, match="clCreateBuffer failed for 1125899906842624 bytes on device"
    ):
        tvm.runtime.empty((2**50,), "uint8", device=tvm.opencl(0))


def test_damaged_code_is_refused(opencl: Target) -> None:
    """Bytes that are no module of this TVM lead to an error, whatever lengths they claim."""
    load = tvm.get_global_func("ffi.Module.load_from_bytes.opencl")
    header = (2).to_bytes(8, "little") + b"cl"
    endless = header + (2**60).to_bytes(8, "little")
    for damaged in (b"", b"\xff" * 8, header, endless, header + bytes(8)):
        with pytest.raises(Exception, match="compile it again"):
            load(damaged)
    with pytest.raises(Exception, match="in the format 'spv'"):
        load((3).to_bytes(8, "little") + b"spv" + bytes(16))


def test_source_that_does_not_build_is_quoted(opencl: Target) -> None:
    """The error has what OpenCL's compiler said of the code."""
    executable = compiled(opencl, TwiceAndOne)
    _function("make_runnable")(executable.mod)
    (module,) = executable.mod.imports
    source = module.inspect_source("cl")
    broken = source.replace("convert_int", "no_such_function", 1)
    bytes_of = tvm.get_global_func("millifit.opencl.module_bytes")
    saved = bytes(bytes_of(module))
    size = len(source.encode()).to_bytes(8, "little")
    at = saved.index(size + source.encode())
    damaged = saved[:at] + len(broken.encode()).to_bytes(8, "little") + broken.encode()
    executable.mod.clear_imports()
    executable.mod.import_module(tvm.get_global_func("ffi.Module.load_from_bytes.opencl")(damaged))
    a = _on_device(_ramp())
    with pytest.raises(Exception, match=r"(?s)clBuildProgram failed .*no_such_function"):
        executable.jit()["main"](a, a)


def test_binaries_are_kept_for_the_next_process(
    opencl: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run leaves the driver's binary; a damaged one is built from source again."""
    monkeypatch.setenv("MILLIFIT_OPENCL_CACHE", str(tmp_path))
    a, b = _on_device(_ramp()), _on_device(_ramp())
    runnable(opencl)["main"](a, b)
    (kept,) = tmp_path.iterdir()
    written = kept.read_bytes()
    runnable(opencl)["main"](a, b)
    assert kept.read_bytes() == written
    kept.write_bytes(b"no binary")
    runnable(opencl)["main"](a, b)
    assert np.array_equal(b.numpy(), 2 * _ramp() + 1)
    assert kept.read_bytes() == written


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MILLIFIT_OPENCL_DRIVER", "/no/driver.so"), ("MILLIFIT_OPENCL_PLATFORM", "Nonesuch")],
)
def test_machine_without_devices_says_so(opencl: Target, variable: str, value: str) -> None:
    """No driver, or no platform of that name: no devices, and an error that says what to do."""
    script = (
        "from millifit.targets.detect_gpu import detect_gpu_target\n"
        "from millifit.targets.native import list_opencl\n"
        "from millifit.errors import TargetError\n"
        "assert list_opencl() == ()\n"
        "try: detect_gpu_target('local-opencl')\n"
        "except TargetError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env=os.environ | {variable: value},
    )  # fmt: skip
    assert "no OpenCL device is here" in done.stdout
    assert "apt-get install pocl-opencl-icd" in done.stdout


def test_driver_that_must_be_switched_on_is(opencl: Target, tmp_path: Path) -> None:
    """Google's phones: functions come through a function, after another one was called."""
    source = tmp_path / "pixel.c"
    source.write_text(
        "#include <dlfcn.h>\n"
        "static int enabled;\n"
        "void enableOpenCL(void) { enabled = 1; }\n"
        "void *loadOpenCLPointer(const char *name) {\n"
        '  return enabled ? dlsym(dlopen("libOpenCL.so.1", RTLD_NOW), name) : 0;\n'
        "}\n"
    )
    driver = tmp_path / "libOpenCL-pixel.so"
    subprocess.run(["g++", "-x", "c", "-shared", "-fPIC", "-o", driver, source], check=True)
    script = "from millifit.targets.native import list_opencl; print(len(list_opencl()))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env=os.environ | {"MILLIFIT_OPENCL_DRIVER": str(driver), "TVM_USE_RUNTIME_LIB": "1"},
    )  # fmt: skip
    assert done.stdout.split() == ["1"]


def test_missing_runtime_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not built: nothing is reachable, and loading says what to run; a wrong path is an error."""
    monkeypatch.delenv("MILLIFIT_OPENCL_LIBRARY", raising=False)
    assert opencl_devices() == ()
    with pytest.raises(MissingDependency, match="millifit device build"):
        load_opencl()
    monkeypatch.setenv("MILLIFIT_OPENCL_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(TargetError, match=r"none\.so', which is no file"):
        load_opencl()


def test_code_in_half_precision_needs_a_device_that_has_it(opencl: Target) -> None:
    """The device of the target's name is taken, else the first that runs its code."""
    assert opencl.gpu is not None
    common = {"api": "opencl", "compute_units": 1, "subgroup": 1, "max_threads": 64}
    other = Gpu(**common, shared_bytes=1024, name="Adreno 640")  # type: ignore[arg-type]
    half = Gpu(**common, shared_bytes=1024, name="Mali", features=("fp16",))  # type: ignore[arg-type]
    assert opencl_index(opencl.gpu) == 0
    assert opencl_index(other) == 0
    with pytest.raises(TargetError, match="cannot compute in half precision"):
        opencl_index(half)
