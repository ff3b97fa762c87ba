"""A child that speaks the worker's protocol and misbehaves on request; run by test_local_runner.

The kernel's operator, or the file name of the contender, says what to do.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any


def misbehave(how: str) -> None:
    match how:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(60)
        case "garbage":
            print("Segmentation of the graph: done", flush=True)
        case "leave":
            print("out of registers", file=sys.stderr, flush=True)
            sys.exit(7)


def answer(request: dict[str, Any]) -> object:
    match request["do"]:
        case "prepare":
            misbehave(os.environ.get("FAKE_PREPARE", ""))
            return None
        case "time_kernel":
            how = request["kernel"]["op"]
            misbehave(how)
            if how == "refuse":
                raise ValueError("no rule for this shape")
            cores = float(len(os.sched_getaffinity(0)))
            run_s = {"cores": [cores], "pid": [float(os.getpid())] * 3, "zero": [0.0]}.get(
                how, [1e-3, 2e-3, 3e-3]
            )
            return {"run_s": run_s, "energy_j": 0.25 if how == "metered" else None}
        case "load":
            misbehave(Path(request["path"]).name)
            return request["threads"]
        case "take_turn":
            return [2e-3, 1e-3, 3e-3]
        case "memory":
            return {"network_bytes": 1000, "process_bytes": 5000}
    raise AssertionError(request)


for line in sys.stdin:
    request = json.loads(line)
    try:
        value = {"id": request["id"], "value": answer(request)}
    except ValueError as error:
        value = {"id": request["id"], "error": f"ValueError: {error}"}
    print(json.dumps(value), flush=True)
