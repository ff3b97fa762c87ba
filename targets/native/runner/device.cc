#include "device.h"

#include <sys/auxv.h>
#include <sys/utsname.h>

#include <cstdio>
#include <cstdlib>

#include "failure.h"
#include "network.h"

namespace millifit {
namespace {

// TVM's numbers of a device's attributes.
constexpr int64_t kExists = 0, kComputeVersion = 4, kDeviceName = 5;

using Flags = std::optional<std::set<std::string>>;

#if defined(__aarch64__)
struct Capability {
  unsigned long word;
  unsigned long bit;
  const char* flag;
};

// The kernel's own words rather than /proc/cpuinfo: emulators answer the one and not the other.
Flags ProbeFlags() {
  constexpr Capability kKnown[] = {
      {AT_HWCAP, 1, "asimd"},         {AT_HWCAP, 9, "fphp"},   {AT_HWCAP, 10, "asimdhp"},
      {AT_HWCAP, 20, "asimddp"},      {AT_HWCAP, 22, "sve"},   {AT_HWCAP, 8, "atomics"},
      {AT_HWCAP2, 13, "i8mm"},        {AT_HWCAP2, 14, "bf16"}, {AT_HWCAP2, 1, "sve2"},
  };
  std::set<std::string> flags;
  for (const Capability& each : kKnown) {
    if (getauxval(each.word) >> each.bit & 1) flags.insert(each.flag);
  }
  return flags;
}
#else
Flags ProbeFlags() {
  std::FILE* file = std::fopen("/proc/cpuinfo", "r");
  if (file == nullptr) return std::nullopt;
  char* line = nullptr;
  size_t room = 0;
  Flags flags;
  // The cores of these processors are alike: the first one's line is enough, and quickly read.
  while (!flags && getline(&line, &room, file) > 0) {
    const std::string text(line);
    if (text.rfind("flags", 0) != 0 || text.find(':') == std::string::npos) continue;
    flags.emplace();
    for (size_t at = text.find(':') + 1; at < text.size();) {
      const size_t start = text.find_first_not_of(" \t\n", at);
      if (start == std::string::npos) break;
      at = text.find_first_of(" \t\n", start);
      flags->insert(text.substr(start, at - start));
    }
  }
  std::free(line);
  std::fclose(file);
  return flags;
}
#endif

std::string Machine() {
  struct utsname name {};
  return uname(&name) == 0 ? name.machine : "unknown";
}

int Version(const std::string& arch) {
  return arch.rfind("sm_", 0) == 0 ? std::atoi(arch.c_str() + 3) : 0;
}

// Machine code of CUDA runs on GPUs of the same major version, from its own minor version on;
// that of "sm_90a" on the very same.
bool Runs(const std::string& built, const std::string& there) {
  const int wanted = Version(built), found = Version(there);
  if (!built.empty() && built.back() == 'a') return wanted == found;
  return found >= wanted && found / 10 == wanted / 10;
}

std::string TextOf(const Value& value) {
  const TVMFFIAny& any = value.any();
  if (any.type_index == kTVMFFISmallStr) {
    const TVMFFIByteArray bytes = TVMFFISmallBytesGetContentByteArray(&any);
    return std::string(bytes.data, bytes.size);
  }
  if (any.type_index != kTVMFFIStr) return "";
  const TVMFFIByteArray* bytes = TVMFFIBytesGetByteArrayPtr(any.v_obj);
  return std::string(bytes->data, bytes->size);
}

std::vector<Gpu> ProbeCuda(const Tvm& tvm) {
  auto attribute = [&](int64_t which) {
    return tvm.Run("runtime.GetDeviceAttr", int64_t{kDLCUDA}, int64_t{0}, which);
  };
  const Value exists = attribute(kExists);
  if (exists.any().type_index == kTVMFFINone || exists.any().v_int64 == 0) return {};
  Gpu gpu;
  gpu.name = TextOf(attribute(kDeviceName));
  gpu.arch = "sm_";
  for (const char c : TextOf(attribute(kComputeVersion))) {
    if (c != '.') gpu.arch += c;
  }
  return {gpu};
}

std::vector<Gpu> ProbeOpenCl(const Tvm& tvm) {
  std::vector<Gpu> gpus;
  const Json found = Json::Parse(TextOf(tvm.Run("millifit.opencl.devices")));
  for (const Json& each : found.Array()) {
    Gpu gpu;
    gpu.index = static_cast<int>(gpus.size());
    gpu.name = each.At("name").String();
    gpu.half = each.At("extensions").String().find("cl_khr_fp16") != std::string::npos;
    gpus.push_back(gpu);
  }
  return gpus;
}

// Empty where the GPU runs the code, else the reason why not.
std::string WhyNotGpu(const Needs& needs, const Gpu& gpu) {
  if (needs.api == "cuda" && !Runs(needs.arch, gpu.arch)) {
    return "it is for " + needs.arch + ", this GPU is " + gpu.arch;
  }
  if (needs.half && !gpu.half) {
    return "the OpenCL device '" + gpu.name + "' has no arithmetic in half precision";
  }
  return "";
}

}  // namespace

Device::Device(const Tvm& tvm) : tvm_(tvm), machine_(Machine()), flags_(ProbeFlags()) {}

const std::vector<Gpu>& Device::Gpus(const std::string& api) {
  const auto known = gpus_.find(api);
  if (known != gpus_.end()) return known->second;
  LoadGpuRuntime(tvm_, api);
  return gpus_[api] = api == "cuda" ? ProbeCuda(tvm_) : ProbeOpenCl(tvm_);
}

const Gpu* Device::FindGpu(const Needs& needs) {
  const Gpu* found = nullptr;
  if (needs.api.empty()) return found;
  for (const Gpu& each : Gpus(needs.api)) {
    if (!WhyNotGpu(needs, each).empty()) continue;
    if (found == nullptr || each.name == needs.gpu_name) found = &each;
  }
  return found;
}

std::string Device::WhyNot(const Needs& needs) {
  if (needs.machine != machine_) {
    return "it is for " + needs.machine + ", this device is " + machine_;
  }
  std::string missing;
  for (const std::string& flag : needs.flags) {
    if (flags_ && flags_->count(flag) == 0) missing += (missing.empty() ? "" : ", ") + flag;
  }
  if (!missing.empty()) return "this processor lacks " + missing;
  if (needs.api.empty()) return "";
  const std::vector<Gpu>& gpus = Gpus(needs.api);
  if (gpus.empty()) return "no " + needs.api + " device is reachable here";
  return FindGpu(needs) == nullptr ? WhyNotGpu(needs, gpus[0]) : "";
}

}  // namespace millifit
