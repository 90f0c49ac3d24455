// Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 weights with a scale, and a minimum in Q4_1 and Q5_1. A lane is a block.
#include "search.h"

#define BLOCK 32

typedef struct {
    uint16_t scale;
    uint8_t levels[16];
} BlockQ4_0;

typedef struct {
    uint16_t scale, minimum;
    uint8_t levels[16];
} BlockQ4_1;

typedef struct {
    uint16_t scale;
    uint8_t high[4];
    uint8_t levels[16];
} BlockQ5_0;

typedef struct {
    uint16_t scale, minimum;
    uint8_t high[4];
    uint8_t levels[16];
} BlockQ5_1;

typedef struct {
    uint16_t scale;
    int8_t levels[BLOCK];
} BlockQ8_0;

// What the types differ in. Levels are 0 … `top`, around the middle where there is no minimum.
typedef struct {
    int top;
    int has_minimum;
    void (*write)(void *out, int64_t block, float scale, float minimum, const uint8_t *levels);
} Type;

// Level i is in the lower half of byte i, level i + 16 in the upper one.
static inline void pack_4_bits(const uint8_t *restrict levels, uint8_t *restrict into) {
    for (int i = 0; i < 16; ++i) into[i] = (uint8_t)(levels[i] | levels[i + 16] << 4);
}

// The fifth bits stand together, the first one lowest: of eight bytes at a time the product has them in its last byte.
static inline void pack_5_bits(const uint8_t *restrict levels, uint8_t *restrict high, uint8_t *restrict into) {
    for (int byte = 0; byte < 4; ++byte) {
        uint64_t eight;
        memcpy(&eight, levels + byte * 8, sizeof eight);
        high[byte] = (uint8_t)((eight >> 4 & 0x0101010101010101) * 0x0102040810204080 >> 56);
    }
    for (int i = 0; i < 16; ++i) into[i] = (uint8_t)((levels[i] & 15) | (levels[i + 16] & 15) << 4);
}

static inline void write_q4_0(void *out, int64_t block, float scale, float minimum, const uint8_t *levels) {
    (void)minimum;
    BlockQ4_0 *made = (BlockQ4_0 *)out + block;
    made->scale = to_half(scale);
    pack_4_bits(levels, made->levels);
}

static inline void write_q4_1(void *out, int64_t block, float scale, float minimum, const uint8_t *levels) {
    BlockQ4_1 *made = (BlockQ4_1 *)out + block;
    made->scale = to_half(scale);
    made->minimum = to_half(minimum);
    pack_4_bits(levels, made->levels);
}

static inline void write_q5_0(void *out, int64_t block, float scale, float minimum, const uint8_t *levels) {
    (void)minimum;
    BlockQ5_0 *made = (BlockQ5_0 *)out + block;
    made->scale = to_half(scale);
    pack_5_bits(levels, made->high, made->levels);
}

static inline void write_q5_1(void *out, int64_t block, float scale, float minimum, const uint8_t *levels) {
    BlockQ5_1 *made = (BlockQ5_1 *)out + block;
    made->scale = to_half(scale);
    made->minimum = to_half(minimum);
    pack_5_bits(levels, made->high, made->levels);
}

// Without an imatrix: around zero the weight of largest size, the first of equals, becomes level 0; with a minimum the
// levels go from the lowest weight to the highest.
static inline void scale_alone(Type type, const float (*restrict x)[LANES], float *restrict scale,
                               float *restrict low) {
    float high[LANES], size[LANES] = {0}, extreme[LANES] = {0};
    EACH_LANE low[lane] = high[lane] = x[0][lane];
    for (int i = 0; i < BLOCK; ++i) {
        EACH_LANE {
            const float value = x[i][lane], this_size = fabsf(value);
            if (type.has_minimum) {
                low[lane] = value < low[lane] ? value : low[lane];
                high[lane] = value > high[lane] ? value : high[lane];
            } else {
                extreme[lane] = this_size > size[lane] ? value : extreme[lane];
                size[lane] = this_size > size[lane] ? this_size : size[lane];
            }
        }
    }
    const float half = (float)(type.top / 2 + 1);
    EACH_LANE scale[lane] = type.has_minimum ? (high[lane] - low[lane]) / (float)type.top : extreme[lane] / -half;
}

// The levels of one block by that. ggml takes them through a signed byte, but for Q5_1, and gives that no bound either.
static inline void levels_alone(Type type, const float *restrict x, float scale, float low, uint8_t *restrict levels) {
    const float inverse = scale != 0 ? 1.0f / scale : 0.0f, half = (float)(type.top / 2 + 1);
    for (int i = 0; i < BLOCK; ++i) {
        const float level = type.has_minimum ? (x[i] - low) * inverse + 0.5f : x[i] * inverse + (half + 0.5f);
        const int whole = truncated(level);
        levels[i] = (uint8_t)(type.has_minimum && type.top == 31 ? whole : least(type.top, (int8_t)whole));
    }
}

// The mean square of the weights of each of LANES rows; of the last one again where there are fewer.
static inline void mean_squares(const float *restrict values, int rows, int64_t row, float *restrict means) {
    const float *from[LANES];
    float sum[LANES] = {0};
    EACH_LANE from[lane] = values + least(lane, rows - 1) * row;
    for (int64_t i = 0; i < row; ++i) {
        EACH_LANE sum[lane] += from[lane][i] * from[lane][i];
    }
    EACH_LANE means[lane] = sum[lane] / (float)row;
}

// Up to LANES rows with an imatrix, by weights of importance * sqrt(the row's mean square + square).
static inline void quantize_weighted(Type type, const float *restrict values, void *restrict out, int64_t begin,
                                     int rows, int64_t row, const float *restrict importance) {
    const int64_t blocks = rows * (row / BLOCK);
    float means[LANES], x[BLOCK][LANES], w[BLOCK][LANES], mean[LANES];
    mean_squares(values, rows, row, means);
    for (int64_t first = MEMBER * LANES; first < blocks; first += MEMBERS * LANES) {
        const Batch from = batch(values, first, blocks, BLOCK, row, importance);
        side_by_side(x, from.values, BLOCK);
        side_by_side(w, from.importance, BLOCK);
        EACH_LANE mean[lane] = means[(from.values[lane] - values) / row];
        for (int i = 0; i < BLOCK; ++i) {
            EACH_LANE w[i][lane] *= sqrtf(mean[lane] + x[i][lane] * x[i][lane]);
        }
        Found found;
        const int half = type.top / 2 + 1;
        if (type.has_minimum) {
            search_minimum(BLOCK, type.top, -0.9f, 0.05f, 36, 0, x, w, &found);
        } else {
            search_around_zero(BLOCK, half, x, w, &found);
        }
        for (int lane = 0; lane < from.count; ++lane) {
            uint8_t levels[BLOCK];
            if (type.has_minimum) {
                levels_of(BLOCK, 0, type.top, from.values[lane], &found, lane, levels);
            } else {
                levels_of(BLOCK, -half, half - 1, from.values[lane], &found, lane, levels);
            }
            type.write(out, begin + first + lane, found.scale[lane], -found.minimum[lane], levels);
        }
    }
}

static inline void quantize(Type type, const float *restrict values, void *restrict out, int64_t rows, int64_t row,
                            const float *restrict importance) {
    const int64_t a_row = row / BLOCK;
    for (int64_t first = GROUP * LANES; importance && first < rows; first += GROUPS * LANES) {
        const int some = rows - first < LANES ? (int)(rows - first) : LANES;
        quantize_weighted(type, values + first * row, out, first * a_row, some, row, importance);
    }
    for (int64_t first = THREAD * LANES; !importance && first < rows * a_row; first += THREADS * LANES) {
        const Batch from = batch(values, first, rows * a_row, BLOCK, row, NULL);
        float x[BLOCK][LANES], scale[LANES], low[LANES];
        side_by_side(x, from.values, BLOCK);
        scale_alone(type, x, scale, low);
        for (int lane = 0; lane < from.count; ++lane) {
            uint8_t levels[BLOCK];
            levels_alone(type, from.values[lane], scale[lane], low[lane], levels);
            type.write(out, first + lane, scale[lane], low[lane], levels);
        }
    }
}

QUANTIZER(q4_0) {
    quantize((Type){15, 0, write_q4_0}, values, out, rows, row, importance);
    return (size_t)(rows * (row / BLOCK)) * sizeof(BlockQ4_0);
}

QUANTIZER(q4_1) {
    quantize((Type){15, 1, write_q4_1}, values, out, rows, row, importance);
    return (size_t)(rows * (row / BLOCK)) * sizeof(BlockQ4_1);
}

QUANTIZER(q5_0) {
    quantize((Type){31, 0, write_q5_0}, values, out, rows, row, importance);
    return (size_t)(rows * (row / BLOCK)) * sizeof(BlockQ5_0);
}

QUANTIZER(q5_1) {
    quantize((Type){31, 1, write_q5_1}, values, out, rows, row, importance);
    return (size_t)(rows * (row / BLOCK)) * sizeof(BlockQ5_1);
}

QUANTIZER(q8_0) {
    (void)importance; // ggml does not read it
    const int64_t blocks = rows * (row / BLOCK);
    for (int64_t block = THREAD; block < blocks; block += THREADS) {
        const float *x = values + block * BLOCK;
        BlockQ8_0 *made = (BlockQ8_0 *)out + block;
        const float scale = largest_size(x, BLOCK) / 127, inverse = scale != 0 ? 1.0f / scale : 0.0f;
        made->scale = to_half(scale);
        for (int i = 0; i < BLOCK; ++i) made->levels[i] = (int8_t)rounded(x[i] * inverse);
    }
    return (size_t)blocks * sizeof(BlockQ8_0);
}
