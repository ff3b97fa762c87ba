#include "device.h"

#include <sys/auxv.h>
#include <sys/utsname.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

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

std::optional<Gpu> ProbeGpu(const Tvm& tvm, const std::string& api) {
  LoadGpuRuntime(tvm, api);
  const int64_t type = api == "cuda" ? kDLCUDA : kDLOpenCL;
  const DLDevice device{static_cast<DLDeviceType>(type), 0};
  const Value exists = tvm.Run("runtime.GetDeviceAttr", device, kExists);
  if (exists.any().type_index == kTVMFFINone || exists.any().v_int64 == 0) return std::nullopt;
  Gpu gpu;
  gpu.name = TextOf(tvm.Run("runtime.GetDeviceAttr", device, kDeviceName));
  if (api == "cuda") {
    const std::string version = TextOf(tvm.Run("runtime.GetDeviceAttr", device, kComputeVersion));
    gpu.arch = "sm_";
    for (const char c : version) {
      if (c != '.') gpu.arch += c;
    }
  }
  return gpu;
}

}  // namespace

Device::Device(const Tvm& tvm) : tvm_(tvm), machine_(Machine()), flags_(ProbeFlags()) {}

const std::optional<Gpu>& Device::FindGpu(const std::string& api) {
  const auto known = gpus_.find(api);
  return known != gpus_.end() ? known->second : gpus_[api] = ProbeGpu(tvm_, api);
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
  const std::optional<Gpu>& gpu = FindGpu(needs.api);
  if (!gpu) return "no " + needs.api + " device is reachable here";
  if (needs.api == "cuda" && !Runs(needs.arch, gpu->arch)) {
    return "it is for " + needs.arch + ", this GPU is " + gpu->arch;
  }
  if (needs.half && !gpu->half) {
    return "the OpenCL device '" + gpu->name + "' has no arithmetic in half precision";
  }
  return "";
}

}  // namespace millifit
