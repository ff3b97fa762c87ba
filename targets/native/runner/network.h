// A bundle in memory, ready to run.
#ifndef MILLIFIT_NATIVE_RUNNER_NETWORK_H_
#define MILLIFIT_NATIVE_RUNNER_NETWORK_H_

#include <string>
#include <vector>

#include "manifest.h"
#include "tvm.h"

namespace millifit {

class Network {
 public:
  // `bundle` and `tvm` outlive it; every hash was checked. `gpu` is the number of the GPU, where
  // the bundle is for one; `threads` are those of the processor.
  Network(const Tvm& tvm, const Bundle& bundle, int gpu, int threads);

  // Copies an input to the device, where Invoke reads it. Throws Failure where it does not fit.
  void SetInput(const NumpyArray& input, const std::string& from);

  // Runs once, and waits for the device.
  void Invoke();

  // What the last run made.
  std::vector<NumpyArray> Outputs() const;

 private:
  void BindWeights();

  const Tvm& tvm_;
  const Bundle& bundle_;
  DLDevice device_;
  Value machine_;
  Value bound_;
  Value input_;
  Value result_;
  Value synchronize_;
  std::vector<Value> weights_;
};

// Has the runtime load what a GPU needs; throws Failure with the remedy where it is not there.
void LoadGpuRuntime(const Tvm& tvm, const std::string& api);

}  // namespace millifit

#endif
