"""What a sweep over the network costs beyond the time that the device spends timing.

Thirty kernels of MobileNetV2 are timed on a device server of this machine, through a relay that
holds every byte back for half of the round trip in each direction, and without it. The relay is a
process of its own: it stands for ``tc netem``, which not every kernel has, and costs a little more.

Wall time runs from the runner's start to its end: connecting, the session, uploads, requests. The
device's share is what it spends inside the timing policy. While the next kernel, at the beginning
the first, is not compiled yet, which a sweep on this machine waits for, too, nothing is lost to the
network: that time is told apart. What is left is transport and set-up; its share is of the
wall time without the wait.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import load
from benchmarks.setting import setting, write_result
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import from_onnx
from millifit.targets.importer.simplify import simplify
from millifit.targets.kernel import Kernel
from millifit.targets.lower import lower
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.credentials import Credentials, read_token
from millifit.targets.remote.remote_runner import RemoteRunner
from millifit.targets.remote.trace import waited_for_compiler_s
from millifit.targets.target import Target
from millifit.targets.timing import Samples, TimingPolicy

_KERNELS = 30
_BAR = 0.15
_START_S = 60.0


def kernels(target: Target, count: int) -> list[Kernel]:
    """Distinct kernels of MobileNetV2, in the order of the network."""
    network = simplify(from_onnx(load("MobileNetV2", 0), name="MobileNetV2"))
    called = (call.kernel for call in lower(network, target).calls)
    return [each for each in dict.fromkeys(called) if each.op != "reshape"][:count]


def sweep(
    wanted: Sequence[Kernel], address: DeviceAddress, credentials: Credentials, target: Target
) -> dict[str, float]:
    """Seconds of one sweep: of the wall, on the device, waiting for the compiler, and lost."""
    begun_s = time.monotonic()
    with RemoteRunner(address, target, credentials=credentials) as runner:
        timed = runner.time_kernels(wanted, target, TimingPolicy(), seed=0)
        failed = [kernel for kernel, outcome in timed if not isinstance(outcome, Samples)]
        wall_s = time.monotonic() - begun_s
        if failed:
            raise RuntimeError(f"{len(failed)} kernels were not timed; the first is {failed[0]}")
        device_s = sum(trace.on_device_s for trace in runner.traces)
        compiler_s = waited_for_compiler_s(runner.traces, begun_s)
    lost_s = wall_s - device_s - compiler_s
    return {
        "wall_s": wall_s, "device_s": device_s, "waiting_for_compiler_s": compiler_s,
        "lost_s": lost_s, "lost_share": lost_s / (wall_s - compiler_s),
    }  # fmt: skip


@contextlib.contextmanager
def device() -> Iterator[tuple[DeviceAddress, Credentials]]:
    """A device server of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        token, log = Path(folder) / "token", Path(folder) / "log"
        command = [sys.executable, "-m", "millifit.targets.remote.agent_main", "serve"]
        with log.open("w") as said:
            server = subprocess.Popen(
                [*command, "--port", "0", "--token-file", str(token)], stderr=said
            )
        try:
            port = int(_wait_for("listening on 127.0.0.1:", log))
            yield DeviceAddress(host="127.0.0.1", port=port), Credentials(token=read_token(token))
        finally:
            server.terminate()
            server.wait()


@contextlib.contextmanager
def far_away(address: DeviceAddress, round_trip_s: float) -> Iterator[DeviceAddress]:
    """The address of a relay that a round trip through takes so much longer."""
    door = socket.create_server(("127.0.0.1", 0))
    port = door.getsockname()[1]
    relay = os.fork()
    if relay == 0:
        try:
            _relay(door, address, round_trip_s / 2)
        finally:
            os._exit(1)
    door.close()
    try:
        yield DeviceAddress(host="127.0.0.1", port=port)
    finally:
        os.kill(relay, 9)
        os.waitpid(relay, 0)


def _relay(door: socket.socket, address: DeviceAddress, delay_s: float) -> None:
    """Forward every connection, each part `delay_s` after it came; for ever."""
    selector = selectors.DefaultSelector()
    selector.register(door, selectors.EVENT_READ)
    late: deque[tuple[float, socket.socket, bytes]] = deque()
    other: dict[socket.socket, socket.socket] = {}
    while True:
        wait_s = max(0.0, late[0][0] - time.monotonic()) if late else None
        # Waking up takes longer than the rest of a delay: the end of it is waited for awake.
        ready = selector.select(None if wait_s is None else max(0.0, wait_s - 2e-4))
        for key, _ in ready:
            if key.fileobj is door:
                near = door.accept()[0]
                far = socket.create_connection((address.host, address.port))
                for one, another in ((near, far), (far, near)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(one, selectors.EVENT_READ)
                    other[one] = another
                continue
            source = key.fileobj
            assert isinstance(source, socket.socket)
            part = b""
            with contextlib.suppress(OSError):
                part = source.recv(1 << 18)
            late.append((time.monotonic() + delay_s, source, part))
            if not part:
                selector.unregister(source)
        while late and late[0][0] <= time.monotonic():
            _, source, part = late.popleft()
            with contextlib.suppress(OSError):
                other[source].sendall(part) if part else other[source].shutdown(socket.SHUT_WR)


def measured_round_trip_s(wanted_s: float, count: int = 200) -> float:
    """The median time that eight bytes take through such a relay to an echo and back."""
    echo = socket.create_server(("127.0.0.1", 0))
    there = DeviceAddress(host="127.0.0.1", port=echo.getsockname()[1])
    taken = []
    with (
        far_away(there, wanted_s) as way,
        socket.create_connection((way.host, way.port)) as near,
        echo.accept()[0] as far,
    ):
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            begun_s = time.monotonic()
            near.sendall(bytes(8))
            far.sendall(far.recv(8))
            near.recv(8)
            taken.append(time.monotonic() - begun_s)
    return statistics.median(taken)


def _wait_for(text: str, log: Path) -> str:
    """What follows `text` in the first line of a log that has it."""
    stop_s = time.monotonic() + _START_S
    while time.monotonic() < stop_s:
        for line in log.read_text().splitlines():
            if text in line:
                return line.partition(text)[2]
        time.sleep(0.05)
    raise TimeoutError(f"the device server never said '{text}': {log.read_text()}")


def run(*, rounds: int, round_trip_s: float, count: int) -> dict[str, Any]:
    """Sweeps near and far in turn, and the medians of their shares."""
    target = find_target("local")
    wanted = kernels(target, count)
    found: dict[str, list[dict[str, float]]] = {"near": [], "far": []}
    with device() as (near, credentials), far_away(near, round_trip_s) as far:
        for number in range(rounds):
            for name, address in (("near", near), ("far", far)):
                found[name].append(sweep(wanted, address, credentials, target))
                _say(number, name, found[name][-1])
    share = statistics.median(each["lost_share"] for each in found["far"])
    return {
        "kernels": len(wanted),
        "network": "a relay in user space on loopback; the kernel's netem was not used",
        "round_trip_wanted_s": round_trip_s,
        "round_trip_s": measured_round_trip_s(round_trip_s),
        "lost_share": share,
        "lost_share_near": statistics.median(each["lost_share"] for each in found["near"]),
        "bar": _BAR,
        "met": share <= _BAR,
        "sweeps": found,
    }


def _say(number: int, name: str, found: dict[str, float]) -> None:
    print(
        f"round {number + 1} {name:4}: wall {found['wall_s']:.2f} s, on the device "
        f"{found['device_s']:.2f} s, waiting for the compiler "
        f"{found['waiting_for_compiler_s']:.2f} s, lost {found['lost_share']:.1%}"
    )


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kernels", type=int, default=_KERNELS)
    parser.add_argument("--round-trip", type=float, default=1e-3, metavar="SECONDS")
    given = parser.parse_args()
    result = run(rounds=given.rounds, round_trip_s=given.round_trip, count=given.kernels)
    print(
        f"lost to transport and set-up: {result['lost_share']:.1%} "
        f"(near {result['lost_share_near']:.1%}, bar {_BAR:.0%})"
    )
    write_result(given.json, {**setting(0), **result})


if __name__ == "__main__":
    main()
