#include "opencl.h"

#include <dlfcn.h>
#include <tvm/ffi/error.h>

#include <cstdlib>
#include <string>

namespace millifit::opencl {
namespace {

// Names are tried in turn; Android 12 and later open the first of a vendor's public libraries.
constexpr const char* kLibraries[] = {
    "libOpenCL.so.1",
    "libOpenCL.so",
    "libOpenCL-pixel.so",
    "libOpenCL-car.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/vendor/lib64/egl/libGLES_mali.so",
    "/vendor/lib64/libPVROCL.so",
};

void* OpenLibrary() {
  if (const char* named = std::getenv("MILLIFIT_OPENCL_DRIVER")) {
    return dlopen(named, RTLD_NOW | RTLD_LOCAL);
  }
  for (const char* name : kLibraries) {
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) return library;
  }
  return nullptr;
}

/*!
 * How functions of a library are found. Google's phones have one that must be switched on by
 * `enableOpenCL`, and then gives its functions through `loadOpenCLPointer` alone.
 */
class Finder {
 public:
  explicit Finder(void* library) : library_(library) {
    auto* enable = reinterpret_cast<void (*)()>(dlsym(library, "enableOpenCL"));
    if (enable == nullptr) return;
    enable();
    load_ = reinterpret_cast<void* (*)(const char*)>(dlsym(library, "loadOpenCLPointer"));
  }
  void* operator()(const char* name) const {
    return load_ != nullptr ? load_(name) : dlsym(library_, name);
  }

 private:
  void* library_;
  void* (*load_)(const char*) = nullptr;
};

const Functions* Load() {
  void* library = OpenLibrary();
  if (library == nullptr) return nullptr;
  const Finder find(library);
  // Never freed: drivers leave threads behind that outlive static objects.
  auto* functions = new Functions();
#define MILLIFIT_OPENCL_FIND(name)                                            \
  functions->name = reinterpret_cast<decltype(functions->name)>(find(#name)); \
  if (functions->name == nullptr) return nullptr;
  MILLIFIT_OPENCL_FUNCTIONS(MILLIFIT_OPENCL_FIND)
#undef MILLIFIT_OPENCL_FIND
  return functions;
}

}  // namespace

const Functions* FindFunctions() {
  static const Functions* functions = Load();
  return functions;
}

const Functions& Api() {
  const Functions* functions = FindFunctions();
  if (functions == nullptr) {
    TVM_FFI_THROW(RuntimeError)
        << "no OpenCL library can be opened. Install the driver of the GPU (Debian: apt-get install "
           "ocl-icd-libopencl1 and the driver, or pocl-opencl-icd for the processor), or name the "
           "library in MILLIFIT_OPENCL_DRIVER";
  }
  return *functions;
}

const char* ErrorName(cl_int code) {
  switch (code) {
#define MILLIFIT_OPENCL_NAME(name) \
  case name:                       \
    return #name;
    MILLIFIT_OPENCL_NAME(CL_SUCCESS)
    MILLIFIT_OPENCL_NAME(CL_DEVICE_NOT_FOUND)
    MILLIFIT_OPENCL_NAME(CL_DEVICE_NOT_AVAILABLE)
    MILLIFIT_OPENCL_NAME(CL_COMPILER_NOT_AVAILABLE)
    MILLIFIT_OPENCL_NAME(CL_MEM_OBJECT_ALLOCATION_FAILURE)
    MILLIFIT_OPENCL_NAME(CL_OUT_OF_RESOURCES)
    MILLIFIT_OPENCL_NAME(CL_OUT_OF_HOST_MEMORY)
    MILLIFIT_OPENCL_NAME(CL_PROFILING_INFO_NOT_AVAILABLE)
    MILLIFIT_OPENCL_NAME(CL_MEM_COPY_OVERLAP)
    MILLIFIT_OPENCL_NAME(CL_BUILD_PROGRAM_FAILURE)
    MILLIFIT_OPENCL_NAME(CL_MISALIGNED_SUB_BUFFER_OFFSET)
    MILLIFIT_OPENCL_NAME(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)
    MILLIFIT_OPENCL_NAME(CL_COMPILE_PROGRAM_FAILURE)
    MILLIFIT_OPENCL_NAME(CL_LINKER_NOT_AVAILABLE)
    MILLIFIT_OPENCL_NAME(CL_LINK_PROGRAM_FAILURE)
    MILLIFIT_OPENCL_NAME(CL_KERNEL_ARG_INFO_NOT_AVAILABLE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_VALUE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_DEVICE_TYPE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_PLATFORM)
    MILLIFIT_OPENCL_NAME(CL_INVALID_DEVICE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_CONTEXT)
    MILLIFIT_OPENCL_NAME(CL_INVALID_QUEUE_PROPERTIES)
    MILLIFIT_OPENCL_NAME(CL_INVALID_COMMAND_QUEUE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_HOST_PTR)
    MILLIFIT_OPENCL_NAME(CL_INVALID_MEM_OBJECT)
    MILLIFIT_OPENCL_NAME(CL_INVALID_BINARY)
    MILLIFIT_OPENCL_NAME(CL_INVALID_BUILD_OPTIONS)
    MILLIFIT_OPENCL_NAME(CL_INVALID_PROGRAM)
    MILLIFIT_OPENCL_NAME(CL_INVALID_PROGRAM_EXECUTABLE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_KERNEL_NAME)
    MILLIFIT_OPENCL_NAME(CL_INVALID_KERNEL_DEFINITION)
    MILLIFIT_OPENCL_NAME(CL_INVALID_KERNEL)
    MILLIFIT_OPENCL_NAME(CL_INVALID_ARG_INDEX)
    MILLIFIT_OPENCL_NAME(CL_INVALID_ARG_VALUE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_ARG_SIZE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_KERNEL_ARGS)
    MILLIFIT_OPENCL_NAME(CL_INVALID_WORK_DIMENSION)
    MILLIFIT_OPENCL_NAME(CL_INVALID_WORK_GROUP_SIZE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_WORK_ITEM_SIZE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_GLOBAL_OFFSET)
    MILLIFIT_OPENCL_NAME(CL_INVALID_EVENT_WAIT_LIST)
    MILLIFIT_OPENCL_NAME(CL_INVALID_EVENT)
    MILLIFIT_OPENCL_NAME(CL_INVALID_OPERATION)
    MILLIFIT_OPENCL_NAME(CL_INVALID_BUFFER_SIZE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_GLOBAL_WORK_SIZE)
    MILLIFIT_OPENCL_NAME(CL_INVALID_PROPERTY)
#undef MILLIFIT_OPENCL_NAME
    case -1001:
      return "CL_PLATFORM_NOT_FOUND_KHR";
    default:
      return "an error that OpenCL 1.2 has no name for";
  }
}

void Check(cl_int code, const char* call, const std::string& about) {
  if (code == CL_SUCCESS) return;
  const bool lost = code == CL_DEVICE_NOT_AVAILABLE || code == CL_INVALID_CONTEXT;
  TVM_FFI_THROW(RuntimeError) << call << " failed for " << about << ": " << ErrorName(code) << " ("
                              << code << ")"
                              << (lost ? ". The device was lost; start the process again" : "");
}

}  // namespace millifit::opencl
