// The OpenCL devices of this machine, and what runs on them.
#ifndef MILLIFIT_NATIVE_OPENCL_DEVICES_H_
#define MILLIFIT_NATIVE_OPENCL_DEVICES_H_

#include <atomic>
#include <cstddef>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "opencl.h"

namespace millifit::opencl {

/*! A device with a context and queues of its own; they are made when the first caller needs them. */
class DeviceState {
 public:
  DeviceState(cl_platform_id platform, cl_device_id id);

  cl_device_id id() const { return id_; }
  const std::string& name() const { return name_; }
  const std::string& driver() const { return driver_; }
  cl_context context();

  /*! The queue that work goes to: in order, and profiled between BeginEvents and Seconds. */
  cl_command_queue queue();

  /*! Where a launch shall leave its event; null unless events are being collected. */
  cl_event* NewEvent(const std::string& kernel);

  void BeginEvents();
  /*! Seconds that the kernels launched since BeginEvents ran, one by one; collects no more. */
  std::vector<std::pair<std::string, double>> TakeSeconds();

  void Synchronize();

  std::string Text(cl_device_info what) const;
  template <typename T>
  T Number(cl_device_info what) const {
    T value{};
    Check(Api().clGetDeviceInfo(id_, what, sizeof(value), &value, nullptr), "clGetDeviceInfo",
          "device '" + name_ + "'");
    return value;
  }
  /*! What code and callers want to know of it, as a JSON object. */
  std::string Json() const;

 private:
  struct Launch {
    std::string kernel;
    cl_event event = nullptr;
  };

  cl_command_queue MakeQueue(cl_command_queue_properties properties);

  cl_platform_id platform_;
  cl_device_id id_;
  std::string name_, driver_;
  std::mutex mutex_;
  cl_context context_ = nullptr;
  cl_command_queue plain_ = nullptr, profiled_ = nullptr;
  std::atomic<bool> collecting_{false};
  std::vector<Launch*> launches_;
};

/*! Devices, GPUs first; of the platforms whose name has $MILLIFIT_OPENCL_PLATFORM, if that is set.
 */
const std::vector<DeviceState*>& Devices();

/*! A device by its number; throws where there is none. */
DeviceState& DeviceAt(int index);

/*! The number of the device that TVM set last in the calling thread: kernels go there. */
int& CurrentDevice();

}  // namespace millifit::opencl

#endif  // MILLIFIT_NATIVE_OPENCL_DEVICES_H_
