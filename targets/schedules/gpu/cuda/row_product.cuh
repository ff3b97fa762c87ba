// A single row times a matrix: nothing is used twice, so each warp reads one channel's weights once,
// and its threads add up what each of them has.
#ifndef MILLIFIT_ROW_PRODUCT
#define MILLIFIT_ROW_PRODUCT

namespace millifit {

// The sum of one channel, in all threads of the warp. `weights` are its DEPTH inputs, a multiple of
// a chunk; the row has INPUTS of them.
template <typename Element, int INPUTS, int DEPTH>
__device__ __forceinline__ typename Numbers<Element>::Sum row_product(
    const Element* row, const typename Numbers<Element>::Weight* weights) {
  using Sum = typename Numbers<Element>::Sum;
  constexpr int PER_CHUNK = CHUNK_BYTES / int(sizeof(Element));
  Sum sum = Sum(0);
#pragma unroll 4
  for (int k = int(threadIdx.x) % 32 * PER_CHUNK; k < DEPTH; k += 32 * PER_CHUNK) {
    uint4 left, right;
    read<CHUNK_BYTES>(&right, weights + k);
    if (INPUTS % PER_CHUNK == 0) {
      read<CHUNK_BYTES>(&left, row + k);
    } else {
      Element values[PER_CHUNK];
#pragma unroll
      for (int i = 0; i < PER_CHUNK; ++i) values[i] = k + i < INPUTS ? row[k + i] : Element(0);
      memcpy(&left, values, CHUNK_BYTES);
    }
    sum = add_products<Element>(sizeof(Element) == 1 ? centred(left) : left, right, sum);
  }
#pragma unroll
  for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
  return sum;
}

}  // namespace millifit
#endif
