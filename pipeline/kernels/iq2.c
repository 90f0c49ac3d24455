// IQ2_XXS, IQ2_XS and IQ2_S: super-blocks of 256 weights, eight weights as a point of a grid of 256, 512 or 1024.
// Sub-blocks are of 32 weights in the first and of 16 in the others.
#include "fit.h"
#include "search.h"
#include "tables.h"

typedef struct {
    uint16_t scale;
    struct {
        uint8_t points[4];
        uint8_t signs_and_scale[4];
    } subs[SUPER / 32];
} BlockIQ2_XXS;

typedef struct {
    uint16_t scale;
    uint16_t points_and_signs[SUPER / 8];
    uint8_t scales[SUPER / 32];
} BlockIQ2_XS;

typedef struct {
    uint16_t scale;
    uint8_t points[SUPER / 8]; // all but the two highest bits
    uint8_t signs[SUPER / 8];
    uint8_t high[SUPER / 32];
    uint8_t scales[SUPER / 32];
} BlockIQ2_S;

static Place places_xxs[6561], places_xs[6561], places_s[6561];
static uint32_t near_xxs[120000], near_xs[190000], near_s[60000];
static uint16_t steps_xxs[120000], steps_xs[190000];
static const Grid GRID_XXS = {IQ2_XXS_POINTS, 256, 8, 3, 2, places_xxs, near_xxs, steps_xxs, sizeof near_xxs / 4};
static const Grid GRID_XS = {IQ2_XS_POINTS, 512, 8, 3, 2, places_xs, near_xs, steps_xs, sizeof near_xs / 4};
static const Grid GRID_S = {IQ2_S_POINTS, 1024, 8, 3, 1, places_s, near_s, NULL, sizeof near_s / 4};

// One for all types here: they share the tables, and a second time would write what threads are reading.
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static void prepare(void) {
    grid_prepare(&GRID_XXS);
    grid_prepare(&GRID_XS);
    grid_prepare(&GRID_S);
}

INLINED void weigh(Sub *restrict sub, const float *restrict x, const float *restrict importance, float mean, int size) {
    for (int i = 0; i < size; ++i) {
        sub->weight[i] = importance ? importance[i] * sqrtf(mean + x[i] * x[i]) : 0.25f * mean + x[i] * x[i];
        sub->root[i] = sqrtf(sub->weight[i]);
    }
}

INLINED void inverses(float inverse[TRIALS], int around, float largest) {
    for (int trial = 0; trial < TRIALS; ++trial) inverse[trial] = (5 + (float)(trial - around) * 0.1f) / largest;
}

// The scale of 16 weights.
INLINED float fit_16(const Grid *grid, Sub *sub, uint32_t points[2], float largest, int mask) {
    float inverse[TRIALS];
    int off_grid = 0;
    points[0] = points[1] = doubled(0, 8);
    inverses(inverse, 9, largest);
    float scale = fit(grid, sub, inverse, 19, largest / 5, points, &off_grid, 16, 8);
    if (off_grid && scale > 0) scale = refit(grid, sub, scale, points, off_grid, 16, 8);
    turn(&scale, sub->signs, 16, mask);
    return scale;
}

static inline void block_xs(BlockIQ2_XS *restrict made, const Grid *grid, const float *restrict x,
                            const float *restrict columns, float mean) {
    float scales[SUPER / 16] = {0}, largest = 0;
    memset(made, 0, sizeof *made);
    for (int i = 0; i < SUPER / 16; ++i) {
        Sub sub;
        uint32_t points[2];
        weigh(&sub, x + i * 16, columns + i * 16, mean, 16);
        take_signs(&sub, x + i * 16, 16, 1);
        const float most_here = maximum(sub.x, 16);
        if (most_here < 1e-15f) continue;
        scales[i] = fit_16(grid, &sub, points, most_here, 127);
        for (int j = 0; j < 2; ++j) {
            made->points_and_signs[i * 2 + j] = (uint16_t)(number_of(grid, points[j], 8) | sub.signs[j] << 9);
        }
        largest = largest > scales[i] ? largest : scales[i];
    }
    if (largest == 0) {
        memset(made, 0, sizeof *made);
        return;
    }
    const float scale = largest / 31, inverse = 1 / scale;
    made->scale = to_half(scale);
    for (int i = 0; i < SUPER / 16; ++i) made->scales[i / 2] |= (uint8_t)(small_scale(scales[i], inverse) << i % 2 * 4);
}

static inline void block_s(BlockIQ2_S *restrict made, const Grid *grid, const float *restrict x,
                           const float *restrict columns, float mean) {
    float scales[SUPER / 16] = {0}, largest = 0;
    memset(made, 0, sizeof *made);
    for (int i = 0; i < SUPER / 16; ++i) {
        Sub sub;
        uint32_t points[2];
        weigh(&sub, x + i * 16, columns ? columns + i * 16 : NULL, mean, 16);
        take_signs(&sub, x + i * 16, 16, 0);
        const float most_here = maximum(sub.x, 16);
        if (most_here < 1e-8f) continue;
        scales[i] = fit_16(grid, &sub, points, most_here, 255);
        for (int j = i * 2; j < i * 2 + 2; ++j) {
            const int number = number_of(grid, points[j % 2], 8);
            made->points[j] = (uint8_t)number;
            made->high[j / 4] |= (uint8_t)(number >> 8 << j % 4 * 2);
            made->signs[j] = sub.signs[j % 2];
        }
        largest = largest > scales[i] ? largest : scales[i];
    }
    if (largest == 0) return;
    const float scale = largest / 31, inverse = 1 / scale;
    made->scale = to_half(scale * 0.9875f);
    for (int i = 0; i < SUPER / 16; ++i) made->scales[i / 2] |= (uint8_t)(small_scale(scales[i], inverse) << i % 2 * 4);
}

// The scale of 32 weights, from the one that they would have as five levels without a grid.
static inline float fit_32(const Grid *grid, Sub *sub, uint32_t points[4], float first) {
    float inverse[TRIALS];
    int off_grid = 0;
    inverses(inverse, 6, first * 3);
    float scale = fit(grid, sub, inverse, 13, first, points, &off_grid, 32, 8);
    if (scale > 0) scale = refit(grid, sub, scale, points, 15, 32, 8);
    turn(&scale, sub->signs, 32, 127);
    return scale;
}

static inline void block_xxs(BlockIQ2_XXS *restrict made, const Grid *grid, Sub subs[SUPER / 32],
                             const float *restrict firsts) {
    float scales[SUPER / 32] = {0}, largest = 0;
    memset(made, 0, sizeof *made);
    for (int i = 0; i < SUPER / 32; ++i) {
        uint32_t points[4], signs = 0;
        if (maximum(subs[i].x, 32) < 1e-15f || firsts[i] * 3 <= 0) continue;
        scales[i] = fit_32(grid, &subs[i], points, firsts[i]);
        for (int j = 0; j < 4; ++j) {
            made->subs[i].points[j] = (uint8_t)number_of(grid, points[j], 8);
            signs |= (uint32_t)subs[i].signs[j] << j * 7;
        }
        for (int j = 0; j < 4; ++j) made->subs[i].signs_and_scale[j] = (uint8_t)(signs >> j * 8);
        largest = largest > scales[i] ? largest : scales[i];
    }
    if (largest == 0) {
        memset(made, 0, sizeof *made);
        return;
    }
    const float scale = largest / 31, inverse = 1 / scale;
    made->scale = to_half(scale);
    for (int i = 0; i < SUPER / 32; ++i) {
        made->subs[i].signs_and_scale[3] |= (uint8_t)(small_scale(scales[i], inverse) << 4);
    }
}

// For the first search a lane is a sub-block, and so two super-blocks are worked on at the same time; one by a thread of
// a GPU.
#define TOGETHER ((LANES + 7) / 8)

GRID_QUANTIZER(iq2_xxs, GRID_XXS) {
    const int64_t blocks = rows * (row / SUPER);
    float sums[AHEAD];
    for (int64_t first = THREAD * TOGETHER; first < blocks; first += THREADS * TOGETHER) {
        Sub subs[TOGETHER * 8];
        float x[32][LANES], weight[32][LANES], scales[TOGETHER * 8];
        uint8_t levels[32][LANES];
        if (first % AHEAD == 0) sums_of_squares(sums, values + first * SUPER, SUPER, blocks - first);
        for (int i = 0; i < TOGETHER * 8; ++i) {
            const int64_t block = first + i / 8 < blocks ? first + i / 8 : first;
            const float *from = values + block * SUPER + i % 8 * 32;
            weigh(&subs[i], from, importance + (block * SUPER + i % 8 * 32) % row, sums[block % AHEAD] / SUPER, 32);
            take_signs(&subs[i], from, 32, 1);
        }
        for (int begin = 0; begin < TOGETHER * 8; begin += LANES) {
            for (int i = 0; i < 32; ++i) {
                for (int lane = 0; lane < LANES; ++lane) {
                    x[i][lane] = subs[begin + lane].x[i];
                    weight[i][lane] = subs[begin + lane].weight[i];
                }
            }
            search_scales(32, 4, (const float (*)[LANES])x, (const float (*)[LANES])weight, scales + begin, levels);
        }
        for (int i = 0; i < TOGETHER && first + i < blocks; ++i) {
            block_xxs((BlockIQ2_XXS *)out + first + i, grid, subs + i * 8, scales + i * 8);
        }
    }
    return (size_t)blocks * sizeof(BlockIQ2_XXS);
}

GRID_QUANTIZER(iq2_xs, GRID_XS) { EACH_SUPER_BLOCK(BlockIQ2_XS, block_xs, 1); }

GRID_QUANTIZER(iq2_s, GRID_S) { EACH_SUPER_BLOCK(BlockIQ2_S, block_s, 2); }
