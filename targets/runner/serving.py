"""The other end of `child.Child`: answers requests on the pipes of this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

Request = Mapping[str, Any]


def answered(answer: Callable[[Request], object], request: Request) -> dict[str, object]:
    """What `answer` gives as ``{"value": ...}``, or as ``{"error": text}`` whatever it raises.

    The parent decides what a failure means; here each is an answer.
    """
    try:
        return {"value": answer(request)}
    except Exception as error:  # operators and libraries raise all kinds
        return {"error": f"{type(error).__name__}: {error}"}


def serve(answer: Callable[[Request], Mapping[str, object]]) -> None:
    """Answer every line of standard input on standard output, until the input ends.

    `answer` gives ``{"value": ...}`` or ``{"error": text}``, in JSON types. Whatever libraries
    print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps({"id": request["id"], **answer(request)}) + "\n")
        answers.flush()
