// What a compiled module says of its kernels, as TVM 0.27 serializes it.
#ifndef MILLIFIT_NATIVE_OPENCL_FUNCTION_INFO_H_
#define MILLIFIT_NATIVE_OPENCL_FUNCTION_INFO_H_

#include <tvm/ffi/c_api.h>

#include <map>
#include <string>
#include <vector>

namespace millifit::opencl {

/*!
 * One kernel: the types of its arguments (a handle is a buffer), and which launch dimension each of
 * the integers after them is: 0 to 2 are the grid's x to z, 3 to 5 those of a work-group.
 */
struct FunctionInfo {
  std::vector<DLDataType> arguments;
  std::vector<int> launch;
};

/*! A module: its kernels by name, and their source. */
struct ModuleContent {
  std::string format;
  std::map<std::string, FunctionInfo> functions;
  std::string source;
};

/*! Reads what TVM wrote; throws where it is damaged or is no OpenCL source. */
ModuleContent ReadModule(const char* data, size_t size);

}  // namespace millifit::opencl

#endif  // MILLIFIT_NATIVE_OPENCL_FUNCTION_INFO_H_
