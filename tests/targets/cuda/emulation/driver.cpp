// What TVM's runtime calls of libcuda.so.1. A module is the path of a library of emulated kernels.
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <memory>
#include <vector>

struct Launcher {  // as emulated kernels define it beside each of them
  int count;
  const int* sizes;
  void (*run)(const unsigned* grid, const unsigned* block, void** parameters);
};
struct Config {  // CUlaunchConfig
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
};

extern "C" {
void emulation_do(const std::function<void()>& work);
int emulation_capturing();

int cuModuleLoadData(void** module, const void* image) {
  if (emulation_capturing()) return 900;
  *module = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
  return *module == nullptr ? 200 : 0;
}
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  char symbol[512] = "launcher_of_";
  strncat(symbol, name, 400);
  *function = dlsym(module, symbol);
  return *function == nullptr ? 500 : 0;
}
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuLaunchKernelEx(const Config* config, void* function, void** parameters, void**) {
  auto launcher = static_cast<const Launcher*>(function);
  auto values = std::make_shared<std::vector<unsigned long long>>(launcher->count);
  for (int i = 0; i < launcher->count; ++i)
    memcpy(&(*values)[i], parameters[i], launcher->sizes[i]);
  Config how = *config;
  emulation_do([=] {
    std::vector<void*> places;
    for (auto& value : *values) places.push_back(&value);
    launcher->run(how.grid, how.block, places.data());
  });
  return 0;
}
int cuTensorMapEncodeTiled() { return 801; }
int cuDeviceGetName(char* name, int length, int) { strncpy(name, "emulated", length); return 0; }
int cuGetErrorName(int, const char** text) { *text = "emulated"; return 0; }
int cuGetErrorString(int, const char** text) { *text = "an error of the emulated driver"; return 0; }
}
