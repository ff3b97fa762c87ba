"""A portfolio: one network compiled for several targets, of which a device runs the best.

::

    portfolio/
      portfolio.json        the variants in order of preference; sha256 of each one's manifest
      portfolio.json.sig    its signature, if it was signed
      variants/NAME/        a bundle

``millifit-run`` (targets/native/runner/portfolio.cc) chooses by the same rules.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from millifit.errors import BundleError, RunFolderError, UsageError
from millifit.targets.bundle_folder import replace_folder
from millifit.targets.device_facts import DeviceFacts, needed_flags, why_not
from millifit.targets.manifest import check_files, needs, read_manifest, sha256_of
from millifit.targets.seal import BrokenSeal, sealed, unsealed
from millifit.targets.target import Gpu, Target

SCHEMA = 1
_FILE = "portfolio.json"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a folder in variants/ and of nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds of one inference on the variant's own target, with a 95 % interval."""

    median_s: float
    low_s: float
    high_s: float
    kind: Literal["measured", "predicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One bundle of a portfolio. `manifest_sha256` is the hash of its manifest.json."""

    name: str
    target: Target
    manifest_sha256: str
    latency: Latency | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Portfolio:
    """The variants of one network, the preferred one first."""

    network: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The variant for a device, and why others do not run on it: reasons by name."""

    variant: Variant
    refused: Mapping[str, str]


def is_portfolio(path: Path) -> bool:
    """Whether the folder holds a portfolio."""
    return (path / _FILE).is_file()


def write_portfolio(
    path: Path, bundles: Mapping[str, Path], *, latencies: Mapping[str, Latency] | None = None
) -> Portfolio:
    """Copy finished bundles, by the names of the variants, into a portfolio at `path`.

    Variants are preferred in the order of GPUs, then of what a target asks of a processor, widest
    vectors first, then as given; OpenCL on a processor comes last. An existing portfolio is
    replaced. Raises UsageError for names that are none of folders, and for bundles of different
    networks; BundleError for damaged ones.
    """
    variants = _variants(bundles, latencies or {})
    networks = sorted({read_manifest(folder).name for folder in bundles.values()})
    if len(networks) != 1:
        raise UsageError(
            f"a portfolio holds one network, not {', '.join(networks) or 'none'}: give it bundles "
            "that were compiled from the same model"
        )
    made = Portfolio(network=networks[0], variants=variants)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as work:
            staging = Path(work) / "portfolio"
            for name, folder in bundles.items():
                shutil.copytree(folder, staging / "variants" / name)
            (staging / _FILE).write_text(_text(made))
            replace_folder(staging, path)
    except OSError as error:
        raise RunFolderError(
            f"cannot write the portfolio '{path}': {error.strerror or error}. Free space or choose "
            "another folder; nothing was left behind."
        ) from error
    return made


def _variants(bundles: Mapping[str, Path], latencies: Mapping[str, Latency]) -> tuple[Variant, ...]:
    found = []
    for name, folder in bundles.items():
        if not _NAME.fullmatch(name):
            raise UsageError(f"'{name}' is no name of a variant: use letters, digits and '._-'")
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        found.append(
            Variant(
                name=name, target=manifest.target, latency=latencies.get(name),
                manifest_sha256=sha256_of(folder / "manifest.json"),
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda variant: _preference(variant.target)))


def _preference(target: Target) -> tuple[int, ...]:
    """Smaller is preferred."""
    return -_rank(target.gpu), -target.vector_bits, -len(needed_flags(target))


def _rank(gpu: Gpu | None) -> int:
    """CUDA, OpenCL on a GPU, the processor's own code, OpenCL on a processor."""
    if gpu is None:
        return 1
    if gpu.api == "cuda":
        return 3
    return 2 if gpu.subgroup > 1 else 0  # where threads run alone it is a processor


def _text(portfolio: Portfolio) -> str:
    variants = [{**asdict(v), "needs": needs(v.target)} for v in portfolio.variants]
    said = {
        "schema": SCHEMA,
        "format": "portfolio",
        "network": portfolio.network,
        "variants": variants,
    }
    return sealed(json.loads(json.dumps(said)))


def read_portfolio(path: Path) -> Portfolio:
    """The portfolio in a folder; BundleError where it is missing, damaged, changed or newer."""
    try:
        raw = (path / _FILE).read_bytes()
        plain = json.loads(raw)
        if plain["schema"] != SCHEMA:
            raise BundleError(
                f"portfolio '{path}' has schema {plain['schema']}, this millifit reads {SCHEMA}: "
                "compile it again with this version"
            )
        plain = unsealed(raw)
        variants = tuple(map(_variant, plain["variants"]))
        return Portfolio(network=plain["network"], variants=variants)
    except OSError as error:
        raise BundleError(
            f"'{path}' is no portfolio: {_FILE} cannot be read ({error.strerror})"
        ) from error
    except BrokenSeal as error:
        raise BundleError(
            f"portfolio '{path}' was changed after it was written: {_FILE} does not match its "
            "sha256. Do not use it; compile it again."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"the list of portfolio '{path}' is damaged ({error}): compile it again"
        ) from error


def _variant(plain: Mapping[str, Any]) -> Variant:
    if not _NAME.fullmatch(plain["name"]):
        raise ValueError(f"'{plain['name']}' is no name of a variant")
    latency = plain["latency"]
    return Variant(
        name=plain["name"],
        target=Target.from_dict(plain["target"]),
        manifest_sha256=plain["manifest_sha256"],
        latency=None if latency is None else Latency(**latency),
    )


def choose(portfolio: Portfolio, facts: DeviceFacts) -> Choice:
    """The variant for a device of these facts.

    Of those that run on it: variants for a GPU of another family (Adreno, Mali, ...) only where
    nothing else fits; then the fastest where all have a known latency, else the preferred one.
    Raises BundleError with every reason where none runs.
    """
    reasons = {v.name: why_not(v.target, facts) for v in portfolio.variants}
    refused = {name: reason for name, reason in reasons.items() if reason is not None}
    fitting = [variant for variant in portfolio.variants if variant.name not in refused]
    if not fitting:
        said = "".join(f"\n  {name}: {reason}" for name, reason in refused.items())
        raise BundleError(
            f"no variant of the portfolio of '{portfolio.network}' runs on this device:{said}\n"
            "Compile it for this device, too: millifit compile MODEL --target A,B --portfolio "
            "--out OUT"
        )
    akin = [variant for variant in fitting if _akin(variant.target.gpu, facts)] or fitting
    return Choice(variant=_best(akin), refused=refused)


def _akin(gpu: Gpu | None, facts: DeviceFacts) -> bool:
    """Whether the device has a GPU of that family, or none is asked for."""
    family = re.match(r"[a-z]*", "" if gpu is None else gpu.name.lower())
    word = family[0] if family else ""
    return gpu is None or any(
        word in each.name.lower() for each in facts.gpus if each.api == gpu.api
    )


def _best(fitting: Sequence[Variant]) -> Variant:
    known = {variant.latency.median_s: variant for variant in reversed(fitting) if variant.latency}
    everyone = all(variant.latency for variant in fitting)
    return known[min(known)] if everyone else fitting[0]


def variant_folder(path: Path, variant: Variant) -> Path:
    """The bundle of a variant, its manifest compared with its hash.

    Raises BundleError where it was changed or is missing.
    """
    folder = path / "variants" / variant.name
    try:
        same = sha256_of(folder / "manifest.json") == variant.manifest_sha256
    except OSError as error:
        raise BundleError(
            f"portfolio '{path}' is incomplete: the manifest of '{variant.name}' "
            f"({error.strerror}). Compile it again."
        ) from error
    if not same:
        raise BundleError(
            f"portfolio '{path}' was changed after it was written: the manifest of "
            f"'{variant.name}' does not match its sha256. Do not use it; compile it again."
        )
    return folder
