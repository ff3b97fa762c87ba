"""The devices that a runner has sessions on: one at an address, or those that a tracker lends.

Whoever wants to time something borrows a device. One that is lost is looked for again in the
background, for as long as a board needs to start again, while others go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from millifit.errors import TargetError
from millifit.progress import Progress
from millifit.targets.device_facts import DeviceFacts
from millifit.targets.remote.address import DeviceAddress
from millifit.targets.remote.credentials import Credentials
from millifit.targets.remote.remote_device import (
    DeviceBusyError,
    DeviceDownError,
    DeviceIdleError,
    DeviceLostError,
    RemoteDevice,
    device_facts,
)
from millifit.targets.remote.tracker import Tracker, TrackerError

_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
_BUSY_S = 1800.0


class DevicePool:
    """Devices to borrow. Closing it ends all sessions."""

    def __init__(
        self,
        address: DeviceAddress,
        credentials: Credentials,
        *,
        accept: Callable[[DeviceAddress, DeviceFacts], None],
        progress: Progress,
        patience_s: float,
    ) -> None:
        """`accept` raises TargetError for a device that will not do.

        A device that was lost is waited for `patience_s`.
        """
        self._address = address
        self._credentials = credentials
        self._accept = accept
        self._progress = progress
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._free: list[RemoteDevice] = []
        self._lent: set[RemoteDevice] = set()
        self._waiting: list[int] = []
        self._seekers: set[threading.Thread] = set()
        self._why_none = ""

    @property
    def count(self) -> int:
        """Devices that there are, or will be again."""
        with self._changed:
            return len(self._free) + len(self._lent) + len(self._seekers)

    def open(self) -> RemoteDevice:
        """See to it that there are devices: all that are free now, at least one. One of them.

        Waits while all are busy. Raises TargetError where there is none.
        """
        with self._changed:
            if self._free or self._lent:
                return next(iter([*self._free, *self._lent]))
            lost_before = bool(self._why_none)
        first = self._join(patient=lost_before)
        with self._changed:
            self._free.append(first)
        for _ in range(self._others_free()):
            try:
                device = self._connect()
            except (DeviceLostError, DeviceBusyError, TrackerError):
                break
            with self._changed:
                self._free.append(device)
        return first

    @contextmanager
    def borrow(
        self, turn: int = 0, unless: Callable[[], bool] = lambda: False
    ) -> Iterator[RemoteDevice]:
        """A device nobody else has meanwhile. One that is lost in the body is looked for again.

        Of those who wait, who has the lowest `turn` is served first; nobody `unless` that is so
        meanwhile. Raises TargetError where there is no device any more.
        """
        device = self._take(turn, unless)
        try:
            yield device
        except DeviceLostError as error:
            self._drop(device, error)
            raise
        except BaseException:
            # Whatever it was, the device may be in the middle of something.
            self._drop(device, None)
            raise
        else:
            with self._changed:
                self._lent.discard(device)
                self._free.append(device)
                self._changed.notify_all()

    def end_sessions(self) -> None:
        """Kill the sessions that are borrowed: whoever waits for one hears that it is lost."""
        with self._changed:
            for device in self._lent:
                device.kill()

    def close(self) -> None:
        """End all sessions; may be called again."""
        self._closing.set()
        with self._changed:
            devices = [*self._free, *self._lent]
            self._free.clear()
            self._changed.notify_all()
        for device in devices:
            device.close()
        for seeker in list(self._seekers):
            seeker.join()

    def _take(self, turn: int, unless: Callable[[], bool]) -> RemoteDevice:
        self.open_if_empty()
        with self._changed:
            self._waiting.append(turn)
            try:
                while not self._free or turn > min(self._waiting):
                    hopeless = not (self._free or self._lent or self._seekers)
                    if hopeless or self._closing.is_set() or unless():
                        raise TargetError(self._why_none or f"no session with {self._address}.")
                    self._changed.wait(0.5)
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
            device = self._free.pop(0)
            self._lent.add(device)
            return device

    def open_if_empty(self) -> None:
        """Open, unless there are devices or some are looked for."""
        if self.count == 0 and not self._closing.is_set():
            self.open()

    def _drop(self, device: RemoteDevice, error: DeviceLostError | None) -> None:
        device.close()
        with self._changed:
            self._lent.discard(device)
            if error is not None and not self._closing.is_set():
                self._why_none = str(error)
                seeker = threading.Thread(target=self._seek, daemon=True)
                self._seekers.add(seeker)
                seeker.start()
            self._changed.notify_all()
        if error is not None and not isinstance(error, DeviceIdleError):
            self._progress.note(f"{str(error).rstrip('.')}. Looking for it again.")

    def _seek(self) -> None:
        found: RemoteDevice | None = None
        why = ""
        try:
            found = self._join(patient=True)
        except TargetError as error:
            why = str(error)
        finally:
            with self._changed:
                self._seekers.discard(threading.current_thread())
                if found is not None and self._closing.is_set():
                    found.close()
                elif found is not None:
                    self._free.append(found)
                else:
                    self._why_none = why or self._why_none
                self._changed.notify_all()

    def _join(self, *, patient: bool) -> RemoteDevice:
        """Connect; wait while it is busy, and where `patient`, while it is down."""
        begun_s = time.monotonic()
        pause_s, said = _FIRST_PAUSE_S, False
        why: TargetError
        while True:
            limit_s = self._patience_s if patient else 0.0
            try:
                return self._connect()
            except DeviceBusyError as error:
                limit_s, why = _BUSY_S, error
                if not said:
                    self._progress.note(f"Waiting: {error}.")
                    said = True
            except (DeviceDownError, TrackerError) as error:
                why = error
            if time.monotonic() - begun_s > limit_s or self._closing.wait(pause_s):
                raise why
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _connect(self) -> RemoteDevice:
        address, match = self._address, None
        if address.key is not None:
            with Tracker(address.host, address.port) as tracker:
                free, known = tracker.free(address.key)
                if not free:
                    raise _none_free(address, known)
                offer = tracker.request(address.key)
            address = DeviceAddress(host=offer.host, port=offer.port)
            match = offer.match
        # Before a session begins, which a device without the runtime cannot have.
        self._accept(address, device_facts(address, self._credentials))
        return RemoteDevice(address, self._credentials, match=match)

    def _others_free(self) -> int:
        if self._address.key is None:
            return 0
        with Tracker(self._address.host, self._address.port) as tracker:
            return tracker.free(self._address.key)[0]


def _none_free(address: DeviceAddress, known: int) -> TargetError:
    if known:
        return DeviceBusyError(f"{address}: all {known} devices of key '{address.key}' are busy")
    return DeviceDownError(
        f"{address}: the tracker knows no device of key '{address.key}'. Start `millifit device "
        f"serve --tracker {address.host}:{address.port} --key {address.key}` on one."
    )
