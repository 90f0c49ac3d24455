// IQ3_XXS and IQ3_S: super-blocks of 256 weights in sub-blocks of 32, four weights as a point of a grid of 256 or 512.
#include "fit.h"
#include "tables.h"

#define SIZE 32
#define SUB_BLOCKS (SUPER / SIZE)
#define POINTS (SIZE / 4) // of a sub-block

typedef struct {
    uint16_t scale;
    uint8_t points[SUPER / 4];
    uint8_t signs_and_scales[SUB_BLOCKS][4];
} BlockIQ3_XXS;

typedef struct {
    uint16_t scale;
    uint8_t points[SUPER / 4]; // all but the highest bit
    uint8_t high[SUPER / 32];
    uint8_t signs[SUPER / 8];
    uint8_t scales[SUB_BLOCKS / 2];
} BlockIQ3_S;

static Place places_xxs[4096], places_s[4096];
static uint32_t near_xxs[30000], near_s[36000];
static const Grid GRID_XXS = {IQ3_XXS_POINTS, 256, 4, 8, 2, places_xxs, near_xxs, NULL, sizeof near_xxs / 4};
static const Grid GRID_S = {IQ3_S_POINTS, 512, 4, 8, 3, places_s, near_s, NULL, sizeof near_s / 4};

// One for all types here: they share the tables, and a second time would write what threads are reading.
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static void prepare(void) {
    grid_prepare(&GRID_XXS);
    grid_prepare(&GRID_S);
}

static inline void weigh(Sub *restrict sub, const float *restrict x, const float *restrict importance, float mean) {
    for (int i = 0; i < SIZE; ++i) {
        sub->weight[i] = importance ? importance[i] * sqrtf(mean + x[i] * x[i]) : x[i] * x[i];
        sub->root[i] = sqrtf(sub->weight[i]);
    }
}

static inline void inverses(float inverse[TRIALS], int around, float largest) {
    for (int trial = 0; trial < TRIALS; ++trial) inverse[trial] = (15 + (float)(trial - around) * 0.2f) / largest;
}

static inline float fit_xxs(const Grid *grid, Sub *sub, uint32_t points[POINTS]) {
    const float largest = maximum(sub->x, SIZE);
    float inverse[TRIALS];
    int off_grid = 0;
    for (int i = 0; i < POINTS; ++i) points[i] = doubled(0, 4);
    if (largest < 1e-8f) return -1;
    inverses(inverse, 15, largest);
    float scale = fit(grid, sub, inverse, 31, largest / 15, points, &off_grid, SIZE, 4);
    if (off_grid && scale > 0) scale = refit(grid, sub, scale, points, off_grid, SIZE, 4);
    turn(&scale, sub->signs, SIZE, 127);
    return scale;
}

static inline void block_xxs(BlockIQ3_XXS *restrict made, const Grid *grid, const float *restrict x,
                             const float *restrict columns, float mean) {
    float scales[SUB_BLOCKS], largest = 0;
    uint32_t last[SUB_BLOCKS] = {0}, points[POINTS];
    memset(made, 0, sizeof *made);
    for (int i = 0; i < SUB_BLOCKS; ++i) {
        Sub sub;
        weigh(&sub, x + i * SIZE, columns ? columns + i * SIZE : NULL, mean);
        take_signs(&sub, x + i * SIZE, SIZE, 1);
        scales[i] = fit_xxs(grid, &sub, points);
        if (scales[i] < 0) {
            scales[i] = 0;
            continue;
        }
        for (int j = 0; j < POINTS; ++j) made->points[i * POINTS + j] = (uint8_t)number_of(grid, points[j], 4);
        for (int j = 0; j < 4; ++j) last[i] |= (uint32_t)sub.signs[j] << 7 * j;
        largest = largest > scales[i] ? largest : scales[i];
    }
    if (largest == 0) {
        memset(made, 0, sizeof *made);
        return;
    }
    const float scale = largest / 31, inverse = 1 / scale;
    made->scale = to_half(scale * 1.0125f);
    for (int i = 0; i < SUB_BLOCKS; ++i) {
        last[i] |= (uint32_t)small_scale(scales[i], inverse) << 28;
        for (int j = 0; j < 4; ++j) made->signs_and_scales[i][j] = (uint8_t)(last[i] >> 8 * j);
    }
}

static inline float fit_s(const Grid *grid, Sub *sub, uint32_t points[POINTS]) {
    const float largest = maximum(sub->x, SIZE);
    float inverse[TRIALS];
    int off_grid = (1 << POINTS) - 1;
    for (int i = 0; i < POINTS; ++i) points[i] = doubled(0, 4);
    inverses(inverse, 9, largest);
    float scale = fit(grid, sub, inverse, 19, largest / 15, points, &off_grid, SIZE, 4);
    if (off_grid && scale > 0) scale = refit(grid, sub, scale, points, (1 << POINTS) - 1, SIZE, 4);
    turn(&scale, sub->signs, SIZE, 255);
    return scale;
}

static inline void block_s(BlockIQ3_S *restrict made, const Grid *grid, const float *restrict x,
                           const float *restrict columns, float mean) {
    float scales[SUB_BLOCKS] = {0}, largest = 0;
    uint32_t points[POINTS];
    uint8_t *numbers = made->points, *signs = made->signs;
    memset(made, 0, sizeof *made);
    for (int i = 0; i < SUB_BLOCKS; ++i) {
        Sub sub;
        weigh(&sub, x + i * SIZE, columns ? columns + i * SIZE : NULL, mean);
        take_signs(&sub, x + i * SIZE, SIZE, 0);
        // As in ggml, those behind a sub-block of zeros then move to where it would be.
        if (maximum(sub.x, SIZE) == 0) continue;
        scales[i] = fit_s(grid, &sub, points);
        for (int j = 0; j < POINTS; ++j) {
            const int number = number_of(grid, points[j], 4);
            *numbers++ = (uint8_t)number;
            made->high[i] |= (uint8_t)(number >> 8 << j);
        }
        memcpy(signs, sub.signs, 4);
        signs += 4;
        largest = largest > scales[i] ? largest : scales[i];
    }
    if (largest == 0) return;
    const float scale = largest / 31, inverse = 1 / scale;
    made->scale = to_half(scale * 1.033f);
    for (int i = 0; i < SUB_BLOCKS; ++i) made->scales[i / 2] |= (uint8_t)(small_scale(scales[i], inverse) << i % 2 * 4);
}

GRID_QUANTIZER(iq3_xxs, GRID_XXS) { EACH_SUPER_BLOCK(BlockIQ3_XXS, block_xxs, 2); }

GRID_QUANTIZER(iq3_s, GRID_S) { EACH_SUPER_BLOCK(BlockIQ3_S, block_s, 2); }
