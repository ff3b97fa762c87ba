// What a run found out, for people and for programs.
#ifndef MILLIFIT_NATIVE_RUNNER_REPORT_H_
#define MILLIFIT_NATIVE_RUNNER_REPORT_H_

#include <optional>
#include <string>
#include <vector>

namespace millifit {

// Seconds: the median and its 95 % interval from order statistics; as ../../timing.py.
struct Interval {
  double median_s;
  double low_s;
  double high_s;
};

Interval MedianInterval(std::vector<double> run_s);

struct Report {
  std::string bundle;
  std::string network;
  std::string target;
  std::string device;
  std::string runtime;
  int threads = 1;
  bool is_signed = false;
  std::vector<std::string> refused;  // variants of a portfolio, each with the reason
  double start_up_s = 0;             // from the start of main to the first output
  std::optional<double> golden_error;
  double golden_tolerance = 0;
  std::vector<double> run_s;
  long peak_memory_bytes = 0;
};

std::string ForPeople(const Report& report);
std::string AsJson(const Report& report);

// The most memory that this process had resident; 0 where the system does not say.
long PeakMemoryBytes();

}  // namespace millifit

#endif
