"""Sharing measurements: a store's content as one file, and back."""

from __future__ import annotations

from pathlib import Path

from millifit.profiler.packs.pack import Added, add_to_store, pack_of
from millifit.profiler.packs.parquet import read_pack, write_pack
from millifit.profiler.store import Store


def export_parquet(store: Store, path: Path, target_key: str | None = None) -> Added:
    """Write all measurements, or those of one target, to `path`; returns how many.

    Raises RunFolderError where the file cannot be written; it is there whole or not at all.
    """
    pack = pack_of(store, target_key)
    write_pack(pack, path)
    return Added(kernels=len(pack.kernels), networks=len(pack.networks))


def import_parquet(path: Path, store: Store) -> Added:
    """Add the measurements of a file that `export_parquet` wrote; returns how many were new.

    Every row is checked before the first one is stored. Raises DataError naming the row and what
    is wrong with it.
    """
    return add_to_store(read_pack(path), store)
