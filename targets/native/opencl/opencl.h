// The OpenCL functions that the runtime calls, found when they are first needed.
//
// The library is opened at run time rather than linked: phones have it in a vendor folder and no
// loader of drivers, machines without OpenCL can still load what depends on us, and building needs
// headers alone.
#ifndef MILLIFIT_NATIVE_OPENCL_OPENCL_H_
#define MILLIFIT_NATIVE_OPENCL_OPENCL_H_

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <string>

namespace millifit::opencl {

#define MILLIFIT_OPENCL_FUNCTIONS(X) \
  X(clBuildProgram)                  \
  X(clCreateBuffer)                  \
  X(clCreateCommandQueue)            \
  X(clCreateContext)                 \
  X(clCreateKernel)                  \
  X(clCreateProgramWithBinary)       \
  X(clCreateProgramWithSource)       \
  X(clEnqueueCopyBuffer)             \
  X(clEnqueueNDRangeKernel)          \
  X(clEnqueueReadBuffer)             \
  X(clEnqueueWriteBuffer)            \
  X(clFinish)                        \
  X(clFlush)                         \
  X(clGetDeviceIDs)                  \
  X(clGetDeviceInfo)                 \
  X(clGetEventProfilingInfo)         \
  X(clGetKernelWorkGroupInfo)        \
  X(clGetPlatformIDs)                \
  X(clGetPlatformInfo)               \
  X(clGetProgramBuildInfo)           \
  X(clGetProgramInfo)                \
  X(clReleaseCommandQueue)           \
  X(clReleaseEvent)                  \
  X(clReleaseKernel)                 \
  X(clReleaseMemObject)              \
  X(clReleaseProgram)                \
  X(clSetKernelArg)

/*! Pointers to OpenCL's functions. */
struct Functions {
#define MILLIFIT_OPENCL_DECLARE(name) decltype(&::name) name = nullptr;
  MILLIFIT_OPENCL_FUNCTIONS(MILLIFIT_OPENCL_DECLARE)
#undef MILLIFIT_OPENCL_DECLARE
};

/*! The functions; null where no OpenCL library can be opened. */
const Functions* FindFunctions();

/*! The functions; throws an error for people where there is no OpenCL library. */
const Functions& Api();

/*! OpenCL's own name of an error code. */
const char* ErrorName(cl_int code);

/*! Throws unless `code` is CL_SUCCESS: the call, what it was about, and the code's name. */
void Check(cl_int code, const char* call, const std::string& about);

}  // namespace millifit::opencl

#endif  // MILLIFIT_NATIVE_OPENCL_OPENCL_H_
