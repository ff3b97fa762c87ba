// Reading JSON: what Python's json.dumps writes, NaN and Infinity included.
#ifndef MILLIFIT_NATIVE_RUNNER_JSON_H_
#define MILLIFIT_NATIVE_RUNNER_JSON_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace millifit {

class Json {
 public:
  // Throws ParseFailure that says where; texts nested deeper than 64 are refused.
  static Json Parse(std::string_view text);

  // Each throws ParseFailure where the value is of another type or out of range.
  const Json& At(std::string_view key) const;
  const std::string& String() const;
  int64_t Integer() const;
  double Number() const;
  const std::vector<Json>& Array() const;
  const std::vector<std::pair<std::string, Json>>& Members() const;

  // Null where the object has no such key, or the key null.
  const Json* Find(std::string_view key) const;
  bool IsNull() const { return kind_ == Kind::kNull; }

 private:
  friend class JsonReader;
  enum class Kind { kNull, kBool, kInteger, kNumber, kString, kArray, kObject };

  void Expect(Kind kind, const char* name) const;

  Kind kind_ = Kind::kNull;
  int64_t integer_ = 0;
  double number_ = 0;
  std::string string_;
  std::vector<Json> array_;
  std::vector<std::pair<std::string, Json>> members_;
};

// A string as JSON writes it, quotes included.
std::string Quoted(std::string_view text);

}  // namespace millifit

#endif
