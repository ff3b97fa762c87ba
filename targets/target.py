"""A target: a device, how code is generated for it, and how it is reached."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "int8"]
DotProduct = Literal["avx512_vnni", "avx_vnni", "avx2_pmaddwd", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device as the code generator and the profiler see it.

    `mcpu` and `features` are LLVM's names. `vector_bits`, `vector_registers` and `dot_product`, the
    fastest exact int8 multiply-add of the device, are all that the schedule rules look at.
    `cpu` is the marketing name, so that two machines with the same instruction set do not share
    measurements. Cache sizes are in bytes, per core except `l3_bytes`.
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
    reach: Literal["local", "none"]
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    source: str = ""

    @property
    def fp32_lanes(self) -> int:
        """float32 values in one vector register: 16 for AVX-512, 8 for AVX2, 4 for NEON."""
        return self.vector_bits // 32

    @property
    def weight_bits(self) -> int:
        """Bits of an int8 layer's weights that cost least.

        7 where the fast dot product adds pairs of products in 16 bits and 8 would saturate.
        """
        return 7 if self.dot_product == "avx2_pmaddwd" else 8

    @property
    def key(self) -> str:
        """What a measurement depends on: the device, its code generation and the threads."""
        facts = dataclasses.asdict(self)
        for presentation in ("name", "source", "reach", "precisions"):
            del facts[presentation]
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_threads(self, threads: int) -> Target:
        """The same device running `threads` threads."""
        return dataclasses.replace(self, threads=threads)
