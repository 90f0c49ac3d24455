// IQ4_NL and IQ4_XS: 32 weights with one scale, as indices into a table of 16 values that are not evenly spaced.
// IQ4_XS quantizes the scales of 8 such sub-blocks to six bits.
#include "i_types.h"

#define SIZE 32
#define SUB_BLOCKS (SUPER / SIZE)
#define TRIALS 15
#define TRIED 16 // at the same time

typedef struct {
    uint16_t scale;
    uint8_t levels[SIZE / 2];
} BlockIQ4_NL;

typedef struct {
    uint16_t scale;
    uint16_t high; // of each sub-block's scale
    uint8_t low[SUPER / 64];
    uint8_t levels[SUPER / 2];
} BlockIQ4_XS;

TABLE float FIRST = -127;
TABLE float STEP[15] = {23, 21, 18, 16, 14, 13, 12, 11, 12, 12, 13, 15, 16, 20, 24};
// Halfway between two values, where ggml takes the upper one. Its differences to both are exact near there, so that
// comparing them is comparing with this.
TABLE float MIDDLE[15] = {-115.5f, -93.5f, -74, -57,   -42, -28.5f, -16, -4.5f,
                                 7,       19,     31.5f, 45.5f, 61, 79, 101};

// The index of the value next to `x`. NaN gives the last, as in ggml: hence "not less".
static inline int index_of(float x) {
    int index = 0;
    UNROLLED for (int i = 0; i < 15; ++i) index += !(x < MIDDLE[i]);
    return index;
}

static inline float value_of(float x) {
    float value = FIRST;
    UNROLLED for (int i = 0; i < 15; ++i) value += x < MIDDLE[i] ? 0 : STEP[i];
    return value;
}

// A trial quantizes with its own inverse scale. Of 15 of them the largest is 134/119 of the smallest, and no two middles
// are so near each other: for one weight they all choose between the same two values.
typedef struct {
    float lower[SIZE], upper[SIZE], middle[SIZE];
} Choice;

static inline void choose(Choice *choice, const float *x, float first, float last) {
    for (int i = 0; i < SIZE; ++i) {
        const float a = first * x[i], b = last * x[i];
        const float low = a < b ? a : b, high = a < b ? b : a;
        float lower = FIRST, upper = FIRST, middle = MIDDLE[0];
        UNROLLED for (int j = 0; j < 15; ++j) {
            lower += low < MIDDLE[j] ? 0 : STEP[j];
            upper += high < MIDDLE[j] ? 0 : STEP[j];
            middle = high < MIDDLE[j] ? middle : MIDDLE[j];
        }
        choice->lower[i] = lower;
        choice->upper[i] = upper;
        choice->middle[i] = middle;
    }
}

// ggml's first trial has the sign of the others turned.
static inline float first_scale(const float *restrict x, const float *restrict weight, float inverse,
                                float *restrict best) {
    float values[SIZE], by_x[SIZE], by_value[SIZE], sum_x = 0, sum_2 = 0;
    for (int i = 0; i < SIZE; ++i) values[i] = value_of(inverse * x[i]);
    for (int i = 0; i < SIZE; ++i) {
        by_x[i] = weight[i] * values[i] * x[i];
        by_value[i] = weight[i] * values[i] * values[i];
    }
    for (int i = 0; i < SIZE; ++i) {
        sum_x += by_x[i];
        sum_2 += by_value[i];
    }
    const float scale = sum_2 > 0 ? sum_x / sum_2 : 0;
    *best = scale * sum_x;
    return scale;
}

// The scale of 32 weights: the best of the first trial and 15 others, a lane each.
static inline float scale_of(const float *restrict x, const float *restrict weight) {
    const float largest = largest_of(x, SIZE);
    if (fabsf(largest) < 1e-15f) return 0;
    float inverse[TRIED], best, sum_x[TRIED], sum_2[TRIED];
    float scale = first_scale(x, weight, 1 / (largest / 127), &best);
    for (int trial = 0; trial < TRIED; ++trial) inverse[trial] = (float)(trial - 134) / largest;
    Choice choice;
    choose(&choice, x, inverse[0], inverse[TRIED - 1]);
    for (int trial = 0; trial < TRIED; ++trial) {
        float by_x = 0, by_value = 0;
        for (int i = 0; i < SIZE; ++i) {
            const float lower = choice.lower[i], upper = choice.upper[i], middle = choice.middle[i];
            const float value = inverse[trial] * x[i] < middle ? lower : upper;
            by_x += weight[i] * value * x[i];
            by_value += weight[i] * value * value;
        }
        sum_x[trial] = by_x;
        sum_2[trial] = by_value;
    }
    for (int trial = 0; trial < TRIALS; ++trial) {
        if (sum_2[trial] > 0 && sum_x[trial] * sum_x[trial] > best * sum_2[trial]) {
            scale = sum_x[trial] / sum_2[trial];
            best = scale * sum_x[trial];
        }
    }
    return scale;
}

static inline void weigh(float *restrict weight, const float *restrict x, const float *restrict importance, float mean) {
    if (importance) {
        for (int i = 0; i < SIZE; ++i) weight[i] = importance[i] * sqrtf(mean + x[i] * x[i]);
    } else {
        for (int i = 0; i < SIZE; ++i) weight[i] = x[i] * x[i];
    }
}

static inline void write(uint8_t *restrict levels, const float *restrict x, float inverse) {
    int index[SIZE];
    for (int i = 0; i < SIZE; ++i) index[i] = index_of(inverse * x[i]);
    for (int i = 0; i < SIZE / 2; ++i) levels[i] = (uint8_t)(index[i] | index[i + SIZE / 2] << 4);
}

QUANTIZER(iq4_nl) {
    const int64_t blocks = rows * (row / SIZE);
    float sums[AHEAD], weight[SIZE];
    for (int64_t block = THREAD; block < blocks; block += THREADS) {
        BlockIQ4_NL *made = (BlockIQ4_NL *)out + block;
        const float *x = values + block * SIZE;
        if (block % AHEAD == 0 && importance) sums_of_squares(sums, x, SIZE, blocks - block);
        weigh(weight, x, importance ? importance + block * SIZE % row : NULL, sums[block % AHEAD] * (2.f / SIZE));
        const float scale = scale_of(x, weight);
        made->scale = to_half(scale);
        write(made->levels, x, scale != 0 ? 1 / scale : 0);
    }
    return (size_t)blocks * sizeof(BlockIQ4_NL);
}

// The six bits of each scale, then the weights with the scales that these stand for.
static inline void write_super(BlockIQ4_XS *restrict made, const float *restrict x, const float scales[SUB_BLOCKS]) {
    float largest = 0; // which no NaN is, of sums that overflow
    for (int i = 0; i < SUB_BLOCKS; ++i) largest = fabsf(scales[i]) > fabsf(largest) ? scales[i] : largest;
    const float scale = -largest / 32;
    const float inverse = scale != 0 ? 1 / scale : 0;
    memset(made, 0, sizeof *made);
    made->scale = to_half(scale);
    for (int i = 0; i < SUB_BLOCKS; ++i) {
        const int level = clamped(nearest(inverse * scales[i]), -32, 31);
        const float sub_scale = scale * (float)level;
        write(made->levels + i * SIZE / 2, x + i * SIZE, sub_scale != 0 ? 1 / sub_scale : 0);
        made->low[i / 2] |= (uint8_t)((level & 15) << i % 2 * 4);
        made->high |= (uint16_t)((level + 32) >> 4 << i * 2);
    }
}

QUANTIZER(iq4_xs) {
    const int64_t blocks = rows * (row / SUPER);
    float sums[AHEAD], weight[SIZE], scales[SUB_BLOCKS];
    for (int64_t block = THREAD; block < blocks; block += THREADS) {
        BlockIQ4_XS *made = (BlockIQ4_XS *)out + block;
        const float *x = values + block * SUPER;
        const float *columns = importance ? importance + block * SUPER % row : NULL;
        if (block % AHEAD == 0 && importance) sums_of_squares(sums, x, SUPER, blocks - block);
        for (int i = 0; i < SUB_BLOCKS; ++i) {
            weigh(weight, x + i * SIZE, columns ? columns + i * SIZE : NULL, sums[block % AHEAD] * (2.f / SUPER));
            scales[i] = scale_of(x + i * SIZE, weight);
        }
        write_super(made, x, scales);
    }
    return (size_t)blocks * sizeof(BlockIQ4_XS);
}
