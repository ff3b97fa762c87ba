// Fragments of a matrix, whole in the first thread of a warp: which thread has which element on a
// GPU nobody may know, so nothing that is right here can depend on it.
#pragma once
#include "cuda_fp16.h"

namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static constexpr int ROWS = std::is_same_v<Use, matrix_b> ? K : M;
  static constexpr int COLUMNS = std::is_same_v<Use, matrix_a> ? K : N;
  using Held = std::conditional_t<std::is_same_v<T, half>, float, std::conditional_t<
      sizeof(T) == 1, int, T>>;
  Held values[ROWS][COLUMNS];
};

inline bool leads() { return emulation::current % emulation::WARP == 0; }

inline void check(const void* at, unsigned stride_bytes) {
  if (reinterpret_cast<uintptr_t>(at) % 16 != 0 || stride_bytes % 16 != 0) {
    fprintf(stderr, "a matrix is not aligned\n");
    abort();
  }
}

template <typename F, typename T>
inline void fill_fragment(F& to, T value) {
  if (!leads()) return;
  for (auto& row : to.values)
    for (auto& each : row) each = value;
}

template <typename Use, int M, int N, int K, typename T, typename Layout>
inline void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& to, const T* from, unsigned stride) {
  if (!leads()) return;
  check(from, stride * sizeof(T));
  using F = fragment<Use, M, N, K, T, Layout>;
  constexpr bool ROW = std::is_same_v<Layout, row_major>;
  for (int i = 0; i < F::ROWS; ++i)
    for (int j = 0; j < F::COLUMNS; ++j)
      to.values[i][j] = typename F::Held(ROW ? from[i * stride + j] : from[j * stride + i]);
}

template <int M, int N, int K, typename T, typename S, typename LA, typename LB>
inline void mma_sync(fragment<accumulator, M, N, K, S>& to, const fragment<matrix_a, M, N, K, T, LA>& a,
                     const fragment<matrix_b, M, N, K, T, LB>& b,
                     const fragment<accumulator, M, N, K, S>& c) {
  if (!leads()) return;
  for (int i = 0; i < M; ++i) {
    S sums[N];
    for (int j = 0; j < N; ++j) sums[j] = c.values[i][j];
    for (int k = 0; k < K; ++k)
      for (int j = 0; j < N; ++j) sums[j] += a.values[i][k] * b.values[k][j];
    for (int j = 0; j < N; ++j) to.values[i][j] = sums[j];
  }
}

template <int M, int N, int K, typename S>
inline void store_matrix_sync(S* to, const fragment<accumulator, M, N, K, S>& from, unsigned stride,
                              layout_t layout) {
  if (!leads()) return;
  check(to, stride * sizeof(S));
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j)
      to[layout == mem_row_major ? i * stride + j : j * stride + i] = from.values[i][j];
}
}  // namespace wmma
}  // namespace nvcuda
