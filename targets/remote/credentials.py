"""What opens a device: a token that both sides know, and the authority that signed its certificate.

Whoever has the token may run any code as the user that the device's server runs as: that is what
the server is for. The token itself is never sent (see `handshake`).
"""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from millifit.errors import TargetError, UsageError

# Shorter ones could be found by trying, from one overheard handshake.
_FEWEST_CHARACTERS = 16
_FORM = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The token of a device, and where its connection is encrypted the file of the authority."""

    token: str = field(repr=False)
    ca_file: Path | None = None


def default_token_path() -> Path:
    """``$XDG_CONFIG_HOME/millifit/device-token``."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "millifit" / "device-token"


def find_credentials(token_file: Path | None = None, ca_file: Path | None = None) -> Credentials:
    """The credentials given by files, by the environment, or in the user's own folder.

    The token is in `token_file`, else in ``$MILLIFIT_DEVICE_TOKEN``, else in
    ``$XDG_CONFIG_HOME/millifit/device-token``; the authority in `ca_file`, else in the file that
    ``$MILLIFIT_DEVICE_CA`` names. Raises UsageError where there is no token, or no such file.
    """
    named = ca_file or os.environ.get("MILLIFIT_DEVICE_CA")
    authority = Path(named) if named else None
    if authority is not None and not authority.is_file():
        raise UsageError(f"there is no file '{authority}' with the certificate of an authority.")
    given = os.environ.get("MILLIFIT_DEVICE_TOKEN")
    if token_file is None and given:
        return Credentials(token=checked_token(given, "$MILLIFIT_DEVICE_TOKEN"), ca_file=authority)
    path = token_file or default_token_path()
    if not path.is_file():
        raise UsageError(
            f"a device wants a token, and '{path}' is not there. Copy the file whose path its "
            "server printed when it began, and name it with --device-token-file, or put the token "
            "into $MILLIFIT_DEVICE_TOKEN."
        )
    return Credentials(token=read_token(path), ca_file=authority)


def read_token(path: Path) -> str:
    """The token in a file that only its owner may read; TargetError else."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise TargetError(f"the token in '{path}' cannot be read: {error.strerror}.") from error
    if mode & 0o077:
        raise TargetError(
            f"others may read the token in '{path}'. Run: chmod 600 {path}; and if it was so for "
            "long, delete it on the device: its server then makes a new one."
        )
    return checked_token(text, f"'{path}'")


def checked_token(text: str, place: str) -> str:
    """The token, if it is one; UsageError names `place` else."""
    if not _FORM.fullmatch(text) or len(text) < _FEWEST_CHARACTERS:
        raise UsageError(
            f"{place} holds no token: it has {_FEWEST_CHARACTERS} or more characters of ASCII in "
            "one line, without spaces."
        )
    return text


def make_token(path: Path) -> str:
    """Write a new random token to `path`, which only its owner may read."""
    token = secrets.token_hex(32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "w") as stream:
            stream.write(token + "\n")
    except OSError as error:
        raise TargetError(
            f"cannot write a token to '{path}': {error.strerror}. Name another place with "
            "--token-file."
        ) from error
    return token
