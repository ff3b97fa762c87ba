// OpenCL as a device of TVM: memory, copies, queues and what TVM asks of a device.

#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/device_api.h>
#include <workspace_pool.h>

#include <string>

#include "buffer.h"
#include "devices.h"

namespace millifit::opencl {
namespace {

using tvm::Device;
using tvm::runtime::DeviceAPI;
using tvm::runtime::DeviceAttrKind;

class OpenCLDeviceAPI final : public DeviceAPI {
 public:
  /*! Never freed: tensors and the pools of threads may outlive static objects. */
  static OpenCLDeviceAPI* Global() {
    static auto* api = new OpenCLDeviceAPI();
    return api;
  }

  void SetDevice(Device dev) final { CurrentDevice() = dev.device_id; }

  void GetAttr(Device dev, DeviceAttrKind kind, tvm::ffi::Any* answer) final;

  void* AllocDataSpace(Device dev, size_t bytes, size_t, DLDataType) final {
    return AllocateBuffer(DeviceAt(dev.device_id), bytes);
  }

  void* AllocDataSpace(Device dev, int ndim, const int64_t* shape, DLDataType dtype,
                       tvm::ffi::Optional<tvm::ffi::String> scope) final {
    if (scope.has_value() && !scope.value().empty() && scope.value() != "global") {
      TVM_FFI_THROW(ValueError) << "memory of scope '" << std::string(scope.value())
                                << "' is not supported by the OpenCL runtime: use 'global'";
    }
    size_t bytes = (static_cast<size_t>(dtype.bits) * dtype.lanes + 7) / 8;
    for (int i = 0; i < ndim; ++i) bytes *= static_cast<size_t>(shape[i]);
    return AllocateBuffer(DeviceAt(dev.device_id), bytes);
  }

  void FreeDataSpace(Device, void* data) final { FreeBuffer(static_cast<Buffer*>(data)); }

  // One queue per device, in order: a stream is the device.
  void StreamSync(Device dev, TVMStreamHandle) final { DeviceAt(dev.device_id).Synchronize(); }

  void* AllocWorkspace(Device dev, size_t bytes, DLDataType) final {
    return Pool().AllocWorkspace(dev, bytes);
  }
  void FreeWorkspace(Device dev, void* data) final { Pool().FreeWorkspace(dev, data); }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset,
                      size_t bytes, Device dev_from, Device dev_to, DLDataType,
                      TVMStreamHandle) final;

 private:
  tvm::runtime::WorkspacePool& Pool() {
    // Kernels of several threads must not share what one of them works in.
    thread_local tvm::runtime::WorkspacePool pool(kDLOpenCL, this);
    return pool;
  }
};

void OpenCLDeviceAPI::GetAttr(Device dev, DeviceAttrKind kind, tvm::ffi::Any* answer) {
  const auto& devices = Devices();
  const bool exists = dev.device_id >= 0 && static_cast<size_t>(dev.device_id) < devices.size();
  if (kind == tvm::runtime::kExist) {
    *answer = static_cast<int>(exists);
    return;
  }
  const DeviceState& device = DeviceAt(dev.device_id);
  switch (kind) {
    case tvm::runtime::kMaxThreadsPerBlock:
      *answer = static_cast<int64_t>(device.Number<size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE));
      break;
    case tvm::runtime::kWarpSize:
      *answer = 1;  // OpenCL 1.2 does not say
      break;
    case tvm::runtime::kMaxSharedMemoryPerBlock:
      *answer = static_cast<int64_t>(device.Number<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE));
      break;
    case tvm::runtime::kComputeVersion:
    case tvm::runtime::kApiVersion:
      *answer = tvm::ffi::String(device.Text(CL_DEVICE_VERSION));
      break;
    case tvm::runtime::kDriverVersion:
      *answer = tvm::ffi::String(device.driver());
      break;
    case tvm::runtime::kDeviceName:
      *answer = tvm::ffi::String(device.name());
      break;
    case tvm::runtime::kMaxClockRate:
      *answer = static_cast<int64_t>(device.Number<cl_uint>(CL_DEVICE_MAX_CLOCK_FREQUENCY)) * 1000;
      break;
    case tvm::runtime::kMultiProcessorCount:
      *answer = static_cast<int64_t>(device.Number<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS));
      break;
    case tvm::runtime::kMaxThreadDimensions: {
      struct Sizes {
        size_t at[3];
      } sizes = device.Number<Sizes>(CL_DEVICE_MAX_WORK_ITEM_SIZES);
      *answer = tvm::ffi::String("[" + std::to_string(sizes.at[0]) + ", " +
                                 std::to_string(sizes.at[1]) + ", " + std::to_string(sizes.at[2]) +
                                 "]");
      break;
    }
    case tvm::runtime::kL2CacheSizeBytes:
      *answer = static_cast<int64_t>(device.Number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_CACHE_SIZE));
      break;
    case tvm::runtime::kTotalGlobalMemory:
      *answer = static_cast<int64_t>(device.Number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE));
      break;
    default:
      break;  // what OpenCL does not know stays None
  }
}

void OpenCLDeviceAPI::CopyDataFromTo(const void* from, size_t from_offset, void* to,
                                     size_t to_offset, size_t bytes, Device dev_from, Device dev_to,
                                     DLDataType, TVMStreamHandle) {
  if (bytes == 0) return;
  const Functions& cl = Api();
  const bool reads = dev_from.device_type == kDLOpenCL, writes = dev_to.device_type == kDLOpenCL;
  const std::string about = std::to_string(bytes) + " bytes";
  if (reads && writes && dev_from.device_id == dev_to.device_id) {
    Check(cl.clEnqueueCopyBuffer(DeviceAt(dev_to.device_id).queue(),
                                 static_cast<const Buffer*>(from)->memory,
                                 static_cast<Buffer*>(to)->memory, from_offset, to_offset, bytes, 0,
                                 nullptr, nullptr),
          "clEnqueueCopyBuffer", about);
  } else if (reads && dev_to.device_type == kDLCPU) {
    Check(cl.clEnqueueReadBuffer(DeviceAt(dev_from.device_id).queue(),
                                 static_cast<const Buffer*>(from)->memory, CL_TRUE, from_offset,
                                 bytes, static_cast<char*>(to) + to_offset, 0, nullptr, nullptr),
          "clEnqueueReadBuffer", about);
  } else if (writes && dev_from.device_type == kDLCPU) {
    // Blocking: the caller may free or reuse its memory as soon as this returns.
    Check(cl.clEnqueueWriteBuffer(DeviceAt(dev_to.device_id).queue(),
                                  static_cast<Buffer*>(to)->memory, CL_TRUE, to_offset, bytes,
                                  static_cast<const char*>(from) + from_offset, 0, nullptr, nullptr),
          "clEnqueueWriteBuffer", about);
  } else {
    TVM_FFI_THROW(RuntimeError) << "cannot copy from device type " << dev_from.device_type << " ("
                                << dev_from.device_id << ") to " << dev_to.device_type << " ("
                                << dev_to.device_id << "): copy through the processor's memory";
  }
}

}  // namespace

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  refl::GlobalDef().def_packed("device_api.opencl", [](tvm::ffi::PackedArgs, tvm::ffi::Any* answer) {
    *answer = static_cast<void*>(static_cast<DeviceAPI*>(OpenCLDeviceAPI::Global()));
  });
}

}  // namespace millifit::opencl
