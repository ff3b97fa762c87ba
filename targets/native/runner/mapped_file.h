// A file as memory, read when it is touched.
#ifndef MILLIFIT_NATIVE_RUNNER_MAPPED_FILE_H_
#define MILLIFIT_NATIVE_RUNNER_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace millifit {

class MappedFile {
 public:
  // Throws std::system_error with the reason; a folder is no file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Writes a whole file or nothing, beside it first; throws Failure that names it.
void WriteFile(const std::string& path, std::string_view content);

}  // namespace millifit

#endif
