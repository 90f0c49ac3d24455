// What the kernels share. One lane does what ggml does to one block, in ggml's order and with ggml's operations, and the
// compiler makes vectors of LANES neighbours: arrays end in [LANES], inner loops go over all lanes, and what is a branch
// in ggml is a selection here. IEEE operations then give the same bits, whatever the width of the vectors.
//
// A GPU compiles the same files (gpu.h), and there a lane is a thread.
#ifndef LANES_H
#define LANES_H

#include "kernels.h"
#include <math.h>
#include <string.h>

#ifndef ON_GPU
#define LANES 16
#define TABLE static const
#define ANYWHERE // also on the processor beside a GPU
// One thread does all that a call asks for. On a GPU each does every THREADS-th batch of it, or its part of a row that
// its group of threads has in common.
#define THREAD 0
#define THREADS 1
#define GROUP 0
#define GROUPS 1
#define MEMBER 0
#define MEMBERS 1

static inline int32_t bits_of(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// float to int, towards zero.
static inline int truncated(float value) { return (int)value; }
#endif

#define EACH_LANE for (int lane = 0; lane < LANES; ++lane)

static inline int least(int a, int b) { return a < b ? a : b; }
static inline int most(int a, int b) { return a > b ? a : b; }
static inline int clamped(int value, int low, int high) { return most(low, least(high, value)); }

// ggml's rounding to the nearest integer, halves to even: by adding 1.5 * 2^23. What is too large for that gives the same
// nonsense as there, which is why it is done on the bits.
static inline int nearest(float value) {
    return (bits_of(value + 12582912.f) & 0x007fffff) - 0x00400000;
}

// Halves away from zero, as roundf: a half less its last bit, so that 0.49999997 does not become 1.
static inline int rounded(float value) { return truncated(value + copysignf(0.49999997f, value)); }

// Sizes are in the order of their bits, and of integers the compiler seeks the largest in any order.
static inline float largest_size(const float *restrict x, int count) {
    int bits = 0;
    float largest;
    for (int i = 0; i < count; ++i) bits = most(bits, bits_of(fabsf(x[i])));
    memcpy(&largest, &bits, sizeof largest);
    return largest;
}

// float to IEEE half, halves to even.
static inline uint16_t to_half(float value) {
    uint32_t bits = (uint32_t)bits_of(value);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (bits < 0x38800000) { // subnormal: the last bit of a float in [0.5, 1) is worth as much as a half's
        float small;
        memcpy(&small, &bits, sizeof small);
        return (uint16_t)(sign | ((uint32_t)bits_of(small + 0.5f) - 0x3f000000));
    }
    return (uint16_t)(sign | (((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10)));
}

static inline float from_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t bits = rest >= 0x7c00 ? 0x7f800000 | rest << 13 : (rest << 13) + (112 << 23);
    float value;
    if (rest < 0x400) { // subnormal
        value = (float)rest * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
    }
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Blocks of a tensor that are worked on at the same time: a lane each. Where there are fewer than LANES left, the last
// lanes hold the last block again, and are not written.
typedef struct {
    int count;
    const float *values[LANES];
    const float *importance[LANES]; // NULL without
} Batch;

// The blocks of `size` weights that begin with block `first` of `blocks`.
static inline Batch batch(const float *values, int64_t first, int64_t blocks, int size, int64_t row,
                          const float *importance) {
    Batch made;
    made.count = blocks - first < LANES ? (int)(blocks - first) : LANES;
    EACH_LANE {
        const int64_t begin = (first + least(lane, made.count - 1)) * size;
        made.values[lane] = values + begin;
        made.importance[lane] = importance ? importance + begin % row : NULL;
    }
    return made;
}

// Bring `count` weights of each lane side by side.
static inline void side_by_side(float (*restrict into)[LANES], const float *const from[LANES], int count) {
    for (int i = 0; i < count; ++i) {
        EACH_LANE into[i][lane] = from[lane][i];
    }
}

#endif
