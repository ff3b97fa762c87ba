#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>
#include <utility>

#include "failure.h"

namespace millifit {
namespace {

// Closes what it was given, also when something is thrown.
struct Descriptor {
  int number;
  ~Descriptor() {
    if (number >= 0) close(number);
  }
};

[[noreturn]] void Throw(int code) { throw std::system_error(code, std::generic_category()); }

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.number < 0) Throw(errno);
  struct stat facts {};
  if (fstat(file.number, &facts) != 0) Throw(errno);
  if (S_ISDIR(facts.st_mode)) Throw(EISDIR);
  if (!S_ISREG(facts.st_mode)) Throw(EINVAL);
  size_ = static_cast<size_t>(facts.st_size);
  if (size_ == 0) return;
  // Read ahead at once: all of it is hashed anyway, and then it is in memory.
  void* made = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file.number, 0);
  if (made == MAP_FAILED) Throw(errno);
  data_ = static_cast<const uint8_t*>(made);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

void WriteFile(const std::string& path, std::string_view content) {
  const std::string beside = path + Text(".%d", static_cast<int>(getpid()));
  std::FILE* file = std::fopen(beside.c_str(), "wb");
  bool written = file != nullptr;
  if (written) {
    written = std::fwrite(content.data(), 1, content.size(), file) == content.size();
    written = std::fclose(file) == 0 && written;
    written = written && std::rename(beside.c_str(), path.c_str()) == 0;
  }
  if (written) return;
  const int reason = errno;
  std::remove(beside.c_str());
  throw Failure(Text("cannot write '%s' (%s): free some space, or name another file", path.c_str(),
                     std::strerror(reason)));
}

}  // namespace millifit
