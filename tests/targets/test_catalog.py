"""Targets by name: the shipped ones, the user's file and its mistakes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from layers import layer

from millifit.errors import UnknownTarget, UsageError
from millifit.targets.build import tvm_target
from millifit.targets.catalog import (
    add_target,
    add_targets,
    default_user_file,
    find_target,
    like_target,
    list_targets,
    read_targets,
)
from millifit.targets.kernel_library import kernel_library
from millifit.targets.target import Gpu

PROCESSORS = (
    "x86-avx2", "x86-avx512-vnni", "rpi4", "rpi5", "graviton3", "jetson-orin-cpu", "pixel4-cpu",
    "pixel6-cpu", "s10-cpu", "mi8se-cpu", "arm64-emulated",
)  # fmt: skip
GPUS = ("pixel4-gpu", "mi8se-gpu", "s10-gpu", "pixel6-gpu", "t4", "a100", "h100", "h200")
SHIPPED = (*PROCESSORS, *GPUS)
HERE = ("local", "local-opencl", "local-cuda", "pocl-opencl")  # detected
BOARD = """\
[board]
triple = "aarch64-linux-gnu"
mcpu = "cortex-a55"
vector_bits = 128
vector_registers = 32
dot_product = "none"
cores = 2
l1_bytes = 32768
l2_bytes = 131072
l3_bytes = 0
cpu = "a board"
reach = "none"
"""


def _user_file(folder: Path, text: str) -> Path:
    path = folder / "targets.toml"
    path.write_text(text)
    return path


def test_the_catalog_lists_local_first() -> None:
    """Without a user file there are the machine at hand and the shipped targets."""
    targets = list_targets()
    assert tuple(t.name for t in targets) == ("local", *SHIPPED)
    assert targets[0].reach == "local"
    assert all(t.source for t in targets)
    assert [t.name for t in targets if t.reach != "none"] == ["local", "arm64-emulated"]


@pytest.mark.parametrize(
    ("name", "mcpu", "bits", "registers", "dot_product", "l1_bytes"),
    [
        ("x86-avx2", "x86-64-v3", 256, 16, "avx2_pmaddwd", 32768),
        ("x86-avx512-vnni", "cascadelake", 512, 32, "avx512_vnni", 32768),
        ("rpi4", "cortex-a72", 128, 32, "neon_smull", 32768),
        ("rpi5", "cortex-a76", 128, 32, "neon_sdot", 65536),
        ("graviton3", "neoverse-v1", 128, 32, "neon_i8mm", 65536),
        ("jetson-orin-cpu", "cortex-a78ae", 128, 32, "neon_sdot", 65536),
        ("pixel4-cpu", "cortex-a76", 128, 32, "neon_sdot", 65536),
        ("pixel6-cpu", "cortex-x1", 128, 32, "neon_sdot", 65536),
        ("s10-cpu", "exynos-m4", 128, 32, "neon_sdot", 65536),
        ("mi8se-cpu", "cortex-a75", 128, 32, "neon_smull", 65536),
        ("arm64-emulated", "cortex-a76", 128, 32, "neon_sdot", 65536),
    ],
)
def test_shipped_targets(
    name: str, mcpu: str, bits: int, registers: int, dot_product: str, l1_bytes: int
) -> None:
    """The shipped targets are the processors that their names say."""
    target = find_target(name, threads=2)
    assert (target.mcpu, target.vector_bits, target.vector_registers) == (mcpu, bits, registers)
    assert (target.dot_product, target.l1_bytes, target.threads) == (dot_product, l1_bytes, 2)


@pytest.mark.parametrize(
    ("name", "machine", "gpu", "api", "arch", "compute_units", "max_threads", "shared_bytes"),
    [
        ("pixel4-gpu", "pixel4-cpu", "Adreno 640", "opencl", "", 2, 256, 32 << 10),
        ("mi8se-gpu", "mi8se-cpu", "Adreno 616", "opencl", "", 1, 256, 32 << 10),
        ("s10-gpu", "s10-cpu", "Mali-G76 MP12", "opencl", "", 12, 384, 32 << 10),
        ("pixel6-gpu", "pixel6-cpu", "Mali-G78 MP20", "opencl", "", 20, 384, 32 << 10),
        ("t4", "x86-avx2", "NVIDIA T4", "cuda", "sm_75", 40, 1024, 64 << 10),
        ("a100", "x86-avx2", "NVIDIA A100", "cuda", "sm_80", 108, 1024, 163 << 10),
        ("h100", "x86-avx2", "NVIDIA H100", "cuda", "sm_90", 132, 1024, 227 << 10),
        ("h200", "x86-avx2", "NVIDIA H200", "cuda", "sm_90", 132, 1024, 227 << 10),
    ],
)
def test_shipped_gpus(
    name: str, machine: str, gpu: str, api: str, arch: str, compute_units: int, max_threads: int,
    shared_bytes: int,
) -> None:  # fmt: skip
    """A GPU's target has the GPU's figures beside those of the processor that calls it."""
    target, host = find_target(name), find_target(machine)
    assert target.gpu is not None
    found = target.gpu
    assert (found.name, found.api, found.arch) == (gpu, api, arch)
    assert (found.compute_units, found.max_threads) == (compute_units, max_threads)
    assert found.shared_bytes == shared_bytes
    assert (target.triple, target.mcpu, target.features) == (host.triple, host.mcpu, host.features)
    assert target.precisions == (("fp32", "fp16", "int8") if api == "cuda" else ("fp32", "fp16"))


def test_every_target_has_a_measurement_key_of_its_own() -> None:
    """No two devices of the catalog share measurements, and there are at least 16."""
    assert len(SHIPPED) >= 16
    assert len({find_target(name).key for name in SHIPPED}) == len(SHIPPED)


def test_only_the_emulated_board_is_emulated() -> None:
    """Its code is that of a Raspberry Pi 5, and its measurements are not."""
    emulated = find_target("arm64-emulated")
    assert [name for name in SHIPPED if find_target(name).emulated] == ["arm64-emulated"]
    assert (emulated.mcpu, emulated.features) == ("cortex-a76", ("+dotprod", "+fullfp16"))


def test_a_phone_without_dot_product_gets_no_code_with_it() -> None:
    """LLVM's cortex-a75 has dot product, the Snapdragon 710 has not."""
    import tvm

    described = tvm_target(find_target("mi8se-cpu"))
    has = tvm.get_global_func("target.llvm_cpu_has_feature")
    assert has("fullfp16", described)
    assert not has("dotprod", described)


ELF_MACHINES = {"x86_64": 62, "aarch64": 183}  # of the ELF header, e_machine
# What libraries hold besides the processor's code: OpenCL's source, a CUDA binary.
GPU_CODE = {"": b"", "opencl": b"__kernel", "cuda": b"main_kernel"}
GEOMETRY = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
CONVOLUTION = layer(
    (8, 8, 16, 16, (3, 3), GEOMETRY, 1, 0), precision="fp32", output="float32", epilogue=("relu",)
)[0]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_target_gets_code(name: str, arm_linker: str) -> None:
    """A small convolution is compiled and linked for every target, whose name LLVM knows."""
    import tvm

    target = find_target(name)
    known = tvm.get_global_func("target.llvm_get_cpu_archlist")(
        tvm_target(dataclasses.replace(target, gpu=None))
    )
    assert target.mcpu in list(known)
    library = kernel_library(CONVOLUTION, target).content
    assert library[:4] == b"\x7fELF"
    assert int.from_bytes(library[18:20], "little") == ELF_MACHINES[target.machine]
    assert GPU_CODE[target.gpu.api if target.gpu else ""] in library


def test_unknown_targets_get_close_matches_and_the_list() -> None:
    """The message suggests what was meant and lists what there is."""
    with pytest.raises(UnknownTarget) as refused:
        find_target("rpi")
    words = str(refused.value)
    assert words.startswith("no target 'rpi'. Did you mean rpi")
    assert words.endswith(f"There are: {', '.join((*HERE, *SHIPPED))}.")


def test_threads_must_fit_the_cores() -> None:
    """More threads than cores, and none, are wrong use."""
    for threads in (0, 5):
        with pytest.raises(UsageError, match=f"{threads} threads on 'rpi4': choose 1 to 4"):
            find_target("rpi4", threads=threads)
    with pytest.raises(UsageError, match="threads on 'local'"):
        find_target("local", threads=100_000)


def test_a_target_that_was_added_is_found(tmp_path: Path) -> None:
    """A target survives the user's file exactly, beside what the file had before."""
    path = tmp_path / "new" / "targets.toml"
    odd = 'a "quoted" cpu \\ with µ'
    mine = dataclasses.replace(find_target("rpi5"), name="mine", cpu=odd, features=("+dotprod",))
    add_target(mine, path)
    add_target(dataclasses.replace(mine, name="mine.2"), path)
    assert find_target("mine", user_file=path) == mine
    assert [t.name for t in list_targets(path)] == ["local", *SHIPPED, "mine", "mine.2"]


def test_adding_keeps_comments(tmp_path: Path) -> None:
    """What the user wrote in the file stays as it is."""
    path = _user_file(tmp_path, "# mine\n" + BOARD)
    add_target(dataclasses.replace(find_target("rpi4"), name="other"), path)
    assert path.read_text().startswith("# mine\n" + BOARD)


def test_the_user_s_file_is_under_xdg_config_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path, the user's file is where the desktop standard puts it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert default_user_file() == Path("/somewhere/millifit/targets.toml")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_user_file() == Path("/home/me/.config/millifit/targets.toml")


@pytest.mark.parametrize("name", ["local", "local-cuda", "rpi4", "h100", "mine"])
def test_a_name_is_given_once(tmp_path: Path, name: str) -> None:
    """'local', this machine's GPUs, shipped names and names in the file cannot be added again."""
    path = tmp_path / "targets.toml"
    add_target(dataclasses.replace(find_target("rpi4"), name="mine"), path)
    with pytest.raises(UsageError, match=f"'{name}' exists"):
        add_target(dataclasses.replace(find_target("rpi4"), name=name), path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[board]", "[board", "not valid TOML"),
        ("[board]", "[rpi4]", "'rpi4' is a name of millifit's own"),
        ("[board]", '["a board"]', "'a board' is no name"),
        ("mcpu =", "mpcu =", "'mpcu': unknown key, did you mean mcpu"),
        ("cores = 2", 'cores = "2"', "'cores': Input should be a valid integer"),
        ("cores = 2", "cores = 2.5", "'cores'"),
        ("cores = 2", "cores = 0", "'cores': must be 1 or more"),
        ("cores = 2", "", "'cores': "),
        ("cores = 2", "cores = 2\nthreads = 3", "'threads': must be 1 to 2"),
        ("cores = 2", 'cores = 2\nfeatures = "+sve"', "'features'"),
        ("cores = 2", "cores = 2\nprecisions = []", "'precisions': must name at least one"),
        ("cores = 2", 'cores = 2\nprecisions = ["bf16"]', "'bf16' needs another device"),
        ("vector_bits = 128", "vector_bits = 100", "'vector_bits': 100 is none of"),
        ('dot_product = "none"', 'dot_product = "sdot"', "'dot_product'"),
        ("l3_bytes = 0", "l3_bytes = -1", "'l3_bytes': must be 0 or more"),
        ("l1_bytes = 32768", "l1_bytes = 0", "'l1_bytes': must be 1 or more"),
        ('reach = "none"', 'reach = "moon"', "'reach'"),
        ("[board]", "name = 3\n[board]", "'name' is no table"),
    ],
)
def test_mistakes_in_the_user_s_file_are_named(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    """Every mistake is wrong use and names the file and the key."""
    assert old in BOARD
    path = _user_file(tmp_path, BOARD.replace(old, new, 1))
    with pytest.raises(UsageError, match=words) as refused:
        find_target("board", user_file=path)
    assert str(path) in str(refused.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    """A binary file, and a folder in its place, are wrong use."""
    path = tmp_path / "targets.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not valid TOML"):
        list_targets(path)
    with pytest.raises(UsageError, match="cannot be read"):
        list_targets(tmp_path)


def test_an_invalid_target_is_not_written(tmp_path: Path) -> None:
    """A target that the file could not be read back with is refused before it is written."""
    path = tmp_path / "targets.toml"
    with pytest.raises(UsageError, match="'vector_bits'"):
        add_target(dataclasses.replace(find_target("rpi4"), name="odd", vector_bits=96), path)
    assert not path.exists()


def test_a_gpu_target_that_was_added_is_found(tmp_path: Path) -> None:
    """A target with a GPU survives the user's file exactly."""
    path = tmp_path / "targets.toml"
    gpu = Gpu(
        api="opencl", name="Mali-G610 MP4", compute_units=4, subgroup=16, max_threads=512,
        shared_bytes=32_768, features=("fp16",),
    )  # fmt: skip
    mine = dataclasses.replace(find_target("rpi5"), name="rock5-gpu", gpu=gpu, precisions=())
    add_target(mine, path)
    assert find_target("rock5-gpu", user_file=path) == mine
    assert mine.precisions == ("fp32", "fp16")


def test_a_table_may_be_like_another(tmp_path: Path) -> None:
    """What a table leaves out is as in the one it names: shipped, above it, or 'local'."""
    path = _user_file(
        tmp_path,
        '[a10]\nlike = "a100"\nsource = "mine"\ngpu = { arch = "sm_86", compute_units = 72 }\n'
        '[slow-a10]\nlike = "a10"\n[slow-a10.gpu]\ncompute_units = 36\n'
        '[here]\nlike = "local"\ncpu = "this one"\n',
    )
    a100, a10, slow, here = (
        find_target(name, user_file=path) for name in ("a100", "a10", "slow-a10", "here")
    )
    assert a100.gpu is not None
    assert a10.gpu == dataclasses.replace(a100.gpu, arch="sm_86", compute_units=72)
    assert slow.gpu == dataclasses.replace(a10.gpu, compute_units=36)
    assert (a10.source, slow.source, a10.l2_bytes) == ("mine", "", a100.l2_bytes)
    assert here == dataclasses.replace(find_target("local"), name="here", cpu="this one", source="")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[a]\nlike = "b"\n[b]\nlike = "rpi4"\n', "'like': there is no target 'b' before it"),
        ('[a]\nlike = "a"\n', "'like': there is no target 'a' before it"),
        ('[a]\nlike = "h100"\n[a.gpu]\narch = "90"\n', "'gpu.arch': must be sm_ and a number"),
        ('[a]\nlike = "h100"\n[a.gpu]\nsubgroup = 0\n', "'gpu.subgroup': must be 1 or more"),
        ('[a]\nlike = "h100"\n[a.gpu]\nthreads = 5\n', "'gpu.threads': unknown key"),
        ('[a]\nlike = "h100"\n[a.gpu]\nfeatures = ["fp8"]\n', "'gpu.features.0'"),
        ('[a]\nlike = "h100"\ngpu = 3\n', "'gpu': "),
    ],
)
def test_mistakes_of_tables_that_are_like_another(tmp_path: Path, text: str, words: str) -> None:
    """Circles, unknown names and mistakes in a GPU name the file, the target and the key."""
    path = _user_file(tmp_path, text)
    with pytest.raises(UsageError, match=words) as refused:
        read_targets(path)
    assert str(refused.value).startswith(f"{path}: target 'a'")


def test_a_target_derived_from_another() -> None:
    """Changes are given as text; what the changed device can compute in follows from them."""
    made = like_target(
        "pixel4-cpu", "my-phone", {"cores": "6", "features": "+dotprod", "cpu": "My phone 2"}
    )
    assert made == dataclasses.replace(
        find_target("pixel4-cpu"), name="my-phone", cores=6, features=("+dotprod",),
        cpu="My phone 2", source="like pixel4-cpu", precisions=(),
    )  # fmt: skip
    assert "fp16" not in made.precisions
    gpu = like_target("a100", "a10", {"gpu.arch": "sm_86", "gpu.features": "fp16,dp4a"}).gpu
    assert gpu is not None
    assert (gpu.arch, gpu.features, gpu.compute_units) == ("sm_86", ("fp16", "dp4a"), 108)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mine", {"core": "3"}, "'core': unknown key, did you mean cores"),
        ("mine", {"cores": "three"}, "'cores': Input should be a valid integer"),
        ("mine", {"precisions": "bf16"}, "'bf16' needs another device"),
        ("my phone", {}, "'my phone' is no name"),
    ],
)
def test_a_derived_target_is_checked(name: str, changes: dict[str, str], words: str) -> None:
    """Wrong changes are wrong use and name the key."""
    with pytest.raises(UsageError, match=words):
        like_target("rpi4", name, changes)


def test_of_several_targets_all_are_added_or_none(tmp_path: Path) -> None:
    """A name that is taken leaves the file as it was."""
    path = tmp_path / "targets.toml"
    new = [dataclasses.replace(find_target("rpi4"), name=name) for name in ("one", "two", "one")]
    with pytest.raises(UsageError, match="'one' exists"):
        add_targets(new, path)
    assert not path.exists()
    add_targets(new[:2], path)
    assert [target.name for target in read_targets(path)] == ["one", "two"]
