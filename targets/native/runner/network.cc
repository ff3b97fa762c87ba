#include "network.h"

#include <dlfcn.h>

#include <cstdlib>

#include "failure.h"

namespace millifit {
namespace {

constexpr int64_t kPooled = 2;  // the runtime's allocator that keeps what it freed

DLDevice DeviceOf(const std::string& api, int index) {
  if (api == "opencl") return {kDLOpenCL, index};
  if (api == "cuda") return {kDLCUDA, index};
  return {kDLCPU, 0};
}

size_t Padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void LoadGpuRuntime(const Tvm& tvm, const std::string& api) {
  if (api.empty() || tvm.Has(("device_api." + api).c_str())) return;
  std::string tried;
  const char* named = std::getenv("MILLIFIT_OPENCL_LIBRARY");
  if (api == "opencl" && named != nullptr && *named != '\0') {
    if (dlopen(named, RTLD_NOW | RTLD_GLOBAL) != nullptr) return;
    tried = dlerror();
  } else {
    // What TVM's runtime of CUDA needs itself is found in the same places, if it is opened before.
    if (api == "cuda") OpenLibrary("libcudart.so.13", &tried);
    const char* name = api == "cuda" ? "libtvm_runtime_cuda.so" : "libmillifit_opencl.so";
    if (OpenLibrary(name, &tried) != nullptr) return;
  }
  if (api == "cuda") {
    throw Failure("the runtime for CUDA cannot be opened (" + tried + "). Install the GPU's "
                  "driver, and put libtvm_runtime_cuda.so and libcudart.so.13 beside "
                  "libtvm_runtime.so");
  }
  throw Failure("the runtime for OpenCL cannot be opened (" + tried + "). Put "
                "libmillifit_opencl.so beside millifit-run ('millifit device build' makes it), or "
                "name it in MILLIFIT_OPENCL_LIBRARY");
}

Network::Network(const Tvm& tvm, const Bundle& bundle, int gpu, int threads)
    : tvm_(tvm), bundle_(bundle), device_(DeviceOf(bundle.manifest.needs.api, gpu)) {
  if (threads > 1 && tvm.Has("runtime.config_threadpool")) {
    tvm.Run("runtime.config_threadpool", int64_t{1}, static_cast<int64_t>(threads));
  }
  const Value library = tvm.Run("ffi.ModuleLoadFromFile", bundle.library.path().c_str());
  machine_ = tvm.Call(tvm.Member(library, "vm_load_executable"), {});
  std::vector<TVMFFIAny> devices;
  for (const DLDevice device : {device_, DLDevice{kDLCPU, 0}}) {
    if (!devices.empty() && device_.device_type == kDLCPU) break;
    devices.push_back(Argument(static_cast<int64_t>(device.device_type)));
    devices.push_back(Argument(static_cast<int64_t>(device.device_id)));
    devices.push_back(Argument(kPooled));
  }
  tvm.Call(tvm.Member(machine_, "vm_initialization"), devices);
  if (device_.device_type != kDLCPU) synchronize_ = tvm.Global("runtime.Device_StreamSync");
  BindWeights();
}

void Network::BindWeights() {
  const MappedFile& file = bundle_.weights;
  size_t at = 0;
  for (const TensorType& type : bundle_.manifest.weights) {
    const size_t bytes = type.Bytes();
    if (at > file.size() || bytes > file.size() - at) {
      throw Failure("'" + file.path() + "' is shorter than its manifest says: compile it again");
    }
    const uint8_t* data = file.data() + at;
    weights_.push_back(device_.device_type == kDLCPU ? tvm_.Borrow(type, data)
                                                     : tvm_.Copied(type, data, device_));
    at += Padded(bytes);
  }
}

void Network::SetInput(const NumpyArray& input, const std::string& from) {
  const TensorType& wanted = bundle_.manifest.input;
  if (!(input.type == wanted)) {
    throw Failure("bundle '" + bundle_.path + "' takes an input " + wanted.Name() + ", '" + from +
                  "' has one " + input.type.Name() + ": convert it");
  }
  input_ = tvm_.Copied(wanted, input.bytes.data(), device_);
  std::vector<TVMFFIAny> arguments = {Argument("main"), Argument("bound"), Argument(int64_t{1}),
                                      Argument(input_)};
  for (const Value& weight : weights_) arguments.push_back(Argument(weight));
  tvm_.Call(tvm_.Member(machine_, "save_function"), arguments);
  bound_ = tvm_.Member(machine_, "bound");
}

void Network::Invoke() {
  result_ = tvm_.Call(bound_, {});
  if (synchronize_.IsObject(kTVMFFIFunction)) {
    tvm_.Call(synchronize_, {Argument(device_), Argument(int64_t{0})});
  }
}

std::vector<NumpyArray> Network::Outputs() const {
  const std::vector<TensorType>& types = bundle_.manifest.outputs;
  std::vector<NumpyArray> made;
  if (result_.IsObject(kTVMFFITensor) && types.size() == 1) {
    made.push_back(tvm_.ToHost(result_, types[0]));
    return made;
  }
  if (!result_.IsObject(kTVMFFIArray) || types.size() < 2) {
    throw Failure("library.so gives another number of outputs than its manifest says: compile the "
                  "bundle again");
  }
  for (size_t i = 0; i < types.size(); ++i) {
    const Value each = tvm_.Run("ffi.ArrayGetItem", result_, static_cast<int64_t>(i));
    made.push_back(tvm_.ToHost(each, types[i]));
  }
  return made;
}

}  // namespace millifit
