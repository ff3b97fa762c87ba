// A folder with one network for several targets; the same rules as ../../portfolio.py.
#ifndef MILLIFIT_NATIVE_RUNNER_PORTFOLIO_H_
#define MILLIFIT_NATIVE_RUNNER_PORTFOLIO_H_

#include <optional>
#include <string>
#include <vector>

#include "device.h"
#include "manifest.h"

namespace millifit {

struct Variant {
  std::string name;
  std::string manifest_hash;
  Needs needs;
  std::optional<double> latency_s;
};

struct Choice {
  std::string path;  // of the variant's bundle
  std::vector<std::string> refused;  // the others, each with the reason
};

// Whether the folder holds a portfolio.
bool IsPortfolio(const std::string& path);

// Its variants, the preferred one first. Throws Failure where it is damaged or changed.
std::vector<Variant> ReadPortfolio(const std::string& path);

// The variant for this device, its manifest compared with its hash. Throws Failure with the reasons
// where none fits.
Choice Choose(const std::string& path, Device* device);

}  // namespace millifit

#endif
