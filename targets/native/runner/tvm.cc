#include "tvm.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "failure.h"

namespace millifit {
namespace {

struct Borrowed {
  DLManagedTensor managed;
  std::vector<int64_t> shape;
};

std::string OwnFolder() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  const std::string file(path, length > 0 ? static_cast<size_t>(length) : 0);
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

template <typename Function>
void Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function != nullptr) return;
  throw Failure(std::string("libtvm_ffi.so has no '") + name +
                "': it is of a TVM that this runner was not made for. Use libtvm_ffi.so and "
                "libtvm_runtime.so of apache-tvm 0.27");
}

void* Need(const std::string& name) {
  std::string tried;
  void* library = OpenLibrary(name, &tried);
  if (library != nullptr) return library;
  throw Failure("the TVM runtime cannot be opened (" + tried + "). Put libtvm_ffi.so and "
                "libtvm_runtime.so beside millifit-run, or name their folder in MILLIFIT_RUNTIME "
                "or LD_LIBRARY_PATH");
}

}  // namespace

void* OpenLibrary(const std::string& name, std::string* tried) {
  std::vector<std::string> places;
  if (const char* named = std::getenv("MILLIFIT_RUNTIME")) {
    std::string folder;
    for (const char* c = named;; ++c) {
      if (*c != ':' && *c != '\0') {
        folder += *c;
        continue;
      }
      if (!folder.empty()) places.push_back(folder + "/" + name);
      folder.clear();
      if (*c == '\0') break;
    }
  }
  places.push_back(OwnFolder() + "/" + name);
  places.push_back(name);  // LD_LIBRARY_PATH, and what was named when the runner was built
  for (const std::string& place : places) {
    if (&place != &places.back() && access(place.c_str(), F_OK) != 0) continue;
    if (void* library = dlopen(place.c_str(), RTLD_NOW | RTLD_GLOBAL)) return library;
    const char* said = dlerror();
    *tried = said != nullptr ? said : place;
  }
  return nullptr;
}

Value::~Value() {
  if (any_.type_index >= kTVMFFIStaticObjectBegin) tvm_->release_(any_.v_obj);
}

Value& Value::operator=(Value&& other) noexcept {
  std::swap(tvm_, other.tvm_);
  std::swap(any_, other.any_);
  return *this;
}

TVMFFIAny Argument(int64_t number) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIInt;
  any.v_int64 = number;
  return any;
}

TVMFFIAny Argument(bool truth) {
  TVMFFIAny any = Argument(static_cast<int64_t>(truth));
  any.type_index = kTVMFFIBool;
  return any;
}

TVMFFIAny Argument(const char* text) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIRawStr;
  any.v_c_str = text;
  return any;
}

TVMFFIAny Argument(const void* address) {
  TVMFFIAny any{};
  any.type_index = address != nullptr ? kTVMFFIOpaquePtr : kTVMFFINone;
  any.v_ptr = const_cast<void*>(address);
  return any;
}

TVMFFIAny Argument(DLDevice device) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIDevice;
  any.v_device = device;
  return any;
}

TVMFFIAny Argument(DLDataType type) {
  TVMFFIAny any{};
  any.type_index = kTVMFFIDataType;
  any.v_dtype = type;
  return any;
}

DLDataType DataType(const std::string& dtype) {
  TensorType scalar;
  scalar.dtype = dtype;
  uint8_t code = kDLFloat;
  if (dtype.rfind("uint", 0) == 0) code = kDLUInt;
  if (dtype.rfind("int", 0) == 0) code = kDLInt;
  if (dtype == "bfloat16") code = kDLBfloat;
  if (dtype == "bool") code = kDLBool;
  return DLDataType{code, static_cast<uint8_t>(8 * scalar.ElementBytes()), 1};
}

Tvm::Tvm() {
  void* ffi = Need("libtvm_ffi.so");
  Find(ffi, "TVMFFIGetVersion", &get_version_);
  Find(ffi, "TVMFFIFunctionGetGlobal", &get_global_);
  Find(ffi, "TVMFFIFunctionCall", &call_);
  Find(ffi, "TVMFFIErrorMoveFromRaised", &take_error_);
  Find(ffi, "TVMFFIObjectDecRef", &release_);
  Find(ffi, "TVMFFITensorFromDLPack", &from_dlpack_);
  Need("libtvm_runtime.so");
}

bool Tvm::Has(const char* name) const {
  const TVMFFIByteArray bytes{name, std::strlen(name)};
  TVMFFIAny any{};
  void* found = nullptr;
  if (get_global_(&bytes, &found) != 0 || found == nullptr) return false;
  any.type_index = kTVMFFIFunction;
  any.v_obj = static_cast<TVMFFIObject*>(found);
  const Value released(this, any);
  return true;
}

Value Tvm::Global(const char* name) const {
  const TVMFFIByteArray bytes{name, std::strlen(name)};
  TVMFFIAny any{};
  void* found = nullptr;
  if (get_global_(&bytes, &found) != 0) ThrowRaised();
  if (found == nullptr) {
    throw Failure(std::string("the TVM runtime has no function '") + name +
                  "': use the libraries of apache-tvm 0.27");
  }
  any.type_index = kTVMFFIFunction;
  any.v_obj = static_cast<TVMFFIObject*>(found);
  return Value(this, any);
}

Value Tvm::Call(const Value& function, std::vector<TVMFFIAny> arguments) const {
  TVMFFIAny result{};
  const int count = static_cast<int>(arguments.size());
  if (call_(function.any().v_obj, arguments.data(), count, &result) != 0) ThrowRaised();
  return Value(this, result);
}

void Tvm::ThrowRaised() const {
  void* raised = nullptr;
  take_error_(&raised);
  if (raised == nullptr) throw Failure("the TVM runtime failed and does not say why");
  const TVMFFIByteArray said = TVMFFIErrorGetCellPtr(raised)->message;
  const std::string message(said.data, said.size);
  release_(raised);
  throw Failure("the TVM runtime says: " + message);
}

Value Tvm::Member(const Value& module, const char* name) const {
  Value found = Run("ffi.ModuleGetFunction", module, name, true);
  if (found.IsObject(kTVMFFIFunction)) return found;
  throw Failure(std::string("library.so has no function '") + name + "': compile the bundle again");
}

Value Tvm::Borrow(const TensorType& type, const void* data) const {
  auto* lent = new Borrowed{{}, type.shape};
  lent->managed.dl_tensor.data = const_cast<void*>(data);
  lent->managed.dl_tensor.device = DLDevice{kDLCPU, 0};
  lent->managed.dl_tensor.ndim = static_cast<int32_t>(type.shape.size());
  lent->managed.dl_tensor.dtype = DataType(type.dtype);
  lent->managed.dl_tensor.shape = lent->shape.data();
  lent->managed.manager_ctx = lent;
  lent->managed.deleter = [](DLManagedTensor* self) {
    delete static_cast<Borrowed*>(self->manager_ctx);
  };
  void* made = nullptr;
  if (from_dlpack_(&lent->managed, 64, 1, &made) != 0) {
    delete lent;
    ThrowRaised();
  }
  TVMFFIAny any{};
  any.type_index = kTVMFFITensor;
  any.v_obj = static_cast<TVMFFIObject*>(made);
  return Value(this, any);
}

Value Tvm::Shape(const TensorType& type) const {
  std::vector<TVMFFIAny> extents;
  for (const int64_t extent : type.shape) extents.push_back(Argument(extent));
  return Call(Global("ffi.Shape"), extents);
}

Value Tvm::Copied(const TensorType& type, const void* data, DLDevice device) const {
  Value made = Run("runtime.TVMTensorAllocWithScope", Shape(type), DataType(type.dtype), device,
                   static_cast<const void*>(nullptr));
  Run("runtime.TVMTensorCopyFromBytes", made, data, static_cast<int64_t>(type.Bytes()));
  return made;
}

NumpyArray Tvm::ToHost(const Value& tensor, const TensorType& type) const {
  NumpyArray made;
  made.type = type;
  const DLTensor& found = tensor.Tensor();
  const std::vector<int64_t> shape(found.shape, found.shape + found.ndim);
  const DLDataType wanted = DataType(type.dtype);
  if (shape != type.shape || std::memcmp(&wanted, &found.dtype, sizeof wanted) != 0) {
    throw Failure("library.so gives an output of another type than its manifest says: compile the "
                  "bundle again");
  }
  made.bytes.resize(type.Bytes());
  Run("runtime.TVMTensorCopyToBytes", tensor, static_cast<const void*>(made.bytes.data()),
      static_cast<int64_t>(made.bytes.size()));
  return made;
}

std::string Tvm::version() const {
  TVMFFIVersion found{};
  get_version_(&found);
  return Text("tvm-ffi %u.%u.%u", found.major, found.minor, found.patch);
}

}  // namespace millifit
