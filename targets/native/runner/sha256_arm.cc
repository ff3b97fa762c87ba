// SHA-256 by the cryptography extensions of ARMv8. Called where the processor has them.
#include <arm_neon.h>
#include <sys/auxv.h>

#include "sha256.h"

namespace millifit {
namespace {

constexpr unsigned long kHasSha2 = 1UL << 6;  // HWCAP_SHA2 of asm/hwcap.h

inline void FourRounds(uint32x4_t* abcd, uint32x4_t* efgh, uint32x4_t words, int round) {
  const uint32x4_t sum = vaddq_u32(words, vld1q_u32(kSha256Constants + round));
  const uint32x4_t abcd_before = *abcd;
  *abcd = vsha256hq_u32(*abcd, *efgh, sum);
  *efgh = vsha256h2q_u32(*efgh, abcd_before, sum);
}

void Compress(uint32_t* state, const uint8_t* data, size_t blocks) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; blocks > 0; --blocks, data += 64) {
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    uint32x4_t w[4];
    for (int i = 0; i < 4; ++i) {
      w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
      FourRounds(&abcd, &efgh, w[i], 4 * i);
    }
    for (int i = 4; i < 16; ++i) {
      const uint32x4_t partial = vsha256su0q_u32(w[i % 4], w[(i + 1) % 4]);
      w[i % 4] = vsha256su1q_u32(partial, w[(i + 2) % 4], w[(i + 3) % 4]);
      FourRounds(&abcd, &efgh, w[i % 4], 4 * i);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

}  // namespace

CompressBlocks CompressByInstructions() {
  return (getauxval(AT_HWCAP) & kHasSha2) != 0 ? Compress : nullptr;
}

}  // namespace millifit
