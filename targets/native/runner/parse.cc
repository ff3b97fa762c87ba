// Parses files as millifit-run does and says what is wrong with them: for tests of damaged ones.
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "array.h"
#include "json.h"
#include "mapped_file.h"
#include "options.h"
#include "sha256.h"

namespace {

std::string Parse(const char* kind, const millifit::MappedFile& file) {
  if (std::strcmp(kind, "json") == 0) {
    millifit::Json::Parse(file.text());
  } else if (std::strcmp(kind, "npy") == 0) {
    return millifit::ParseNpy(file.text()).type.Name();
  } else if (std::strcmp(kind, "npz") == 0) {
    std::string names;
    for (const auto& [name, array] : millifit::ParseNpz(file.text())) {
      names += name + " " + array.type.Name() + "; ";
    }
    return names;
  } else {  // sha256: in plain C++ and by the processor's instructions
    const millifit::CompressBlocks fast = millifit::CompressByInstructions();
    const std::string digits =
        millifit::Sha256(file.data(), file.size(), millifit::CompressPortably);
    return digits + " " + (fast ? millifit::Sha256(file.data(), file.size(), fast) : digits);
  }
  return "";
}

}  // namespace

// millifit-parse KIND FILE...: a line for every file, "ok ..." or "no ...".
int main(int count, char** words) {
  for (int i = 2; i < count; ++i) {
    try {
      std::printf("ok %s\n", Parse(words[1], millifit::MappedFile(words[i])).c_str());
    } catch (const std::exception& failure) {
      std::printf("no %s\n", failure.what());
    }
  }
  return 0;
}
