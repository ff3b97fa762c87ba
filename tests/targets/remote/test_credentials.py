"""Tokens and where they are found."""

import stat
from pathlib import Path

import pytest

from millifit.errors import TargetError, UsageError
from millifit.targets.remote.credentials import (
    Credentials,
    default_token_path,
    find_credentials,
    make_token,
    read_token,
)


def test_a_new_token_is_random_and_for_its_owner_alone(tmp_path: Path) -> None:
    """64 random hexadecimal digits, in a file of mode 0600."""
    first, second = (make_token(tmp_path / "deep" / name) for name in ("a", "b"))
    assert first != second
    assert len(first) == 64
    assert stat.S_IMODE((tmp_path / "deep" / "a").stat().st_mode) == 0o600
    assert read_token(tmp_path / "deep" / "a") == first


def test_an_existing_file_is_not_written_over(tmp_path: Path) -> None:
    """Neither a file nor what a link leads to."""
    (tmp_path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TargetError, match="cannot write a token"):
        make_token(tmp_path / "token")
    assert not (tmp_path / "elsewhere").exists()


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """The message has the command that mends it."""
    make_token(tmp_path / "token")
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(TargetError, match=r"others may read .* Run: chmod 600"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize("text", ["", "short", "two words of it, long enough", "x" * 16 + "\ny"])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    """A token that could be guessed would open the device."""
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="holds no token: it has 16 or more"):
        read_token(path)


def test_a_file_that_is_named_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the environment, then the file in the user's own folder."""
    tokens = {name: make_token(tmp_path / name) for name in ("named", "variable")}
    own = make_token(default_token_path())
    assert find_credentials() == Credentials(token=own)
    monkeypatch.setenv("MILLIFIT_DEVICE_TOKEN", tokens["variable"])
    assert find_credentials().token == tokens["variable"]
    assert find_credentials(tmp_path / "named").token == tokens["named"]


def test_no_token_says_where_it_comes_from(tmp_path: Path) -> None:
    """The message says what to copy from where."""
    with pytest.raises(UsageError, match="Copy the file whose path its server printed"):
        find_credentials(tmp_path / "none")


def test_an_authority_that_is_not_there_is_said_before_connecting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing error must not end in a connection that is not encrypted."""
    make_token(default_token_path())
    monkeypatch.setenv("MILLIFIT_DEVICE_CA", str(tmp_path / "none.pem"))
    with pytest.raises(UsageError, match=r"there is no file .*none\.pem"):
        find_credentials()


def test_a_token_is_not_shown_where_credentials_are_printed() -> None:
    """Logs and tracebacks print values."""
    assert "secret" not in repr(Credentials(token="secret" * 6))
