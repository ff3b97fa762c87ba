// SHA-256 (FIPS 180-4), by the processor's own instructions where it has them.
#ifndef MILLIFIT_NATIVE_RUNNER_SHA256_H_
#define MILLIFIT_NATIVE_RUNNER_SHA256_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace millifit {

// Adds blocks of 64 bytes to a state of eight words.
using CompressBlocks = void (*)(uint32_t* state, const uint8_t* data, size_t blocks);

// The one in plain C++, and that of this processor's instructions; null where it has none.
void CompressPortably(uint32_t* state, const uint8_t* data, size_t blocks);
CompressBlocks CompressByInstructions();

extern const uint32_t kSha256Constants[64];

// The hash in hexadecimal digits.
std::string Sha256(const uint8_t* data, size_t size);
std::string Sha256(const uint8_t* data, size_t size, CompressBlocks compress);

}  // namespace millifit

#endif
