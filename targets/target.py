"""A target: a device, how code is generated for it, and how it is reached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Precision = Literal["fp32", "fp16", "bf16", "int8", "w7a8", "w8", "w4"]
"""How a layer computes; docs/concepts.md has the table.

``int8`` has 8-bit activations and weights, ``w7a8`` weights of 7 bits, ``w8`` and ``w4`` float
activations and integer weights.
"""
DotProduct = Literal[
    "avx512_vnni", "avx_vnni", "avx2_pmaddwd", "neon_smull", "neon_sdot", "neon_i8mm", "none"
]
GpuFeature = Literal["fp16", "fp16_storage", "dp4a", "tensor_cores_fp16", "tensor_cores_int8"]


INTEGER: tuple[Precision, ...] = ("int8", "w7a8")
"""Integer arithmetic on quantized activations."""
HALF: tuple[Precision, ...] = ("fp16", "bf16")
"""Activations and weights of 16 bits, sums of 32."""
WEIGHT_ONLY: tuple[Precision, ...] = ("w8", "w4")
"""Integer weights that become float32 on the way to the arithmetic units."""


def activation_dtype(precision: Precision) -> str:
    """Element type in which a layer of that precision reads its activations."""
    match precision:
        case "fp16":
            return "float16"
        case "bf16":
            return "bfloat16"
        case "int8" | "w7a8":
            return "uint8"
    return "float32"


def weight_bits(precision: Precision) -> int:
    """Bits in which a weight of that precision is stored."""
    return {"fp32": 32, "fp16": 16, "bf16": 16, "w4": 4}.get(precision, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The GPU of a target: what the schedules for it look at.

    `arch` is CUDA's, such as ``sm_90``; empty for OpenCL. `compute_units` are shader cores or
    streaming multiprocessors, `subgroup` the threads that run in step (1 where a thread runs
    alone), `max_threads` those of one block (work-group), `shared_bytes` the memory they share.
    `features` are of ``fp16`` (arithmetic in half precision), ``fp16_storage`` (half precision in
    memory alone, arithmetic in fp32), ``dp4a`` (sums of four products of int8),
    ``tensor_cores_fp16`` and ``tensor_cores_int8``.
    """

    api: Literal["opencl", "cuda"]
    name: str
    arch: str = ""
    compute_units: int
    subgroup: int
    max_threads: int
    shared_bytes: int
    features: tuple[GpuFeature, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device as the code generator and the profiler see it.

    `mcpu` and `features` are LLVM's names. `vector_bits`, `vector_registers` and `dot_product`, the
    fastest exact int8 multiply-add of the device, are all that the schedule rules look at.
    `cpu` is the marketing name, so that two machines with the same instruction set do not share
    measurements. Cache sizes are in bytes, per core except `l3_bytes`. `precisions` are those that
    a layer may have; those that the device has no instructions for are left out, and where none
    are given, all others are in. Where there is a `gpu`, kernels run on it, and the rest describes
    the processor that calls them. An `emulated` device computes as the real one does, in a time
    that means nothing.
    """

    name: str
    triple: str
    mcpu: str
    features: tuple[str, ...] = ()
    vector_bits: int
    vector_registers: int
    dot_product: DotProduct
    cores: int
    threads: int = 1
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    cpu: str
    reach: Literal["local", "remote", "none"]
    precisions: tuple[Precision, ...] = ()
    source: str = ""
    gpu: Gpu | None = None
    emulated: bool = False

    @property
    def fp32_lanes(self) -> int:
        """float32 values that move together: 16 for AVX-512, 8 for AVX2, 4 for NEON.

        On a GPU what one thread reads at once: 4 with OpenCL, 8 with CUDA, whose tensor cores take
        channels in eights.
        """
        if self.gpu is not None:
            return 4 if self.gpu.api == "opencl" else 8
        return self.vector_bits // 32

    def __post_init__(self) -> None:
        wanted = self.precisions or self.supported
        possible = tuple(precision for precision in wanted if precision in self.supported)
        object.__setattr__(self, "precisions", possible)

    @property
    def supported(self) -> tuple[Precision, ...]:
        """The precisions that the device has instructions for."""
        if self.gpu is not None:
            return _supported_by(self.gpu)
        found: list[Precision] = ["fp32"]
        if "+fullfp16" in self.features:
            found.append("fp16")
        if "+avx512bf16" in self.features:
            found.append("bf16")
        found.append("int8")
        # Its fast dot product adds pairs of products in 16 bits, where 8-bit weights saturate.
        if self.dot_product == "avx2_pmaddwd":
            found.append("w7a8")
        return (*found, "w8", "w4")

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Target:
        """The target that ``dataclasses.asdict`` described, out of JSON too."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        gpu = fields.get("gpu")
        if isinstance(gpu, Mapping):
            fields["gpu"] = Gpu(**{**gpu, "features": tuple(gpu["features"])})
        return cls(**fields)

    @property
    def machine(self) -> str:
        """The processor's architecture as `uname -m` names it, e.g. ``aarch64``."""
        return self.triple.partition("-")[0]

    @property
    def key(self) -> str:
        """What a measurement depends on: the device, its code generation and the threads."""
        facts = dataclasses.asdict(self)
        for presentation in ("name", "source", "reach", "precisions"):
            del facts[presentation]
        # Keys of processors stay what they were before there were GPUs and emulators.
        facts = {n: fact for n, fact in facts.items() if fact is not None and fact is not False}
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_threads(self, threads: int) -> Target:
        """The same device running `threads` threads."""
        return dataclasses.replace(self, threads=threads)


def _supported_by(gpu: Gpu) -> tuple[Precision, ...]:
    found: list[Precision] = ["fp32"]
    if {"fp16", "fp16_storage"} & set(gpu.features):
        found.append("fp16")
    if {"dp4a", "tensor_cores_int8"} & set(gpu.features):
        found.append("int8")
    return tuple(found)
