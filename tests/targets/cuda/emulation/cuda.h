// CUDA C++ on a processor, one block of threads at a time, for tests: what TVM's generator and
// millifit's own device code use, and no more. The threads of a block are fibers on stacks of their
// own; one runs until it waits for the others. Warps compute matrices in their first thread.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __builtin_align__(n) alignas(n)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace emulation {
constexpr int WARP = 32, MOST_THREADS = 1024, STACK_BYTES = 96 << 10;
constexpr int SHARED_BYTES = 256 << 10;

struct Fiber {
  ucontext_t start;
  jmp_buf at;
  bool started, done;
  dim3 index;
};

extern Fiber fibers[MOST_THREADS];
extern int current, count;
extern char* stacks;
extern jmp_buf scheduler;
extern void (*body)();
extern uint32_t exchanged[MOST_THREADS];

// Dynamic shared memory.
extern char* shared;

// Let every other thread of the block come as far. All threads take turns, so a thread that runs
// again knows that all others have been here; the same serves for a warp.
void everyone_waits();
void launch(dim3 grid, dim3 block, void (*kernel)());
}  // namespace emulation

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { emulation::everyone_waits(); }
inline void __syncwarp(unsigned = ~0u) { emulation::everyone_waits(); }

// All 32 threads of a warp take part, and all warps of the block at the same time.
template <typename T>
inline T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  static_assert(sizeof(T) == 4, "32 bits are exchanged");
  memcpy(&emulation::exchanged[emulation::current], &value, 4);
  emulation::everyone_waits();
  T other;
  memcpy(&other, &emulation::exchanged[emulation::current ^ mask], 4);
  emulation::everyone_waits();
  return other;
}

// Vectors as CUDA has them, as far as they are used.
#define VECTOR_OF_2(T, NAME) \
  struct alignas(2 * sizeof(T)) NAME##2 { T x, y; }; \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }
#define VECTOR_OF_3(T, NAME) \
  struct NAME##3 { T x, y, z; }; \
  inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }
#define VECTOR_OF_4(T, NAME) \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) NAME##4 { T x, y, z, w; }; \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define VECTORS(T, NAME) VECTOR_OF_2(T, NAME) VECTOR_OF_3(T, NAME) VECTOR_OF_4(T, NAME)
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)
VECTORS(short, short)
VECTORS(unsigned short, ushort)
VECTORS(int, int)
VECTORS(unsigned int, uint)
VECTORS(long long, longlong)
VECTORS(unsigned long long, ulonglong)
VECTORS(float, float)
VECTORS(double, double)
struct alignas(1) char1 { signed char x; };

inline float __uint_as_float(unsigned bits) { float v; memcpy(&v, &bits, 4); return v; }
inline unsigned __float_as_uint(float value) { unsigned v; memcpy(&v, &value, 4); return v; }
inline float __int_as_float(int bits) { return __uint_as_float(unsigned(bits)); }
inline int __float_as_int(float value) { return int(__float_as_uint(value)); }

inline int __dp4a(int a, int b, int sum) {
  for (int i = 0; i < 4; ++i) sum += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
  return sum;
}

template <typename T> inline T __ldg(const T* at) { return *at; }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <typename A, typename B> inline auto max(A a, B b) { return a > b ? a : b; }
template <typename A, typename B> inline auto min(A a, B b) { return a < b ? a : b; }
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
