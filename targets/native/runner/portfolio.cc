#include "portfolio.h"

#include <unistd.h>

#include <cctype>

#include "failure.h"
#include "sha256.h"

namespace millifit {
namespace {

constexpr int64_t kSchema = 1;

// A name of a folder in variants/ and of nothing else.
bool IsPlainName(const std::string& name) {
  if (name.empty() || name[0] == '.') return false;
  for (const char c : name) {
    const bool letter = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (!letter && c != '.' && c != '_' && c != '-') return false;
  }
  return true;
}

Variant ParseVariant(const Json& plain) {
  Variant variant;
  variant.name = plain.At("name").String();
  if (!IsPlainName(variant.name)) {
    throw ParseFailure("'" + variant.name + "' is no name of a variant");
  }
  variant.manifest_hash = plain.At("manifest_sha256").String();
  variant.needs = ParseNeeds(plain.At("needs"));
  if (const Json* latency = plain.Find("latency")) {
    variant.latency_s = latency->At("median_s").Number();
  }
  return variant;
}

// "adreno 640" is of the family "adreno".
std::string Family(const std::string& gpu_name) {
  std::string word;
  for (const char c : gpu_name) {
    if (!std::isalpha(static_cast<unsigned char>(c))) break;
    word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return word;
}

bool IsOfAnotherFamily(const Variant& variant, Device* device) {
  const std::string family = Family(variant.needs.gpu_name);
  if (variant.needs.api.empty() || family.empty()) return false;
  std::string there;
  for (const char c : device->FindGpu(variant.needs)->name) {
    there += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return there.find(family) == std::string::npos;
}

std::string WhyNot(const Variant& variant, Device* device) {
  try {
    return device->WhyNot(variant.needs);
  } catch (const Failure& failure) {
    return failure.what();
  }
}

const Variant* Best(const std::vector<const Variant*>& fitting) {
  const Variant* best = fitting.front();
  for (const Variant* each : fitting) {
    if (!each->latency_s) return fitting.front();
    if (*each->latency_s < *best->latency_s) best = each;
  }
  return best;
}

void CheckManifest(const std::string& path, const Variant& variant, const std::string& bundle) {
  const MappedFile file = OpenOr(bundle + "/manifest.json", "portfolio '" + path +
                                 "' is incomplete: the manifest of '" + variant.name + "' (%s)");
  if (Sha256(file.data(), file.size()) == variant.manifest_hash) return;
  throw Failure("portfolio '" + path + "' was changed after it was written: the manifest of '" +
                variant.name + "' does not match its sha256. Do not use it; compile it again.");
}

}  // namespace

bool IsPortfolio(const std::string& path) {
  return access((path + "/portfolio.json").c_str(), F_OK) == 0;
}

std::vector<Variant> ReadPortfolio(const std::string& path) {
  const MappedFile file =
      OpenOr(path + "/portfolio.json",
             "'" + path + "' is no portfolio: portfolio.json cannot be read (%s)");
  const std::string what = "the list of portfolio '" + path + "'";
  const Json plain = ReadSealed(file, what, kSchema);
  try {
    std::vector<Variant> variants;
    for (const Json& each : plain.At("variants").Array()) variants.push_back(ParseVariant(each));
    return variants;
  } catch (const ParseFailure& failure) {
    throw Failure(what + " is damaged (" + failure.what() + "): compile it again");
  }
}

Choice Choose(const std::string& path, Device* device) {
  const std::vector<Variant> variants = ReadPortfolio(path);
  Choice choice;
  std::vector<const Variant*> fitting, of_the_family;
  std::string reasons;
  for (const Variant& variant : variants) {
    const std::string reason = WhyNot(variant, device);
    if (!reason.empty()) {
      choice.refused.push_back(variant.name + ": " + reason);
      reasons += "\n  " + choice.refused.back();
      continue;
    }
    fitting.push_back(&variant);
    if (!IsOfAnotherFamily(variant, device)) of_the_family.push_back(&variant);
  }
  if (fitting.empty()) {
    throw Failure("no variant of portfolio '" + path + "' runs on this device:" + reasons +
                  "\nCompile it for this device, too: millifit compile MODEL --target A,B "
                  "--portfolio --out OUT");
  }
  const Variant* best = Best(of_the_family.empty() ? fitting : of_the_family);
  choice.path = path + "/variants/" + best->name;
  CheckManifest(path, *best, choice.path);
  return choice;
}

}  // namespace millifit
