// What a call does around its kernel.
#include "gpu.h"
#include <atomic>

#define CALLS 2 // at once: one copies while the other computes, and whoever comes then has the CPU
#define MEMBERS_OF_A_GROUP 64
#define LEAST_BLOCK 32     // weights
#define MOST_OF_A_WEIGHT 2 // bytes that it becomes
// What stays free of the GPU's memory, since llama.cpp may be at work there, and takes more as it goes.
#define SPARED ((size_t)1 << 30)

// What a call has of the GPU, and leaves to the next. Beside it the driver has its own, and the stacks of all threads
// that the GPU can hold.
typedef struct {
    std::atomic_flag taken;
    cudaStream_t stream;
    char *memory;
    size_t size;
} Place;

static Place places[CALLS];

static bool has_room(size_t size) {
    size_t left, all;
    return cudaMemGetInfo(&left, &all) == cudaSuccess && left >= SPARED && left - SPARED >= size;
}

static bool fit(Place *place, size_t size) {
    if (!place->stream && cudaStreamCreateWithFlags(&place->stream, cudaStreamNonBlocking) != cudaSuccess) return false;
    if (size <= place->size) return true;
    if (cudaFree(place->memory) != cudaSuccess) return false;
    place->memory = NULL;
    place->size = 0;
    if (!has_room(size) || cudaMalloc((void **)&place->memory, size) != cudaSuccess) return false;
    place->size = size;
    return true;
}

static bool copied(const Place *place, void *to, const void *from, size_t size, cudaMemcpyKind direction) {
    return cudaMemcpyAsync(to, from, size, direction, place->stream) == cudaSuccess;
}

static bool done(const Place *place) { return cudaStreamSynchronize(place->stream) == cudaSuccess; }

static size_t run_at(Place *place, Kernel *kernel, PARAMETERS) {
    const size_t weights = (size_t)(rows * row), columns = importance ? (size_t)row : 0;
    // Behind each other: the weights, those of the columns, the bytes made and their number, all in whole vectors.
    const size_t of_values = weights * sizeof(float), of_columns = columns * sizeof(float);
    const size_t of_out = weights * MOST_OF_A_WEIGHT;
    if (!weights || !fit(place, of_values + of_columns + of_out + sizeof(size_t))) return 0;
    char *memory = place->memory;
    const float *gpu_values = (const float *)memory;
    const float *gpu_importance = importance ? gpu_values + weights : NULL;
    void *gpu_out = memory + of_values + of_columns;
    size_t *gpu_made = (size_t *)(memory + of_values + of_columns + of_out), made = 0;
    void *arguments[] = {&gpu_values, &gpu_out, &rows, &row, &gpu_importance, &gpu_made};
    const size_t groups = (weights / LEAST_BLOCK + MEMBERS_OF_A_GROUP - 1) / MEMBERS_OF_A_GROUP;
    const dim3 grid((unsigned)groups), group(MEMBERS_OF_A_GROUP);
    if (copied(place, memory, values, of_values, cudaMemcpyHostToDevice) &&
        (!importance || copied(place, memory + of_values, importance, of_columns, cudaMemcpyHostToDevice)) &&
        cudaLaunchKernel(kernel, grid, group, arguments, 0, place->stream) == cudaSuccess &&
        copied(place, &made, gpu_made, sizeof made, cudaMemcpyDeviceToHost) && done(place) && made <= of_out &&
        copied(place, out, gpu_out, made, cudaMemcpyDeviceToHost) && done(place)) {
        return made;
    }
    return 0;
}

extern "C" size_t run_on_gpu(Kernel *kernel, PARAMETERS) {
    for (Place *place = places; place < places + CALLS; ++place) {
        if (place->taken.test_and_set()) continue;
        const size_t made = run_at(place, kernel, values, out, rows, row, importance);
        place->taken.clear();
        return made;
    }
    return 0;
}
