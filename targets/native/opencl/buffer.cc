#include "buffer.h"

#include <algorithm>
#include <atomic>
#include <memory>

namespace millifit::opencl {
namespace {

std::atomic<int64_t> live_bytes{0};
std::atomic<int64_t> peak_bytes{0};

void Count(int64_t bytes) {
  const int64_t live = live_bytes += bytes;
  int64_t peak = peak_bytes;
  while (live > peak && !peak_bytes.compare_exchange_weak(peak, live)) {
  }
}

}  // namespace

Buffer* AllocateBuffer(DeviceState& device, size_t bytes) {
  auto buffer = std::make_unique<Buffer>();
  buffer->bytes = std::max<size_t>(bytes, 1);  // OpenCL has no empty buffers
  cl_int code = CL_SUCCESS;
  buffer->memory = Api().clCreateBuffer(device.context(), CL_MEM_READ_WRITE, buffer->bytes, nullptr, &code);
  if (code != CL_SUCCESS) {
    Check(code, "clCreateBuffer",
          std::to_string(bytes) + " bytes on device '" + device.name() + "', which has " +
              std::to_string(LiveBytes()) + " bytes of ours and takes at most " +
              std::to_string(device.Number<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE)) + " at once");
  }
  Count(static_cast<int64_t>(buffer->bytes));
  return buffer.release();
}

void FreeBuffer(Buffer* buffer) {
  if (buffer == nullptr) return;
  // OpenCL keeps the memory until the work that uses it is done.
  Api().clReleaseMemObject(buffer->memory);
  Count(-static_cast<int64_t>(buffer->bytes));
  delete buffer;
}

int64_t LiveBytes() { return live_bytes; }
int64_t PeakBytes() { return peak_bytes; }
void ForgetPeak() { peak_bytes = live_bytes.load(); }

}  // namespace millifit::opencl
