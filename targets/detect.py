"""The machine at hand as a target, from what Linux says about its processor."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millifit.errors import TargetError, UsageError
from millifit.targets.target import DotProduct, Target

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

# What LLVM may use at each level of the x86-64 psABI, in the names of /proc/cpuinfo.
_V2 = frozenset(["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"])
_V3 = _V2 | frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
_ZEN = _V3 | {"sse4a"}
_ICE = _V4 | {"avx512_vnni", "avx512ifma", "avx512vbmi", "avx512_vbmi2", "gfni"}
_ICE |= {"avx512_bitalg", "avx512_vpopcntdq"}
# LLVM's name, the vendor, and the flags that its code may use: the first that fits, AVX-512 first.
# A virtual machine that hides a flag gets a plainer name, so that code always runs.
_X86: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("znver4", "AuthenticAMD", _ZEN | _ICE | {"avx512_bf16"}),
    ("icelake-server", "GenuineIntel", _ICE),
    ("cascadelake", "GenuineIntel", _V4 | {"avx512_vnni"}),
    ("skylake-avx512", "GenuineIntel", _V4),
    ("x86-64-v4", "", _V4),
    ("znver3", "AuthenticAMD", _ZEN | {"vaes", "vpclmulqdq"}),
    ("znver2", "AuthenticAMD", _ZEN | {"clwb", "rdpid"}),
    ("znver1", "AuthenticAMD", _ZEN),
    ("x86-64-v3", "", _V3),
    ("x86-64-v2", "", _V2),
    ("x86-64", "", frozenset()),
)
# (implementer, part) of Arm cores: LLVM's name and what it implies beyond the base architecture.
_V8_2 = frozenset(["asimddp", "asimdhp", "fphp", "atomics"])
_ARM: Mapping[tuple[str, str], tuple[str, frozenset[str]]] = {
    ("0x41", "0xd03"): ("cortex-a53", frozenset()),
    ("0x41", "0xd07"): ("cortex-a57", frozenset()),
    ("0x41", "0xd08"): ("cortex-a72", frozenset()),
    ("0x41", "0xd05"): ("cortex-a55", _V8_2),
    ("0x41", "0xd0b"): ("cortex-a76", _V8_2),
    ("0x41", "0xd0c"): ("neoverse-n1", _V8_2),
    ("0x41", "0xd0d"): ("cortex-a77", _V8_2),
    ("0x41", "0xd41"): ("cortex-a78", _V8_2),
    ("0x41", "0xd40"): ("neoverse-v1", _V8_2 | {"i8mm", "bf16", "sve"}),
    ("0x41", "0xd49"): ("neoverse-n2", _V8_2 | {"i8mm", "bf16", "sve", "sve2"}),
    ("0x41", "0xd4f"): ("neoverse-v2", _V8_2 | {"i8mm", "bf16", "sve", "sve2"}),
}
# LLVM's names of what the schedules use, and the flags of /proc/cpuinfo that show it.
ARM_EXTENSIONS: tuple[tuple[str, frozenset[str]], ...] = (
    ("+dotprod", frozenset(["asimddp"])),
    ("+fullfp16", frozenset(["asimdhp", "fphp"])),
    ("+i8mm", frozenset(["i8mm"])),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """What code may assume about a processor."""

    mcpu: str
    features: tuple[str, ...] = ()
    vector_bits: int = 128
    vector_registers: int
    dot_product: DotProduct = "none"
    cpu: str


def detect_local(
    *,
    threads: int = 1,
    cpuinfo: Path = _CPUINFO,
    caches: Path = _CACHES,
    machine: str | None = None,
    cores: int | None = None,
) -> Target:
    """The target 'local'. Unreadable files lead to the plainest processor of the architecture.

    `cores` are those this process may use. Raises UsageError for more threads than cores and
    TargetError on an architecture for which nothing is generated.
    """
    machine = machine or platform.machine()
    cores = cores or len(os.sched_getaffinity(0))
    if not 1 <= threads <= cores:
        raise UsageError(f"{threads} threads on 'local': choose 1 to {cores}, its usable cores.")
    processors = _processors(cpuinfo)
    match machine.lower():
        case "x86_64" | "amd64":
            core, triple = _x86(processors), "x86_64-linux-gnu"
        case "aarch64" | "arm64":
            core, triple = _arm(processors), "aarch64-linux-gnu"
        case other:
            raise TargetError(
                f"this machine is '{other}'; code is generated for x86_64 and aarch64. "
                "Compile for a target of the catalog instead."
            )
    sizes = _cache_bytes(caches)
    return Target(
        name="local",
        triple=triple,
        mcpu=core.mcpu,
        features=core.features,
        vector_bits=core.vector_bits,
        vector_registers=core.vector_registers,
        dot_product=core.dot_product,
        cores=cores,
        threads=threads,
        # Where Linux does not say: the smallest of current processors.
        l1_bytes=sizes.get(1, 32 << 10),
        l2_bytes=sizes.get(2, 256 << 10),
        l3_bytes=sizes.get(3, 0),
        cpu=core.cpu,
        reach="local",
        source=f"detected from {cpuinfo} and {caches}",
    )


def _processors(cpuinfo: Path) -> list[dict[str, str]]:
    """The blocks of /proc/cpuinfo, one per logical processor."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, _, value in pairs}
        if "flags" in facts or "CPU part" in facts:
            blocks.append(facts)
    return blocks


def _x86(processors: list[dict[str, str]]) -> _Core:
    facts = processors[0] if processors else {}
    flags = _shared(processors, "flags")
    vendor = facts.get("vendor_id", "")
    mcpu = next(n for n, made_by, need in _X86 if made_by in ("", vendor) and need <= flags)
    avx512, avx2 = flags >= _V4, flags >= _V3
    features: tuple[str, ...] = ()
    dot_product: DotProduct = "avx2_pmaddwd" if avx2 else "none"
    if avx512 and "avx512_vnni" in flags:
        features, dot_product = ("+avx512vnni",), "avx512_vnni"
    elif avx2 and "avx_vnni" in flags:
        features, dot_product = ("+avxvnni",), "avx_vnni"
    if avx512 and "avx512_bf16" in flags:
        features = (*features, "+avx512bf16")
    name = facts.get("model name", "unknown x86-64")
    if "model" in facts:
        # Virtual machines often give the same name to different processors.
        name += f", family {facts.get('cpu family', '?')} model {facts['model']}"
    return _Core(
        mcpu=mcpu,
        features=features,
        vector_bits=512 if avx512 else 256 if avx2 else 128,
        vector_registers=32 if avx512 else 16,
        dot_product=dot_product,
        cpu=name,
    )


def _arm(processors: list[dict[str, str]]) -> _Core:
    features = _shared(processors, "Features")
    parts = dict.fromkeys((p.get("CPU implementer", ""), p["CPU part"]) for p in processors)
    known = [_ARM.get(part, ("generic", frozenset())) for part in parts]
    # Code must run on every core, and threads move: mixed cores share what all of them have.
    mcpu = known[0][0] if len(known) == 1 and known[0][1] <= features else "generic"
    extensions = tuple(name for name, flags in ARM_EXTENSIONS if flags <= features)
    dot_product: DotProduct = "neon_smull"
    if "+dotprod" in extensions:
        dot_product = "neon_i8mm" if "+i8mm" in extensions else "neon_sdot"
    cores = [
        name if name != "generic" else f"Arm {maker} part {part}"
        for (maker, part), (name, _) in zip(parts, known, strict=True)
    ]
    return _Core(
        mcpu=mcpu,
        features=extensions,
        vector_registers=32,
        dot_product=dot_product,
        cpu=" + ".join(cores) or "unknown aarch64",
    )


def _shared(processors: list[dict[str, str]], key: str) -> frozenset[str]:
    """The flags that all processors have."""
    flags = [frozenset(facts.get(key, "").split()) for facts in processors]
    return frozenset.intersection(*flags) if flags else frozenset()


def _cache_bytes(caches: Path) -> dict[int, int]:
    """Bytes by cache level, instruction caches left out."""
    units = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes: dict[int, int] = {}
    for index in sorted(caches.glob("index*")):
        try:
            level = int((index / "level").read_text())
            kind = (index / "type").read_text().strip()
            size = re.fullmatch(r"(\d+)([KMG]?)", (index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and size:
            sizes[level] = int(size[1]) * units[size[2]]
    return sizes
