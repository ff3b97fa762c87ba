"""Run a bundle, or a portfolio's variant for this machine, on samples of a file."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np

from millifit.errors import DataError
from millifit.files import write_atomically
from millifit.progress import SILENT, Progress
from millifit.targets.loaded_bundle import LoadedBundle, choose_here, load_bundle
from millifit.targets.network import Array
from millifit.targets.portfolio import is_portfolio, variant_folder
from millifit.targets.signature import check_signature
from millifit.targets.timing import Samples


def run(
    bundle: Path,
    *,
    input_file: Path | None = None,
    output_file: Path | None = None,
    public_key: Path | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Run every sample of `input_file` through a bundle; its golden input unless one is given.

    The file is a .npy of one input as the bundle takes it, or of many, ``[N, *sample]``. Outputs
    go to `output_file`, further ones beside it as ``NAME.1.npy``. With `public_key` only what its
    owner signed is run. Raises BundleError and DataError, each naming its file.
    """
    if public_key is not None:
        check_signature(bundle, public_key)
    folder, refused = _chosen(bundle)
    loaded = load_bundle(folder)
    given = _golden_input(folder) if input_file is None else _read(input_file)
    answers, seconds = _answers(loaded, _samples(loaded, given, input_file), progress)
    files = [] if output_file is None else _write(output_file, answers)
    return {
        "bundle": str(folder),
        "network": loaded.manifest.name,
        "target": loaded.manifest.target.name,
        "signature": None if public_key is None else "valid",
        "refused": refused,
        "samples": len(seconds),
        "outputs": [{"shape": list(a.shape), "dtype": str(a.dtype)} for a in answers],
        "written": [str(file) for file in files],
        "run_s": seconds,
        "first_run_s": seconds[0],
        "latency_s": _interval(seconds[1:]),
    }


def _interval(seconds: list[float]) -> dict[str, float] | None:
    """Median and 95 % interval of the runs after the first; None where there was no second."""
    if not seconds:
        return None
    timed = Samples(run_s=tuple(seconds))
    low_s, high_s = timed.interval_s
    return {"median": timed.median_s, "low": low_s, "high": high_s, "n": len(seconds)}


def _chosen(bundle: Path) -> tuple[Path, dict[str, str]]:
    """The bundle to run, and why other variants of a portfolio are not."""
    if not is_portfolio(bundle):
        return bundle, {}
    choice = choose_here(bundle)
    return variant_folder(bundle, choice.variant), dict(choice.refused)


def _golden_input(folder: Path) -> Array:
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        found: Array = golden["input"]
    return found


def _read(file: Path) -> Array:
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"the input '{file}' cannot be read ({error}): write it with numpy.save"
        ) from error
    if not isinstance(found, np.ndarray):
        raise DataError(f"the input '{file}' holds several arrays: write one with numpy.save")
    return found


def _samples(loaded: LoadedBundle, given: Array, file: Path | None) -> Array:
    """The inputs to run, one per first index: ``[N, *input]``."""
    wanted = loaded.manifest.input
    if given.shape == wanted.shape:
        return given[None]
    if wanted.shape[:1] == (1,) and given.shape[1:] == wanted.shape[1:] and len(given):
        return given[:, None]
    raise DataError(
        f"'{file}' has the shape {given.shape}; bundle '{loaded.manifest.name}' takes "
        f"{wanted.shape}, or as many samples as you like along the first axis: convert it"
    )


def _answers(
    loaded: LoadedBundle, samples: Array, progress: Progress
) -> tuple[list[Array], list[float]]:
    rows: list[tuple[Array, ...]] = []
    seconds = []
    with progress.stage("run", len(samples)) as advance:
        for sample in samples:
            start = time.perf_counter()
            rows.append(loaded.run(sample))
            seconds.append(time.perf_counter() - start)
            advance(1)
    columns = zip(*rows, strict=True)
    joined = [np.concatenate(each) if each[0].ndim else np.stack(each) for each in columns]
    return joined, seconds


def _write(file: Path, answers: list[Array]) -> list[Path]:
    files = [file, *(file.with_suffix(f".{i}.npy") for i in range(1, len(answers)))]
    for path, answer in zip(files, answers, strict=True):
        content = io.BytesIO()
        np.save(content, answer, allow_pickle=False)
        write_atomically(path, content.getvalue())
    return files
