// Signatures: Ed25519 over the bytes of the JSON file that all hashes hang from.
#ifndef MILLIFIT_NATIVE_RUNNER_SIGNATURE_H_
#define MILLIFIT_NATIVE_RUNNER_SIGNATURE_H_

#include <string>

namespace millifit {

// Throws Failure unless FILE.sig is the signature of `file` by the owner of the key, a PEM file,
// and where no OpenSSL is at hand.
void CheckSignature(const std::string& file, const std::string& public_key);

}  // namespace millifit

#endif
