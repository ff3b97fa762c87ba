// The kernels of one compiled module on one device.
#ifndef MILLIFIT_NATIVE_OPENCL_PROGRAM_H_
#define MILLIFIT_NATIVE_OPENCL_PROGRAM_H_

#include <map>
#include <mutex>
#include <string>

#include "devices.h"

namespace millifit::opencl {

/*!
 * A program that is built when its first kernel is wanted: from the binary that an earlier process
 * left in $MILLIFIT_OPENCL_CACHE, if there is one, else from source.
 */
class Program {
 public:
  Program(DeviceState& device, const std::string& source) : device_(device), source_(source) {}
  Program(const Program&) = delete;
  ~Program();

  DeviceState& device() { return device_; }

  /*! The kernel of that name. Setting its arguments and launching it must not be interleaved. */
  cl_kernel Kernel(const std::string& name);

 private:
  void Build();
  bool BuildFromCache(const std::string& path);
  void KeepBinary(const std::string& path) const;
  std::string BuildLog() const;

  DeviceState& device_;
  const std::string& source_;
  cl_program program_ = nullptr;
  std::map<std::string, cl_kernel> kernels_;
};

}  // namespace millifit::opencl

#endif  // MILLIFIT_NATIVE_OPENCL_PROGRAM_H_
