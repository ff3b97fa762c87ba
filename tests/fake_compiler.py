"""A compiler for devices that makes libraries in C which do what the kernel's operator says.

It speaks the protocol of `remote.compiler`; run as a child of a `RemoteRunner`. So sweeps on
devices are tested in a blink, and kernels crash and hang where they really run.
"""

import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# TVM calls a function of a library so; 0 is success.
_FUNCTION = """
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#include <stdlib.h>
#include <signal.h>
int __tvm_ffi_%s(void* self, const void* given, int32_t count, void* result) { %s; return 0; }
"""
_BODIES = {
    "crash": "raise(SIGSEGV)",
    "hang": "for (;;) pause()",
    "spin": "for (volatile int i = 0;;) i++",
    "leave": "_exit(7)",
    "slow": "usleep(20000)",
    "long": "usleep(50000)",
    "longest": "usleep(900000)",
    "kill session": "kill(getppid(), SIGKILL); pause()",
}


@functools.cache
def library(op: str) -> bytes:
    """A library with functions ``main`` and ``empty``."""
    body = _BODIES.get(op, "usleep(100)")
    source = _FUNCTION % ("main", body) + _FUNCTION.split("\n#")[-1].partition("\n")[2] % (
        "empty", ""
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "kernel.so"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", str(made)]
        subprocess.run(command, input=source.encode(), check=True)
        return made.read_bytes()


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        said = {"id": request["id"], "value": None}
        if request["do"] == "library":
            op = request["kernel"]["op"]
            if op.startswith("late "):  # its compilation takes long
                op = op.removeprefix("late ")
                time.sleep(1.0)
            if op == "refuse":
                said = {"id": request["id"], "error": "CompileError: no rule for this shape"}
            else:
                padding = 3 << 20 if op == "large" else 0
                Path(request["path"]).write_bytes(library(op) + bytes(padding))
                said["value"] = {"operands": [], "executable": False}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
