// A GPU for tests, of what a C++ compiler has: threads run one after the other, and its memory is the machine's. It has
// as many bytes as EMULATED_MEMORY says, and ends the process when a kernel is given a pointer to anything else. A byte
// for each launch is added to the file EMULATED_LOG, and it takes EMULATED_SECONDS at least.
#pragma once

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#define __host__
#define __device__
#define __constant__
#define __global__

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
enum { cudaStreamNonBlocking };
typedef const void *cudaStream_t;

inline thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;
inline std::map<const char *, size_t> emulated_memory;
inline std::mutex emulated_lock;

inline cudaError_t cudaMemGetInfo(size_t *left, size_t *all) {
    const char *size = getenv("EMULATED_MEMORY");
    *left = *all = size ? strtoull(size, nullptr, 10) : size_t(8) << 30;
    return cudaSuccess;
}

inline cudaError_t cudaMalloc(void **memory, size_t size) {
    const std::lock_guard<std::mutex> guard(emulated_lock);
    size_t left, all;
    if (cudaMemGetInfo(&left, &all) != cudaSuccess || size > left) return cudaErrorMemoryAllocation;
    emulated_memory[static_cast<char *>(*memory = malloc(size))] = size;
    return cudaSuccess;
}

inline cudaError_t cudaFree(void *memory) {
    const std::lock_guard<std::mutex> guard(emulated_lock);
    emulated_memory.erase(static_cast<char *>(memory));
    free(memory);
    return cudaSuccess;
}

inline void emulated_check(const void *pointer) {
    const std::lock_guard<std::mutex> guard(emulated_lock);
    const char *at = static_cast<const char *>(pointer);
    auto found = emulated_memory.upper_bound(at);
    if (at && (found == emulated_memory.begin() || at >= (--found)->first + found->second)) abort();
}

inline void emulated_check(long) {}

inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind direction, cudaStream_t) {
    emulated_check(direction == cudaMemcpyHostToDevice ? to : from);
    memcpy(to, from, size);
    return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = stream;
    return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

template <typename... Types, size_t... Numbers>
void emulated_thread(void (*kernel)(Types...), void **arguments, std::index_sequence<Numbers...>) {
    (emulated_check(*static_cast<Types *>(arguments[Numbers])), ...);
    kernel(*static_cast<Types *>(arguments[Numbers])...);
}

template <typename... Types>
cudaError_t cudaLaunchKernel(void (*kernel)(Types...), dim3 grid, dim3 block, void **arguments, size_t, cudaStream_t) {
    if (const char *log = getenv("EMULATED_LOG")) std::ofstream(log, std::ios::app) << '.';
    if (const char *seconds = getenv("EMULATED_SECONDS")) std::this_thread::sleep_for(std::chrono::seconds(atoi(seconds)));
    gridDim = grid;
    blockDim = block;
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x) {
            emulated_thread(kernel, arguments, std::index_sequence_for<Types...>());
        }
    }
    return cudaSuccess;
}
