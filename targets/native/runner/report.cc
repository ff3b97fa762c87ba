#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "failure.h"
#include "json.h"

namespace millifit {
namespace {

// How many of n ordered values may be left out at each end of a 95 % interval of the median.
size_t ValuesOutside(size_t n) {
  // Binomial probabilities through logarithms: 0.5^n is no number for a large n.
  double log_term = -static_cast<double>(n) * std::log(2.0), below = std::exp(log_term);
  size_t outside = 0;
  while (outside < n) {
    const double next = static_cast<double>(outside + 1);
    log_term += std::log((static_cast<double>(n) - next + 1) / next);
    below += std::exp(log_term);
    if (below > 0.025) break;
    ++outside;
  }
  return outside;
}

std::string Number(double value) {
  return std::isfinite(value) ? Text("%.9g", value) : std::string("null");
}

std::string Milliseconds(double seconds) { return Text("%.4g ms", seconds * 1e3); }

}  // namespace

Interval MedianInterval(std::vector<double> run_s) {
  std::sort(run_s.begin(), run_s.end());
  const size_t n = run_s.size(), outside = ValuesOutside(n);
  const double median = (run_s[(n - 1) / 2] + run_s[n / 2]) / 2;
  return {median, run_s[outside], run_s[n - 1 - outside]};
}

std::string ForPeople(const Report& report) {
  std::string text = report.network + " for " + report.target + " on " + report.device + "\n";
  for (const std::string& each : report.refused) text += "  not " + each + "\n";
  if (report.is_signed) text += "signature      valid\n";
  if (report.golden_error) {
    text += Text("golden output  given, relative error %.3g (at most %.3g)\n", *report.golden_error,
                 report.golden_tolerance);
  }
  text += "start-up       " + Milliseconds(report.start_up_s) + " to the first output\n";
  if (!report.run_s.empty()) {
    const Interval found = MedianInterval(report.run_s);
    text += "latency        " + Milliseconds(found.median_s) + " (" + Milliseconds(found.low_s) +
            " to " + Milliseconds(found.high_s) + Text(", %zu runs, %d thread%s)\n",
            report.run_s.size(), report.threads, report.threads == 1 ? "" : "s");
  }
  return text + Text("peak memory    %.1f MB, runtime included\n",
                     static_cast<double>(report.peak_memory_bytes) / 1e6);
}

std::string AsJson(const Report& report) {
  std::string text = "{\n \"bundle\": " + Quoted(report.bundle);
  text += ",\n \"network\": " + Quoted(report.network);
  text += ",\n \"target\": " + Quoted(report.target);
  text += ",\n \"device\": " + Quoted(report.device);
  text += ",\n \"runtime\": " + Quoted(report.runtime);
  text += Text(",\n \"threads\": %d", report.threads);
  text += std::string(",\n \"files\": \"unchanged\",\n \"signature\": ") +
          (report.is_signed ? "\"valid\"" : "null");
  text += ",\n \"refused\": [";
  for (const std::string& each : report.refused) {
    text += (&each == &report.refused.front() ? "" : ", ") + Quoted(each);
  }
  text += "],\n \"start_up_s\": " + Number(report.start_up_s);
  text += ",\n \"golden_error\": " + (report.golden_error ? Number(*report.golden_error) : "null");
  text += ",\n \"golden_tolerance\": " + Number(report.golden_tolerance);
  text += ",\n \"latency_s\": ";
  if (report.run_s.empty()) {
    text += "null";
  } else {
    const Interval found = MedianInterval(report.run_s);
    text += "{\"median\": " + Number(found.median_s) + ", \"low\": " + Number(found.low_s) +
            ", \"high\": " + Number(found.high_s) + Text(", \"n\": %zu}", report.run_s.size());
  }
  text += ",\n \"run_s\": [";
  for (const double& each : report.run_s) {
    text += (&each == &report.run_s.front() ? "" : ", ") + Number(each);
  }
  return text + Text("],\n \"peak_memory_bytes\": %ld\n}\n", report.peak_memory_bytes);
}

long PeakMemoryBytes() {
  // getrusage would tell of the process that started this one, if that was larger.
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  long kilobytes = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "VmHWM: %ld", &kilobytes) == 1) break;
  }
  std::fclose(file);
  return kilobytes * 1024;
}

}  // namespace millifit
