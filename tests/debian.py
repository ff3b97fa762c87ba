"""Debian packages that tests need: installed where root runs them on Debian, else asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence


def install(packages: Sequence[str]) -> None:
    """Install packages where that is possible; elsewhere do nothing, the caller looks again."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    wanted = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], wanted):
        subprocess.run(command, check=False, capture_output=True, env=environment, timeout=600)
