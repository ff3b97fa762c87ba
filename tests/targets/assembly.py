"""The machine code that a kernel's time is spent in."""

from __future__ import annotations

import re
import subprocess
from typing import Any

from emulator import PREFIX, emulator

_INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\t(.*)$", re.MULTILINE)
_BRANCH = re.compile(r"^(?:b|b\.\w+|cbn?z|tbn?z)\s.*?([0-9a-f]+) <")


def innermost_loops(executable: Any) -> list[list[str]]:
    """The loops of an aarch64 executable that hold no other loop, as lists of instructions."""
    library = emulator().link(executable)
    listing = subprocess.run(
        [PREFIX + "objdump", "-d", "--no-show-raw-insn", str(library)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    library.unlink()
    found = [(int(at, 16), text.replace("\t", " ")) for at, text in _INSTRUCTION.findall(listing)]
    place = {at: i for i, (at, _) in enumerate(found)}
    spans = []
    for i, (at, text) in enumerate(found):
        branch = _BRANCH.match(text)
        if branch and int(branch[1], 16) <= at:
            spans.append((place[int(branch[1], 16)], i))
    inner = [
        span for span in spans
        if not any(span[0] <= o[0] and o[1] <= span[1] for o in spans if o != span)
    ]  # fmt: skip
    return [[text for _, text in found[first : last + 1]] for first, last in inner]
