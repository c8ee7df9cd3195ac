/* A CUDA driver that uses host memory, to run PyCUDA and cuda-bindings without a GPU. Copies are immediate, the two kernels of
   engines/backends/tensorrt/kernels.ptx are written in C here, and a stream can be captured into a graph and launched
   again. As in the real driver, calls that need a current context fail without one. cuda_driver.py makes stubs of all other
   functions. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address;
enum { OUT_OF_MEMORY = 2, NO_CONTEXT = 201 };

typedef struct Op { int kind; void *to; const void *from; size_t size; int rows, words; const int *index; } Op;
typedef struct Graph { Op ops[64]; int count; } Graph;
typedef struct Stream { Graph *capturing; } Stream;

static char context[8];
static __thread int depth;
static size_t used, limit = 64 << 20;
static int hanging, failing;
static long objects;
void hang(int whether) { hanging = whether; }
long live_allocations(void) { return (long)used; }
long live_objects(void) { return objects; } /* streams, events and graphs */
void fail_copies(int code) { failing = code; }
void set_memory(size_t bytes) { limit = bytes; }

static int run(Stream *stream, Op op) {
    if (!depth) return NO_CONTEXT;
    if (failing) return failing;
    if (stream && stream->capturing) {
        stream->capturing->ops[stream->capturing->count++] = op;
        return 0;
    }
    uint32_t *to = op.to;
    const uint32_t *from = op.from;
    size_t row = (size_t)op.words * 4;
    switch (op.kind) {
    case 0: memcpy(op.to, op.from, op.size); break;
    case 1: for (int i = 0; i < op.rows; i++) memcpy(to + (size_t)i * op.words, from + (size_t)op.index[i] * op.words, row); break;
    case 2: for (int i = 0; i < op.rows; i++) memcpy(to + (size_t)op.index[i] * op.words, from + (size_t)i * op.words, row); break;
    case 3: memset(op.to, 0, op.size); break;
    }
    return 0;
}

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index ? 101 : 0; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "host memory"); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = limit; return 0; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 9; *minor = 0; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 9 : which == 41; return 0; }
int cuDevicePrimaryCtxRetain(void **out, int device) { *out = context; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void *which) { depth++; return 0; }
int cuCtxPopCurrent_v2(void **out) { if (!depth) return NO_CONTEXT; depth--; *out = context; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return depth ? 0 : NO_CONTEXT; }
int cuCtxDetach(void *which) { return 0; }
int cuCtxSynchronize(void) { return depth ? 0 : NO_CONTEXT; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { *free_bytes = limit - used; *total = limit; return depth ? 0 : NO_CONTEXT; }
int cuGetErrorString(int code, const char **text) { *text = code == NO_CONTEXT ? "invalid device context" : code == OUT_OF_MEMORY ? "out of memory" : "error"; return 0; }

static int allocate(void **out, size_t size) {
    if (!depth) return NO_CONTEXT;
    if (used + size > limit) return OUT_OF_MEMORY;
    size_t *block;
    if (posix_memalign((void **)&block, 512, size + 512)) return OUT_OF_MEMORY;
    *block = size;
    used += size;
    *out = (char *)block + 512;
    return 0;
}
static int release(void *address) {
    if (!depth) return NO_CONTEXT;
    size_t *block = (size_t *)((char *)address - 512);
    used -= *block;
    free(block);
    return 0;
}
int cuMemAlloc_v2(Address *out, size_t size) { void *p = 0; int code = allocate(&p, size); *out = (Address)(uintptr_t)p; return code; }
int cuMemFree_v2(Address address) { return release((void *)(uintptr_t)address); }
int cuMemHostAlloc(void **out, size_t size, unsigned flags) { return allocate(out, size ? size : 1); }
int cuMemFreeHost(void *address) { return release(address); }

#define AT(address) ((void *)(uintptr_t)(address))
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t n, Stream *s) { return run(s, (Op){0, AT(to), from, n}); }
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t n, Stream *s) { return run(s, (Op){0, to, AT(from), n}); }
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t n, Stream *s) { return run(s, (Op){0, AT(to), AT(from), n}); }
int cuMemsetD8Async(Address to, unsigned char value, size_t n, Stream *s) { return run(s, (Op){3, AT(to), 0, n}); }

int cuStreamCreate(Stream **out, unsigned flags) { if (flags != 1) return 1; *out = calloc(1, sizeof(Stream)); objects++; return 0; }
int cuStreamDestroy_v2(Stream *s) { if (!depth) return NO_CONTEXT; objects--; free(s); return 0; }
int cuStreamSynchronize(Stream *s) { return !depth ? NO_CONTEXT : s->capturing ? 900 : 0; }
int cuStreamQuery(Stream *s) { return cuStreamSynchronize(s) ? 999 : hanging ? 600 : 0; }
int cuStreamWaitEvent(Stream *s, void *event, unsigned flags) { return depth ? 0 : NO_CONTEXT; }
int cuEventCreate(void **out, unsigned flags) { if (!depth) return NO_CONTEXT; *out = malloc(8); objects++; return 0; }
int cuEventDestroy_v2(void *event) { if (!depth) return NO_CONTEXT; objects--; free(event); return 0; }
int cuEventRecord(void *event, Stream *s) { return depth ? 0 : NO_CONTEXT; }
int cuEventQuery(void *event) { return depth ? 0 : NO_CONTEXT; }
int cuEventSynchronize(void *event) { return depth ? 0 : NO_CONTEXT; }

int cuModuleLoadDataEx(void **out, const void *image, unsigned n, int *options, void **values) {
    if (!depth) return NO_CONTEXT;
    *out = strdup(image); /* the driver reads PTX as text with a zero byte at its end */
    return strstr(image, ".visible .entry gather_rows(") ? 0 : 218;
}
int cuModuleLoadData(void **out, const void *image) { return cuModuleLoadDataEx(out, image, 0, 0, 0); }
int cuModuleUnload(void *module) { free(module); return 0; }
int cuModuleGetFunction(void **out, void *module, const char *name) {
    *out = AT(strcmp(name, "gather_rows") == 0 ? 1 : strcmp(name, "scatter_rows") == 0 ? 2 : 0);
    return *out ? 0 : 500;
}
int cuFuncGetAttribute(int *value, int which, void *f) { *value = 0; return 0; }
int cuFuncSetBlockShape(void *f, int x, int y, int z) { return 0; } /* PyCUDA still calls it, before cuLaunchKernel */
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   Stream *s, void **parameters, void **extra) {
    Address to, from, index;
    uint32_t words;
    if (parameters) { /* cuda-bindings: an address of each argument */
        to = *(Address *)parameters[0], from = *(Address *)parameters[1], index = *(Address *)parameters[2];
        words = *(uint32_t *)parameters[3];
    } else { /* PyCUDA: all arguments in one buffer */
        const char *buffer = extra[0] == AT(1) ? extra[1] : extra[3];
        memcpy(&to, buffer, 8), memcpy(&from, buffer + 8, 8), memcpy(&index, buffer + 16, 8), memcpy(&words, buffer + 24, 4);
    }
    if (gy * bx == 0 || bx > 1024 || gy > 65535) return 1;
    return run(s, (Op){(int)(uintptr_t)f, AT(to), AT(from), 0, (int)gx, (int)words, AT(index)});
}

int cuStreamBeginCapture_v2(Stream *s, int mode) { if (mode != 1) return 1; s->capturing = calloc(1, sizeof(Graph)); return 0; }
int cuStreamEndCapture(Stream *s, Graph **out) { *out = s->capturing; s->capturing = 0; return *out ? 0 : 901; }
int cuGraphInstantiateWithFlags(Graph **out, Graph *graph, unsigned long long flags) {
    *out = malloc(sizeof(Graph));
    **out = *graph;
    objects++;
    return 0;
}
int cuGraphDestroy(Graph *graph) { free(graph); return 0; }
int cuGraphExecDestroy(Graph *graph) { if (!depth) return NO_CONTEXT; objects--; free(graph); return 0; }
int cuGraphLaunch(Graph *graph, Stream *s) {
    int code = 0;
    for (int i = 0; i < graph->count && !code; i++) code = run(s, graph->ops[i]);
    return code;
}

/* cuda-bindings asks for each function by its name without the version, and expects the newest version. */
int cuGetProcAddress_v2(const char *name, void **out, int version, unsigned long long flags, int *found) {
    char versioned[128];
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    void *self = dlopen("libcuda.so.1", RTLD_LAZY);
    *out = dlsym(self, versioned);
    if (!*out) *out = dlsym(self, name);
    if (found) *found = *out ? 0 : 1;
    return *out ? 0 : 500;
}
