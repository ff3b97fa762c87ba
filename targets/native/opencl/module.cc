// TVM modules of kind "opencl": loading them, and launching their kernels.

#include <tvm/ffi/cast.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "buffer.h"
#include "devices.h"
#include "function_info.h"
#include "program.h"

namespace millifit::opencl {
namespace {

namespace ffi = tvm::ffi;

/*! A scalar argument in the type that the kernel takes. */
union Scalar {
  int64_t int64;
  int32_t int32;
  uint32_t uint32;
  int16_t int16;
  int8_t int8;
  double float64;
  float float32;
};

size_t StoreScalar(const DLDataType& type, const TVMFFIAny& value, Scalar* out) {
  if (type.lanes == 1 && (type.code == kDLInt || type.code == kDLUInt)) {
    out->int64 = value.v_int64;  // little-endian: the lower bytes come first
    return (type.bits + 7) / 8;
  }
  if (type.lanes == 1 && type.code == kDLFloat && type.bits == 64) {
    out->float64 = value.v_float64;
    return sizeof(double);
  }
  if (type.lanes == 1 && type.code == kDLFloat && type.bits == 32) {
    out->float32 = static_cast<float>(value.v_float64);
    return sizeof(float);
  }
  TVM_FFI_THROW(TypeError) << "a kernel takes a scalar of type " << ffi::DLDataTypeToString(type)
                           << ", which the OpenCL runtime does not pass";
  TVM_FFI_UNREACHABLE();
}

class OpenCLModule final : public ffi::ModuleObj {
 public:
  explicit OpenCLModule(const ffi::Bytes& bytes)
      : bytes_(bytes), content_(ReadModule(bytes.data(), bytes.size())) {}

  const char* kind() const final { return "opencl"; }
  int GetPropertyMask() const final {
    return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
  }
  ffi::Bytes SaveToBytes() const final { return bytes_; }
  ffi::String InspectSource(const ffi::String& format) const final {
    return format.empty() || format == "cl" ? ffi::String(content_.source) : ffi::String();
  }
  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    auto found = content_.functions.find(std::string(name));
    if (found == content_.functions.end()) return std::nullopt;
    // The function keeps its module: code may call it after the library was let go.
    ffi::ObjectPtr<ffi::Object> self = ffi::GetObjectPtr<ffi::Object>(this);
    return ffi::Function::FromPacked(
        [this, self, kernel = found->first, info = &found->second](ffi::PackedArgs args, ffi::Any*) {
          Launch(kernel, *info, args);
        });
  }

 private:
  void Launch(const std::string& name, const FunctionInfo& info, ffi::PackedArgs args);
  Program& ProgramOf(int device);

  ffi::Bytes bytes_;
  ModuleContent content_;
  // Held from setting arguments to launching: a kernel object has one set of arguments.
  std::mutex mutex_;
  std::map<int, std::unique_ptr<Program>> programs_;
};

Program& OpenCLModule::ProgramOf(int device) {
  auto& program = programs_[device];
  if (program == nullptr) program = std::make_unique<Program>(DeviceAt(device), content_.source);
  return *program;
}

void OpenCLModule::Launch(const std::string& name, const FunctionInfo& info, ffi::PackedArgs args) {
  const size_t expected = info.arguments.size() + info.launch.size();
  if (static_cast<size_t>(args.size()) != expected) {
    TVM_FFI_THROW(ValueError) << "kernel '" << name << "' takes " << expected << " arguments, got "
                              << args.size();
  }
  const auto* raw = reinterpret_cast<const TVMFFIAny*>(args.data());
  size_t sizes[6] = {1, 1, 1, 1, 1, 1};
  for (size_t i = 0; i < info.launch.size(); ++i) {
    sizes[info.launch[i]] = static_cast<size_t>(raw[info.arguments.size() + i].v_int64);
  }
  const size_t global[3] = {sizes[0] * sizes[3], sizes[1] * sizes[4], sizes[2] * sizes[5]};
  const Functions& cl = Api();

  std::lock_guard<std::mutex> lock(mutex_);
  Program& program = ProgramOf(CurrentDevice());
  cl_kernel kernel = program.Kernel(name);
  for (size_t i = 0; i < info.arguments.size(); ++i) {
    Scalar scalar{};
    const void* value = &scalar;
    size_t size = sizeof(cl_mem);
    if (info.arguments[i].code == kDLOpaqueHandle) {
      if (raw[i].v_ptr == nullptr) {
        TVM_FFI_THROW(ValueError) << "argument " << i << " of kernel '" << name << "' has no memory";
      }
      value = &static_cast<const Buffer*>(raw[i].v_ptr)->memory;
    } else {
      size = StoreScalar(info.arguments[i], raw[i], &scalar);
    }
    Check(cl.clSetKernelArg(kernel, static_cast<cl_uint>(i), size, value), "clSetKernelArg",
          "argument " + std::to_string(i) + " of kernel '" + name + "'");
  }
  if (global[0] == 0 || global[1] == 0 || global[2] == 0) return;
  DeviceState& device = program.device();
  cl_int code = cl.clEnqueueNDRangeKernel(device.queue(), kernel, 3, nullptr, global, sizes + 3, 0,
                                          nullptr, device.NewEvent(name));
  if (code != CL_SUCCESS) {
    size_t largest = 0;
    cl.clGetKernelWorkGroupInfo(kernel, device.id(), CL_KERNEL_WORK_GROUP_SIZE, sizeof(largest),
                                &largest, nullptr);
    Check(code, "clEnqueueNDRangeKernel",
          "kernel '" + name + "' in work-groups of " + std::to_string(sizes[3]) + " x " +
              std::to_string(sizes[4]) + " x " + std::to_string(sizes[5]) + " (the device '" +
              device.name() + "' runs at most " + std::to_string(largest) + " of it)");
  }
}

ffi::Module LoadFromBytes(const ffi::Bytes& bytes) {
  return ffi::Module(ffi::make_object<OpenCLModule>(bytes));
}

/*!
 * Replaces what the compiler left among the imports of `module` in place of an OpenCL module, which
 * can be written to a file and not run, by one that runs.
 */
void MakeRunnable(const ffi::Module& module) {
  std::vector<ffi::Module> imports;
  for (const ffi::Any& each : module->imports()) imports.push_back(each.cast<ffi::Module>());
  module->ClearImports();
  for (const ffi::Module& each : imports) {
    if (std::string(each->kind()) == "opencl" &&
        (each->GetPropertyMask() & ffi::Module::kRunnable) == 0) {
      module->ImportModule(LoadFromBytes(each->SaveToBytes()));
    } else {
      MakeRunnable(each);
      module->ImportModule(each);
    }
  }
}

ffi::String DevicesAsJson() {
  std::string text;
  for (const DeviceState* device : Devices()) text += (text.empty() ? "[" : ", ") + device->Json();
  return text.empty() ? "[]" : text + "]";
}

/*! Seconds of every launch since events_begin, in order. */
ffi::Array<double> EventSeconds(int device) {
  ffi::Array<double> seconds;
  for (const auto& [kernel, each] : DeviceAt(device).TakeSeconds()) seconds.push_back(each);
  return seconds;
}

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  refl::GlobalDef()
      .def("ffi.Module.load_from_bytes.opencl", LoadFromBytes)
      .def("millifit.opencl.make_runnable", MakeRunnable)
      .def("millifit.opencl.module_bytes", [](const ffi::Module& module) { return module->SaveToBytes(); })
      .def("millifit.opencl.devices", DevicesAsJson)
      .def("millifit.opencl.events_begin", [](int device) { DeviceAt(device).BeginEvents(); })
      .def("millifit.opencl.events_seconds", EventSeconds)
      .def("millifit.opencl.live_bytes", LiveBytes)
      .def("millifit.opencl.peak_bytes", PeakBytes)
      .def("millifit.opencl.forget_peak", ForgetPeak);
}

}  // namespace millifit::opencl
