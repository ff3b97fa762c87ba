#include "program.h"

#include <tvm/ffi/error.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

namespace millifit::opencl {
namespace {

// Multiplying and adding may round once, as the processors' code does; all else is as written.
constexpr const char* kBuildOptions = "-cl-mad-enable";
constexpr size_t kLogCharacters = 4000;

/*! FNV-1a, 64 bits. */
uint64_t Hash(const std::string& text, uint64_t hash = 14695981039346656037ULL) {
  for (unsigned char c : text) hash = (hash ^ c) * 1099511628211ULL;
  return hash;
}

/*! Where the binary of a source on a device is kept; empty where none is to be. */
std::string CachePath(const DeviceState& device, const std::string& source) {
  const char* folder = std::getenv("MILLIFIT_OPENCL_CACHE");
  if (folder == nullptr || *folder == '\0') return "";
  const std::string key = device.name() + '\n' + device.driver() + '\n' + kBuildOptions + '\n';
  char name[64];
  // Two hashes: 64 bits alone leave a chance of running another program's code.
  std::snprintf(name, sizeof(name), "%016llx%016llx.bin",
                static_cast<unsigned long long>(Hash(key + source)),
                static_cast<unsigned long long>(Hash(source + key, Hash(key))));
  return std::string(folder) + "/" + name;
}

}  // namespace

Program::~Program() {
  for (auto& [name, kernel] : kernels_) Api().clReleaseKernel(kernel);
  if (program_ != nullptr) Api().clReleaseProgram(program_);
}

cl_kernel Program::Kernel(const std::string& name) {
  auto found = kernels_.find(name);
  if (found != kernels_.end()) return found->second;
  if (program_ == nullptr) Build();
  cl_int code = CL_SUCCESS;
  cl_kernel kernel = Api().clCreateKernel(program_, name.c_str(), &code);
  Check(code, "clCreateKernel", "kernel '" + name + "'");
  kernels_[name] = kernel;
  return kernel;
}

void Program::Build() {
  const std::string path = CachePath(device_, source_);
  if (!path.empty() && BuildFromCache(path)) return;
  const Functions& cl = Api();
  const char* text = source_.data();
  const size_t size = source_.size();
  cl_int code = CL_SUCCESS;
  program_ = cl.clCreateProgramWithSource(device_.context(), 1, &text, &size, &code);
  Check(code, "clCreateProgramWithSource", "device '" + device_.name() + "'");
  cl_device_id id = device_.id();
  code = cl.clBuildProgram(program_, 1, &id, kBuildOptions, nullptr, nullptr);
  if (code != CL_SUCCESS) {
    const std::string log = BuildLog();
    cl.clReleaseProgram(program_);
    program_ = nullptr;
    Check(code, "clBuildProgram", "device '" + device_.name() + "', which says:\n" + log);
  }
  if (!path.empty()) KeepBinary(path);
}

bool Program::BuildFromCache(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return false;
  const std::vector<unsigned char> binary((std::istreambuf_iterator<char>(file)), {});
  if (binary.empty()) return false;
  const Functions& cl = Api();
  const unsigned char* data = binary.data();
  const size_t size = binary.size();
  cl_device_id id = device_.id();
  cl_int loaded = CL_SUCCESS, code = CL_SUCCESS;
  cl_program program =
      cl.clCreateProgramWithBinary(device_.context(), 1, &id, &size, &data, &loaded, &code);
  if (code == CL_SUCCESS) code = cl.clBuildProgram(program, 1, &id, kBuildOptions, nullptr, nullptr);
  if (code != CL_SUCCESS) {  // damaged, or of another driver: built from source again
    if (program != nullptr) cl.clReleaseProgram(program);
    return false;
  }
  program_ = program;
  return true;
}

void Program::KeepBinary(const std::string& path) const {
  const Functions& cl = Api();
  size_t size = 0;
  if (cl.clGetProgramInfo(program_, CL_PROGRAM_BINARY_SIZES, sizeof(size), &size, nullptr) !=
          CL_SUCCESS ||
      size == 0) {
    return;
  }
  std::vector<unsigned char> binary(size);
  unsigned char* data = binary.data();
  if (cl.clGetProgramInfo(program_, CL_PROGRAM_BINARIES, sizeof(data), &data, nullptr) != CL_SUCCESS) {
    return;
  }
  // Put in place whole: another process may be reading. A cache that cannot be written is none.
  const std::string part = path + "." + std::to_string(getpid());
  std::ofstream file(part, std::ios::binary);
  file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  file.close();
  if (!file || std::rename(part.c_str(), path.c_str()) != 0) std::remove(part.c_str());
}

std::string Program::BuildLog() const {
  size_t size = 0;
  const Functions& cl = Api();
  if (cl.clGetProgramBuildInfo(program_, device_.id(), CL_PROGRAM_BUILD_LOG, 0, nullptr, &size) !=
      CL_SUCCESS) {
    return "(no log)";
  }
  std::string log(size, '\0');
  cl.clGetProgramBuildInfo(program_, device_.id(), CL_PROGRAM_BUILD_LOG, size, log.data(), nullptr);
  log.resize(log.find('\0') == std::string::npos ? log.size() : log.find('\0'));
  if (log.size() > kLogCharacters) log = log.substr(0, kLogCharacters) + "\n(...)";
  return log;
}

}  // namespace millifit::opencl
