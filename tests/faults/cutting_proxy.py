"""A wire to a device that can be cut: at once, or in the middle of what is being sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import replace

from millifit.targets.remote.address import DeviceAddress


class CuttingProxy:
    """Forwards connections to a device until it is told to cut them."""

    def __init__(self, device: DeviceAddress) -> None:
        self._device = device
        self._door = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._bytes_left: int | None = None
        self._lock = threading.Lock()
        self.cuts = 0
        self.address = replace(device, port=self._door.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def cut_after(self, count: int) -> None:
        """Cut the wire, once, when so many more bytes have gone to the device."""
        with self._lock:
            self._bytes_left = count

    def cut(self) -> None:
        """Cut all connections now; new ones are forwarded."""
        with self._lock:
            self._cut()

    def close(self) -> None:
        """Cut everything and let nobody in."""
        self._door.close()
        self.cut()

    def _cut(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        self.cuts += 1

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                try:
                    far = socket.create_connection((self._device.host, self._device.port))
                except OSError:
                    near.close()
                    continue
                with self._lock:
                    self._open |= {near, far}
                for source, drain in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._forward, args=(source, drain, source is near), daemon=True
                    ).start()

    def _forward(self, source: socket.socket, drain: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 14):
                if outward and self._counted(len(part)):
                    part = part[: len(part) // 2]
                    drain.sendall(part)
                    self.cut()
                    break
                drain.sendall(part)
        for each in (source, drain):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _counted(self, count: int) -> bool:
        """Whether the wire is to be cut within these bytes."""
        with self._lock:
            if self._bytes_left is None:
                return False
            self._bytes_left -= count
            if self._bytes_left > 0:
                return False
            self._bytes_left = None
            return True
