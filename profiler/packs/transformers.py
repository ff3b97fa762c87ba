"""The table of hardware-aware transformers: an encoder and a decoder are one network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from millifit.profiler.packs.settings import Place, settings
from millifit.profiler.packs.sheet import Sheet, Subject, shared
from millifit.profiler.packs.table import numbers

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("task", "arch_index", "part", "encoder_embed_dim", "decoder_embed_dim")
_POLICY = "mean and standard deviation of the middle 80 % of repeated runs"


def transformer_sheet(table: pd.DataFrame, source: str) -> Sheet:
    """One row per network, which is its encoder's latency and its decoder's together.

    An architecture's code has its number, because the table states means over layers, which
    different architectures share. Rows of this sheet are numbered by their first part. Raises
    ValueError where a part is missing or is there twice.
    """
    sizes = [name for name in table.columns if name.startswith(("encoder_", "decoder_"))]
    table = table.assign(row=range(1, len(table) + 1))
    by = ["device", "task", "arch_index"]
    parts = {str(part): rows.set_index(by) for part, rows in table.groupby("part", sort=False)}
    if set(parts) != {"encoder", "decoder"}:
        raise ValueError(f"column 'part' should have encoder and decoder, has {sorted(parts)}")
    encoder, decoder = parts["encoder"], parts["decoder"]
    if not (
        encoder.index.is_unique and encoder.index.sort_values().equals(decoder.index.sort_values())
    ):
        raise ValueError("every architecture needs one row for its encoder and one for its decoder")
    decoder = decoder.loc[encoder.index]
    whole = encoder.reset_index()
    codes = (
        f"arch={row.arch_index};" + ";".join(f"{name}={getattr(row, name):g}" for name in sizes)
        for row in whole.itertuples()
    )
    subjects = shared(
        Subject(name=f"{task}-{index}", space=f"hat-{task}", architecture=code)
        for task, index, code in zip(whole["task"], whole["arch_index"], codes, strict=True)
    )
    seconds = [numbers(part.reset_index(), "latency_s") for part in (encoder, decoder)]
    spread = [numbers(part.reset_index(), "latency_std_s") for part in (encoder, decoder)]
    place = Place(parts=("device", "runtime", "precision"), policy=_POLICY)
    return Sheet.of(
        source,
        subjects,
        settings(whole, place),
        seconds[0] + seconds[1],
        std_s=np.hypot(spread[0], spread[1]),
        numbers=np.minimum(encoder["row"].to_numpy(), decoder["row"].to_numpy()).tolist(),
    )
