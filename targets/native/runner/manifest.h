// What a bundle says of itself; ../../manifest.py has what each part means.
#ifndef MILLIFIT_NATIVE_RUNNER_MANIFEST_H_
#define MILLIFIT_NATIVE_RUNNER_MANIFEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "array.h"
#include "json.h"
#include "mapped_file.h"

namespace millifit {

constexpr size_t kAlignment = 64;  // of every operand in weights.bin

// What code needs of a device.
struct Needs {
  std::string machine;
  std::vector<std::string> flags;
  std::string api;   // "opencl", "cuda", or empty for a processor
  std::string gpu_name;
  std::string arch;  // CUDA's, e.g. "sm_90"
  bool half = false;  // arithmetic in half precision
};

struct Manifest {
  std::string name;
  std::string target;
  Needs needs;
  int threads = 1;
  TensorType input;
  std::vector<TensorType> outputs;
  std::vector<TensorType> weights;
  std::string golden_by;
  double tolerance = 0;
};

struct Bundle {
  std::string path;
  Manifest manifest;
  MappedFile library;
  MappedFile weights;
  MappedFile golden;
};

// The object in a sealed JSON file. Throws Failure where it is damaged, changed
// or of another schema. `what` is how messages call it, e.g. "the manifest of bundle 'b'".
Json ReadSealed(const MappedFile& file, const std::string& what, int64_t schema);

// Needs as a manifest or a portfolio holds them; throws ParseFailure.
Needs ParseNeeds(const Json& plain);

// The manifest of the bundle in that folder, and its files, each compared with its hash.
Manifest ReadManifest(const std::string& path);
Bundle OpenBundle(const std::string& path);

// The file, or a Failure that says what could not be read and what to do.
MappedFile OpenOr(const std::string& path, const std::string& complaint);

}  // namespace millifit

#endif
