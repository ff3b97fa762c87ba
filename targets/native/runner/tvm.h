// The TVM runtime, opened when the program runs: nothing is linked, so that a runtime that is
// missing is an error with a remedy, and one binary serves every TVM with this C interface.
#ifndef MILLIFIT_NATIVE_RUNNER_TVM_H_
#define MILLIFIT_NATIVE_RUNNER_TVM_H_

#include <tvm/ffi/c_api.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "array.h"

namespace millifit {

class Tvm;

// A value that the runtime gave; an object in it is released with it.
class Value {
 public:
  Value() = default;
  Value(const Tvm* tvm, TVMFFIAny any) : tvm_(tvm), any_(any) {}
  ~Value();
  Value(Value&& other) noexcept { *this = std::move(other); }
  Value& operator=(Value&& other) noexcept;
  Value(const Value&) = delete;
  Value& operator=(const Value&) = delete;

  const TVMFFIAny& any() const { return any_; }
  bool IsObject(int32_t type) const { return any_.type_index == type; }
  const DLTensor& Tensor() const { return *TVMFFITensorGetDLTensorPtr(any_.v_obj); }

 private:
  const Tvm* tvm_ = nullptr;
  TVMFFIAny any_{};
};

// Arguments of a call; they are borrowed for its duration.
TVMFFIAny Argument(int64_t number);
TVMFFIAny Argument(bool truth);
TVMFFIAny Argument(const char* text);
TVMFFIAny Argument(const void* address);
TVMFFIAny Argument(DLDevice device);
TVMFFIAny Argument(DLDataType type);
inline TVMFFIAny Argument(const Value& value) { return value.any(); }

DLDataType DataType(const std::string& dtype);

class Tvm {
 public:
  // Opens the runtime; throws Failure that says where it was looked for.
  Tvm();

  // A function of the runtime by its name; throws Failure where there is none.
  Value Global(const char* name) const;
  bool Has(const char* name) const;

  // Calls it; throws Failure with the runtime's message.
  Value Call(const Value& function, std::vector<TVMFFIAny> arguments) const;

  template <typename... Arguments>
  Value Run(const char* name, const Arguments&... arguments) const {
    return Call(Global(name), {Argument(arguments)...});
  }

  // A function of a module.
  Value Member(const Value& module, const char* name) const;

  // A tensor over memory that outlives it, aligned to 64 bytes.
  Value Borrow(const TensorType& type, const void* data) const;
  // A tensor on a device, with these values.
  Value Copied(const TensorType& type, const void* data, DLDevice device) const;
  NumpyArray ToHost(const Value& tensor, const TensorType& type) const;

  std::string version() const;

 private:
  friend class Value;
  Value Shape(const TensorType& type) const;
  [[noreturn]] void ThrowRaised() const;

  decltype(&TVMFFIGetVersion) get_version_;
  decltype(&TVMFFIFunctionGetGlobal) get_global_;
  decltype(&TVMFFIFunctionCall) call_;
  decltype(&TVMFFIErrorMoveFromRaised) take_error_;
  decltype(&TVMFFIObjectDecRef) release_;
  decltype(&TVMFFITensorFromDLPack) from_dlpack_;
};

// Opens a library of the runtime or beside it; null where there is none, and `tried` says why.
void* OpenLibrary(const std::string& name, std::string* tried);

}  // namespace millifit

#endif
