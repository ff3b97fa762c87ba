// millifit-run: runs a bundle, or the fitting variant of a portfolio, with the TVM runtime alone.
#include <cstdio>
#include <cstring>
#include <exception>

#include "failure.h"
#include "options.h"
#include "session.h"

int main(int count, char** words) {
  const double started_s = millifit::Now();
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(words[i], "--help") == 0 || std::strcmp(words[i], "-h") == 0) {
      std::fputs(millifit::kHelp, stdout);
      return 0;
    }
  }
  try {
    millifit::RunSession(millifit::ParseOptions(count, words), started_s);
    return 0;
  } catch (const millifit::UsageFailure& failure) {
    std::fprintf(stderr, "error: %s\n", failure.what());
    return 2;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "error: %s\n", failure.what());
    return 1;
  }
}
