// SHA-256 by the SHA extensions of x86-64. Compiled for them, called where the processor has them.
#include <cpuid.h>
#include <immintrin.h>

#include "sha256.h"

namespace millifit {
namespace {

// Four rounds; `words` are the next four of the message schedule.
inline void FourRounds(__m128i* abef, __m128i* cdgh, __m128i words, int round) {
  const auto* constants = reinterpret_cast<const __m128i*>(kSha256Constants + round);
  __m128i sum = _mm_add_epi32(words, _mm_load_si128(constants));
  *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, sum);
  sum = _mm_shuffle_epi32(sum, 0x0E);
  *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, sum);
}

// w[t..t+3] of the message schedule from the sixteen words before.
inline __m128i NextWords(__m128i w16, __m128i w12, __m128i w8, __m128i w4) {
  const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w16, w12), _mm_alignr_epi8(w4, w8, 4));
  return _mm_sha256msg2_epu32(sum, w4);
}

void Compress(uint32_t* state, const uint8_t* data, size_t blocks) {
  const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  // The instructions keep the words as ABEF and CDGH.
  const __m128i dcba = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state));
  const __m128i hgfe = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4));
  const __m128i cdab = _mm_shuffle_epi32(dcba, 0xB1);
  const __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1B);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);
  for (; blocks > 0; --blocks, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) {
      const auto* four = reinterpret_cast<const __m128i*>(data + 16 * i);
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(four), swap);
      FourRounds(&abef, &cdgh, w[i], 4 * i);
    }
    for (int i = 4; i < 16; ++i) {
      w[i % 4] = NextWords(w[i % 4], w[(i + 1) % 4], w[(i + 2) % 4], w[(i + 3) % 4]);
      FourRounds(&abef, &cdgh, w[i % 4], 4 * i);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace

CompressBlocks CompressByInstructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool sse41 = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
  const bool sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
  return sse41 && sha ? Compress : nullptr;
}

}  // namespace millifit
