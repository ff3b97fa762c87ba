// One run of the program, from the options to the exit code.
#ifndef MILLIFIT_NATIVE_RUNNER_SESSION_H_
#define MILLIFIT_NATIVE_RUNNER_SESSION_H_

#include "options.h"

namespace millifit {

// `started_s` is the monotonic clock when the program began.
void RunSession(const Options& options, double started_s);

double Now();

}  // namespace millifit

#endif
