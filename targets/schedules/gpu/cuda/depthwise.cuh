// Depthwise convolution: a thread has some neighbouring channels of some neighbouring columns.
#ifndef MILLIFIT_DEPTHWISE
#define MILLIFIT_DEPTHWISE

namespace millifit {

template <typename Element>
__device__ __forceinline__ float real(Element value, float) { return float(value); }
__device__ __forceinline__ float real(half value, float) { return __half2float(value); }
__device__ __forceinline__ int real(unsigned char value, int zero_point) {
  return int(value) - zero_point;
}

// sums[column][channel] of LANES channels from `channel`, COLUMNS columns from x, in row y of an
// image. Weights are [tap][CHANNELS]; what lies outside the map adds nothing.
template <typename Element, int HEIGHT, int WIDTH, int CHANNELS, int KERNEL_HEIGHT,
          int KERNEL_WIDTH, typename Window, int LANES, int COLUMNS>
__device__ __forceinline__ void depthwise(
    typename Numbers<Element>::Sum* sums, const Element* image,
    const typename Numbers<Element>::Weight* weights, int y, int x, int channel,
    typename Numbers<Element>::Sum zero_point) {
  using Weight = typename Numbers<Element>::Weight;
  using Sum = typename Numbers<Element>::Sum;
#pragma unroll
  for (int i = 0; i < COLUMNS * LANES; ++i) sums[i] = Sum(0);
  int top = y * Window::STRIDE_Y - Window::PAD_Y, left = x * Window::STRIDE_X - Window::PAD_X;
#pragma unroll
  for (int ky = 0; ky < KERNEL_HEIGHT; ++ky) {
    int row = top + ky * Window::DILATION_Y;
    if (unsigned(row) >= unsigned(HEIGHT)) continue;
#pragma unroll
    for (int kx = 0; kx < KERNEL_WIDTH; ++kx) {
      Weight weight[LANES];
      read<LANES * int(sizeof(Weight))>(weight,
                                        weights + (ky * KERNEL_WIDTH + kx) * CHANNELS + channel);
#pragma unroll
      for (int i = 0; i < COLUMNS; ++i) {
        int column = left + i * Window::STRIDE_X + kx * Window::DILATION_X;
        if (unsigned(column) >= unsigned(WIDTH)) continue;
        Element values[LANES];
        read<LANES * int(sizeof(Element))>(values,
                                           image + (row * WIDTH + column) * CHANNELS + channel);
#pragma unroll
        for (int lane = 0; lane < LANES; ++lane)
          sums[i * LANES + lane] += real(values[lane], zero_point) * Sum(weight[lane]);
      }
    }
  }
}

}  // namespace millifit
#endif
