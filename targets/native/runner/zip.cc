// Zip files whose members are stored as they are; sizes and places come from the central directory.
#include <cstring>

#include "array.h"
#include "failure.h"

namespace millifit {
namespace {

constexpr uint32_t kEnd = 0x06054b50, kEntry = 0x02014b50, kLocal = 0x04034b50;
constexpr size_t kEndBytes = 22, kEntryBytes = 46, kLocalBytes = 30;

class ZipReader {
 public:
  explicit ZipReader(std::string_view raw) : raw_(raw) {}

  std::vector<std::pair<std::string, NumpyArray>> Read() {
    const size_t end = FindEnd();
    size_t at = Number<uint32_t>(end + 16);
    std::vector<std::pair<std::string, NumpyArray>> found;
    for (int left = Number<uint16_t>(end + 10); left > 0; --left) {
      if (Number<uint32_t>(at) != kEntry) throw ParseFailure("its directory is damaged");
      if (Number<uint16_t>(at + 10) != 0) throw ParseFailure("it is compressed");
      const size_t name_bytes = Number<uint16_t>(at + 28);
      std::string name(Part(at + kEntryBytes, name_bytes));
      found.emplace_back(Stem(name), Member(at));
      at += kEntryBytes + name_bytes + Number<uint16_t>(at + 30) + Number<uint16_t>(at + 32);
    }
    return found;
  }

 private:
  // Every access is checked here.
  std::string_view Part(size_t at, size_t bytes) const {
    if (at > raw_.size() || bytes > raw_.size() - at) throw ParseFailure("it is cut short");
    return raw_.substr(at, bytes);
  }

  template <typename T>
  T Number(size_t at) const {
    T value;
    std::memcpy(&value, Part(at, sizeof value).data(), sizeof value);
    return value;
  }

  size_t FindEnd() const {
    // A comment may follow it, of at most 65535 bytes.
    for (size_t back = kEndBytes; back <= raw_.size() && back <= kEndBytes + 65535; ++back) {
      if (Number<uint32_t>(raw_.size() - back) == kEnd) return raw_.size() - back;
    }
    throw ParseFailure("it is no zip file");
  }

  NumpyArray Member(size_t entry) const {
    const size_t bytes = Number<uint32_t>(entry + 24);
    const size_t local = Number<uint32_t>(entry + 42);
    if (Number<uint32_t>(entry + 20) != bytes) throw ParseFailure("it is compressed");
    if (Number<uint32_t>(local) != kLocal) throw ParseFailure("its directory is damaged");
    const size_t names = Number<uint16_t>(local + 26) + Number<uint16_t>(local + 28);
    return ParseNpy(Part(local + kLocalBytes + names, bytes));
  }

  static std::string Stem(const std::string& name) {
    const size_t dot = name.rfind(".npy");
    return dot == std::string::npos || dot + 4 != name.size() ? name : name.substr(0, dot);
  }

  std::string_view raw_;
};

}  // namespace

std::vector<std::pair<std::string, NumpyArray>> ParseNpz(std::string_view raw) {
  return ZipReader(raw).Read();
}

}  // namespace millifit
