// The sums of a block of threads, and how one stage of a product is added to them: by tensor cores,
// a warp a rectangle of 16 x 16 squares; or one number at a time, a thread a grid of them.
// Staged rows have PAYLOAD bytes, and STRIDE from one to the next, so that 8 threads that read 16
// bytes of 8 rows use all banks of shared memory.
#ifndef MILLIFIT_ARITHMETIC
#define MILLIFIT_ARITHMETIC
#include <mma.h>

namespace millifit {

template <int HEIGHT, int WIDTH, int CHUNKS, int BUFFERS, int ROWS_OF_PARTS, int COLUMNS_OF_PARTS>
struct Tile {
  static constexpr int ROWS = HEIGHT, COLUMNS = WIDTH, STAGES = BUFFERS;
  static constexpr int PARTS_Y = ROWS_OF_PARTS, PARTS_X = COLUMNS_OF_PARTS;
  static constexpr int PER_ROW = CHUNKS, PAYLOAD = CHUNKS * CHUNK_BYTES;
  static constexpr int STRIDE = PAYLOAD + CHUNK_BYTES;
  static constexpr int RESULT_STRIDE = COLUMNS + 4;  // of the sums in shared memory
};

template <typename Element, typename Tile>
struct TensorCores {
  static constexpr int SIDE = 16;
  static constexpr int THREADS = Tile::PARTS_Y * Tile::PARTS_X * 32;
  static constexpr int DOWN = Tile::ROWS / Tile::PARTS_Y / SIDE;
  static constexpr int ACROSS = Tile::COLUMNS / Tile::PARTS_X / SIDE;
  static constexpr int STRIDE = Tile::STRIDE / int(sizeof(Element));
  using Number = typename Numbers<Element>::Weight;  // as the tensor cores see inputs, too
  using Sum = typename Numbers<Element>::Sum;
  nvcuda::wmma::fragment<nvcuda::wmma::accumulator, SIDE, SIDE, SIDE, Sum> sums[DOWN][ACROSS];
  int top, left;

  __device__ __forceinline__ TensorCores() {
    int warp = threadIdx.x / 32;
    top = warp / Tile::PARTS_X * (DOWN * SIDE);
    left = warp % Tile::PARTS_X * (ACROSS * SIDE);
#pragma unroll
    for (int i = 0; i < DOWN; ++i)
#pragma unroll
      for (int j = 0; j < ACROSS; ++j) nvcuda::wmma::fill_fragment(sums[i][j], Sum(0));
  }

  __device__ __forceinline__ void add(const char* inputs, const char* weights) {
    using namespace nvcuda::wmma;
    const Number* a = reinterpret_cast<const Number*>(inputs) + top * STRIDE;
    const Number* b = reinterpret_cast<const Number*>(weights) + left * STRIDE;
#pragma unroll
    for (int k = 0; k < Tile::PAYLOAD / int(sizeof(Element)); k += SIDE) {
      fragment<matrix_a, SIDE, SIDE, SIDE, Number, row_major> rows[DOWN];
      fragment<matrix_b, SIDE, SIDE, SIDE, Number, col_major> columns[ACROSS];
#pragma unroll
      for (int i = 0; i < DOWN; ++i)
        load_matrix_sync(rows[i], a + i * SIDE * STRIDE + k, STRIDE);
#pragma unroll
      for (int j = 0; j < ACROSS; ++j)
        load_matrix_sync(columns[j], b + j * SIDE * STRIDE + k, STRIDE);
#pragma unroll
      for (int i = 0; i < DOWN; ++i)
#pragma unroll
        for (int j = 0; j < ACROSS; ++j) mma_sync(sums[i][j], rows[i], columns[j], sums[i][j]);
    }
  }

  __device__ __forceinline__ void leave(Sum* results) const {
    Sum* place = results + top * Tile::RESULT_STRIDE + left;
#pragma unroll
    for (int i = 0; i < DOWN; ++i)
#pragma unroll
      for (int j = 0; j < ACROSS; ++j)
        nvcuda::wmma::store_matrix_sync(place + i * SIDE * Tile::RESULT_STRIDE + j * SIDE,
                                        sums[i][j], Tile::RESULT_STRIDE,
                                        nvcuda::wmma::mem_row_major);
  }
};

template <typename Element, typename Tile>
struct Grid {
  static constexpr int THREADS = Tile::PARTS_Y * Tile::PARTS_X;
  static constexpr int DOWN = Tile::ROWS / Tile::PARTS_Y;
  static constexpr int ACROSS = Tile::COLUMNS / Tile::PARTS_X;
  using Sum = typename Numbers<Element>::Sum;
  Sum sums[DOWN][ACROSS];
  int top, left;  // a thread's rows and columns are PARTS_Y and PARTS_X apart

  __device__ __forceinline__ Grid() {
    top = threadIdx.x / Tile::PARTS_X;
    left = threadIdx.x % Tile::PARTS_X;
#pragma unroll
    for (int i = 0; i < DOWN; ++i)
#pragma unroll
      for (int j = 0; j < ACROSS; ++j) sums[i][j] = Sum(0);
  }

  static __device__ __forceinline__ uint4 chunk(const char* rows, int row, int k) {
    return *reinterpret_cast<const uint4*>(rows + row * Tile::STRIDE + k * CHUNK_BYTES);
  }

  __device__ __forceinline__ void add(const char* inputs, const char* weights) {
#pragma unroll
    for (int k = 0; k < Tile::PER_ROW; ++k) {
      uint4 columns[ACROSS];
#pragma unroll
      for (int j = 0; j < ACROSS; ++j) columns[j] = chunk(weights, left + j * Tile::PARTS_X, k);
#pragma unroll
      for (int i = 0; i < DOWN; ++i) {
        uint4 row = chunk(inputs, top + i * Tile::PARTS_Y, k);
#pragma unroll
        for (int j = 0; j < ACROSS; ++j)
          sums[i][j] = add_products<Element>(row, columns[j], sums[i][j]);
      }
    }
  }

  __device__ __forceinline__ void leave(Sum* results) const {
#pragma unroll
    for (int i = 0; i < DOWN; ++i)
#pragma unroll
      for (int j = 0; j < ACROSS; ++j)
        results[(top + i * Tile::PARTS_Y) * Tile::RESULT_STRIDE + left + j * Tile::PARTS_X] =
            sums[i][j];
  }
};

}  // namespace millifit
#endif
