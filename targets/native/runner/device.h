// What this device is, and whether it runs a bundle's code; the rules of ../../device_facts.py.
#ifndef MILLIFIT_NATIVE_RUNNER_DEVICE_H_
#define MILLIFIT_NATIVE_RUNNER_DEVICE_H_

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "manifest.h"
#include "tvm.h"

namespace millifit {

struct Gpu {
  int index = 0;  // its number in TVM
  std::string name;
  std::string arch;  // CUDA's, e.g. "sm_90"
  bool half = true;  // arithmetic in half precision
};

class Device {
 public:
  explicit Device(const Tvm& tvm);

  // Empty where the device runs code of these needs, else the reason why not.
  std::string WhyNot(const Needs& needs);

  // The GPU that code of these needs runs on, the named one first; null for code of a processor and
  // where WhyNot has a reason.
  const Gpu* FindGpu(const Needs& needs);

  const std::string& machine() const { return machine_; }

 private:
  const std::vector<Gpu>& Gpus(const std::string& api);

  const Tvm& tvm_;
  std::string machine_;
  std::optional<std::set<std::string>> flags_;
  std::map<std::string, std::vector<Gpu>> gpus_;
};

}  // namespace millifit

#endif
