#include "sha256.h"

#include <cstring>

#include "failure.h"

namespace millifit {

alignas(16) const uint32_t kSha256Constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

namespace {

uint32_t Rotated(uint32_t x, int n) { return x >> n | x << (32 - n); }

uint32_t BigEndian(const uint8_t* p) {
  return static_cast<uint32_t>(p[0]) << 24 | static_cast<uint32_t>(p[1]) << 16 |
         static_cast<uint32_t>(p[2]) << 8 | p[3];
}

void Schedule(const uint8_t* block, uint32_t* w) {
  for (int t = 0; t < 16; ++t) w[t] = BigEndian(block + 4 * t);
  for (int t = 16; t < 64; ++t) {
    const uint32_t s0 = Rotated(w[t - 15], 7) ^ Rotated(w[t - 15], 18) ^ w[t - 15] >> 3;
    const uint32_t s1 = Rotated(w[t - 2], 17) ^ Rotated(w[t - 2], 19) ^ w[t - 2] >> 10;
    w[t] = w[t - 16] + s0 + w[t - 7] + s1;
  }
}

// One round; instead of moving eight words on, `shift` says how far they would have moved.
inline void Round(uint32_t* v, int shift, uint32_t added) {
  auto word = [&](int i) -> uint32_t& { return v[(i - shift) & 7]; };
  const uint32_t a = word(0), b = word(1), c = word(2), e = word(4), f = word(5), g = word(6);
  const uint32_t s1 = Rotated(e, 6) ^ Rotated(e, 11) ^ Rotated(e, 25);
  const uint32_t one = word(7) + s1 + (g ^ (e & (f ^ g))) + added;
  const uint32_t s0 = Rotated(a, 2) ^ Rotated(a, 13) ^ Rotated(a, 22);
  word(3) += one;
  word(7) = one + s0 + ((a & b) | (c & (a | b)));
}

}  // namespace

void CompressPortably(uint32_t* state, const uint8_t* data, size_t blocks) {
  for (; blocks > 0; --blocks, data += 64) {
    uint32_t w[64];
    Schedule(data, w);
    uint32_t v[8];  // a to h
    std::memcpy(v, state, sizeof v);
    for (int t = 0; t < 64; t += 8) {
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) Round(v, j, kSha256Constants[t + j] + w[t + j]);
    }
    for (int i = 0; i < 8; ++i) state[i] += v[i];
  }
}

std::string Sha256(const uint8_t* data, size_t size, CompressBlocks compress) {
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  compress(state, data, size / 64);
  uint8_t end[128] = {};
  const size_t rest = size % 64;
  if (rest > 0) std::memcpy(end, data + size - rest, rest);
  end[rest] = 0x80;
  const size_t blocks = rest < 56 ? 1 : 2;
  const uint64_t bits = static_cast<uint64_t>(size) * 8;
  for (int i = 0; i < 8; ++i) end[blocks * 64 - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  compress(state, end, blocks);
  std::string digits;
  for (const uint32_t word : state) digits += Text("%08x", word);
  return digits;
}

std::string Sha256(const uint8_t* data, size_t size) {
  static const CompressBlocks fast = CompressByInstructions();
  return Sha256(data, size, fast != nullptr ? fast : CompressPortably);
}

}  // namespace millifit
