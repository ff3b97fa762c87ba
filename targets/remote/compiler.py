"""The child process that compiles for devices: ``python -m millifit.targets.remote.compiler``.

It speaks the protocol of `runner.child`: one JSON object a line, an answer for each.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millifit.errors import MeasurementError
from millifit.targets.kernel import Kernel
from millifit.targets.target import Target


def answer(request: Mapping[str, Any]) -> object:
    """What `request` asks for, as JSON types; raises whatever goes wrong."""
    match request["do"]:
        case "prepare":
            import millifit.targets.schedules.rules  # noqa: F401 - before the first deadline runs

            return None
        case "library":
            from millifit.targets.kernel_library import kernel_library

            library = kernel_library(
                Kernel.from_dict(request["kernel"]), Target.from_dict(request["target"])
            )
            Path(request["path"]).write_bytes(library.content)
            return {
                "operands": [[list(each.shape), each.dtype] for each in library.operand_types],
                "executable": library.executable,
            }
        case unknown:
            raise MeasurementError(f"unknown request {unknown!r}")


def main() -> None:
    """Serve on the pipes; whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        said: dict[str, object] = {"id": request["id"]}
        try:
            said["value"] = answer(request)
        except Exception as error:  # the parent decides; here every failure is an answer
            said["error"] = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
