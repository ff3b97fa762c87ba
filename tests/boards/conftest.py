"""What tests on the emulated board share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from millifit.models import from_module
from millifit.pipeline.reach import DeviceAccess
from millifit.targets.catalog import find_target
from millifit.targets.importer.onnx_file import write_network
from millifit.targets.target import Target
from tests.boards.board import Board
from tests.boards.session import board_that_is_on


@pytest.fixture
def board() -> Board:
    """The session's board, switched on."""
    return board_that_is_on()


@pytest.fixture
def access(board: Board) -> DeviceAccess:
    """The board as the command line is told of it."""
    return DeviceAccess(address=str(board.address), token_file=str(board.token_file))


@pytest.fixture(scope="session")
def target() -> Target:
    """What the board is."""
    return find_target("arm64-emulated")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of five small kernels as ``small.onnx``, ``[1, 3, 16, 16]``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU6(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6(),
            nn.Conv2d(16, 32, 1), nn.ReLU6(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    write_network(from_module(module.eval(), torch.zeros(1, 3, 16, 16), name="small"), path)
    return path
