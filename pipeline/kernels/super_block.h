// What the K types share: super-blocks of 256 weights, whose sub-blocks have small scales of their own. A lane is a
// super-block.
#ifndef SUPER_BLOCK_H
#define SUPER_BLOCK_H

#include "search.h"

#define SUPER 256

// Without an imatrix `importance` is not set.
typedef struct {
    float values[SUPER][LANES];
    float weights[SUPER][LANES];
} SuperBlocks;

static inline void load(SuperBlocks *restrict into, const Batch *from) {
    side_by_side(into->values, from->values, SUPER);
    if (from->importance[0]) side_by_side(into->weights, from->importance, SUPER);
}

// With an imatrix: make weights of its numbers, importance * sqrt(mean square + square), the mean times `factor`.
static inline void weigh(SuperBlocks *restrict blocks, float factor) {
    float sum[LANES] = {0}, mean[LANES];
    for (int i = 0; i < SUPER; ++i) {
        EACH_LANE sum[lane] += blocks->values[i][lane] * blocks->values[i][lane];
    }
    EACH_LANE mean[lane] = factor * sum[lane] / SUPER;
    for (int i = 0; i < SUPER; ++i) {
        EACH_LANE {
            const float value = blocks->values[i][lane];
            blocks->weights[i][lane] *= sqrtf(mean[lane] + value * value);
        }
    }
}

// The sum of the weights of each sub-block of n.
static inline void sum_weights(int n, const SuperBlocks *restrict blocks, float (*restrict sums)[LANES]) {
    for (int sub = 0; sub < SUPER / n; ++sub) {
        float sum[LANES] = {0};
        for (int i = 0; i < n; ++i) {
            EACH_LANE sum[lane] += blocks->weights[sub * n + i][lane];
        }
        memcpy(sums[sub], sum, sizeof sum);
    }
}

// Four levels of two bits a byte, 32 apart.
static inline void pack_2_bits(const uint8_t *restrict levels, uint8_t *restrict into) {
    for (int half = 0; half < 2; ++half, levels += 128, into += 32) {
        for (int i = 0; i < 32; ++i) {
            into[i] = (uint8_t)(levels[i] | levels[i + 32] << 2 | levels[i + 64] << 4 | levels[i + 96] << 6);
        }
    }
}

#endif
