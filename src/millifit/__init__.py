"""millifit fits a neural network into a device's milliseconds."""

from __future__ import annotations

__version__ = "0.1.0"
