"""A section of a profile: some kernels in a row, and how fast the machine was meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What is known of a section, which is some ten seconds of measuring.

    `anchors` are the medians in seconds of a few kernels that every section of a run measures, by
    the kernels' keys, taken at its end. `shift` is by which share they are slower than usual in
    this run (0.1: 10 % slower; negative: faster), at its start or end, whichever is the further;
    None where there was nothing to compare. What was measured in a section that is `drifting` is
    in doubt.
    """

    number: int
    target_key: str
    versions: str
    began_s: float
    environment: Mapping[str, str]
    anchors: Mapping[str, float]
    shift: float | None = None
    drifting: bool = False
