#include "session.h"

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <utility>

#include "array.h"
#include "device.h"
#include "failure.h"
#include "manifest.h"
#include "mapped_file.h"
#include "network.h"
#include "portfolio.h"
#include "report.h"
#include "signature.h"
#include "tvm.h"

namespace millifit {
namespace {

using Named = std::vector<std::pair<std::string, NumpyArray>>;

NumpyArray ReadInput(const std::string& path) {
  const MappedFile file = OpenOr(path, "the input '" + path + "' cannot be read (%s)");
  try {
    return ParseNpy(file.text());
  } catch (const ParseFailure& failure) {
    throw Failure("the input '" + path + "' cannot be used (" + failure.what() +
                  "): write it with numpy.save");
  }
}

Named ReadGolden(const Bundle& bundle) {
  try {
    return ParseNpz(bundle.golden.text());
  } catch (const ParseFailure& failure) {
    throw Failure("'" + bundle.golden.path() + "' is damaged (" + failure.what() +
                  "): compile the bundle again");
  }
}

const NumpyArray* FindArray(const Named& arrays, const std::string& name) {
  for (const auto& [each, array] : arrays) {
    if (each == name) return &array;
  }
  return nullptr;
}

// The largest deviation of any output; nothing where there is no golden output.
std::optional<double> GoldenError(const std::vector<NumpyArray>& made, const Named& golden) {
  std::optional<double> largest;
  for (size_t i = 0; i < made.size(); ++i) {
    const NumpyArray* wanted = FindArray(golden, Text("output%zu", i));
    if (wanted == nullptr) return std::nullopt;
    const double error = RelativeError(made[i], *wanted);
    if (!largest || error > *largest) largest = error;
  }
  return largest;
}

void CheckGolden(const Report& report, const Bundle& bundle, bool wanted) {
  if (!report.golden_error) {
    if (!wanted) return;
    throw Failure("bundle '" + bundle.path + "' has no golden output: compile it again with this "
                  "version, or verify it with 'millifit verify --model --data'");
  }
  if (*report.golden_error <= report.golden_tolerance) return;
  throw Failure(Text("bundle '%s' does not give its golden output on this device: relative error "
                     "%.3g, at most %.3g is allowed. Compile it again for this device.",
                     bundle.path.c_str(), *report.golden_error, report.golden_tolerance));
}

std::string OutputPath(const std::string& path, size_t index) {
  if (index == 0) return path;
  const size_t dot = path.rfind(".npy");
  const std::string stem = dot == std::string::npos ? path : path.substr(0, dot);
  return stem + Text(".%zu.npy", index);
}

void UseThreads(int threads) {
  // Before the runtime starts any. Pinned ones would pin this thread, too.
  setenv("TVM_NUM_THREADS", Text("%d", threads).c_str(), 1);
  setenv("TVM_BIND_THREADS", "0", 0);
}

void Time(Network* network, const Options& options, Report* report) {
  for (int i = 0; i < options.warmup; ++i) network->Invoke();
  for (int i = 0; i < options.repeat; ++i) {
    const double start = Now();
    network->Invoke();
    report->run_s.push_back(Now() - start);
  }
}

std::string DeviceName(const Device& device, const Needs& needs, const Gpu* gpu) {
  if (gpu == nullptr) return device.machine();
  return device.machine() + ", " + gpu->name + " through " + needs.api;
}

// The bundle to run: the one named, or the portfolio's variant for this device.
std::string BundleFolder(const Options& options, Device* device, Report* report) {
  const bool several = IsPortfolio(options.bundle);
  if (!options.public_key.empty()) {
    const char* sealed = several ? "/portfolio.json" : "/manifest.json";
    CheckSignature(options.bundle + sealed, options.public_key);
    report->is_signed = true;
  }
  if (!several) return options.bundle;
  Choice choice = Choose(options.bundle, device);
  report->refused = std::move(choice.refused);
  return choice.path;
}

}  // namespace

double Now() {
  struct timespec now {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void RunSession(const Options& options, double started_s) {
  Report report;
  const Tvm tvm;
  Device device(tvm);
  report.bundle = BundleFolder(options, &device, &report);
  if (options.choose) {
    for (const std::string& each : report.refused) std::fprintf(stderr, "not %s\n", each.c_str());
    std::printf("%s\n", report.bundle.c_str());
    return;
  }
  const Bundle bundle = OpenBundle(report.bundle);
  const Manifest& manifest = bundle.manifest;
  const std::string reason = device.WhyNot(manifest.needs);
  if (!reason.empty()) {
    throw Failure("bundle '" + bundle.path + "' was compiled for target '" + manifest.target +
                  "' and cannot run here: " + reason + ". Compile it for this device.");
  }
  report.network = manifest.name;
  report.target = manifest.target;
  const Gpu* gpu = device.FindGpu(manifest.needs);
  report.device = DeviceName(device, manifest.needs, gpu);
  report.runtime = tvm.version();
  report.threads = options.threads.value_or(manifest.threads);
  UseThreads(report.threads);

  Network network(tvm, bundle, gpu != nullptr ? gpu->index : 0, report.threads);
  const Named golden = ReadGolden(bundle);
  const NumpyArray* own = FindArray(golden, "input");
  if (own == nullptr) throw Failure("'" + bundle.golden.path() + "' holds no input");
  const bool given = !options.input.empty();
  network.SetInput(given ? ReadInput(options.input) : *own, given ? options.input : "golden.npz");
  network.Invoke();
  std::vector<NumpyArray> outputs = network.Outputs();
  report.start_up_s = Now() - started_s;
  if (!options.output.empty()) {
    for (size_t i = 0; i < outputs.size(); ++i) {
      WriteFile(OutputPath(options.output, i), NpyText(outputs[i]));
    }
  }
  if (given && options.verify) {
    network.SetInput(*own, "golden.npz");
    network.Invoke();
    outputs = network.Outputs();
  }
  if (!given || options.verify) report.golden_error = GoldenError(outputs, golden);
  report.golden_tolerance = manifest.tolerance;
  CheckGolden(report, bundle, options.verify);
  if (!options.verify) Time(&network, options, &report);
  report.peak_memory_bytes = PeakMemoryBytes();
  if (!options.json.empty()) WriteFile(options.json, AsJson(report));
  std::fputs(ForPeople(report).c_str(), stdout);
}

}  // namespace millifit
