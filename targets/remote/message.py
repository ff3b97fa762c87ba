"""A request or an answer: JSON, and a file's content behind it.

``b"\\x02\\x00\\x00\\x00" + b"{}" + content``: the length of the JSON, in four bytes, comes first.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

_LENGTH = struct.Struct("<I")


def pack(plain: Mapping[str, Any], content: bytes = b"") -> bytes:
    """One message of a JSON object and a file's content."""
    text = json.dumps(plain).encode()
    return _LENGTH.pack(len(text)) + text + content


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON object and the content of a message; ValueError where it is none."""
    if len(message) < _LENGTH.size:
        raise ValueError("a message is too short")
    (length,) = _LENGTH.unpack_from(message)
    plain = json.loads(message[_LENGTH.size : _LENGTH.size + length])
    if not isinstance(plain, dict):
        raise ValueError(  # noqa: TRY004 - what came is wrong, not how we were called
            "a message holds no JSON object"
        )
    return plain, message[_LENGTH.size + length :]
