"""JSON that knows its own hash, so that a change of any byte is seen.

The last member, ``sha256``, is the hash of the text with zeros in that member's place. It is over
bytes and not over values: a reader in another language needs no JSON writer to check it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

_ZEROS = "0" * 64
_LAST = re.compile(rb'"sha256": "([0-9a-f]{64})"\n}\n\Z')


class BrokenSeal(ValueError):
    """The text is not what was written."""


def sealed(plain: Mapping[str, Any]) -> str:
    """The text of a JSON object, its own hash in it."""
    text = json.dumps({**plain, "sha256": _ZEROS}, indent=1) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text[: text.rindex(_ZEROS)] + digest + '"\n}\n'


def unsealed(raw: bytes) -> dict[str, Any]:
    """The object that was sealed, without its hash.

    Raises BrokenSeal where the text was changed, and another ValueError where it is no JSON object.
    """
    plain = json.loads(raw)
    if not isinstance(plain, dict):
        raise ValueError("it holds no object")  # noqa: TRY004 - damaged like any other text
    found = _LAST.search(raw)
    if found is None:
        raise BrokenSeal
    blank = raw[: found.start(1)] + _ZEROS.encode() + raw[found.end(1) :]
    if hashlib.sha256(blank).hexdigest().encode() != found[1]:
        raise BrokenSeal
    del plain["sha256"]
    return plain
