// IQ1_S and IQ1_M: super-blocks of 256 weights in sub-blocks of 32 or 16, eight weights as a point of a grid of 2048. A
// weight is -1, 0 or 1, all of them a little more or all a little less, times the scale.
//
// ggml sorts the weights of a sub-block and tries all pairs of borders between the three values.
#include <stdlib.h>

#include "fit.h"
#include "tables.h"

#define DELTA 0.125f

typedef struct {
    uint16_t scale;
    uint8_t points[SUPER / 8]; // all but the three highest bits
    uint16_t high[SUPER / 32]; // these, then three bits of a scale, then whether it is a little less
} BlockIQ1_S;

typedef struct {
    uint8_t points[SUPER / 8];
    uint8_t high[SUPER / 16];
    uint16_t scales[SUPER / 64]; // three bits a sub-block, and in the other bits the scale of all
} BlockIQ1_M;

static Place places[6561];
static uint32_t near_points[340000];
static uint16_t steps_of_points[340000];
static const Grid GRID = {IQ1_S_POINTS, 2048, 8, 3, 3, places, near_points, steps_of_points, sizeof near_points / 4};

// One for all types here: they share the tables, and a second time would write what threads are reading.
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static void prepare(void) { grid_prepare(&GRID); }

// What lies between three values: places among the weights in their order.
typedef struct {
    float scale;
    int first, second, kind; // -1: there is none
} Borders;

#ifdef ON_GPU
#include "borders_gpu.h"
#else
#include "borders.h"
#endif

// What becomes of a sub-block once its borders are found.
typedef struct {
    float scale;
    float base[2]; // of each half
    uint32_t points[4];
} Found;

INLINED void settle(const Grid *grid, Found *restrict found, Borders borders, const int *restrict rank,
                    const float *restrict x, const float *restrict weight, int size) {
    const int turned = borders.scale < 0;
    uint32_t levels[4] = {0};
    float by_x[32], by_value[32], sum_x = 0, sum_2 = 0;
    int off_grid = 0;
    found->scale = turned ? -borders.scale : borders.scale;
    for (int i = 0; i < size; ++i) {
        const int level = (rank[i] >= borders.first) + (rank[i] >= borders.second);
        levels[i / 8] |= (uint32_t)(turned ? 2 - level : level) << i % 8 * 4;
    }
    for (int group = 0; group < size / 8; ++group) {
        const float base = found->base[group * 2 / (size / 8)];
        found->points[group] = point_of(grid, levels[group], x + group * 8, weight + group * 8, found->scale, base);
        off_grid |= found->points[group] != levels[group];
        UNROLLED for (int i = 0; i < 8; ++i) {
            const float value = coordinate(found->points[group], i) + base;
            by_x[group * 8 + i] = weight[group * 8 + i] * value * x[group * 8 + i];
            by_value[group * 8 + i] = weight[group * 8 + i] * value * value;
        }
    }
    for (int i = 0; i < size; ++i) {
        sum_x += by_x[i];
        sum_2 += by_value[i];
    }
    if (off_grid && sum_x > 0 && sum_2 > 0) found->scale = sum_x / sum_2;
}

static inline void borders_32(const Grid *grid, Found *restrict found, const float *restrict x,
                              const float *restrict weight) {
    float sum_x[33 + WIDTH], sum_w[33 + WIDTH];
    int order[32], rank[32];
    sort(x, order, rank, 32);
    sum_x[0] = sum_w[0] = 0;
    for (int i = 0; i < 32; ++i) {
        sum_x[i + 1] = sum_x[i] + weight[order[i]] * x[order[i]];
        sum_w[i + 1] = sum_w[i] + weight[order[i]];
    }
    for (int i = 33; i < 33 + WIDTH; ++i) sum_x[i] = sum_w[i] = NAN;
    const Borders borders = best_of_32(sum_x, sum_w);
    if (borders.kind < 0) return;
    found->base[0] = found->base[1] = -1 + ((borders.kind == 0) == !(borders.scale < 0) ? DELTA : -DELTA);
    settle(grid, found, borders, rank, x, weight, 32);
}

static inline void weigh(float *restrict weight, const float *restrict x, const float *restrict importance, float mean) {
    for (int i = 0; i < SUPER; ++i) weight[i] = importance ? importance[i] * sqrtf(mean + x[i] * x[i]) : x[i] * x[i];
}

static inline void block_s(BlockIQ1_S *restrict made, const Grid *grid, const float *restrict x,
                           const float *restrict columns, float mean) {
    Found found[SUPER / 32];
    float weight[SUPER], largest = 0;
    memset(made, 0, sizeof *made);
    weigh(weight, x, columns, mean);
    for (int i = 0; i < SUPER / 32; ++i) {
        found[i] = (Found){0, {0}, {0}};
        if (largest_size(x + i * 32, 32) < 1e-12f) continue;
        borders_32(grid, &found[i], x + i * 32, weight + i * 32);
        for (int j = 0; j < 4; ++j) {
            const int number = grid->places[place_of(found[i].points[j], 8)].number;
            made->points[i * 4 + j] = (uint8_t)number;
            made->high[i] |= (uint16_t)(number >> 8 << j * 3);
        }
        largest = largest > found[i].scale ? largest : found[i].scale;
    }
    if (largest == 0) return;
    const float scale = largest / 15, inverse = 1 / scale;
    made->scale = to_half(scale * 1.125f);
    for (int i = 0; i < SUPER / 32; ++i) {
        const int level = clamped(nearest(0.5f * (inverse * found[i].scale - 1)), 0, 7);
        made->high[i] |= (uint16_t)((level | (found[i].base[0] < -1 ? 8 : 0)) << 12);
    }
}

static inline void borders_16(const Grid *grid, Found *restrict found, const float *restrict x,
                              const float *restrict weight) {
    float sum_x[2][17 + WIDTH], sum_w[2][17 + WIDTH];
    int order[16], rank[16];
    sort(x, order, rank, 16);
    sum_x[0][0] = sum_x[1][0] = sum_w[0][0] = sum_w[1][0] = 0;
    for (int i = 0; i < 16; ++i) {
        const int is_low = order[i] < 8;
        const float by_x = weight[order[i]] * x[order[i]], by_1 = weight[order[i]];
        sum_x[0][i + 1] = sum_x[0][i] + (is_low ? by_x : 0);
        sum_x[1][i + 1] = sum_x[1][i] + (is_low ? 0 : by_x);
        sum_w[0][i + 1] = sum_w[0][i] + (is_low ? by_1 : 0);
        sum_w[1][i + 1] = sum_w[1][i] + (is_low ? 0 : by_1);
    }
    for (int i = 17; i < 17 + WIDTH; ++i) sum_x[0][i] = sum_x[1][i] = sum_w[0][i] = sum_w[1][i] = NAN;
    Borders borders = best_of_16(sum_x, sum_w);
    if (borders.kind < 0) return;
    if (borders.scale < 0) borders.kind = 3 - borders.kind;
    found->base[0] = borders.kind < 2 ? -1 + DELTA : -1 - DELTA;
    found->base[1] = borders.kind % 2 == 0 ? -1 + DELTA : -1 - DELTA;
    settle(grid, found, borders, rank, x, weight, 16);
}

// The scale of all that fits best, given those of the sub-blocks.
static inline float scale_of_all(const Found *found, const int *levels, const float *x, const float *weight,
                                 float scale) {
    float by_x[SUPER], by_value[SUPER], sum_x = 0, sum_2 = 0;
    for (int group = 0; group < SUPER / 8; ++group) {
        const Found *sub = found + group / 2;
        UNROLLED for (int i = 0; i < 8; ++i) {
            const float value = (coordinate(sub->points[group % 2], i) + sub->base[group % 2]) *
                                (float)(2 * levels[group / 2] + 1);
            by_x[group * 8 + i] = weight[group * 8 + i] * value * x[group * 8 + i];
            by_value[group * 8 + i] = weight[group * 8 + i] * value * value;
        }
    }
    for (int i = 0; i < SUPER; ++i) {
        sum_x += by_x[i];
        sum_2 += by_value[i];
    }
    return sum_2 > 0 ? sum_x / sum_2 : scale;
}

static inline void block_m(BlockIQ1_M *restrict made, const Grid *grid, const float *restrict x,
                           const float *restrict columns, float mean) {
    Found found[SUPER / 16];
    float weight[SUPER], largest = 0;
    int levels[SUPER / 16];
    memset(made, 0, sizeof *made);
    weigh(weight, x, columns, mean);
    for (int i = 0; i < SUPER / 16; ++i) {
        found[i] = (Found){0, {-1 + DELTA, -1 + DELTA}, {0}};
        if (largest_size(x + i * 16, 16) < 1e-7f) continue;
        borders_16(grid, &found[i], x + i * 16, weight + i * 16);
        for (int j = 0; j < 2; ++j) {
            const int number = grid->places[place_of(found[i].points[j], 8)].number;
            made->points[i * 2 + j] = (uint8_t)number;
            made->high[i] |= (uint8_t)(number >> 8 << j * 4);
        }
        largest = largest > found[i].scale ? largest : found[i].scale;
    }
    if (largest == 0) return;
    const float scale = largest / 15, inverse = 1 / scale;
    for (int i = 0; i < SUPER / 16; ++i) {
        levels[i] = clamped(nearest(0.5f * (inverse * found[i].scale - 1)), 0, 7);
        made->scales[i / 4] |= (uint16_t)(levels[i] << i % 4 * 3);
        made->high[i] |= (uint8_t)((found[i].base[0] < -1 ? 8 : 0) | (found[i].base[1] < -1 ? 128 : 0));
    }
    const uint16_t half = to_half(scale_of_all(found, levels, x, weight, scale) * 1.1125f);
    for (int i = 0; i < 4; ++i) made->scales[i] |= (uint16_t)((half >> i * 4 & 15) << 12);
}

GRID_QUANTIZER(iq1_s, GRID) { EACH_SUPER_BLOCK(BlockIQ1_S, block_s, 2); }

GRID_QUANTIZER(iq1_m, GRID) { EACH_SUPER_BLOCK(BlockIQ1_M, block_m, 2); }
