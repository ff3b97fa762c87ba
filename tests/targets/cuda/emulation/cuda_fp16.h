// Half precision in memory; arithmetic in float, rounded after every operation.
#pragma once
#include "cuda.h"

namespace emulation {
inline float widened(uint16_t bits) {
  uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // A half is a float whose exponent is 112 less; the product also makes denormal numbers right.
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
}

inline uint16_t narrowed(float value) {
  uint32_t bits = __float_as_uint(value), sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (bits >= 0x477ff000) return uint16_t(sign | 0x7c00);
  if (bits < 0x38800000) {  // denormal: the sum's last bits are the result, rounded to even
    float sum = __uint_as_float(bits) + 0.5f;
    return uint16_t(sign | (__float_as_uint(sum) - 0x3f000000));
  }
  bits += 0xfff + (bits >> 13 & 1);
  return uint16_t(sign | ((bits >> 13) - (112 << 10)));
}
}  // namespace emulation

struct half {
  uint16_t bits;
  half() = default;
  half(float value) : bits(emulation::narrowed(value)) {}
  half(double value) : half(float(value)) {}
  half(int value) : half(float(value)) {}
  operator float() const { return emulation::widened(bits); }
  half& operator+=(half other) { return *this = half(float(*this) + float(other)); }
};
using __half = half;
#define ARITHMETIC(op) \
  inline half operator op(half a, half b) { return half(float(a) op float(b)); }
ARITHMETIC(+)
ARITHMETIC(-)
ARITHMETIC(*)
ARITHMETIC(/)
#undef ARITHMETIC
#define COMPARISON(op) \
  inline bool operator op(half a, half b) { return float(a) op float(b); }
COMPARISON(<)
COMPARISON(>)
COMPARISON(<=)
COMPARISON(>=)
COMPARISON(==)
COMPARISON(!=)
#undef COMPARISON

inline float __half2float(half value) { return float(value); }
inline half __float2half_rn(float value) { return half(value); }
inline half __float2half(float value) { return half(value); }
inline half __hmax(half a, half b) { return float(a) > float(b) ? a : b; }
inline half __hmin(half a, half b) { return float(a) < float(b) ? a : b; }
inline bool __hgt(half a, half b) { return a > b; }
inline bool __hlt(half a, half b) { return a < b; }
inline half __ushort_as_half(unsigned short bits) { half v; v.bits = bits; return v; }
inline unsigned short __half_as_ushort(half value) { return value.bits; }
struct alignas(4) half2 { half x, y; };
using __half2 = half2;
inline half2 make_half2(half x, half y) { return {x, y}; }
inline half2 __halves2half2(half x, half y) { return {x, y}; }
