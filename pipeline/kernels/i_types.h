// What the I-quants share. Their blocks are few and each needs many trials, so here a lane is a trial, or a weight.
#ifndef I_TYPES_H
#define I_TYPES_H

#include "lanes.h"

#define SUPER 256 // weights of a super-block
#ifdef ON_GPU
#define UNROLLED _Pragma("unroll")
#define AHEAD 1
#else
#define UNROLLED _Pragma("GCC unroll 16")
#define AHEAD 8 // blocks whose sums are made at the same time: a sum in order leaves the processor waiting
#endif

// Bytes of the vectors that are written as such. Wider ones than the processor has GCC takes apart into single numbers.
#if defined(__AVX512BW__)
#define VECTOR 64
#elif defined(__AVX2__)
#define VECTOR 32
#else
#define VECTOR 16
#endif

// Of each of the next blocks, AHEAD or as many as are left, the sum of its weights' squares, in order.
static inline void sums_of_squares(float sums[AHEAD], const float *restrict x, int size, int64_t left) {
    const float *from[AHEAD];
    for (int block = 0; block < AHEAD; ++block) {
        from[block] = x + (block < left ? block : 0) * size;
        sums[block] = 0;
    }
    for (int i = 0; i < size; ++i) {
        for (int block = 0; block < AHEAD; ++block) sums[block] += from[block][i] * from[block][i];
    }
}

// The first of those whose absolute value is the largest. Bits of floats that are not negative are in their order.
static inline float largest_of(const float *restrict x, int count) {
    int largest = 0, first = count;
    for (int i = 0; i < count; ++i) largest = most(largest, bits_of(fabsf(x[i])));
    for (int i = 0; i < count; ++i) first = least(first, bits_of(fabsf(x[i])) == largest ? i : count);
    return x[first];
}

#endif
