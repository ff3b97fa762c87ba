/* Calls compiled kernels for a test on another machine: requests on stdin, answers on stdout.
 *
 * A request: the path of a shared library (one line), then the number of tensors (int32), then for
 * each tensor its type (int32 code, bits), rank (int32), shape (int64 each) and elements. The last
 * tensor is the output. An answer: an int32, 0 and the output's elements, or the length of a
 * message and the message. The few symbols of TVM's runtime that a kernel calls are defined here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct { int32_t type, id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DataType;
typedef struct {
  void *data;
  Device device;
  int32_t rank;
  DataType type;
  int64_t *shape, *strides;
  uint64_t offset;
} Tensor;
typedef struct { int32_t type, padding; union { int64_t integer; void *pointer; }; } Value;
typedef int (*Kernel)(void *self, Value *arguments, int32_t count, Value *result);
typedef struct { void *sync; int32_t tasks; } Group;
typedef int (*Task)(int task, Group *group, void *closure);

enum { CPU = 1, TENSOR_POINTER = 7, MOST_TENSORS = 32, MOST_AXES = 8 };
static char message[4096];

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  size_t used = snprintf(message, sizeof message, "%s: ", kind);
  for (int i = 0; i < count; ++i)
    if (parts[i] && used < sizeof message)
      used += snprintf(message + used, sizeof message - used, "%s", parts[i]);
}

/* Ends at a page that must not be touched (the last 64 bytes aside, which alignment needs), and
 * holds no zeros: what reads too far, or before it writes, is noticed. */
static void *guarded(size_t bytes, size_t *mapped, void **base) {
  size_t page = sysconf(_SC_PAGESIZE), rounded = (bytes + 63) / 64 * 64;
  size_t body = (rounded + page - 1) / page * page;
  char *start = mmap(0, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED || mprotect(start + body, page, PROT_NONE)) exit(3);
  memset(start, 0xAB, body);
  *mapped = body + page;
  *base = start;
  return start + body - rounded;
}

typedef struct { void *given, *base; size_t mapped; } Workspace;
static Workspace workspaces[256];

static void *allocate(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  for (int i = 0; i < 256; ++i)
    if (!workspaces[i].base)
      return workspaces[i].given = guarded(bytes, &workspaces[i].mapped, &workspaces[i].base);
  return NULL;
}

static int release(int type, int id, void *given) {
  (void)type, (void)id;
  for (int i = 0; i < 256; ++i)
    if (workspaces[i].base && workspaces[i].given == given) {
      munmap(workspaces[i].base, workspaces[i].mapped);
      workspaces[i].base = NULL;
      return 0;
    }
  return -1;
}

/* One task after the other: what they compute must not depend on their order. */
static int launch(Task task, void *closure, int count) {
  Group group = {NULL, count ? count : 2};
  for (int i = 0; i < group.tasks; ++i)
    if (task(i, &group, closure)) return -1;
  return 0;
}

static void define(void *library, const char *name, void *value) {
  void **slot = dlsym(library, name);
  if (slot) *slot = value;
}

static void get(void *to, size_t bytes) {
  if (bytes && fread(to, bytes, 1, stdin) != 1) exit(4);
}

static void put(const void *from, size_t bytes) { fwrite(from, bytes, 1, stdout); }

static void fail(const char *what) {
  int32_t length = strlen(what);
  put(&length, sizeof length);
  put(what, length);
}

int main(void) {
  static char path[4096];
  while (fgets(path, sizeof path, stdin)) {
    static Tensor tensors[MOST_TENSORS];
    static int64_t shapes[MOST_TENSORS][MOST_AXES];
    static Value arguments[MOST_TENSORS];
    void *bases[MOST_TENSORS];
    size_t mapped[MOST_TENSORS], bytes = 0;
    int32_t count;
    path[strcspn(path, "\n")] = 0;
    get(&count, sizeof count);
    if (count > MOST_TENSORS) exit(5);
    for (int i = 0; i < count; ++i) {
      int32_t head[3];
      get(head, sizeof head);
      if (head[2] > MOST_AXES) exit(5);
      get(shapes[i], head[2] * sizeof(int64_t));
      bytes = head[1] / 8;
      for (int axis = 0; axis < head[2]; ++axis) bytes *= shapes[i][axis];
      void *data = guarded(bytes, &mapped[i], &bases[i]);
      get(data, bytes);
      tensors[i] = (Tensor){data, {CPU, 0}, head[2], {head[0], head[1], 1}, shapes[i], NULL, 0};
      arguments[i] = (Value){TENSOR_POINTER, 0, {.pointer = &tensors[i]}};
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    Kernel kernel = library ? (Kernel)dlsym(library, "__tvm_ffi_main") : NULL;
    if (!kernel) {
      fail(dlerror());
    } else {
      Value result = {0};
      define(library, "__TVMBackendAllocWorkspace", allocate);
      define(library, "__TVMBackendFreeWorkspace", release);
      define(library, "__TVMBackendParallelLaunch", launch);
      snprintf(message, sizeof message, "the kernel failed without a message");
      if (kernel(NULL, arguments, count, &result)) {
        fail(message);
      } else {
        int32_t fine = 0;
        put(&fine, sizeof fine);
        put(tensors[count - 1].data, bytes);
      }
    }
    fflush(stdout);
    if (library) dlclose(library);
    for (int i = 0; i < count; ++i) munmap(bases[i], mapped[i]);
  }
  return 0;
}
