// Q1_0, Q2_0, TQ1_0, TQ2_0, MXFP4 and NVFP4: types without a search. The scale of a block follows from the sizes of its
// weights, and each weight is rounded by itself. ggml reads no imatrix for them.
#include "lanes.h"
#include <float.h>

typedef struct {
    uint16_t scale;
    uint8_t signs[16];
} BlockQ1_0;

typedef struct {
    uint16_t scale;
    uint8_t levels[16];
} BlockQ2_0;

typedef struct {
    uint8_t levels[48]; // five a byte
    uint8_t rest[4];    // four a byte
    uint16_t scale;
} BlockTQ1_0;

typedef struct {
    uint8_t levels[64];
    uint16_t scale;
} BlockTQ2_0;

typedef struct {
    uint8_t exponent;
    uint8_t levels[16];
} BlockMXFP4;

typedef struct {
    uint8_t scales[4]; // of 16 weights each
    uint8_t levels[32];
} BlockNVFP4;

// The scale is the mean size of a block: a sum in order, so a lane is a block.
QUANTIZER(q1_0) {
    (void)importance;
    const int64_t blocks = rows * (row / 128);
    for (int64_t first = THREAD * LANES; first < blocks; first += THREADS * LANES) {
        const Batch from = batch(values, first, blocks, 128, row, NULL);
        float x[128][LANES], sum[LANES] = {0};
        side_by_side(x, from.values, 128);
        for (int i = 0; i < 128; ++i) {
            EACH_LANE sum[lane] += fabsf(x[i][lane]);
        }
        for (int lane = 0; lane < from.count; ++lane) {
            BlockQ1_0 *made = (BlockQ1_0 *)out + first + lane;
            made->scale = to_half(sum[lane] / 128);
            for (int byte = 0; byte < 16; ++byte) {
                int signs = 0;
                for (int bit = 0; bit < 8; ++bit) signs |= (from.values[lane][8 * byte + bit] >= 0) << bit;
                made->signs[byte] = (uint8_t)signs;
            }
        }
    }
    return (size_t)blocks * sizeof(BlockQ1_0);
}

// Levels -1 … 2 times the largest size.
QUANTIZER(q2_0) {
    (void)importance;
    const int64_t blocks = rows * (row / 64);
    for (int64_t block = THREAD; block < blocks; block += THREADS) {
        const float *x = values + block * 64;
        BlockQ2_0 *made = (BlockQ2_0 *)out + block;
        const float size = largest_size(x, 64), inverse = size > 0 ? 1.0f / size : 0.0f;
        uint8_t levels[64];
        for (int i = 0; i < 64; ++i) levels[i] = (uint8_t)clamped(rounded(x[i] * inverse) + 1, 0, 3);
        made->scale = to_half(size);
        for (int i = 0; i < 16; ++i) {
            const uint8_t *four = levels + 4 * i;
            made->levels[i] = (uint8_t)(four[0] | four[1] << 2 | four[2] << 4 | four[3] << 6);
        }
    }
    return (size_t)blocks * sizeof(BlockQ2_0);
}

// Levels 0 … 2 of 256 weights, for -1 … 1 times the largest size, which it returns. A size whose inverse overflows gives
// level 1 all over: ggml keeps the lower half of lroundf's 64 bits, and of infinities and NaN nothing is in it.
static inline float ternary(const float *restrict x, uint8_t *restrict levels) {
    const float size = largest_size(x, 256), inverse = 1.0f / size;
    const float factor = inverse <= FLT_MAX ? inverse : 0.0f;
    for (int i = 0; i < 256; ++i) levels[i] = (uint8_t)(rounded(x[i] * factor) + 1);
    return size;
}

// Five levels as a number of 0 … 242, stretched to a byte and rounded up. A level is `step` after the one before it.
static inline uint8_t five(const uint8_t *levels, int step, int count) {
    int number = 0;
    for (int i = 0; i < 5; ++i) number = 3 * number + (i < count ? levels[i * step] : 0);
    return (uint8_t)((number * 256 + 242) / 243);
}

QUANTIZER(tq1_0) {
    (void)importance;
    const int64_t blocks = rows * (row / 256);
    for (int64_t block = THREAD; block < blocks; block += THREADS) {
        BlockTQ1_0 *made = (BlockTQ1_0 *)out + block;
        uint8_t levels[256];
        made->scale = to_half(ternary(values + block * 256, levels));
        for (int i = 0; i < 32; ++i) made->levels[i] = five(levels + i, 32, 5);
        for (int i = 0; i < 16; ++i) made->levels[32 + i] = five(levels + 160 + i, 16, 5);
        for (int i = 0; i < 4; ++i) made->rest[i] = five(levels + 240 + i, 4, 4);
    }
    return (size_t)blocks * sizeof(BlockTQ1_0);
}

QUANTIZER(tq2_0) {
    (void)importance;
    const int64_t blocks = rows * (row / 256);
    for (int64_t block = THREAD; block < blocks; block += THREADS) {
        BlockTQ2_0 *made = (BlockTQ2_0 *)out + block;
        uint8_t levels[256];
        made->scale = to_half(ternary(values + block * 256, levels));
        for (int half = 0; half < 2; ++half) {
            const uint8_t *from = levels + 128 * half;
            for (int i = 0; i < 32; ++i) {
                const int four = from[i] | from[i + 32] << 2 | from[i + 64] << 4 | from[i + 96] << 6;
                made->levels[32 * half + i] = (uint8_t)four;
            }
        }
    }
    return (size_t)blocks * sizeof(BlockTQ2_0);
}

// Of up to 32 weights the nearest of the numbers that four bits of a float give, twice as large as they are; the first of
// equals. To a positive number no negative one is nearer than zero is. Level i of `count` is in the lower half of byte i,
// level i + count / 2 in the upper one.
static inline void floats(const float *restrict x, float scale, int count, uint8_t *restrict into) {
    const int sizes[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    float error[32];
    int levels[32] = {0};
    for (int i = 0; i < count; ++i) error[i] = fabsf(x[i]);
    for (int level = 1; level < 8; ++level) {
        const float number = (float)sizes[level] * scale;
        for (int i = 0; i < count; ++i) {
            const float off = fabsf(number - fabsf(x[i]));
            levels[i] = off < error[i] ? level : levels[i];
            error[i] = off < error[i] ? off : error[i];
        }
    }
    for (int i = 0; i < count; ++i) levels[i] |= x[i] < 0 && levels[i] ? 8 : 0;
    for (int i = 0; i < count / 2; ++i) into[i] = (uint8_t)(levels[i] | levels[i + count / 2] << 4);
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// That of the C library, since ggml's is: just below a power of two it decides by its last bit. A GPU's own is less
// exact, and rounding a double comes to the same there.
static inline float log_2(float size) {
#ifdef ON_GPU
    return (float)log2((double)size);
#else
    return log2f(size);
#endif
}

// The scale is a power of two, by its exponent; half of it goes with numbers that are twice as large.
QUANTIZER(mxfp4) {
    (void)importance;
    const int64_t blocks = rows * (row / 32);
    for (int64_t block = THREAD; block < blocks; block += THREADS) {
        const float *x = values + block * 32;
        BlockMXFP4 *made = (BlockMXFP4 *)out + block;
        const float size = largest_size(x, 32);
        const uint8_t exponent = size > 0 ? (uint8_t)truncated(floorf(log_2(size)) - 2 + 127) : 0;
        made->exponent = exponent;
        floats(x, float_of(exponent < 2 ? 0x00200000u << exponent : (exponent - 1u) << 23), 32, made->levels);
    }
    return (size_t)blocks * sizeof(BlockMXFP4);
}

// A positive float as four bits of exponent and three of mantissa.
static inline uint8_t to_ue4m3(float value) {
    const float bounded = value < 448 ? value : 448;
    const int32_t bits = bits_of(bounded);
    const int code = (bits >> 20) - ((127 - 7) << 3) + (bits >> 19 & 1);
    if (bits >> 23 <= 127 - 7) return (uint8_t)least(7, truncated(bounded * 512 + 0.5f)); // subnormal
    return (uint8_t)(code < 15 << 3 ? code : 0x7e);
}

// Half of what the code stands for.
static inline float half_of_ue4m3(uint8_t code) {
    return code < 8 ? (float)code * 0x1p-10f : float_of((uint32_t)code * (1u << 20) + ((127u - 7 - 1) << 23));
}

QUANTIZER(nvfp4) {
    (void)importance;
    const int64_t blocks = rows * (row / 64);
    for (int64_t block = THREAD; block < blocks; block += THREADS) {
        BlockNVFP4 *made = (BlockNVFP4 *)out + block;
        for (int part = 0; part < 4; ++part) {
            const float *x = values + block * 64 + part * 16;
            made->scales[part] = to_ue4m3(largest_size(x, 16) / 6);
            floats(x, half_of_ue4m3(made->scales[part]), 16, made->levels + part * 8);
        }
    }
    return (size_t)blocks * sizeof(BlockNVFP4);
}
