"""Detection of the machine at hand, fed with what Linux says on processors we know."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from millifit.errors import TargetError, UsageError
from millifit.targets.detect import detect_local
from millifit.targets.target import Target

_BASE = "fpu sse sse2 ht syscall nx lm constant_tsc rep_good nopl pni pclmulqdq ssse3 fma cx16 "
_BASE += "sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm bmi1 avx2 bmi2 rdseed "
_AVX512 = "avx512f avx512dq avx512cd avx512bw avx512vl "
_ZEN2 = _BASE + "sse4a misalignsse topoext adx clflushopt clwb sha_ni rdpid wbnoinvd umip"
_ZEN3 = _ZEN2 + " vaes vpclmulqdq erms fsrm"
_ZEN4 = _ZEN3 + " " + _AVX512 + "avx512ifma avx512_bf16 avx512vbmi avx512_vbmi2 gfni avx512_vnni "
_ZEN4 += "avx512_bitalg avx512_vpopcntdq"
_SKYLAKE = _BASE + "adx clflushopt clwb rtm mpx " + _AVX512
_CASCADE_LAKE = _SKYLAKE + "avx512_vnni"
_ICE_LAKE = _CASCADE_LAKE + " avx512ifma avx512vbmi avx512_vbmi2 gfni avx512_bitalg "
_ICE_LAKE += "avx512_vpopcntdq vaes vpclmulqdq sha_ni"
_ALDER_LAKE = _BASE + "adx clflushopt clwb sha_ni gfni vaes vpclmulqdq avx_vnni"
_A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc "
_A76 += "dcpop asimddp"


def _x86(vendor: str, name: str, flags: str, *, family: int = 6, model: int = 85) -> str:
    block = f"""processor\t: 0
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: {name}
flags\t\t: {flags}
bugs\t\t: spectre_v1
"""
    return block + "\n" + block.replace(": 0", ": 1", 1)


_V1 = f"{_A76} i8mm bf16 sve"


def _arm(*parts: str, features: str = _A76) -> str:
    return "\n".join(
        f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\n"
        for i, part in enumerate(parts)
    )


def _detected(folder: Path, cpuinfo: str, machine: str, *, threads: int = 1) -> Target:
    path = folder / "cpuinfo"
    path.write_text(cpuinfo)
    return detect_local(
        threads=threads, cpuinfo=path, caches=folder / "cache", machine=machine, cores=4
    )


@pytest.mark.parametrize(
    ("cpuinfo", "mcpu", "features", "bits", "registers", "dot_product"),
    [
        (
            _x86("AuthenticAMD", "AMD EPYC 7742", _ZEN2, family=23, model=49),
            *("znver2", (), 256, 16, "avx2_pmaddwd"),
        ),
        (
            _x86("AuthenticAMD", "AMD EPYC 7763", _ZEN3, family=25, model=1),
            *("znver3", (), 256, 16, "avx2_pmaddwd"),
        ),
        (
            _x86("AuthenticAMD", "AMD EPYC 9654", _ZEN4, family=25, model=17),
            *("znver4", ("+avx512vnni", "+avx512bf16"), 512, 32, "avx512_vnni"),
        ),
        (
            _x86("GenuineIntel", "Intel Xeon Platinum 8168", _SKYLAKE),
            *("skylake-avx512", (), 512, 32, "avx2_pmaddwd"),
        ),
        (
            _x86("GenuineIntel", "Intel Xeon Gold 6230", _CASCADE_LAKE),
            *("cascadelake", ("+avx512vnni",), 512, 32, "avx512_vnni"),
        ),
        (
            _x86("GenuineIntel", "Intel Xeon Platinum 8358", _ICE_LAKE, model=106),
            *("icelake-server", ("+avx512vnni",), 512, 32, "avx512_vnni"),
        ),
        (
            _x86("GenuineIntel", "Intel Core i7-12700", _ALDER_LAKE, model=151),
            *("x86-64-v3", ("+avxvnni",), 256, 16, "avx_vnni"),
        ),
        (
            _x86("GenuineIntel", "Intel Xeon E5649", "cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"),
            *("x86-64-v2", (), 128, 16, "none"),
        ),
        ("", "x86-64", (), 128, 16, "none"),
    ],
)
def test_x86_processors(
    tmp_path: Path,
    cpuinfo: str,
    mcpu: str,
    features: tuple[str, ...],
    bits: int,
    registers: int,
    dot_product: str,
) -> None:
    """Flags decide LLVM's name, the vectors, the int8 instruction and the precisions."""
    target = _detected(tmp_path, cpuinfo, "x86_64")
    assert ("w7a8" in target.precisions) == (dot_product == "avx2_pmaddwd")
    assert ("bf16" in target.precisions) == ("+avx512bf16" in features)
    assert {"fp32", "int8", "w8", "w4"} <= set(target.precisions)
    assert (target.name, target.triple, target.reach) == ("local", "x86_64-linux-gnu", "local")
    assert (target.mcpu, target.features) == (mcpu, features)
    assert (target.vector_bits, target.vector_registers) == (bits, registers)
    assert target.dot_product == dot_product


@pytest.mark.parametrize(
    ("hidden", "mcpu", "bits"),
    [
        ("avx512_bitalg", "x86-64-v4", 512),
        ("avx512vl", "znver3", 256),
        ("fma", "x86-64-v2", 128),
        ("popcnt", "x86-64", 128),
    ],
)
def test_a_virtual_machine_that_hides_a_flag_gets_plainer_code(
    tmp_path: Path, hidden: str, mcpu: str, bits: int
) -> None:
    """A Zen 4 without one flag is never given code that may use it."""
    flags = " ".join(flag for flag in _ZEN4.split() if flag != hidden)
    target = _detected(tmp_path, _x86("AuthenticAMD", "AMD EPYC", flags), "x86_64")
    assert (target.mcpu, target.vector_bits) == (mcpu, bits)


def test_flags_that_only_some_cores_have_do_not_count(tmp_path: Path) -> None:
    """Threads move between cores: code uses what all of them have."""
    both = _x86("GenuineIntel", "a", _CASCADE_LAKE) + "\n" + _x86("GenuineIntel", "b", _BASE)
    assert _detected(tmp_path, both, "x86_64").mcpu == "x86-64-v3"


def test_processors_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """The name of a virtual machine's processor gains its family and model."""
    cpuinfo = _x86("AuthenticAMD", "AMD EPYC", _ZEN4, family=25, model=17)
    assert _detected(tmp_path, cpuinfo, "x86_64").cpu == "AMD EPYC, family 25 model 17"


@pytest.mark.parametrize(
    ("cpuinfo", "mcpu", "dot_product", "fp16", "cpu"),
    [
        (_arm("0xd0b", "0xd0b"), "cortex-a76", "neon_sdot", True, "cortex-a76"),
        (_arm("0xd08", features="fp asimd"), "cortex-a72", "neon_smull", False, "cortex-a72"),
        (_arm("0xd40", features=_V1), "neoverse-v1", "neon_i8mm", True, "neoverse-v1"),
        (_arm("0xd0b", features="fp asimd"), "generic", "neon_smull", False, "cortex-a76"),
        (_arm("0xd05", "0xd0b"), "generic", "neon_sdot", True, "cortex-a55 + cortex-a76"),
        (_arm("0xfff", features=_V1), "generic", "neon_i8mm", True, "Arm 0x41 part 0xfff"),
        ("", "generic", "neon_smull", False, "unknown aarch64"),
    ],
)
def test_arm_processors(
    tmp_path: Path, cpuinfo: str, mcpu: str, dot_product: str, fp16: bool, cpu: str
) -> None:
    """Parts decide LLVM's name unless cores are mixed or lack what it implies; flags the rest."""
    target = _detected(tmp_path, cpuinfo, "aarch64")
    assert (target.mcpu, target.cpu, target.triple) == (mcpu, cpu, "aarch64-linux-gnu")
    assert (target.vector_bits, target.vector_registers) == (128, 32)
    assert (target.dot_product, "fp16" in target.precisions) == (dot_product, fp16)
    assert ("+fullfp16" in target.features) == fp16


def _cache(folder: Path, index: int, level: str, kind: str, size: str) -> None:
    place = folder / "cache" / f"index{index}"
    place.mkdir(parents=True)
    for name, text in (("level", level), ("type", kind), ("size", size)):
        (place / name).write_text(text + "\n")


def test_cache_sizes_are_read(tmp_path: Path) -> None:
    """Data and unified caches count by level; instruction caches do not."""
    _cache(tmp_path, 0, "1", "Data", "48K")
    _cache(tmp_path, 1, "1", "Instruction", "32K")
    _cache(tmp_path, 2, "2", "Unified", "1M")
    _cache(tmp_path, 3, "3", "Unified", "32768K")
    target = _detected(tmp_path, "", "x86_64")
    assert (target.l1_bytes, target.l2_bytes, target.l3_bytes) == (49152, 1 << 20, 32 << 20)


def test_missing_and_odd_cache_files_leave_the_defaults(tmp_path: Path) -> None:
    """Without readable sizes, the smallest of current processors are assumed."""
    (tmp_path / "cache" / "index0").mkdir(parents=True)
    _cache(tmp_path, 1, "one", "Data", "48K")
    _cache(tmp_path, 2, "2", "Unified", "much")
    target = _detected(tmp_path, "", "x86_64")
    assert (target.l1_bytes, target.l2_bytes, target.l3_bytes) == (32 << 10, 256 << 10, 0)


def test_files_that_are_missing_lead_to_the_plainest_processor(tmp_path: Path) -> None:
    """Without /proc, a machine is detected all the same."""
    none = tmp_path / "none"
    target = detect_local(cpuinfo=none, caches=none, machine="x86_64", cores=1)
    assert (target.mcpu, target.cpu, target.vector_bits) == ("x86-64", "unknown x86-64", 128)


def test_threads_must_fit_the_cores(tmp_path: Path) -> None:
    """More threads than usable cores, and none, are wrong use."""
    assert _detected(tmp_path, "", "x86_64", threads=4).threads == 4
    for threads in (0, 5):
        with pytest.raises(UsageError, match="choose 1 to 4"):
            _detected(tmp_path, "", "x86_64", threads=threads)


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    """A machine that nothing is generated for says so and what to do."""
    with pytest.raises(TargetError, match=r"this machine is 'riscv64'.*catalog"):
        _detected(tmp_path, "", "riscv64")


def test_this_machine_is_detected() -> None:
    """The machine that runs the tests has a name, caches and its usable cores."""
    target = detect_local()
    assert target.cores == len(os.sched_getaffinity(0))
    assert target.cpu
    assert target.l1_bytes >= 8 << 10
