#include "options.h"

#include <cstdlib>
#include <cstring>

#include "failure.h"

namespace millifit {

const char kHelp[] =
    R"(usage: millifit-run BUNDLE [options]

Checks a bundle, or the variant of a portfolio that fits this device, and runs it.

  --input X.npy       the input; the golden one of the bundle unless given
  --output Y.npy      write the output; further ones become Y.1.npy, Y.2.npy, ...
  --repeat N          timed inferences (20)
  --warmup N          inferences before them (3)
  --threads N         threads of the processor; what the bundle was compiled for unless given
  --json FILE         write what was measured as JSON
  --verify            compare with the golden output, and time nothing
  --public-key PEM    refuse what was not signed by the owner of this Ed25519 key
  --choose            print the folder of the portfolio's variant that fits, and run nothing
  --help              this text

Exit codes: 0 done, 1 failed, 2 wrong use. The TVM runtime (libtvm_ffi.so, libtvm_runtime.so) is
looked for in $MILLIFIT_RUNTIME, beside this program, and where the system looks for libraries.
)";

namespace {

constexpr int kMostRuns = 1000000, kMostThreads = 1024;

int Number(const std::string& option, const char* text, int least, int most) {
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < least || value > most) {
    throw UsageFailure(Text("%s takes a number from %d to %d, not '%s'", option.c_str(), least,
                            most, text));
  }
  return static_cast<int>(value);
}

}  // namespace

Options ParseOptions(int count, const char* const* words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    auto value = [&]() -> const char* {
      if (i + 1 >= count) throw UsageFailure(word + " takes a value: see millifit-run --help");
      return words[++i];
    };
    if (word == "--input") {
      options.input = value();
    } else if (word == "--output") {
      options.output = value();
    } else if (word == "--json") {
      options.json = value();
    } else if (word == "--public-key") {
      options.public_key = value();
    } else if (word == "--repeat") {
      options.repeat = Number(word, value(), 0, kMostRuns);
    } else if (word == "--warmup") {
      options.warmup = Number(word, value(), 0, kMostRuns);
    } else if (word == "--threads") {
      options.threads = Number(word, value(), 1, kMostThreads);
    } else if (word == "--verify") {
      options.verify = true;
    } else if (word == "--choose") {
      options.choose = true;
    } else if (word.rfind("--", 0) == 0) {
      throw UsageFailure("there is no option '" + word + "': see millifit-run --help");
    } else if (options.bundle.empty()) {
      options.bundle = word;
    } else {
      throw UsageFailure("one bundle at a time, not '" + options.bundle + "' and '" + word + "'");
    }
  }
  if (options.bundle.empty()) throw UsageFailure("name a bundle: see millifit-run --help");
  while (options.bundle.size() > 1 && options.bundle.back() == '/') options.bundle.pop_back();
  return options;
}

}  // namespace millifit
