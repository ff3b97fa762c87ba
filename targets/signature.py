r"""Signatures of bundles and portfolios: Ed25519 over the JSON file that all hashes hang from.

The signature of ``manifest.json`` is ``manifest.json.sig``, 64 bytes; a portfolio's is beside
``portfolio.json``, and each of its variants is signed as well, so that it can be taken out. Keys
are PEM files as OpenSSL writes them::

    openssl genpkey -algorithm ed25519 -out key.pem
    openssl pkey -in key.pem -pubout -out pub.pem
    openssl pkeyutl -verify -pubin -inkey pub.pem -rawin \
      -in manifest.json -sigfile manifest.json.sig
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from millifit.errors import BundleError, MissingDependency, UsageError
from millifit.files import write_atomically

if TYPE_CHECKING:  # an extra, and slow to load
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )


def sign(folder: Path, key: Path) -> tuple[Path, ...]:
    """Sign a bundle, or a portfolio and its variants; the files that were written.

    Raises UsageError where `key` is no private Ed25519 key, BundleError where `folder` holds
    nothing that can be signed.
    """
    private = _private_key(key)
    variants = sorted(folder.glob("variants/*/manifest.json"))
    subjects = [_sealed_file(folder), *variants]
    return tuple(write_atomically(_beside(s), private.sign(s.read_bytes())) for s in subjects)


def check_key(key: Path) -> None:
    """Raise UsageError where `key` is no private Ed25519 key: before work is put into signing."""
    _private_key(key)


def check_signature(folder: Path, public_key: Path) -> None:
    """Raise BundleError unless a bundle or portfolio was signed by the owner of the key."""
    public = _public_key(public_key)
    from cryptography.exceptions import InvalidSignature

    subject = _sealed_file(folder)
    try:
        signature = _beside(subject).read_bytes()
    except OSError as error:
        raise BundleError(
            f"'{folder}' is not signed ({error.strerror}: {_beside(subject).name}): sign it with "
            "'millifit compile --sign', or leave out --public-key"
        ) from error
    try:
        public.verify(signature, subject.read_bytes())
    except InvalidSignature as error:
        raise BundleError(
            f"'{folder}' was not signed by the owner of '{public_key}', or its {subject.name} was "
            "changed since: do not use it"
        ) from error


def _sealed_file(folder: Path) -> Path:
    for name in ("portfolio.json", "manifest.json"):
        if (folder / name).is_file():
            return folder / name
    raise BundleError(
        f"'{folder}' is no bundle and no portfolio: name the folder that 'millifit compile' wrote"
    )


def _beside(subject: Path) -> Path:
    return subject.with_name(f"{subject.name}.sig")


def _private_key(path: Path) -> Ed25519PrivateKey:
    ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:  # damaged; locked with a passphrase
        raise UsageError(
            f"'{path}' is no private key in PEM without a passphrase: {error}"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(
            f"'{path}' is no Ed25519 key: openssl genpkey -algorithm ed25519 -out key.pem"
        )
    found: Ed25519PrivateKey = key
    return found


def _public_key(path: Path) -> Ed25519PublicKey:
    ed25519, serialization = _cryptography()
    try:
        key = serialization.load_pem_public_key(_read(path))
    except ValueError as error:
        raise UsageError(
            f"'{path}' is no public key in PEM: openssl pkey -in key.pem -pubout -out pub.pem"
        ) from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UsageError(f"'{path}' is no Ed25519 key: give the public half of the key of --sign")
    found: Ed25519PublicKey = key
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"the key '{path}' cannot be read: {error.strerror}") from error


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingDependency(
            package="cryptography", purpose="signing bundles and checking their signatures",
            install="pip install 'millifit[sign]'",
        ) from error  # fmt: skip
    return ed25519, serialization
