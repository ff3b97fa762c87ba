// The command line of millifit-run.
#ifndef MILLIFIT_NATIVE_RUNNER_OPTIONS_H_
#define MILLIFIT_NATIVE_RUNNER_OPTIONS_H_

#include <optional>
#include <string>

namespace millifit {

struct Options {
  std::string bundle;
  std::string input;
  std::string output;
  std::string json;
  std::string public_key;
  int repeat = 20;
  int warmup = 3;
  std::optional<int> threads;
  bool verify = false;
  bool choose = false;
};

extern const char kHelp[];

// Throws UsageFailure that names the option.
Options ParseOptions(int count, const char* const* words);

}  // namespace millifit

#endif
