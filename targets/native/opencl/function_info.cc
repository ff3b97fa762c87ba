#include "function_info.h"

#include <tvm/ffi/error.h>

#include <cstring>

namespace millifit::opencl {
namespace {

/*! Little-endian values one after the other; lengths come before what they count, in 8 bytes. */
class Reader {
 public:
  Reader(const char* data, size_t size) : at_(data), left_(size) {}

  template <typename T>
  T Value() {
    T value;
    std::memcpy(&value, Take(sizeof(T)), sizeof(T));
    return value;
  }

  /*! How many things of at least `least` bytes follow. */
  size_t Count(size_t least) {
    const uint64_t count = Value<uint64_t>();
    if (count > left_ / least) Fail();
    return static_cast<size_t>(count);
  }

  std::string Text() {
    const size_t size = Count(1);
    const char* data = Take(size);
    return std::string(data, size);
  }

  bool done() const { return left_ == 0; }

  [[noreturn]] static void Fail() {
    TVM_FFI_THROW(ValueError) << "the OpenCL code of this library is damaged, or was written by "
                                 "another version of TVM: compile it again";
    TVM_FFI_UNREACHABLE();
  }

 private:
  const char* Take(size_t size) {
    if (size > left_) Fail();
    const char* data = at_;
    at_ += size;
    left_ -= size;
    return data;
  }

  const char* at_;
  size_t left_;
};

int LaunchDimension(const std::string& tag, const std::string& kernel) {
  static const char* const kTags[] = {"blockIdx.x",  "blockIdx.y",  "blockIdx.z",
                                      "threadIdx.x", "threadIdx.y", "threadIdx.z"};
  for (int i = 0; i < 6; ++i) {
    if (tag == kTags[i]) return i;
  }
  TVM_FFI_THROW(ValueError) << "kernel '" << kernel << "' is launched with '" << tag
                            << "', which OpenCL does not have";
  TVM_FFI_UNREACHABLE();
}

FunctionInfo ReadFunction(Reader& reader, const std::string& name) {
  FunctionInfo info;
  reader.Text();  // the name once more
  for (size_t left = reader.Count(4); left > 0; --left) {
    DLDataType type;
    type.code = reader.Value<uint8_t>();
    type.bits = reader.Value<uint8_t>();
    type.lanes = reader.Value<uint16_t>();
    info.arguments.push_back(type);
  }
  for (size_t left = reader.Count(8); left > 0; --left) {
    info.launch.push_back(LaunchDimension(reader.Text(), name));
  }
  for (size_t left = reader.Count(4); left > 0; --left) reader.Value<int32_t>();  // CUDA's alone
  return info;
}

}  // namespace

ModuleContent ReadModule(const char* data, size_t size) {
  Reader reader(data, size);
  ModuleContent content;
  content.format = reader.Text();
  if (content.format != "cl") {
    TVM_FFI_THROW(ValueError) << "this library has OpenCL code in the format '" << content.format
                              << "'; only source, 'cl', is known: compile it again";
  }
  for (size_t left = reader.Count(16); left > 0; --left) {
    const std::string name = reader.Text();
    content.functions[name] = ReadFunction(reader, name);
  }
  content.source = reader.Text();
  if (!reader.done()) Reader::Fail();
  return content;
}

}  // namespace millifit::opencl
