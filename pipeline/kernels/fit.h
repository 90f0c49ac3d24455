// The scale of a sub-block of an I-quant with a grid, and its points: the best of some trials.
//
// Functions here take the grid's dimensions and the numbers of groups and trials as constants, and so are all inlined.
#ifndef FIT_H
#define FIT_H

#include "grid.h"

#define INLINED static inline __attribute__((always_inline))
#define SUB_BLOCK 32 // weights at most
#define SUB_GROUPS 8 // points at most
#define TRIALS 32    // at most

typedef struct {
    float x[SUB_BLOCK];      // without their signs
    float weight[SUB_BLOCK]; // what their errors cost
    float root[SUB_BLOCK];   // of the weight: what ggml takes in its place when it looks for near points
    uint8_t signs[SUB_BLOCK / 8];
} Sub;

// Leave the signs out, a bit each. Where a type has no room for the last of 8, their number is made even by turning the
// weight that costs the least.
INLINED void take_signs(Sub *restrict sub, const float *restrict x, int size, int even) {
    float cost[SUB_BLOCK];
    int is_negative[SUB_BLOCK];
    for (int i = 0; i < size; ++i) {
        sub->x[i] = fabsf(x[i]);
        is_negative[i] = x[i] < 0;
        cost[i] = sub->weight[i] * x[i] * x[i];
    }
    for (int group = 0; group < size / 8; ++group) {
        int signs = 0, negative = 0, cheapest = 0;
        float least_cost = cost[group * 8];
        UNROLLED for (int i = 0; i < 8; ++i) {
            signs |= is_negative[group * 8 + i] << i;
            negative += is_negative[group * 8 + i];
            cheapest = cost[group * 8 + i] < least_cost ? i : cheapest;
            least_cost = cost[group * 8 + i] < least_cost ? cost[group * 8 + i] : least_cost;
        }
        if (even && negative % 2) {
            sub->x[group * 8 + cheapest] = -sub->x[group * 8 + cheapest];
            signs ^= 1 << cheapest;
        }
        sub->signs[group] = (uint8_t)(even ? signs & 127 : signs);
    }
}

// The largest of numbers of which some are not negative. As integers their bits are in the order of the numbers.
INLINED float maximum(const float *x, int size) {
    int32_t bits = bits_of(x[0]);
    float largest;
    for (int i = 1; i < size; ++i) bits = most(bits, bits_of(x[i]));
    memcpy(&largest, &bits, sizeof largest);
    return largest;
}

// The levels of a group of weights, with no regard for the grid.
INLINED uint32_t levels_at(const float *x, float inverse, int dimensions) {
    const int top = dimensions == 8 ? 2 : 7;
    uint32_t levels = 0;
    UNROLLED for (int i = 0; i < dimensions; ++i) {
        levels |= (uint32_t)clamped(nearest(0.5f * (inverse * x[i] - 1)), 0, top) << 4 * i;
    }
    return levels;
}

INLINED float distance(uint32_t point, const float *x, const float *root, float scale, int dimensions) {
    float sum = 0;
    UNROLLED for (int i = 0; i < dimensions; ++i) {
        const float apart = scale * coordinate(point, i) - x[i];
        sum += root[i] * apart * apart;
    }
    return sum;
}

#ifdef ON_GPU
#include "trials_gpu.h"
#else
#include "trials.h"
#endif

// The scale once more, for the points next to it. `again` has a bit for each group that gets a point anew.
INLINED float refit(const Grid *grid, const Sub *sub, float scale, uint32_t *restrict points, int again, int size,
                    int dimensions) {
    float by_x[SUB_BLOCK], by_value[SUB_BLOCK], sum_x = 0, sum_2 = 0;
    const float inverse = 1 / scale;
    for (int group = 0; group < size / dimensions; ++group) {
        const float *x = sub->x + group * dimensions, *weight = sub->weight + group * dimensions;
        if (again >> group & 1) {
            const uint32_t levels = levels_at(x, inverse, dimensions);
            const Place *place = grid->places + place_of(levels, dimensions);
            points[group] = place->number >= 0 ? doubled(levels, dimensions)
                                               : nearest_point(grid, place, x, sub->root + group * dimensions, scale, dimensions);
        }
        UNROLLED for (int i = 0; i < dimensions; ++i) {
            const float value = coordinate(points[group], i);
            by_x[group * dimensions + i] = weight[i] * x[i] * value;
            by_value[group * dimensions + i] = weight[i] * value * value;
        }
    }
    for (int i = 0; i < size; ++i) {
        sum_x += by_x[i];
        sum_2 += by_value[i];
    }
    return sum_2 > 0 ? sum_x / sum_2 : scale;
}

INLINED int number_of(const Grid *grid, uint32_t point, int dimensions) {
    return grid->places[place_of(halved(point), dimensions)].number;
}

// "Should never happen", says ggml: a scale of the other sign, for which all signs turn.
INLINED void turn(float *restrict scale, uint8_t *restrict signs, int size, int mask) {
    if (!(*scale < 0)) return;
    *scale = -*scale;
    for (int i = 0; i < size / 8; ++i) signs[i] = (uint8_t)(~signs[i] & mask);
}

// The four bits of a sub-block's scale.
static inline int small_scale(float scale, float inverse) {
    return clamped(nearest(0.5f * (inverse * scale - 1)), 0, 15);
}

// Body of a quantizer by `block_of(made, grid, x, importance, mean)`, where `mean` is `factor` times the mean square.
#define EACH_SUPER_BLOCK(Block, block_of, factor)                                                                      \
    const int64_t blocks = rows * (row / SUPER);                                                                       \
    float sums[AHEAD];                                                                                                 \
    for (int64_t block = THREAD; block < blocks; block += THREADS) {                                                   \
        const float *x = values + block * SUPER;                                                                       \
        if (block % AHEAD == 0) sums_of_squares(sums, x, SUPER, blocks - block);                                       \
        block_of((Block *)out + block, grid, x, importance ? importance + block * SUPER % row : NULL,                  \
                 factor * sums[block % AHEAD] / SUPER);                                                                \
    }                                                                                                                  \
    return (size_t)blocks * sizeof(Block)

#endif
