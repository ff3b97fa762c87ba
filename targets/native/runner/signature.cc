#include "signature.h"

#include "failure.h"
#include "mapped_file.h"
#include "manifest.h"

#ifdef MILLIFIT_OPENSSL
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <memory>

namespace millifit {
namespace {

struct Freed {
  void operator()(BIO* each) const { BIO_free(each); }
  void operator()(EVP_PKEY* each) const { EVP_PKEY_free(each); }
  void operator()(EVP_MD_CTX* each) const { EVP_MD_CTX_free(each); }
};

using Key = std::unique_ptr<EVP_PKEY, Freed>;

Key ReadKey(const std::string& path) {
  const MappedFile file = OpenOr(path, "the public key '" + path + "' cannot be read (%s)");
  const std::unique_ptr<BIO, Freed> text(
      BIO_new_mem_buf(file.data(), static_cast<int>(file.size())));
  Key key(text ? PEM_read_bio_PUBKEY(text.get(), nullptr, nullptr, nullptr) : nullptr);
  if (key && EVP_PKEY_id(key.get()) == EVP_PKEY_ED25519) return key;
  throw Failure("'" + path + "' is no public Ed25519 key in PEM: "
                "openssl pkey -in key.pem -pubout -out pub.pem");
}

}  // namespace

void CheckSignature(const std::string& path, const std::string& public_key) {
  const Key key = ReadKey(public_key);
  const MappedFile file = OpenOr(path, "'" + path + "' cannot be read (%s)");
  const MappedFile signature = OpenOr(path + ".sig", "'" + path + "' is not signed (%s): sign it with "
                                      "'millifit compile --sign', or run it without --public-key");
  const std::unique_ptr<EVP_MD_CTX, Freed> context(EVP_MD_CTX_new());
  const bool valid =
      context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.get()) == 1 &&
      EVP_DigestVerify(context.get(), signature.data(), signature.size(), file.data(),
                       file.size()) == 1;
  if (valid) return;
  throw Failure("'" + path + "' was not signed by the owner of '" + public_key +
                "', or was changed since: do not use it");
}

}  // namespace millifit

#else

namespace millifit {

void CheckSignature(const std::string&, const std::string&) {
  throw Failure("this millifit-run was built without OpenSSL and cannot check signatures: build it "
                "where OpenSSL's headers are (Debian: libssl-dev), or check with 'millifit verify "
                "--public-key'");
}

}  // namespace millifit

#endif
