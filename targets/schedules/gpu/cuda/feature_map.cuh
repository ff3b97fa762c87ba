// A feature map [N, HEIGHT, WIDTH, CHANNELS] as the left matrix of a convolution's product: a row
// for every output position, a column for every input that it is computed from, a kernel's taps
// after one another with the INPUTS channels of a group for each.
#ifndef MILLIFIT_FEATURE_MAP
#define MILLIFIT_FEATURE_MAP

namespace millifit {

template <int TOP, int LEFT, int DOWN, int RIGHT, int BELOW, int BESIDE>
struct Window {  // padding, strides, dilations
  static constexpr int PAD_Y = TOP, PAD_X = LEFT, STRIDE_Y = DOWN, STRIDE_X = RIGHT;
  static constexpr int DILATION_Y = BELOW, DILATION_X = BESIDE;
};

template <typename Type, int HEIGHT, int WIDTH, int CHANNELS, int INPUTS, int OUT_HEIGHT,
          int OUT_WIDTH, int KERNEL_HEIGHT, int KERNEL_WIDTH, typename Window, int COUNT>
struct FeatureMap {
  using Element = Type;
  static constexpr int ROWS = COUNT;
  static constexpr int DEPTH = KERNEL_HEIGHT * KERNEL_WIDTH * INPUTS;
  static constexpr int PER_CHUNK = CHUNK_BYTES / int(sizeof(Element));
  // Whether a chunk is neighbours of one tap that lie where 16 bytes can be read at once.
  static constexpr bool WHOLE = INPUTS % PER_CHUNK == 0 && CHANNELS % PER_CHUNK == 0;

  struct Row {
    const Element* image;
    int y, x;  // of its first input; far outside where there is no such row
  };

  static __device__ __forceinline__ Row row(const Element* input, int m) {
    if (m >= ROWS) return {input, -(1 << 20), 0};
    int place = m % (OUT_HEIGHT * OUT_WIDTH);
    return {input + m / (OUT_HEIGHT * OUT_WIDTH) * (HEIGHT * WIDTH * CHANNELS),
            place / OUT_WIDTH * Window::STRIDE_Y - Window::PAD_Y,
            place % OUT_WIDTH * Window::STRIDE_X - Window::PAD_X};
  }

  // Where input k of a row is; null where it is padding.
  static __device__ __forceinline__ const Element* find(const Row& row, int k) {
    int tap = k / INPUTS;
    int y = row.y + tap / KERNEL_WIDTH * Window::DILATION_Y;
    int x = row.x + tap % KERNEL_WIDTH * Window::DILATION_X;
    bool inside = k < DEPTH && unsigned(y) < unsigned(HEIGHT) && unsigned(x) < unsigned(WIDTH);
    return inside ? row.image + (y * WIDTH + x) * CHANNELS + k % INPUTS : nullptr;
  }

  // Bring the chunk that starts at input k; padding is `fill`.
  static __device__ __forceinline__ void stage(void* shared, const Row& row, int k, Element fill) {
    if (WHOLE) {
      const Element* source = find(row, k);
      if (source != nullptr) {
        copy_chunk(shared, source);
        return;
      }
    }
    alignas(CHUNK_BYTES) Element values[PER_CHUNK];
#pragma unroll
    for (int i = 0; i < PER_CHUNK; ++i) {
      const Element* source = WHOLE ? nullptr : find(row, k + i);
      values[i] = source == nullptr ? fill : *source;
    }
    *static_cast<uint4*>(shared) = *reinterpret_cast<const uint4*>(values);
  }
};

}  // namespace millifit
#endif
