/* A CUDA driver that uses host memory, to run PyCUDA and cuda-bindings without a GPU. Copies are immediate, the three kernels of
   engines/backends/tensorrt/kernels.ptx are written in C here, and a stream can be captured into a graph and launched
   again. Memory that processes share is a memfd. As in the real driver, calls that need a current context fail without one. cuda_driver.py makes stubs of all other
   functions. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef unsigned long long Address;
enum { OUT_OF_MEMORY = 2, NO_CONTEXT = 201 };

typedef struct Picture { const int *plan; const uint8_t *luma, *chroma; uint8_t *to; uint32_t luma_pitch, chroma_pitch; } Picture;
typedef struct Op { int kind; void *to; const void *from; size_t size; int rows, words; const int *index; Picture picture; } Op;
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
static long downloads;
long whole_planes(void) { return downloads; } /* planes that FFmpeg has copied to the host */
static int shares = 1;
void forbid_sharing(int whether) { shares = !whether; }
void set_memory(size_t bytes) { limit = bytes; }

static int sample(const uint8_t *at, const int *plan) {
    return (plan[14] == 1 ? *at : *(const uint16_t *)at) >> plan[15];
}
static int filter(const Picture *p, const uint8_t *from, uint32_t pitch, int step, int axis, int x, int y) {
    const int *plan = p->plan, *wide = plan + plan[8 + axis] / 4 + x * (plan[4 + axis] + 1);
    const int *high = plan + plan[9 + axis] / 4 + y * (plan[5 + axis] + 1);
    int sum = 0;
    for (int j = 0; j < plan[5 + axis]; j++) {
        const uint8_t *row = from + (size_t)(high[0] + j) * pitch + (size_t)wide[0] * step;
        int filtered = 0;
        for (int i = 0; i < plan[4 + axis]; i++) filtered += sample(row + (size_t)i * step, plan) * wide[1 + i];
        filtered >>= plan[16];
        sum += (filtered < 32767 ? filtered : 32767) * high[1 + j];
    }
    return sum + plan[17];
}
static uint8_t level(int value) { return value < 0 ? 0 : value > 255 ? 255 : value; }
static void scale(const Picture *p) {
    const int *plan = p->plan, *colour = plan + plan[12] / 4;
    const uint8_t *mask = (const uint8_t *)plan + plan[13];
    for (int row = 0; row < plan[1]; row++) for (int column = 0; column < plan[0]; column++) {
        uint8_t *to = p->to + (size_t)column * plan[2] + (size_t)row * plan[3];
        to[0] = to[1] = to[2] = 0;
        if (mask[row * plan[0] + column]) continue;
        int y = filter(p, p->luma, p->luma_pitch, plan[14], 0, column, row);
        int u = filter(p, p->chroma, p->chroma_pitch, 2 * plan[14], 2, column, row);
        int v = filter(p, p->chroma + plan[14], p->chroma_pitch, 2 * plan[14], 2, column, row);
        if (plan[18]) {
            y = ((y >> 10) - plan[21]) * plan[22] + (1 << 21), u = (u - (128 << 19)) >> 10, v = (v - (128 << 19)) >> 10;
            to[0] = level((y + v * plan[23]) >> 22), to[1] = level((y + v * plan[24] + u * plan[25]) >> 22);
            to[2] = level((y + u * plan[26]) >> 22);
        } else {
            y >>= 19, u = level(u >> 19), v = level(v >> 19);
            to[0] = level((plan[19] * (y + colour[v]) + plan[20]) >> 16);
            to[1] = level((plan[19] * (y + colour[512 + u] + colour[768 + v]) + plan[20]) >> 16);
            to[2] = level((plan[19] * (y + colour[256 + u]) + plan[20]) >> 16);
        }
    }
}

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
    case 4: scale(&op.picture); break;
    }
    return 0;
}

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index ? 101 : 0; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "host memory"); return 0; }
int cuDeviceGetPCIBusId(char *bus, int size, int device) { snprintf(bus, size, "0000:00:00.0"); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = limit; return 0; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 9; *minor = 0; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 9 : which == 41 || (which == 103 && shares); return 0; }
/* FFmpeg refuses a primary context that is active with other flags than its own. */
static int retained;
static unsigned context_flags;
int cuDevicePrimaryCtxRetain(void **out, int device) { *out = context; retained++; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = context_flags; *active = retained > 0; return 0; }
int cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) { context_flags = flags; return 0; }
int cuDevicePrimaryCtxSetFlags(int device, unsigned flags) { return cuDevicePrimaryCtxSetFlags_v2(device, flags); }
int cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }
int cuCtxPushCurrent_v2(void *which) { depth++; return 0; }
int cuCtxPopCurrent_v2(void **out) { if (!depth) return NO_CONTEXT; depth--; *out = context; return 0; }
int cuCtxGetCurrent(void **out) { *out = depth ? context : 0; return 0; }
int cuCtxGetDevice(int *device) { *device = 0; return depth ? 0 : NO_CONTEXT; }
int cuCtxDetach(void *which) { retained--; return 0; }
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

/* Memory that processes share: a handle is a descriptor. */
typedef struct Block { int fd; size_t size; } Block;
enum { UNIT = 1 << 16 };
int cuMemGetAllocationGranularity(size_t *out, const void *properties, int option) { *out = UNIT; return 0; }
int cuMemCreate(Block **out, size_t size, const int *properties, unsigned long long flags) {
    if (!depth) return NO_CONTEXT;
    if (properties[0] != 1 || properties[1] != 1 || properties[2] != 1 || size % UNIT) return 1;
    if (used + size > limit) return OUT_OF_MEMORY;
    Block *block = malloc(sizeof(Block));
    *block = (Block){memfd_create("device", MFD_CLOEXEC), size};
    if (ftruncate(block->fd, size)) return OUT_OF_MEMORY;
    *out = block;
    return 0;
}
int cuMemExportToShareableHandle(int *fd, Block *block, int type, unsigned long long flags) {
    if (type != 1) return 1;
    *fd = dup(block->fd);
    return 0;
}
int cuMemImportFromShareableHandle(Block **out, void *fd, int type) {
    if (!depth) return NO_CONTEXT;
    off_t size = lseek((int)(intptr_t)fd, 0, SEEK_END);
    if (type != 1 || size <= 0) return 1;
    *out = malloc(sizeof(Block));
    **out = (Block){dup((int)(intptr_t)fd), size};
    return 0;
}
int cuMemRelease(Block *block) { close(block->fd); free(block); return 0; }
int cuMemAddressReserve(Address *out, size_t size, size_t alignment, Address at, unsigned long long flags) {
    void *p = mmap(0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *out = (Address)(uintptr_t)p;
    return p == MAP_FAILED ? OUT_OF_MEMORY : 0;
}
int cuMemMap(Address at, size_t size, size_t offset, Block *block, unsigned long long flags) {
    if (size > block->size) return 1;
    used += size;
    return mmap((void *)(uintptr_t)at, size, PROT_NONE, MAP_SHARED | MAP_FIXED, block->fd, offset) == MAP_FAILED;
}
int cuMemSetAccess(Address at, size_t size, const int *access, size_t count) {
    if (access[0] != 1 || access[2] != 3 || count != 1) return 1;
    return mprotect((void *)(uintptr_t)at, size, PROT_READ | PROT_WRITE) != 0;
}
int cuMemUnmap(Address at, size_t size) {
    if (!depth) return NO_CONTEXT;
    used -= size;
    return mmap((void *)(uintptr_t)at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED;
}
int cuMemAddressFree(Address at, size_t size) { return munmap((void *)(uintptr_t)at, size) != 0; }

#define AT(address) ((void *)(uintptr_t)(address))
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t n, Stream *s) { return run(s, (Op){0, AT(to), from, n}); }
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t n, Stream *s) { return run(s, (Op){0, to, AT(from), n}); }
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t n, Stream *s) { return run(s, (Op){0, AT(to), AT(from), n}); }
int cuMemsetD8Async(Address to, unsigned char value, size_t n, Stream *s) { return run(s, (Op){3, AT(to), 0, n}); }

/* FFmpeg copies pictures with these; its calls are made without a stream. */
typedef struct Copy2D {
    size_t from_x, from_y; int from_type; const char *from_host; Address from; void *from_array; size_t from_pitch;
    size_t to_x, to_y; int to_type; char *to_host; Address to; void *to_array; size_t to_pitch, width, height;
} Copy2D;
int cuMemcpy2DAsync_v2(const Copy2D *c, Stream *s) {
    if (!depth) return NO_CONTEXT;
    if (failing) return failing;
    const char *from = c->from_type == 1 ? c->from_host : AT(c->from);
    char *to = c->to_type == 1 ? c->to_host : AT(c->to);
    for (size_t y = 0; y < c->height; y++)
        memcpy(to + (c->to_y + y) * c->to_pitch + c->to_x, from + (c->from_y + y) * c->from_pitch + c->from_x, c->width);
    downloads += c->to_type == 1;
    return 0;
}
int cuMemcpy2D_v2(const Copy2D *c) { return cuMemcpy2DAsync_v2(c, 0); }

int cuStreamCreate(Stream **out, unsigned flags) { if (flags != 1) return 1; *out = calloc(1, sizeof(Stream)); objects++; return 0; }
int cuStreamDestroy_v2(Stream *s) { if (!depth) return NO_CONTEXT; objects--; free(s); return 0; }
int cuStreamSynchronize(Stream *s) { return !depth ? NO_CONTEXT : s && s->capturing ? 900 : 0; }
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
    *out = AT(strcmp(name, "gather_rows") == 0 ? 1 : strcmp(name, "scatter_rows") == 0 ? 2 : strcmp(name, "scale_picture") == 0 ? 4 : 0);
    return *out ? 0 : 500;
}
int cuFuncGetAttribute(int *value, int which, void *f) { *value = 0; return 0; }
int cuFuncSetBlockShape(void *f, int x, int y, int z) { return 0; } /* PyCUDA still calls it, before cuLaunchKernel */
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   Stream *s, void **parameters, void **extra) {
    Address to, from, index;
    uint32_t words;
    const char *packed = parameters ? 0 : extra[0] == AT(1) ? extra[1] : extra[3];
    if (gy * bx == 0 || bx > 1024 || gy > 65535) return 1;
    if (f == AT(4)) {
        Address at[4];
        uint32_t pitch[2];
        for (int i = 0; i < 4; i++) at[i] = packed ? ((const Address *)packed)[i] : *(Address *)parameters[i];
        for (int i = 0; i < 2; i++) pitch[i] = packed ? ((const uint32_t *)packed)[8 + i] : *(uint32_t *)parameters[4 + i];
        const int *plan = AT(at[0]);
        if (gy != plan[1] || gx * bx < plan[0]) return 1;
        return run(s, (Op){4, .picture = {plan, AT(at[1]), AT(at[2]), AT(at[3]), pitch[0], pitch[1]}});
    }
    if (parameters) { /* cuda-bindings: an address of each argument */
        to = *(Address *)parameters[0], from = *(Address *)parameters[1], index = *(Address *)parameters[2];
        words = *(uint32_t *)parameters[3];
    } else { /* PyCUDA: all arguments in one buffer */
        memcpy(&to, packed, 8), memcpy(&from, packed + 8, 8), memcpy(&index, packed + 16, 8), memcpy(&words, packed + 24, 4);
    }
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
