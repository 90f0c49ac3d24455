// What makes kernels of a GPU of the same sources: nvcc compiles them as CUDA C++, with ON_GPU defined. A lane is a
// thread, and threads take the batches of a call by turns.
//
// A GPU's additions, multiplications, divisions and square roots are IEEE's, as long as nvcc is told to leave them so.
// What it does in its own way stands here: conversions that have no result, and the bits of what is no number.
#ifndef GPU_H
#define GPU_H

#include <cuda_runtime.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define restrict __restrict__
#define inline __device__ inline // all functions of the kernels are; what the system's headers have is above
#define ANYWHERE __host__
#define TABLE static __constant__ const

#define LANES 1
#define THREAD (GROUP * MEMBERS + MEMBER)
#define THREADS (GROUPS * MEMBERS)
#define GROUP ((int64_t)blockIdx.x)
#define GROUPS ((int64_t)gridDim.x)
#define MEMBER ((int64_t)threadIdx.x)
#define MEMBERS ((int64_t)blockDim.x)

typedef void Kernel(PARAMETERS, size_t *made, const Grid *grid);

// Quantize by a kernel, with copies to the GPU and back; that of the grid, where there is one, stays there. Returns the
// bytes that were written; 0 where the GPU cannot do it now: since other calls are at it, for want of memory, or for any
// other reason. Then `out` may hold anything.
extern "C" size_t run_on_gpu(Kernel *kernel, PARAMETERS, const Grid *grid);

// Quantizers as kernels.h promises them, of the body that follows: without a grid, and with one that a file's `prepare`
// has filled in.
#define QUANTIZER(type)                                                                                                \
    KERNEL(type)                                                                                                       \
    extern "C" size_t quantize_##type(PARAMETERS) {                                                                    \
        return run_on_gpu(kernel_##type, values, out, rows, row, importance, NULL);                                    \
    }                                                                                                                  \
    static __device__ size_t part_of_##type(PARAMETERS, const Grid *)
#define GRID_QUANTIZER(type, GRID)                                                                                     \
    KERNEL(type)                                                                                                       \
    extern "C" size_t quantize_##type(PARAMETERS) {                                                                    \
        pthread_once(&prepared, prepare);                                                                              \
        return run_on_gpu(kernel_##type, values, out, rows, row, importance, &GRID);                                   \
    }                                                                                                                  \
    static __device__ size_t part_of_##type(PARAMETERS, const Grid *grid)
#define KERNEL(type)                                                                                                   \
    static __device__ size_t part_of_##type(PARAMETERS, const Grid *grid);                                             \
    static __global__ void kernel_##type(PARAMETERS, size_t *made, const Grid *grid) {                                 \
        const size_t size = part_of_##type(values, out, rows, row, importance, grid);                                  \
        if (THREAD == 0) *made = size;                                                                                 \
    }

// As on the processor that ggml runs on, where no operand is NaN before: 0 / 0 is a negative NaN on x86.
static inline int32_t bits_of(float value) {
#ifdef __x86_64__
    const int32_t no_number = (int32_t)0xffc00000;
#else
    const int32_t no_number = 0x7fc00000;
#endif
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return value != value ? no_number : bits;
}

// x86 has one integer for all that is too large and for NaN. ARM has what a GPU has.
static inline int truncated(float value) {
#ifdef __x86_64__
    if (!(fabsf(value) < 0x1p31f)) return INT_MIN;
#endif
    return (int)value;
}

#endif
