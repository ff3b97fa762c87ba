"""One emulated board for all tests of a session, whatever folders they are in."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.boards.board import Board
from tests.boards.userland import PackagesMissingError, userland


def board_that_is_on() -> Board:
    """The session's board, whatever the test before did to it; skips where there can be none."""
    board = _made()
    if not board.processes():
        board.switch_on()
    return board


@functools.cache
def _made() -> Board:
    try:
        made = userland()
    except PackagesMissingError as error:
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="millifit-board-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    board = Board(made, folder)
    atexit.register(board.switch_off)
    board.prepare()
    return board
