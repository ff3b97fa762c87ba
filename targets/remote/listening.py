"""The socket that a device's server listens on, and the certificate that it shows."""

from __future__ import annotations

import socket
import ssl

from millifit.errors import TargetError
from millifit.targets.remote.settings import ServerSettings


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that listens where the settings say. Raises TargetError."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(16)
    except OSError as error:
        raise TargetError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. Choose "
            "another port with --port, or end what listens there."
        ) from error
    listener.setblocking(False)
    return listener


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """What encrypts connections; None where nothing does. Raises TargetError."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise TargetError(
            f"'{settings.tls_cert}' and '{settings.tls_key}' are no certificate and its key "
            f"({error}). docs/how-to/boards.md shows how to make them."
        ) from error
    return context
