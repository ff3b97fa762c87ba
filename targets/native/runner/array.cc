#include "array.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "failure.h"

namespace millifit {
namespace {

struct KnownType {
  const char* name;
  const char* numpy;  // as a .npy file names it, little endian
  size_t bytes;
};

constexpr KnownType kTypes[] = {
    {"float32", "<f4", 4}, {"float16", "<f2", 2}, {"float64", "<f8", 8}, {"int8", "|i1", 1},
    {"uint8", "|u1", 1},   {"int16", "<i2", 2},   {"uint16", "<u2", 2},  {"int32", "<i4", 4},
    {"uint32", "<u4", 4},  {"int64", "<i8", 8},   {"uint64", "<u8", 8},  {"bool", "|b1", 1},
    {"bfloat16", "<V2", 2}, {"bfloat16", "|V2", 2},
};

const KnownType& Known(const std::string& name) {
  for (const KnownType& type : kTypes) {
    if (name == type.name) return type;
  }
  throw ParseFailure("element type '" + name + "' is unknown");
}

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

double FromHalf(uint16_t half) {
  const int exponent = half >> 10 & 0x1F, fraction = half & 0x3FF;
  const double sign = half >> 15 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  if (exponent == 31) {
    return fraction ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  }
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

// The header of a .npy file: a Python dictionary of three keys.
class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : text_(text) {}

  TensorType Read() {
    TensorType type;
    bool has_type = false, has_order = false, has_shape = false;
    Want("{");
    while (!Take("}")) {
      const std::string key = ReadString();
      Want(":");
      if (key == "descr") {
        type.dtype = ReadType(), has_type = true;
      } else if (key == "fortran_order") {
        ReadOrder(), has_order = true;
      } else if (key == "shape") {
        type.shape = ReadShape(), has_shape = true;
      } else {
        throw ParseFailure("its header has an unknown key");
      }
      if (!Take(",")) {
        Want("}");
        break;
      }
    }
    if (!has_type || !has_order || !has_shape) throw ParseFailure("its header is incomplete");
    return type;
  }

 private:
  void SkipSpace() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }

  bool Take(std::string_view word) {
    SkipSpace();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void Want(std::string_view word) {
    if (!Take(word)) throw ParseFailure("its header is damaged");
  }

  std::string ReadString() {
    Want("'");
    const size_t end = text_.find('\'', at_);
    if (end == std::string_view::npos) throw ParseFailure("its header is damaged");
    std::string made(text_.substr(at_, end - at_));
    at_ = end + 1;
    return made;
  }

  std::string ReadType() {
    const std::string numpy = ReadString();
    for (const KnownType& type : kTypes) {
      if (numpy == type.numpy) return type.name;
    }
    throw ParseFailure("elements of type '" + numpy + "' are not read; save another type");
  }

  void ReadOrder() {
    if (Take("False")) return;
    throw ParseFailure("it is in Fortran order: save numpy.ascontiguousarray of it");
  }

  std::vector<int64_t> ReadShape() {
    std::vector<int64_t> shape;
    Want("(");
    while (!Take(")")) {
      shape.push_back(ReadExtent());
      if (!Take(",")) {
        Want(")");
        break;
      }
    }
    return shape;
  }

  int64_t ReadExtent() {
    SkipSpace();
    int64_t extent = 0;
    const size_t start = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (extent > std::numeric_limits<int32_t>::max()) {
        throw ParseFailure("its shape is too large");
      }
      extent = extent * 10 + (text_[at_] - '0');
    }
    if (at_ == start) throw ParseFailure("its header is damaged");
    return extent;
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

bool operator==(const TensorType& one, const TensorType& other) {
  return one.shape == other.shape && one.dtype == other.dtype;
}

size_t TensorType::ElementBytes() const { return Known(dtype).bytes; }

size_t TensorType::Bytes() const {
  constexpr size_t kMost = std::numeric_limits<ptrdiff_t>::max();
  size_t bytes = ElementBytes();
  for (const int64_t extent : shape) {
    if (extent < 0) throw ParseFailure("a shape has a negative extent");
    if (extent == 0) return 0;
    if (bytes > kMost / static_cast<size_t>(extent)) throw ParseFailure("a shape is too large");
    bytes *= static_cast<size_t>(extent);
  }
  return bytes;
}

std::string TensorType::Name() const {
  std::string name = "(";
  for (const int64_t extent : shape) {
    name += Text(name.size() > 1 ? ", %lld" : "%lld", static_cast<long long>(extent));
  }
  return name + (shape.size() == 1 ? ",)" : ")") + " of " + dtype;
}

double NumpyArray::Value(size_t index) const {
  const std::string& dtype = type.dtype;
  const uint8_t* at = bytes.data() + index * type.ElementBytes();
  if (dtype == "float32") return Load<float>(at);
  if (dtype == "float16") return FromHalf(Load<uint16_t>(at));
  if (dtype == "bfloat16") return FromBits(static_cast<uint32_t>(Load<uint16_t>(at)) << 16);
  if (dtype == "float64") return Load<double>(at);
  if (dtype == "int8") return static_cast<int8_t>(*at);
  if (dtype == "int16") return Load<int16_t>(at);
  if (dtype == "uint16") return Load<uint16_t>(at);
  if (dtype == "int32") return Load<int32_t>(at);
  if (dtype == "uint32") return Load<uint32_t>(at);
  if (dtype == "int64") return static_cast<double>(Load<int64_t>(at));
  if (dtype == "uint64") return static_cast<double>(Load<uint64_t>(at));
  return *at;  // uint8 and bool
}

NumpyArray ParseNpy(std::string_view raw) {
  if (raw.size() < 10 || raw.substr(0, 6) != std::string_view("\x93NUMPY", 6)) {
    throw ParseFailure("it is no .npy file");
  }
  const auto* bytes = reinterpret_cast<const uint8_t*>(raw.data());
  const bool first = bytes[6] == 1;
  if (!first && raw.size() < 12) throw ParseFailure("it is cut short");
  const size_t start = first ? 10 : 12;
  const size_t length = first ? Load<uint16_t>(bytes + 8) : Load<uint32_t>(bytes + 8);
  if (length > raw.size() - start) throw ParseFailure("it is cut short");
  NumpyArray array;
  array.type = HeaderReader(raw.substr(start, length)).Read();
  const std::string_view data = raw.substr(start + length);
  if (data.size() < array.type.Bytes()) throw ParseFailure("it is cut short");
  array.bytes.assign(data.begin(), data.begin() + static_cast<ptrdiff_t>(array.type.Bytes()));
  return array;
}

std::string NpyText(const NumpyArray& array) {
  std::string shape;
  for (const int64_t extent : array.type.shape) {
    shape += Text("%lld, ", static_cast<long long>(extent));
  }
  std::string header = Text("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                            Known(array.type.dtype).numpy, shape.c_str());
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::string made("\x93NUMPY\x01\x00", 8);
  made += static_cast<char>(header.size() & 0xFF);
  made += static_cast<char>(header.size() >> 8);
  made += header;
  return made.append(reinterpret_cast<const char*>(array.bytes.data()), array.bytes.size());
}

double RelativeError(const NumpyArray& made, const NumpyArray& wanted) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  if (!(made.type == wanted.type)) return kNone;
  double largest = 1e-30, difference = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double expected = wanted.Value(i), off = std::fabs(made.Value(i) - expected);
    if (!(off < kNone)) return kNone;  // one of them is no number
    difference = off > difference ? off : difference;
    largest = std::fabs(expected) > largest ? std::fabs(expected) : largest;
  }
  return difference / largest;
}

}  // namespace millifit
