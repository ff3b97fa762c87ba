// What TVM's runtime calls of libcudart.so.13, for a device whose memory is the processor's and
// whose streams do everything at once. While a stream is captured, work is only recorded, and what
// CUDA forbids then fails as it does there.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

namespace {
using Work = std::function<void()>;
using Graph = std::vector<Work>;
constexpr int CAPTURE_UNSUPPORTED = 900;  // cudaErrorStreamCaptureUnsupported
Graph* recording = nullptr;
int graphs_launched = 0, allocations = 0;
}  // namespace

extern "C" {
// For the driver beside this library, and for tests.
void emulation_do(const Work& work) {
  if (recording != nullptr) recording->push_back(work);
  else work();
}
int emulation_capturing() { return recording != nullptr; }
int emulation_graphs_launched() { return graphs_launched; }
int emulation_allocations() { return allocations; }

int cudaMalloc(void** made, size_t bytes) {
  if (recording != nullptr) return CAPTURE_UNSUPPORTED;
  ++allocations;
  *made = aligned_alloc(256, (bytes + 511) / 256 * 256);
  memset(*made, 0x7f, bytes);  // nobody may count on zeros
  return 0;
}
int cudaMallocHost(void** made, size_t bytes) { return cudaMalloc(made, bytes); }
int cudaFree(void* memory) { free(memory); return 0; }
int cudaFreeHost(void* memory) { free(memory); return 0; }
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int, void*) {
  emulation_do([=] { memmove(to, from, bytes); });
  return 0;
}
int cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, void* stream) {
  return cudaMemcpyAsync(to, from, bytes, 0, stream);
}
int cudaMemGetInfo(size_t* left, size_t* all) { *left = *all = size_t(1) << 34; return 0; }

int cudaGetDeviceCount(int* count) { *count = 1; return 0; }
int cudaGetDevice(int* device) { *device = 0; return 0; }
int cudaSetDevice(int) { return 0; }
int cudaDeviceGetAttribute(int* value, int, int) { *value = 8; return 0; }
int cudaGetDeviceProperties(void* properties, int) { memset(properties, 0, 512); return 0; }

int cudaStreamCreate(void** stream) { *stream = malloc(1); return 0; }
int cudaStreamCreateWithFlags(void** stream, unsigned) { return cudaStreamCreate(stream); }
int cudaStreamDestroy(void* stream) { free(stream); return 0; }
int cudaStreamSynchronize(void*) { return recording != nullptr ? CAPTURE_UNSUPPORTED : 0; }
int cudaStreamWaitEvent(void*, void*, unsigned) { return 0; }
int cudaStreamBeginCapture(void*, int) { recording = new Graph; return 0; }
int cudaStreamEndCapture(void*, void** graph) { *graph = recording; recording = nullptr; return 0; }
int cudaGraphInstantiate(void** made, void* graph, unsigned long long) {
  *made = new Graph(*static_cast<Graph*>(graph));
  return 0;
}
int cudaGraphLaunch(void* graph, void*) {
  ++graphs_launched;
  for (const Work& work : *static_cast<Graph*>(graph)) work();
  return 0;
}
int cudaGraphDestroy(void* graph) { delete static_cast<Graph*>(graph); return 0; }
int cudaGraphExecDestroy(void* graph) { return cudaGraphDestroy(graph); }

int cudaEventCreate(void** event) { *event = malloc(1); return 0; }
int cudaEventDestroy(void* event) { free(event); return 0; }
int cudaEventRecord(void*, void*) { return 0; }
int cudaEventSynchronize(void*) { return 0; }
int cudaEventElapsedTime(float* ms, void*, void*) { *ms = 1.0f; return 0; }
int cudaGetLastError() { return 0; }
int cudaPeekAtLastError() { return 0; }
const char* cudaGetErrorName(int) { return "emulated"; }
const char* cudaGetErrorString(int) { return "an error of the emulated device"; }
}
