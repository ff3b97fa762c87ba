"""A process in which TVM's own CUDA runtime finds a device: an emulated one, on this processor.

Everything but the driver is real: the compiled program, the virtual machine, its memory, workspaces
and graphs. ``python emulated_device.py MODEL.onnx INPUT.npy OUTPUT.npy ARCH`` compiles a network,
makes a bundle's library of it, loads that, and runs it three times on the input. It prints the
number of graphs that were launched, and of allocations in the last run.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from emulated_gpu import SIGNATURE, compiled, cuda, emulated_source

_HEADERS = Path(__file__).parent / "emulation"


def load_driver(folder: Path) -> ctypes.CDLL:
    """Build and load the emulated driver and its runtime library; the latter."""
    versions = folder / "versions"
    versions.write_text("libcudart.so.13 { global: *; };")
    compiler = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{_HEADERS}"]
    cudart, driver = folder / "libcudart.so.13", folder / "libcuda.so.1"
    subprocess.run(
        [*compiler, "-Wl,-soname,libcudart.so.13", f"-Wl,--version-script={versions}",
         _HEADERS / "cudart.cpp", "-o", cudart], check=True,
    )  # fmt: skip
    subprocess.run(
        [*compiler, "-Wl,-soname,libcuda.so.1", _HEADERS / "driver.cpp", cudart, "-ldl", "-o",
         driver], check=True,
    )  # fmt: skip
    library = ctypes.CDLL(str(cudart), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(driver), ctypes.RTLD_GLOBAL)
    return library


def emulated_cubin(code: str, _arch: str) -> bytes:
    """In place of machine code: the path of a library with the kernels and how to launch them."""
    launchers = [_launcher(name, own) for name, own in dict(SIGNATURE.findall(code)).items()]
    return f"{compiled(chr(10).join([emulated_source(code), *launchers]))}\0".encode()


def _launcher(name: str, parameters: str) -> str:
    kinds = [each.strip().rpartition(" ")[0].replace("__restrict__", "") for each in
             parameters.split(",")]  # fmt: skip
    arguments = [f"*({kind}*)held_by_{name}[{i}]" for i, kind in enumerate(kinds)]
    sizes = ", ".join(f"sizeof({kind})" for kind in kinds)
    return f"""
static void** held_by_{name};
static void thread_of_{name}() {{ {name}({", ".join(arguments)}); }}
static void run_{name}(const unsigned* grid, const unsigned* block, void** parameters) {{
  held_by_{name} = parameters;
  emulation::launch({{grid[0], grid[1], grid[2]}}, {{block[0], block[1], block[2]}},
                    thread_of_{name});
}}
static const int sizes_of_{name}[] = {{{sizes}}};
extern "C" {{
struct {{ int count; const int* sizes; void (*run)(const unsigned*, const unsigned*, void**); }}
launcher_of_{name} = {{{len(kinds)}, sizes_of_{name}, run_{name}}};
}}"""


def main(model: str, source: str, result: str, arch: str) -> None:
    """Compile, load, run."""
    with tempfile.TemporaryDirectory() as work:
        device = load_driver(Path(work))
        import numpy as np
        import tvm
        from tvm.runtime.vm import VirtualMachine

        from millifit.targets import build, cuda_compiler
        from millifit.targets.device import runtime_device
        from millifit.targets.importer.onnx_file import read_network
        from millifit.targets.importer.simplify import simplify
        from millifit.targets.lower import lower

        cuda_compiler.compile_cuda = emulated_cubin
        target = cuda(arch)
        program = lower(simplify(read_network(Path(model))), target)
        made = build.compile_program(program, target)
        build.export_library(made, Path(work) / "library.so", target)
        place = runtime_device(target)
        machine = VirtualMachine(tvm.runtime.load_module(str(Path(work) / "library.so")), place)
        weights = [tvm.runtime.tensor(weight, device=place) for weight in made.weights]
        outputs = []
        for x in np.load(source):
            before = device.emulation_allocations()
            outputs.append(machine["main"](tvm.runtime.tensor(x, device=place), *weights).numpy())
        np.save(result, np.stack(outputs))
        graphs = device.emulation_graphs_launched()
        print(json.dumps([graphs, device.emulation_allocations() - before]))


if __name__ == "__main__":
    main(*sys.argv[1:])
