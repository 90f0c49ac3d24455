// What a call does around its kernel.
#include <atomic>
#include <map>
#include <mutex>

#include "grid.h" // last, since it says what inline is

#define CALLS 2 // at once: one copies while the other computes, and whoever comes then has the CPU
#define MEMBERS_OF_A_GROUP 64
#define LEAST_BLOCK 32     // weights
#define MOST_OF_A_WEIGHT 2 // bytes that it becomes
// What is free of the GPU's memory when some is taken, and is not: for the stacks of all threads that it can hold (4.6 KB
// each, 1.2 GB on an H200), and for llama.cpp, which may be at work there and takes more as it goes.
#define SPARED ((size_t)2 << 30)

// What a call has of the GPU, and leaves to the next.
typedef struct {
    std::atomic_flag taken;
    cudaStream_t stream;
    char *memory;
    size_t size;
} Slot;

static Slot slots[CALLS];

static bool has_room(size_t size) {
    size_t left, all;
    return cudaMemGetInfo(&left, &all) == cudaSuccess && left >= SPARED && left - SPARED >= size;
}

static bool fit(Slot *slot, size_t size) {
    if (!slot->stream && cudaStreamCreateWithFlags(&slot->stream, cudaStreamNonBlocking) != cudaSuccess) return false;
    if (size <= slot->size) return true;
    if (cudaFree(slot->memory) != cudaSuccess) return false;
    slot->memory = NULL;
    slot->size = 0;
    if (!has_room(size) || cudaMalloc((void **)&slot->memory, size) != cudaSuccess) return false;
    slot->size = size;
    return true;
}

static bool copied(const Slot *slot, void *to, const void *from, size_t size, cudaMemcpyKind direction) {
    return cudaMemcpyAsync(to, from, size, direction, slot->stream) == cudaSuccess;
}

static bool done(const Slot *slot) { return cudaStreamSynchronize(slot->stream) == cudaSuccess; }

// The copy of a grid, without the steps, which only processors make use of. NULL where there is no room for it now.
static const Grid *on_gpu(const Slot *slot, const Grid *grid) {
    static std::mutex lock;
    static std::map<const Grid *, const Grid *> copies;
    const std::lock_guard<std::mutex> guard(lock);
    if (const Grid *copy = copies[grid]) return copy;
    const size_t of_places = GRID_PLACES(grid->dimensions) * sizeof *grid->places;
    const size_t of_near = (size_t)grid->room * sizeof *grid->near, size = sizeof *grid + of_places + of_near;
    char *memory;
    if (!has_room(size) || cudaMalloc((void **)&memory, size) != cudaSuccess) return NULL;
    Grid made = *grid;
    made.places = (Place *)(memory + sizeof made);
    made.near = (uint32_t *)(memory + sizeof made + of_places);
    made.steps = NULL;
    if (copied(slot, memory, &made, sizeof made, cudaMemcpyHostToDevice) &&
        copied(slot, made.places, grid->places, of_places, cudaMemcpyHostToDevice) &&
        copied(slot, made.near, grid->near, of_near, cudaMemcpyHostToDevice) && done(slot)) {
        return copies[grid] = (const Grid *)memory;
    }
    cudaFree(memory);
    return NULL;
}

static size_t run_at(Slot *slot, Kernel *kernel, PARAMETERS, const Grid *grid) {
    const size_t weights = (size_t)(rows * row), columns = importance ? (size_t)row : 0;
    // Behind each other: the weights, those of the columns, the bytes made and their number, all in whole vectors.
    const size_t of_values = weights * sizeof(float), of_columns = columns * sizeof(float);
    const size_t of_out = weights * MOST_OF_A_WEIGHT;
    if (!weights || !fit(slot, of_values + of_columns + of_out + sizeof(size_t))) return 0;
    const Grid *gpu_grid = grid ? on_gpu(slot, grid) : NULL;
    if (grid && !gpu_grid) return 0;
    char *memory = slot->memory;
    const float *gpu_values = (const float *)memory;
    const float *gpu_importance = importance ? gpu_values + weights : NULL;
    void *gpu_out = memory + of_values + of_columns;
    size_t *gpu_made = (size_t *)(memory + of_values + of_columns + of_out), made = 0;
    void *arguments[] = {&gpu_values, &gpu_out, &rows, &row, &gpu_importance, &gpu_made, &gpu_grid};
    const size_t groups = (weights / LEAST_BLOCK + MEMBERS_OF_A_GROUP - 1) / MEMBERS_OF_A_GROUP;
    const dim3 all((unsigned)groups), group(MEMBERS_OF_A_GROUP);
    if (copied(slot, memory, values, of_values, cudaMemcpyHostToDevice) &&
        (!importance || copied(slot, memory + of_values, importance, of_columns, cudaMemcpyHostToDevice)) &&
        cudaLaunchKernel(kernel, all, group, arguments, 0, slot->stream) == cudaSuccess &&
        copied(slot, &made, gpu_made, sizeof made, cudaMemcpyDeviceToHost) && done(slot) && made <= of_out &&
        copied(slot, out, gpu_out, made, cudaMemcpyDeviceToHost) && done(slot)) {
        return made;
    }
    return 0;
}

extern "C" size_t run_on_gpu(Kernel *kernel, PARAMETERS, const Grid *grid) {
    for (Slot *slot = slots; slot < slots + CALLS; ++slot) {
        if (slot->taken.test_and_set()) continue;
        const size_t made = run_at(slot, kernel, values, out, rows, row, importance, grid);
        slot->taken.clear();
        return made;
    }
    return 0;
}
