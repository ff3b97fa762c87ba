#include "json.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "failure.h"

namespace millifit {
namespace {

constexpr int kDeepest = 64;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Json ReadAll() {
    Json value = ReadValue(0);
    SkipSpace();
    if (at_ != text_.size()) Fail("something follows the end");
    return value;
  }

 private:
  [[noreturn]] void Fail(const char* what) const {
    throw ParseFailure(Text("%s at byte %zu", what, at_));
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void SkipSpace() {
    while (at_ < text_.size() && std::strchr(" \t\r\n", text_[at_]) && text_[at_] != '\0') ++at_;
  }

  bool Take(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json ReadValue(int depth) {
    if (depth > kDeepest) Fail("nested too deep");
    SkipSpace();
    Json value;
    switch (Peek()) {
      case '{':
        ReadObject(&value, depth);
        break;
      case '[':
        ReadArray(&value, depth);
        break;
      case '"':
        value.kind_ = Json::Kind::kString;
        value.string_ = ReadString();
        break;
      default:
        ReadWord(&value);
    }
    return value;
  }

  void ReadWord(Json* value) {
    if (Take("null")) return;
    value->kind_ = Json::Kind::kBool;
    if (Take("true")) {
      value->integer_ = 1;
    } else if (!Take("false")) {
      ReadNumber(value);
    }
  }

  void ReadObject(Json* value, int depth) {
    value->kind_ = Json::Kind::kObject;
    ++at_;
    SkipSpace();
    if (Take("}")) return;
    while (true) {
      SkipSpace();
      if (Peek() != '"') Fail("expected a key");
      std::string key = ReadString();
      SkipSpace();
      if (!Take(":")) Fail("expected ':'");
      value->members_.emplace_back(std::move(key), ReadValue(depth + 1));
      SkipSpace();
      if (Take("}")) return;
      if (!Take(",")) Fail("expected ',' or '}'");
    }
  }

  void ReadArray(Json* value, int depth) {
    value->kind_ = Json::Kind::kArray;
    ++at_;
    SkipSpace();
    if (Take("]")) return;
    while (true) {
      value->array_.push_back(ReadValue(depth + 1));
      SkipSpace();
      if (Take("]")) return;
      if (!Take(",")) Fail("expected ',' or ']'");
    }
  }

  std::string ReadString() {
    ++at_;
    std::string made;
    while (true) {
      if (at_ >= text_.size()) Fail("a string has no end");
      const char c = text_[at_++];
      if (c == '"') return made;
      if (static_cast<unsigned char>(c) < 0x20) Fail("a control character in a string");
      if (c == '\\') {
        ReadEscape(&made);
      } else {
        made.push_back(c);
      }
    }
  }

  void ReadEscape(std::string* made) {
    static constexpr char kNames[] = "\"\\/bfnrt";
    static constexpr char kMeant[] = "\"\\/\b\f\n\r\t";
    const char c = Peek();
    ++at_;
    if (c == 'u') {
      AppendUtf8(ReadCodePoint(), made);
    } else if (const char* found = c == '\0' ? nullptr : std::strchr(kNames, c)) {
      made->push_back(kMeant[found - kNames]);
    } else {
      Fail("an unknown escape in a string");
    }
  }

  uint32_t ReadCodePoint() {
    const uint32_t first = ReadHex();
    if (first < 0xD800 || first > 0xDFFF) return first;
    if (first > 0xDBFF || !Take("\\u")) Fail("half of a surrogate pair");
    const uint32_t second = ReadHex();
    if (second < 0xDC00 || second > 0xDFFF) Fail("half of a surrogate pair");
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
  }

  uint32_t ReadHex() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = Peek();
      const char* digits = "0123456789abcdef";
      const char lower = c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c;
      const char* found = lower == '\0' ? nullptr : std::strchr(digits, lower);
      if (found == nullptr) Fail("expected four hexadecimal digits");
      code = code * 16 + static_cast<uint32_t>(found - digits);
    }
    return code;
  }

  static void AppendUtf8(uint32_t code, std::string* made) {
    auto tail = [&](int shift) {
      made->push_back(static_cast<char>(0x80 | (code >> shift & 0x3F)));
    };
    if (code < 0x80) {
      made->push_back(static_cast<char>(code));
    } else if (code < 0x800) {
      made->push_back(static_cast<char>(0xC0 | code >> 6));
      tail(0);
    } else if (code < 0x10000) {
      made->push_back(static_cast<char>(0xE0 | code >> 12));
      tail(6), tail(0);
    } else {
      made->push_back(static_cast<char>(0xF0 | code >> 18));
      tail(12), tail(6), tail(0);
    }
  }

  void ReadNumber(Json* value) {
    value->kind_ = Json::Kind::kNumber;
    if (Take("NaN")) {
      value->number_ = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    const size_t start = at_;
    const bool negative = Take("-");
    if (Take("Infinity")) {
      value->number_ = (negative ? -1 : 1) * std::numeric_limits<double>::infinity();
      return;
    }
    const bool whole = SkipNumber();
    const std::string digits(text_.substr(start, at_ - start));
    value->number_ = std::strtod(digits.c_str(), nullptr);
    if (!whole) return;
    errno = 0;
    value->integer_ = std::strtoll(digits.c_str(), nullptr, 10);
    if (errno == 0) value->kind_ = Json::Kind::kInteger;
  }

  // Past a number; whether it is an integer.
  bool SkipNumber() {
    if (!IsDigit(Peek())) Fail("expected a value");
    if (Peek() == '0' && at_ + 1 < text_.size() && IsDigit(text_[at_ + 1])) Fail("a leading zero");
    SkipDigits();
    bool whole = true;
    if (Take(".")) {
      whole = false;
      SkipDigits();
    }
    if (Peek() == 'e' || Peek() == 'E') {
      whole = false;
      ++at_;
      if (Peek() == '+' || Peek() == '-') ++at_;
      SkipDigits();
    }
    return whole;
  }

  void SkipDigits() {
    if (!IsDigit(Peek())) Fail("expected a digit");
    while (IsDigit(Peek())) ++at_;
  }

  std::string_view text_;
  size_t at_ = 0;
};

Json Json::Parse(std::string_view text) { return JsonReader(text).ReadAll(); }

void Json::Expect(Kind kind, const char* name) const {
  if (kind_ != kind) throw ParseFailure(Text("a value is no %s", name));
}

const Json* Json::Find(std::string_view key) const {
  Expect(Kind::kObject, "object");
  for (const auto& [name, value] : members_) {
    if (name == key) return value.IsNull() ? nullptr : &value;
  }
  return nullptr;
}

const Json& Json::At(std::string_view key) const {
  const Json* found = Find(key);
  if (found == nullptr) throw ParseFailure("'" + std::string(key) + "' is missing");
  return *found;
}

const std::string& Json::String() const {
  Expect(Kind::kString, "text");
  return string_;
}

int64_t Json::Integer() const {
  Expect(Kind::kInteger, "whole number");
  return integer_;
}

double Json::Number() const {
  if (kind_ != Kind::kInteger) Expect(Kind::kNumber, "number");
  return number_;
}

const std::vector<Json>& Json::Array() const {
  Expect(Kind::kArray, "list");
  return array_;
}

const std::vector<std::pair<std::string, Json>>& Json::Members() const {
  Expect(Kind::kObject, "object");
  return members_;
}

std::string Quoted(std::string_view text) {
  std::string made = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      made += '\\';
      made += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      made += Text("\\u%04x", static_cast<unsigned>(c));
    } else {
      made += c;
    }
  }
  return made + "\"";
}

}  // namespace millifit
