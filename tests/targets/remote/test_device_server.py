"""The device's server as a whole: one session at a time, limits, TLS, and a clean end, always."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from device_servers import DeviceServerProcess, served, wait_until

from millifit.errors import TargetError, UsageError
from millifit.targets.remote.credentials import Credentials
from millifit.targets.remote.remote_device import (
    DeviceBusyError,
    DeviceDownError,
    DeviceLostError,
    RemoteDevice,
    device_facts,
)
from millifit.targets.remote.settings import ServerSettings
from tests.debian import install


@contextlib.contextmanager
def session(device: DeviceServerProcess) -> Iterator[RemoteDevice]:
    """A session that ends with the body."""
    made = RemoteDevice(device.address, device.credentials)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[DeviceServerProcess]:
    """A server that a test may kill."""
    server = DeviceServerProcess(tmp_path / "device")
    yield server
    server.close()


def test_a_device_says_what_it_is(device: DeviceServerProcess) -> None:
    """Architecture, processor and the versions of its runtime."""
    facts = device_facts(device.address, device.credentials)
    assert facts.machine == os.uname().machine
    assert {"apache-tvm", "apache-tvm-ffi"} <= facts.versions.keys()


def test_the_server_has_one_thread_and_listens_on_loopback(device: DeviceServerProcess) -> None:
    """What is forked from it must not have lost any; nobody else may connect unasked."""
    assert len(list(Path(f"/proc/{device.process.pid}/task").iterdir())) == 1
    assert ServerSettings(token_file=Path("t")).host == "127.0.0.1"
    assert "warning" not in device.log
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", device.port), timeout=2).close()


def test_others_may_connect_only_after_a_warning(tmp_path: Path) -> None:
    """Without TLS, others on the network read and take over what is sent."""
    with served(tmp_path / "open", "--host", "0.0.0.0") as server:
        assert "warning: 0.0.0.0 is open to other machines, without TLS" in server.log
        socket.create_connection(("127.0.0.2", server.port), timeout=2).close()


def test_a_session_has_a_folder_until_it_ends(device: DeviceServerProcess) -> None:
    """And no process of it is left, either."""
    device.wait_until_idle()
    with session(device) as remote:
        assert remote.environment()["machine"] == os.uname().machine
        assert len(device.sessions()) == 1
        assert len(device.processes()) == 3  # the server, a broker, the session
    device.wait_until_idle()


def test_one_session_at_a_time(device: DeviceServerProcess) -> None:
    """Two timings at once would measure each other; who is there is told to who waits."""
    device.wait_until_idle()
    with session(device), pytest.raises(DeviceBusyError, match=r"a session from 127\.0\.0\.1"):
        RemoteDevice(device.address, device.credentials)
    device.wait_until_idle()
    with session(device):
        device_facts(device.address, device.credentials)  # facts are told meanwhile
    device.wait_until_idle()


def test_a_wrong_token_opens_nothing(device: DeviceServerProcess) -> None:
    """The message says which file to copy."""
    with pytest.raises(TargetError, match="Copy the device's token file again"):
        RemoteDevice(device.address, Credentials(token="not the device's token"))
    with pytest.raises(TargetError, match="Copy the device's token file again"):
        device_facts(device.address, Credentials(token="not the device's token"))
    assert device.sessions() == []


def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    """After some failures an address is not listened to for a while, right token or not."""
    with served(tmp_path / "device") as server:
        for _ in range(10):
            with pytest.raises(TargetError, match="token file again"):
                device_facts(server.address, Credentials(token="a guess of the token"))
        wait_until(lambda: server.log.count("127.0.0.1: wrong token") == 10, 5)
        with pytest.raises(TargetError, match="too many wrong tokens from this address: wait"):
            device_facts(server.address, server.credentials)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 64, b"H\x02\x00\x00\x00{}", b"\xff" * 70000]
)
def test_garbage_ends_a_connection_and_nothing_else(
    device: DeviceServerProcess, garbage: bytes
) -> None:
    """The server stays, and logs a line without what was sent."""
    with socket.create_connection(("127.0.0.1", device.port), timeout=5) as stranger:
        with contextlib.suppress(ConnectionError):
            stranger.sendall(garbage)
        with contextlib.suppress(ConnectionError):
            while stranger.recv(4096):
                pass
    device_facts(device.address, device.credentials)
    device.wait_until_idle()
    assert "HTTP" not in device.log


def test_strangers_who_take_their_time_are_sent_away(own: DeviceServerProcess) -> None:
    """Whether they say nothing or a byte now and then; others are served meanwhile."""
    strangers = [socket.create_connection(("127.0.0.1", own.port), timeout=20) for _ in range(4)]
    device_facts(own.address, own.credentials)
    begun_s = time.monotonic()
    with contextlib.suppress(OSError):
        for byte in b"H\xff\x00\x00\x00" + b" " * 200:
            strangers[0].send(bytes([byte]))
            time.sleep(0.1)
    for stranger in strangers:
        with contextlib.suppress(ConnectionError):
            while stranger.recv(4096):
                pass
        stranger.close()
    assert time.monotonic() - begun_s < 15
    own.wait_until_idle()


def test_many_strangers_at_once_are_turned_away(own: DeviceServerProcess) -> None:
    """There is a most of connections; what was there before goes on."""
    with session(own) as remote:
        many = [socket.create_connection(("127.0.0.1", own.port), timeout=5) for _ in range(40)]
        own.wait_for("turned away")
        assert remote.environment()
        for stranger in many:
            stranger.close()
        wait_until(lambda: len(own.processes()) == 3, 10)
    device_facts(own.address, own.credentials)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_its_session(own: DeviceServerProcess, number: int) -> None:
    """Exit code 0, no process, no folder; the workstation hears the reason."""
    with session(own) as remote:
        assert own.sessions()
        assert own.stop(number) == 0
        with pytest.raises(DeviceLostError, match="the device's server stops"):
            remote.environment()


def test_a_killed_server_takes_its_session_with_it(own: DeviceServerProcess) -> None:
    """Its folder goes when the next server begins."""
    with session(own) as remote:
        own.process.kill()
        own.process.wait()
        wait_until(lambda: not own.processes(), 10)
        with pytest.raises(TargetError):
            remote.environment()
    assert [list(root.iterdir()) for root in own.folders()] == [[own.folders()[0] / "lock"]]
    own.start()
    assert len(own.folders()) == 1
    assert own.stop() == 0


def test_a_killed_broker_takes_its_session_with_it(own: DeviceServerProcess) -> None:
    """Whichever process of a session dies, the others do, and the device is free again."""
    with session(own):
        children = [pid for pid in own.processes() if pid != own.process.pid]
        broker = min(children)
        os.kill(broker, signal.SIGKILL)
        own.wait_until_idle()
    with session(own) as remote:
        assert remote.environment()


def test_a_workstation_that_dies_frees_the_device(own: DeviceServerProcess) -> None:
    """Its process is killed, not closed."""
    remote = RemoteDevice(own.address, own.credentials)
    remote.kill()
    own.wait_until_idle()
    remote.close()
    with session(own) as again:
        assert again.environment()


def test_a_session_ends_at_its_limit(tmp_path: Path) -> None:
    """The workstation is told, and may have another."""
    with served(tmp_path / "device", "--session-limit", "0.5") as server:
        with session(server) as remote:
            server.wait_for("as long as the device allows")
            with pytest.raises(DeviceLostError, match=r"it lasted 0\.5 s, as long as the device"):
                remote.environment()
        server.wait_until_idle()


def test_a_file_that_is_too_large_is_refused_before_it_travels(
    tmp_path: Path,
) -> None:
    """The message names the option that allows more."""
    (tmp_path / "file").write_bytes(bytes(1 << 20 | 1))
    with served(tmp_path / "device", "--max-upload", "1") as server, session(server) as remote:
        with pytest.raises(TargetError, match="Start its server with a larger --max-upload"):
            remote.put(tmp_path / "file")
        assert remote.environment()


def test_a_workstation_that_sends_too_much_is_cut_off(tmp_path: Path) -> None:
    """The device does not rely on what the workstation checks."""
    (tmp_path / "file").write_bytes(bytes(3 << 20))
    with served(tmp_path / "device", "--max-upload", "1") as server, session(server) as remote:
        remote._max_upload_bytes = 1 << 30
        with pytest.raises(DeviceLostError, match="is larger than the 2097152 that the device"):
            remote.put(tmp_path / "file")
        server.wait_until_idle()


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    if shutil.which("openssl") is None:
        install(["openssl"])
    if shutil.which("openssl") is None:
        pytest.skip("no OpenSSL: on Debian or Ubuntu run 'apt-get install openssl'")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(cert),
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def test_tls_encrypts_and_the_certificate_is_checked(tmp_path: Path) -> None:
    """With the authority's file a session works; with another's, without it, it does not begin."""
    cert, key = certificate(tmp_path, "device")
    other, _ = certificate(tmp_path, "other")
    with served(tmp_path / "tls", "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        trusting = replace(server.credentials, ca_file=cert)
        assert device_facts(server.address, trusting).versions
        remote = RemoteDevice(server.address, trusting)
        (tmp_path / "file").write_bytes(os.urandom(3 << 20))
        remote.put(tmp_path / "file")
        assert remote.environment()
        remote.close()
        with pytest.raises(TargetError, match=r"its certificate does not fit: .*--device-ca"):
            RemoteDevice(server.address, replace(server.credentials, ca_file=other))
        with pytest.raises(TargetError, match=r"its certificate does not fit: .*--device-ca"):
            device_facts(server.address, replace(server.credentials, ca_file=other))
        with pytest.raises(DeviceDownError, match=r"whether it uses TLS \(--device-ca\)"):
            device_facts(server.address, server.credentials, timeout_s=0.5)
        server.wait_until_idle()


def test_a_tunnel_leads_to_the_device(device: DeviceServerProcess) -> None:
    """As `ssh -L` makes one: whatever forwards bytes will do."""
    door = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_forward, args=(door, device.port), daemon=True).start()
    near = replace(device.address, port=door.getsockname()[1])
    remote = RemoteDevice(near, device.credentials)
    assert remote.environment()["machine"] == os.uname().machine
    remote.close()
    door.close()
    device.wait_until_idle()


def _forward(door: socket.socket, port: int) -> None:
    near, _ = door.accept()
    far = socket.create_connection(("127.0.0.1", port))

    def pass_on(source: socket.socket, drain: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 16):
                drain.sendall(part)
            drain.shutdown(socket.SHUT_WR)

    threading.Thread(target=pass_on, args=(near, far), daemon=True).start()
    pass_on(far, near)


def test_a_port_in_use_is_said(device: DeviceServerProcess, tmp_path: Path) -> None:
    """With exit code 1, a line, and no traceback."""
    done = subprocess.run(
        [
            sys.executable, "-m", "millifit.targets.remote.agent_main", "serve",
            "--port", str(device.port), "--token-file", str(tmp_path / "token"),
        ],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{device.port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_half_of_the_options_of_tls_or_a_tracker_are_refused(tmp_path: Path) -> None:
    """A server that seems encrypted and is not would be worse than none."""
    with pytest.raises(UsageError, match="a certificate and its key"):
        ServerSettings(token_file=tmp_path / "t", tls_cert=tmp_path / "c")
    with pytest.raises(UsageError, match="a tracker knows a device by a key"):
        ServerSettings(token_file=tmp_path / "t", tracker=("host", 1))
    with pytest.raises(UsageError, match="above zero"):
        ServerSettings(token_file=tmp_path / "t", max_upload_bytes=0)
