// What a person can act on: what is wrong, on which file, and what to do next.
#ifndef MILLIFIT_NATIVE_RUNNER_FAILURE_H_
#define MILLIFIT_NATIVE_RUNNER_FAILURE_H_

#include <stdexcept>
#include <string>

namespace millifit {

// As printf; without streams the program stays small.
[[gnu::format(printf, 1, 2)]] std::string Text(const char* format, ...);

// Ends the program with its message and code 1.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Wrong options: code 2.
struct UsageFailure : Failure {
  using Failure::Failure;
};

// A text that does not say what it should; whoever knows the file turns it into a Failure.
struct ParseFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace millifit

#endif
