// Sixteen bytes at a time: how threads move data, and what they do with it on the way.
// In the kernels, `Element` is float, half, or unsigned char for quantized activations, whose
// weights are signed char: activations are multiplied as x - 128, and the bias makes up for it.
#ifndef MILLIFIT_CHUNKS
#define MILLIFIT_CHUNKS
#include <cuda_fp16.h>

namespace millifit {

constexpr int CHUNK_BYTES = 16;

__device__ __forceinline__ void device_code() {}  // a launch that calls it brings these files

template <typename Element>
struct Numbers {
  using Weight = Element;
  using Sum = float;
};
template <>
struct Numbers<unsigned char> {
  using Weight = signed char;
  using Sum = int;
};

// A copy of BYTES bytes. The memory of `global` starts at a multiple of them; a thread's own
// variables may lie anywhere.
template <int BYTES>
struct Words;
template <>
struct Words<16> { using Type = uint4; };
template <>
struct Words<8> { using Type = uint2; };
template <>
struct Words<4> { using Type = unsigned int; };
template <>
struct Words<2> { using Type = unsigned short; };
template <>
struct Words<1> { using Type = unsigned char; };

template <int BYTES>
__device__ __forceinline__ void read(void* own, const void* global) {
  constexpr int STEP = BYTES < CHUNK_BYTES ? BYTES : CHUNK_BYTES;
  using Word = typename Words<STEP>::Type;
#pragma unroll
  for (int at = 0; at < BYTES; at += STEP) {
    Word word = *reinterpret_cast<const Word*>(static_cast<const char*>(global) + at);
    memcpy(static_cast<char*>(own) + at, &word, STEP);
  }
}

template <int BYTES>
__device__ __forceinline__ void write(void* global, const void* own) {
  constexpr int STEP = BYTES < CHUNK_BYTES ? BYTES : CHUNK_BYTES;
  using Word = typename Words<STEP>::Type;
#pragma unroll
  for (int at = 0; at < BYTES; at += STEP) {
    Word word;
    memcpy(&word, static_cast<const char*>(own) + at, STEP);
    *reinterpret_cast<Word*>(static_cast<char*>(global) + at) = word;
  }
}

// Both where a power of two of the bytes is aligned.
template <int BYTES>
__device__ __forceinline__ void copy(void* to, const void* from) {
  constexpr int STEP = BYTES < CHUNK_BYTES ? BYTES : CHUNK_BYTES;
  using Word = typename Words<STEP>::Type;
#pragma unroll
  for (int at = 0; at < BYTES; at += STEP)
    *reinterpret_cast<Word*>(static_cast<char*>(to) + at) =
        *reinterpret_cast<const Word*>(static_cast<const char*>(from) + at);
}

// From global to shared memory; without waiting for it where the device can.
__device__ __forceinline__ void copy_chunk(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  unsigned int place = static_cast<unsigned int>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(global) : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}

// Ends a group of copies.
__device__ __forceinline__ void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING groups of this thread's copies are under way.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

// Sixteen x of 0..255 become x - 128.
__device__ __forceinline__ uint4 centred(uint4 chunk) {
  constexpr unsigned int SIGNS = 0x80808080u;
  return make_uint4(chunk.x ^ SIGNS, chunk.y ^ SIGNS, chunk.z ^ SIGNS, chunk.w ^ SIGNS);
}

// Four signed products, added.
__device__ __forceinline__ int dot(unsigned int a, unsigned int b, int sum) {
  return __dp4a(static_cast<int>(a), static_cast<int>(b), sum);
}

__device__ __forceinline__ float dot(unsigned int a, unsigned int b, float sum) {
  return fmaf(__uint_as_float(a), __uint_as_float(b), sum);
}

// The products of two chunks, added to `sum`.
template <typename Element>
__device__ __forceinline__ typename Numbers<Element>::Sum add_products(
    uint4 a, uint4 b, typename Numbers<Element>::Sum sum) {
  return dot(a.w, b.w, dot(a.z, b.z, dot(a.y, b.y, dot(a.x, b.x, sum))));
}

template <>
__device__ __forceinline__ float add_products<half>(uint4 a, uint4 b, float sum) {
  half left[8], right[8];
  memcpy(left, &a, CHUNK_BYTES);
  memcpy(right, &b, CHUNK_BYTES);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(__half2float(left[i]), __half2float(right[i]), sum);
  return sum;
}

}  // namespace millifit
#endif
