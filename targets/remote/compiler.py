"""The child process that compiles for devices: ``python -m millifit.targets.remote.compiler``.

It speaks the protocol of `runner.child`: one JSON object a line, an answer for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millifit.errors import MeasurementError
from millifit.targets.kernel import Kernel
from millifit.targets.runner.serving import answered, serve
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
    serve(lambda request: answered(answer, request))


if __name__ == "__main__":
    main()
