#include "signature.h"

#include <dlfcn.h>

#include <array>
#include <cstring>
#include <memory>

#include "failure.h"
#include "manifest.h"
#include "mapped_file.h"

namespace millifit {
namespace {

// Of OpenSSL, all that is used; opened when a key is given, so that most devices do without it.
struct Crypto {
  void* (*EVP_PKEY_new_raw_public_key)(int, void*, const unsigned char*, size_t);
  void (*EVP_PKEY_free)(void*);
  void* (*EVP_MD_CTX_new)();
  void (*EVP_MD_CTX_free)(void*);
  int (*EVP_DigestVerifyInit)(void*, void**, const void*, void*, void*);
  int (*EVP_DigestVerify)(void*, const unsigned char*, size_t, const unsigned char*, size_t);
};

constexpr int kEd25519 = 1087;  // NID_ED25519 of openssl/obj_mac.h
constexpr size_t kKeyBytes = 32, kSignatureBytes = 64;
// SubjectPublicKeyInfo of an Ed25519 key is this and the key (RFC 8410, section 4).
constexpr uint8_t kBefore[] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                               0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

using Key = std::array<uint8_t, kKeyBytes>;

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

Crypto OpenCrypto() {
  for (const char* name : {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"}) {
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    Crypto found{};
    if (library != nullptr &&
        Find(library, "EVP_PKEY_new_raw_public_key", &found.EVP_PKEY_new_raw_public_key) &&
        Find(library, "EVP_PKEY_free", &found.EVP_PKEY_free) &&
        Find(library, "EVP_MD_CTX_new", &found.EVP_MD_CTX_new) &&
        Find(library, "EVP_MD_CTX_free", &found.EVP_MD_CTX_free) &&
        Find(library, "EVP_DigestVerifyInit", &found.EVP_DigestVerifyInit) &&
        Find(library, "EVP_DigestVerify", &found.EVP_DigestVerify)) {
      return found;
    }
  }
  throw Failure("signatures are checked by OpenSSL's libcrypto, which is not on this device: "
                "install OpenSSL 1.1.1 or newer here, or check with 'millifit verify --public-key' "
                "elsewhere");
}

// The bytes of the first block of a PEM file, none where there is no whole one.
std::string DecodePem(std::string_view text) {
  constexpr std::string_view kFirst = "-----BEGIN PUBLIC KEY-----";
  constexpr std::string_view kLast = "-----END PUBLIC KEY-----";
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const size_t start = text.find(kFirst), end = text.find(kLast);
  if (start == std::string_view::npos || end == std::string_view::npos || end < start) return "";
  std::string bytes;
  uint32_t bits = 0;
  int held = 0;
  for (const char c : text.substr(start + kFirst.size(), end - start - kFirst.size())) {
    const size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) continue;  // ends of lines and padding
    bits = bits << 6 | static_cast<uint32_t>(digit);
    held += 6;
    if (held < 8) continue;
    held -= 8;
    bytes.push_back(static_cast<char>(bits >> held & 0xFF));
  }
  return bytes;
}

Key ReadKey(const std::string& path) {
  const MappedFile file = OpenOr(path, "the public key '" + path + "' cannot be read (%s)");
  const std::string bytes = DecodePem(file.text());
  if (bytes.size() != sizeof kBefore + kKeyBytes ||
      std::memcmp(bytes.data(), kBefore, sizeof kBefore) != 0) {
    throw Failure("'" + path + "' is no public Ed25519 key in PEM: "
                  "openssl pkey -in key.pem -pubout -out pub.pem");
  }
  Key key;
  std::memcpy(key.data(), bytes.data() + sizeof kBefore, kKeyBytes);
  return key;
}

bool IsValid(const Crypto& crypto, const Key& bytes, const MappedFile& signature,
             const MappedFile& file) {
  const std::unique_ptr<void, void (*)(void*)> key(
      crypto.EVP_PKEY_new_raw_public_key(kEd25519, nullptr, bytes.data(), bytes.size()),
      crypto.EVP_PKEY_free);
  const std::unique_ptr<void, void (*)(void*)> context(crypto.EVP_MD_CTX_new(),
                                                       crypto.EVP_MD_CTX_free);
  return key && context && signature.size() == kSignatureBytes &&
         crypto.EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
         crypto.EVP_DigestVerify(context.get(), signature.data(), signature.size(), file.data(),
                                 file.size()) == 1;
}

}  // namespace

void CheckSignature(const std::string& path, const std::string& public_key) {
  const Key key = ReadKey(public_key);
  const Crypto crypto = OpenCrypto();
  const MappedFile file = OpenOr(path, "'" + path + "' cannot be read (%s)");
  const MappedFile signature =
      OpenOr(path + ".sig", "'" + path + "' is not signed (%s): sign it with 'millifit compile "
                            "--sign', or run it without --public-key");
  if (IsValid(crypto, key, signature, file)) return;
  throw Failure("'" + path + "' was not signed by the owner of '" + public_key +
                "', or was changed since: do not use it");
}

}  // namespace millifit
