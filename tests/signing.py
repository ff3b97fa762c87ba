"""Keys to sign with, made by OpenSSL's command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.debian import install


def keys(folder: Path, name: str = "key", algorithm: str = "ed25519") -> tuple[Path, Path]:
    """A private key and its public half, in PEM."""
    if shutil.which("openssl") is None:
        install(["openssl"])
    if shutil.which("openssl") is None:
        pytest.skip("no OpenSSL: on Debian or Ubuntu run 'apt-get install openssl'")
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    for command in (
        ["openssl", "genpkey", "-algorithm", algorithm, "-out", str(private)],
        ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return private, public
