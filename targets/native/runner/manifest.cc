#include "manifest.h"

#include <cstdlib>
#include <cstring>
#include <future>
#include <system_error>

#include "failure.h"
#include "sha256.h"

namespace millifit {
namespace {

constexpr int64_t kSchema = 2;
constexpr const char* kFiles[] = {"library.so", "weights.bin", "golden.npz"};

TensorType ParseType(const Json& plain) {
  TensorType type;
  for (const Json& extent : plain.At("shape").Array()) type.shape.push_back(extent.Integer());
  type.dtype = plain.At("dtype").String();
  type.Bytes();  // throws where it makes no sense
  return type;
}

std::vector<TensorType> ParseTypes(const Json& plain) {
  std::vector<TensorType> types;
  for (const Json& each : plain.Array()) types.push_back(ParseType(each));
  return types;
}

Manifest ParseManifest(const Json& plain) {
  Manifest made;
  made.name = plain.At("name").String();
  made.target = plain.At("target").At("name").String();
  made.threads = static_cast<int>(plain.At("target").At("threads").Integer());
  made.needs = ParseNeeds(plain.At("needs"));
  made.input = ParseType(plain.At("input"));
  made.outputs = ParseTypes(plain.At("outputs"));
  made.weights = ParseTypes(plain.At("weights"));
  made.golden_by = plain.At("golden").At("made_by").String();
  made.tolerance = plain.At("golden").At("tolerance").Number();
  return made;
}

std::string HashOf(const Json& plain, const char* name) {
  return plain.At("files").At(name).String();
}

void CheckNames(const Json& plain) {
  for (const auto& [name, hash] : plain.At("files").Members()) {
    bool known = false;
    for (const char* file : kFiles) known = known || name == file;
    if (!known) throw ParseFailure("a bundle has no file '" + name + "'");
  }
}

Json ReadPlain(const std::string& path) {
  const MappedFile file = OpenOr(path + "/manifest.json",
                                 "'" + path + "' is no bundle: manifest.json cannot be read (%s). "
                                 "Name the folder that 'millifit compile' wrote");
  const std::string what = "the manifest of bundle '" + path + "'";
  Json plain = ReadSealed(file, what, kSchema);
  try {
    CheckNames(plain);
  } catch (const ParseFailure& failure) {
    throw Failure(what + " is damaged (" + failure.what() + "): compile the bundle again");
  }
  return plain;
}

Manifest Parsed(const Json& plain, const std::string& path) {
  try {
    return ParseManifest(plain);
  } catch (const ParseFailure& failure) {
    throw Failure("the manifest of bundle '" + path + "' is damaged (" + failure.what() +
                  "): compile the bundle again");
  }
}

MappedFile OpenPart(const std::string& path, const char* name) {
  return OpenOr(path + "/" + name, "bundle '" + path + "' is incomplete: " + name + " (%s)");
}

// `hash` is still being computed.
void Compare(const std::string& path, const Json& plain, const char* name,
             std::future<std::string>* hash) {
  std::string wanted;
  try {
    wanted = HashOf(plain, name);
  } catch (const ParseFailure&) {
    throw Failure("bundle '" + path + "' is incomplete: " + name + " has no hash in its manifest");
  }
  if (hash->get() == wanted) return;
  throw Failure("bundle '" + path + "' was changed after it was written: " + name +
                " does not match its sha256. Do not use it; compile the bundle again.");
}

std::future<std::string> Hash(const MappedFile& file, std::launch how) {
  return std::async(how, [data = file.data(), size = file.size()] { return Sha256(data, size); });
}

}  // namespace

MappedFile OpenOr(const std::string& path, const std::string& complaint) {
  try {
    return MappedFile(path);
  } catch (const std::system_error& error) {
    const size_t at = complaint.find("%s");
    std::string said = complaint;
    throw Failure(said.replace(at, 2, std::strerror(error.code().value())));
  }
}

Needs ParseNeeds(const Json& plain) {
  Needs needs;
  needs.machine = plain.At("machine").String();
  for (const Json& flag : plain.At("flags").Array()) needs.flags.push_back(flag.String());
  if (const Json* gpu = plain.Find("gpu")) {
    needs.api = gpu->At("api").String();
    if (needs.api != "opencl" && needs.api != "cuda") {
      throw ParseFailure("'gpu' is of an unknown API");
    }
    needs.gpu_name = gpu->At("name").String();
    needs.arch = gpu->At("arch").String();
    for (const Json& each : gpu->At("features").Array()) {
      needs.half = needs.half || each.String() == "fp16";
    }
  }
  return needs;
}

Json ReadSealed(const MappedFile& file, const std::string& what, int64_t schema) {
  // As ../../seal.py writes it: the hash of the text with zeros in the hash's place, at the end.
  constexpr std::string_view kBefore = "\"sha256\": \"", kAfter = "\"\n}\n";
  Json plain;
  try {
    plain = Json::Parse(file.text());
    if (const int64_t found = plain.At("schema").Integer(); found != schema) {
      throw Failure(what + Text(" has schema %lld, this runner reads %lld: compile it again",
                                static_cast<long long>(found), static_cast<long long>(schema)));
    }
  } catch (const ParseFailure& failure) {
    throw Failure(what + " is damaged (" + failure.what() + "): compile the bundle again");
  }
  std::string text(file.text());
  const size_t tail = 64 + kAfter.size(), head = tail + kBefore.size();
  bool same = text.size() > head &&
              text.compare(text.size() - head, kBefore.size(), kBefore) == 0 &&
              text.compare(text.size() - kAfter.size(), kAfter.size(), kAfter) == 0;
  if (same) {
    const std::string said = text.substr(text.size() - tail, 64);
    text.replace(text.size() - tail, 64, 64, '0');
    same = said == Sha256(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
  if (same) return plain;
  throw Failure(what + " was changed after it was written: " + file.path() +
                " does not match its sha256. Do not use it; compile the bundle again.");
}

Manifest ReadManifest(const std::string& path) { return Parsed(ReadPlain(path), path); }

Bundle OpenBundle(const std::string& path) {
  const Json plain = ReadPlain(path);
  Bundle bundle{path, Parsed(plain, path), OpenPart(path, kFiles[0]), OpenPart(path, kFiles[1]),
                OpenPart(path, kFiles[2])};
  // Weights are most of the bytes: another core hashes them meanwhile.
  std::future<std::string> hashes[] = {Hash(bundle.library, std::launch::deferred),
                                       Hash(bundle.weights, std::launch::async),
                                       Hash(bundle.golden, std::launch::deferred)};
  for (int i : {0, 2, 1}) Compare(path, plain, kFiles[i], &hashes[i]);
  return bundle;
}

}  // namespace millifit
