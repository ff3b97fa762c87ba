#include "devices.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <sstream>

namespace millifit::opencl {
namespace {

std::string PlatformName(cl_platform_id platform) {
  size_t size = 0;
  const Functions& cl = Api();
  Check(cl.clGetPlatformInfo(platform, CL_PLATFORM_NAME, 0, nullptr, &size), "clGetPlatformInfo",
        "a platform");
  std::string name(size, '\0');
  Check(cl.clGetPlatformInfo(platform, CL_PLATFORM_NAME, size, name.data(), nullptr),
        "clGetPlatformInfo", "a platform");
  name.resize(name.find('\0') == std::string::npos ? name.size() : name.find('\0'));
  return name;
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool IsWanted(cl_platform_id platform) {
  const char* wanted = std::getenv("MILLIFIT_OPENCL_PLATFORM");
  if (wanted == nullptr || *wanted == '\0') return true;
  return Lower(PlatformName(platform)).find(Lower(wanted)) != std::string::npos;
}

std::string Quoted(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') out << '\\';
    if (c >= 0x20) out << c;
  }
  out << '"';
  return out.str();
}

std::vector<DeviceState*> FindDevices() {
  std::vector<DeviceState*> found;
  if (FindFunctions() == nullptr) return found;
  const Functions& cl = Api();
  cl_uint count = 0;
  if (cl.clGetPlatformIDs(0, nullptr, &count) != CL_SUCCESS || count == 0) return found;
  std::vector<cl_platform_id> platforms(count);
  Check(cl.clGetPlatformIDs(count, platforms.data(), nullptr), "clGetPlatformIDs", "all platforms");
  for (cl_device_type type : {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_CPU}) {
    for (cl_platform_id platform : platforms) {
      cl_uint devices = 0;
      if (!IsWanted(platform) ||
          cl.clGetDeviceIDs(platform, type, 0, nullptr, &devices) != CL_SUCCESS) {
        continue;
      }
      std::vector<cl_device_id> ids(devices);
      Check(cl.clGetDeviceIDs(platform, type, devices, ids.data(), nullptr), "clGetDeviceIDs",
            "platform '" + PlatformName(platform) + "'");
      // Never freed: drivers have threads that may outlive static objects.
      for (cl_device_id id : ids) found.push_back(new DeviceState(platform, id));
    }
  }
  return found;
}

}  // namespace

const std::vector<DeviceState*>& Devices() {
  static const auto* devices = new std::vector<DeviceState*>(FindDevices());
  return *devices;
}

DeviceState& DeviceAt(int index) {
  const auto& devices = Devices();
  if (index < 0 || static_cast<size_t>(index) >= devices.size()) {
    Api();  // says so where there is no library
    const char* wanted = std::getenv("MILLIFIT_OPENCL_PLATFORM");
    TVM_FFI_THROW(RuntimeError) << "there is no OpenCL device " << index << ": " << devices.size()
                                << " found"
                                << (wanted ? " on platforms named like '" + std::string(wanted) + "'"
                                           : std::string(". Install the driver of the GPU"));
  }
  return *devices[index];
}

int& CurrentDevice() {
  thread_local int device = 0;
  return device;
}

DeviceState::DeviceState(cl_platform_id platform, cl_device_id id) : platform_(platform), id_(id) {
  name_ = Text(CL_DEVICE_NAME);
  driver_ = Text(CL_DRIVER_VERSION);
}

std::string DeviceState::Text(cl_device_info what) const {
  size_t size = 0;
  const Functions& cl = Api();
  const std::string about = name_.empty() ? "a device" : "device '" + name_ + "'";
  Check(cl.clGetDeviceInfo(id_, what, 0, nullptr, &size), "clGetDeviceInfo", about);
  std::string text(size, '\0');
  Check(cl.clGetDeviceInfo(id_, what, size, text.data(), nullptr), "clGetDeviceInfo", about);
  text.resize(text.find('\0') == std::string::npos ? text.size() : text.find('\0'));
  return text;
}

std::string DeviceState::Json() const {
  std::ostringstream out;
  out << "{\"name\": " << Quoted(name_) << ", \"platform\": " << Quoted(PlatformName(platform_))
      << ", \"driver\": " << Quoted(driver_) << ", \"version\": " << Quoted(Text(CL_DEVICE_VERSION))
      << ", \"extensions\": " << Quoted(Text(CL_DEVICE_EXTENSIONS))
      << ", \"is_gpu\": " << ((Number<cl_device_type>(CL_DEVICE_TYPE) & CL_DEVICE_TYPE_GPU) ? "true" : "false")
      << ", \"compute_units\": " << Number<cl_uint>(CL_DEVICE_MAX_COMPUTE_UNITS)
      << ", \"max_threads\": " << Number<size_t>(CL_DEVICE_MAX_WORK_GROUP_SIZE)
      << ", \"shared_bytes\": " << Number<cl_ulong>(CL_DEVICE_LOCAL_MEM_SIZE)
      << ", \"cache_bytes\": " << Number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_CACHE_SIZE)
      << ", \"memory_bytes\": " << Number<cl_ulong>(CL_DEVICE_GLOBAL_MEM_SIZE)
      << ", \"largest_buffer_bytes\": " << Number<cl_ulong>(CL_DEVICE_MAX_MEM_ALLOC_SIZE) << "}";
  return out.str();
}

cl_context DeviceState::context() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (context_ == nullptr) {
    cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                          reinterpret_cast<cl_context_properties>(platform_), 0};
    cl_int code = CL_SUCCESS;
    context_ = Api().clCreateContext(properties, 1, &id_, nullptr, nullptr, &code);
    Check(code, "clCreateContext", "device '" + name_ + "'");
  }
  return context_;
}

cl_command_queue DeviceState::MakeQueue(cl_command_queue_properties properties) {
  cl_int code = CL_SUCCESS;
  cl_command_queue made = Api().clCreateCommandQueue(context_, id_, properties, &code);
  Check(code, "clCreateCommandQueue", "device '" + name_ + "'");
  return made;
}

cl_command_queue DeviceState::queue() {
  context();
  std::lock_guard<std::mutex> lock(mutex_);
  cl_command_queue& wanted = collecting_ ? profiled_ : plain_;
  if (wanted == nullptr) wanted = MakeQueue(collecting_ ? CL_QUEUE_PROFILING_ENABLE : 0);
  return wanted;
}

cl_event* DeviceState::NewEvent(const std::string& kernel) {
  if (!collecting_) return nullptr;
  std::lock_guard<std::mutex> lock(mutex_);
  launches_.push_back(new Launch{kernel, nullptr});
  return &launches_.back()->event;
}

void DeviceState::Synchronize() {
  // The other queue is empty: both are drained where work moves from one to the other.
  Check(Api().clFinish(queue()), "clFinish", "device '" + name_ + "'");
}

void DeviceState::BeginEvents() {
  if (collecting_) TakeSeconds();  // of who did not come back for them
  Synchronize();
  std::lock_guard<std::mutex> lock(mutex_);
  collecting_ = true;
}

std::vector<std::pair<std::string, double>> DeviceState::TakeSeconds() {
  Synchronize();
  std::lock_guard<std::mutex> lock(mutex_);
  collecting_ = false;
  std::vector<std::pair<std::string, double>> seconds;
  cl_int failed = CL_SUCCESS;
  const Functions& cl = Api();
  for (Launch* launch : launches_) {
    cl_ulong start = 0, end = 0;
    if (launch->event != nullptr) {
      for (auto [what, at] : {std::pair{CL_PROFILING_COMMAND_START, &start},
                              std::pair{CL_PROFILING_COMMAND_END, &end}}) {
        cl_int code = cl.clGetEventProfilingInfo(launch->event, what, sizeof(*at), at, nullptr);
        if (code != CL_SUCCESS) failed = code;
      }
      cl.clReleaseEvent(launch->event);
      seconds.emplace_back(launch->kernel, 1e-9 * static_cast<double>(end - start));
    }
    delete launch;
  }
  launches_.clear();
  Check(failed, "clGetEventProfilingInfo", "device '" + name_ + "'");
  return seconds;
}

}  // namespace millifit::opencl
