"""The emulation of CUDA, on which the proofs of kernels rest, is right itself."""

import ctypes

import numpy as np
import pytest
from emulated_gpu import compiled

HALVES = """
#include "scheduler.inc"
#include "cuda_fp16.h"
extern "C" void widen(const uint16_t* from, float* to, int n) {
  for (int i = 0; i < n; ++i) to[i] = emulation::widened(from[i]);
}
extern "C" void narrow(const float* from, uint16_t* to, int n) {
  for (int i = 0; i < n; ++i) to[i] = emulation::narrowed(from[i]);
}
"""
THREADS = """
#include "scheduler.inc"
int* out;
static void turned() {
  __shared__ int held[64];
  held[threadIdx.x] = blockIdx.x * 100 + threadIdx.x;
  BARRIER
  out[blockIdx.x * 64 + threadIdx.x] = held[63 - threadIdx.x];
}
static void summed() {
  int value = threadIdx.x;
  for (int other = 16; other > 0; other /= 2) value += __shfl_xor_sync(~0u, value, other);
  out[blockIdx.x * 64 + threadIdx.x] = value;
}
extern "C" void run_turned(int* made) {
  out = made;
  emulation::launch({3, 1, 1}, {64, 1, 1}, turned);
}
extern "C" void run_summed(int* made) {
  out = made;
  emulation::launch({1, 1, 1}, {64, 1, 1}, summed);
}
"""


def call(function, *arrays):
    function(*[ctypes.c_void_p(each.ctypes.data) for each in arrays], len(arrays[0]))


def test_halves_are_numpys():
    """Every half widens, and floats narrow to the nearest, as in NumPy."""
    library = ctypes.CDLL(str(compiled(HALVES)))
    every = np.arange(2**16, dtype=np.uint16)
    widened = np.empty(every.shape, np.float32)
    call(library.widen, every, widened)
    np.testing.assert_array_equal(widened, every.view(np.float16).astype(np.float32))
    rng = np.random.default_rng(0)
    exponents = np.exp2(rng.uniform(-30, 20, 200_000))
    edges = [0, -0.0, np.inf, -np.inf, 65504, 65519.9, 65520, 2**-25, 2**-24, 1.5 * 2**-24]
    random = (rng.standard_normal(200_000) * exponents).astype(np.float32)
    floats = np.concatenate([random, np.float32(edges)])
    narrowed = np.empty(floats.shape, np.uint16)
    call(library.narrow, floats, narrowed)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(narrowed, floats.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize(("barrier", "right"), [("__syncthreads();", True), ("", False)])
def test_a_missing_barrier_is_noticed(barrier, right):
    """Threads that read what others write see it behind a barrier, and not without."""
    library = ctypes.CDLL(str(compiled(THREADS.replace("BARRIER", barrier))))
    made = np.zeros(192, np.int32)
    library.run_turned(ctypes.c_void_p(made.ctypes.data))
    wanted = np.concatenate([block * 100 + np.arange(64)[::-1] for block in range(3)])
    for block in range(3):
        own = slice(64 * block, 64 * block + 64)
        assert (made[own] == wanted[own]).all() == right


def test_warps_exchange_among_themselves():
    """The sum over a warp, in all of its threads; two warps do not mix."""
    library = ctypes.CDLL(str(compiled(THREADS.replace("BARRIER", ""))))
    made = np.zeros(64, np.int32)
    library.run_summed(ctypes.c_void_p(made.ctypes.data))
    np.testing.assert_array_equal(made, np.repeat([496, 1520], 32))
