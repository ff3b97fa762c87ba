"""Signatures: made and checked here, by OpenSSL's command, and refused where anything is off."""

from __future__ import annotations

import builtins
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from millifit.errors import BundleError, MissingDependency, UsageError
from millifit.targets.signature import check_signature, sign
from tests.signing import keys


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Of a bundle, all that is signed."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "small"}')
    return folder


def test_signature_is_checked_here_and_by_openssl(bundle: Path, tmp_path: Path) -> None:
    """What was signed is accepted with the public key, by OpenSSL's command too."""
    private, public = keys(tmp_path)
    assert sign(bundle, private) == (bundle / "manifest.json.sig",)
    check_signature(bundle, public)
    openssl = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    files = ["-in", str(bundle / "manifest.json"), "-sigfile", str(bundle / "manifest.json.sig")]
    done = subprocess.run([*openssl, *files], capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout


def test_portfolio_and_each_variant_are_signed(bundle: Path, tmp_path: Path) -> None:
    """A portfolio's list is signed, and every variant so that it can be taken out."""
    private, public = keys(tmp_path)
    whole = tmp_path / "portfolio"
    shutil.copytree(bundle, whole / "variants" / "a")
    (whole / "portfolio.json").write_text("{}")
    assert {path.relative_to(whole).as_posix() for path in sign(whole, private)} == {
        "portfolio.json.sig", "variants/a/manifest.json.sig",
    }  # fmt: skip
    check_signature(whole, public)
    check_signature(whole / "variants" / "a", public)


def test_other_key_changed_file_and_damaged_signature_are_refused(
    bundle: Path, tmp_path: Path
) -> None:
    """Another's key, one changed byte and a cut signature are each a BundleError."""
    private, public = keys(tmp_path)
    _, other = keys(tmp_path, "other")
    sign(bundle, private)
    with pytest.raises(BundleError, match=r"not signed by the owner of '.*other.pub.pem'"):
        check_signature(bundle, other)
    signature = bundle / "manifest.json.sig"
    whole = signature.read_bytes()
    signature.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match="not signed by the owner"):
        check_signature(bundle, public)
    signature.write_bytes(whole)
    (bundle / "manifest.json").write_text('{"name": "smalL"}')
    with pytest.raises(BundleError, match=r"or its manifest\.json was changed since"):
        check_signature(bundle, public)


def test_missing_signature_and_missing_bundle_say_so(bundle: Path, tmp_path: Path) -> None:
    """Without a signature the remedy is named; a folder with nothing to sign is no bundle."""
    private, public = keys(tmp_path)
    with pytest.raises(BundleError, match=r"is not signed .*manifest\.json\.sig.*--sign"):
        check_signature(bundle, public)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="is no bundle and no portfolio"):
        sign(tmp_path / "empty", private)


def test_wrong_keys_are_wrong_use(bundle: Path, tmp_path: Path) -> None:
    """A missing key, a text, a public key to sign with and a key of another kind are told apart."""
    private, public = keys(tmp_path)
    rsa, rsa_public = keys(tmp_path, "rsa", "rsa")
    for key, said in ((tmp_path / "none.pem", "cannot be read"), (public, "no private key"),
                      (rsa, "no Ed25519 key")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            sign(bundle, key)
    for key, said in ((private, "no public key in PEM"), (rsa_public, "no Ed25519 key")):
        with pytest.raises(UsageError, match=said):
            check_signature(bundle, key)
    assert not (bundle / "manifest.json.sig").exists()


def test_missing_package_names_the_extra(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package `cryptography` the error says which extra has it."""
    private, _ = keys(tmp_path)
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingDependency, match=r"pip install 'millifit\[sign\]'"):
        sign(bundle, private)
