// Memory of a device as TVM's tensors point to it.
#ifndef MILLIFIT_NATIVE_OPENCL_BUFFER_H_
#define MILLIFIT_NATIVE_OPENCL_BUFFER_H_

#include <cstddef>
#include <cstdint>

#include "devices.h"

namespace millifit::opencl {

/*!
 * What a tensor's data pointer is. Tensors in the middle of a buffer have the same pointer and a
 * byte offset: kernels add the offset that TVM hands them as an argument of its own.
 */
struct Buffer {
  cl_mem memory = nullptr;
  size_t bytes = 0;
};

/*! New memory of `device`; throws with the sizes where there is none left. */
Buffer* AllocateBuffer(DeviceState& device, size_t bytes);
void FreeBuffer(Buffer* buffer);

/*! Bytes that are allocated now, and the most there ever were since ForgetPeak. */
int64_t LiveBytes();
int64_t PeakBytes();
void ForgetPeak();

}  // namespace millifit::opencl

#endif  // MILLIFIT_NATIVE_OPENCL_BUFFER_H_
