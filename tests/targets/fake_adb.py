#!/usr/bin/env python3
"""An adb whose devices are folders: it runs in them what it is told to run on the device.

$FAKE_ADB names a JSON file: ``{"devices": {SERIAL: {"state", "abis", "root", "emulator",
"room_bytes", "lost_on"}}}``. Like adb before Android 7 it ends lines with a carriage return and
does not hand on exit codes. Every call is written beside that file, to a .log.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

TMP = "/data/local/tmp"


def main(words: list[str]) -> int:
    state = Path(os.environ["FAKE_ADB"])
    with state.with_suffix(".log").open("a") as log:
        log.write(json.dumps(words) + "\n")
    devices = json.loads(state.read_text())["devices"]
    if words == ["devices"]:
        print("List of devices attached")
        for serial, device in devices.items():
            print(f"{serial}\t{device['state']}", end="\r\n")
        return 0
    assert words[0] == "-s", words
    device, verb, rest = devices[words[1]], words[2], words[3:]
    return {"shell": shell, "push": push, "pull": pull}[verb](device, rest)


def shell(device: dict[str, Any], words: list[str]) -> int:
    command = " ".join(words)  # as adb does it: quoting is the caller's affair
    lost = device.get("lost_on")
    if lost and lost in command:
        print("error: closed", file=sys.stderr)
        return 1
    if command == "getprop ro.product.cpu.abilist":
        print(device["abis"], end="\r\n")
        return 0
    command = command.replace(TMP, place(device, TMP))
    command = command.replace("./millifit-run", f"{device.get('emulator', '')} ./millifit-run")
    done = subprocess.run(
        ["/bin/sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    sys.stdout.buffer.write(done.stdout.replace(b"\n", b"\r\n"))
    return 0


def push(device: dict[str, Any], words: list[str]) -> int:
    source, target = Path(words[0]), place(device, words[1])
    used = sum(f.stat().st_size for f in Path(device["root"]).rglob("*") if f.is_file())
    room = device.get("room_bytes")
    if room is not None and used + source.stat().st_size > room:
        print(f"adb: error: failed to copy '{source}': remote write failed: "
              "No space left on device", file=sys.stderr)  # fmt: skip
        return 1
    shutil.copy(source, target)
    made = Path(target)
    (made / source.name if made.is_dir() else made).chmod(0o644)
    return 0


def pull(device: dict[str, Any], words: list[str]) -> int:
    try:
        shutil.copyfile(place(device, words[0]), words[1])
    except OSError as error:
        print(f"adb: error: {error}", file=sys.stderr)
        return 1
    return 0


def place(device: dict[str, Any], path: str) -> str:
    """Where a path of the device lies."""
    assert path.startswith(TMP), path
    return device["root"] + path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
