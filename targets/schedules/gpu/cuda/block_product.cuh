// One tile of a layer's outputs by one block of threads. Stages of inputs and weights pass through
// shared memory, STAGES - 1 of them on their way while one is multiplied; the sums end there.
#ifndef MILLIFIT_BLOCK_PRODUCT
#define MILLIFIT_BLOCK_PRODUCT

namespace millifit {

template <typename Map, typename Tile, typename Arithmetic>
struct Stage {
  using Element = typename Map::Element;
  using Weight = typename Numbers<Element>::Weight;
  static constexpr int PER_CHUNK = Map::PER_CHUNK;
  static constexpr int INPUTS = Tile::ROWS * Tile::PER_ROW;  // chunks
  static constexpr int WEIGHTS = Tile::COLUMNS * Tile::PER_ROW;
  static constexpr int THREADS = Arithmetic::THREADS;
  static constexpr int LOADS = (INPUTS + THREADS - 1) / THREADS;  // of each thread
  static constexpr int BYTES = (Tile::ROWS + Tile::COLUMNS) * Tile::STRIDE;
  static constexpr bool CENTRED = sizeof(Element) == 1;

  typename Map::Row rows[LOADS];

  __device__ __forceinline__ Stage(const Element* input, int first_row) {
#pragma unroll
    for (int i = 0; i < LOADS; ++i)
      rows[i] = Map::row(input, first_row + (int(threadIdx.x) + i * THREADS) / Tile::PER_ROW);
  }

  static __device__ __forceinline__ char* place(char* stage, int chunk) {
    return stage + chunk / Tile::PER_ROW * Tile::STRIDE + chunk % Tile::PER_ROW * CHUNK_BYTES;
  }

  // `body(i, chunk)` for this thread's share of COUNT chunks; i counts them.
  template <int COUNT, typename Body>
  static __device__ __forceinline__ void each_chunk(Body body) {
#pragma unroll
    for (int i = 0; i < (COUNT + THREADS - 1) / THREADS; ++i) {
      int chunk = int(threadIdx.x) + i * THREADS;
      if (COUNT % THREADS == 0 || chunk < COUNT) body(i, chunk);
    }
  }

  // Start to bring inputs k.. of the tile's rows and columns.
  template <int DEPTH>
  __device__ __forceinline__ void bring(char* stage, const Weight* weights, int k, Element fill) {
    each_chunk<INPUTS>([&](int i, int chunk) {
      Map::stage(place(stage, chunk), rows[i], k + chunk % Tile::PER_ROW * PER_CHUNK, fill);
    });
    char* below = stage + Tile::ROWS * Tile::STRIDE;
    each_chunk<WEIGHTS>([&](int, int chunk) {
      copy_chunk(place(below, chunk), weights + chunk / Tile::PER_ROW * DEPTH + k +
                                          chunk % Tile::PER_ROW * PER_CHUNK);
    });
  }

  // What this thread brought, once it is there: x - 128 for quantized inputs.
  __device__ __forceinline__ void centre(char* stage) const {
    if (!CENTRED) return;
    each_chunk<INPUTS>([&](int, int chunk) {
      uint4* values = reinterpret_cast<uint4*>(place(stage, chunk));
      *values = centred(*values);
    });
  }
};

// The sums of rows first_row.. and of the channels that `weights` starts with, over `steps` stages
// from input `start` on, in `memory` as Sum[ROWS][RESULT_STRIDE]. `weights` are [channel][DEPTH],
// DEPTH being the inputs padded with zeros to whole stages.
template <typename Map, typename Tile, typename Arithmetic, int DEPTH>
__device__ __forceinline__ void block_product(
    typename Numbers<typename Map::Element>::Sum* memory, const typename Map::Element* input,
    const typename Numbers<typename Map::Element>::Weight* weights, int first_row, int start,
    int steps, typename Map::Element fill) {
  using Stages = Stage<Map, Tile, Arithmetic>;
  constexpr int AHEAD = Tile::STAGES - 1;
  constexpr int STEP = Tile::PER_ROW * Map::PER_CHUNK;
  char* stages = reinterpret_cast<char*>(memory);
  Stages stage(input, first_row);
  Arithmetic sums;
#pragma unroll
  for (int i = 0; i < AHEAD; ++i) {
    if (i < steps)
      stage.template bring<DEPTH>(stages + i * Stages::BYTES, weights, start + i * STEP, fill);
    commit_copies();
  }
  for (int i = 0; i < steps; ++i) {
    char* here = stages + i % Tile::STAGES * Stages::BYTES;
    wait_for_copies<AHEAD - 1>();
    stage.centre(here);
    __syncthreads();  // all have brought their part, and are done with the stage before
    int next = i + AHEAD;
    if (next < steps)
      stage.template bring<DEPTH>(stages + next % Tile::STAGES * Stages::BYTES, weights,
                                  start + next * STEP, fill);
    commit_copies();
    sums.add(here, here + Tile::ROWS * Tile::STRIDE);
  }
  __syncthreads();
  sums.leave(memory);
  __syncthreads();
}

}  // namespace millifit
#endif
