// The scale of a sub-block of an I-quant with a grid, and its points: the best of some trials, a lane each.
//
// Functions here take the grid's dimensions and the numbers of groups and trials as constants, and so are all inlined.
#ifndef FIT_H
#define FIT_H

#include "grid.h"
#include <pthread.h>

#define INLINED static inline __attribute__((always_inline))
#define SUB_BLOCK 32 // weights at most
#define GROUPS 8     // points at most
#define TRIALS 32    // at most
#define SOME (VECTOR < 32 ? 4 : 8) // trials at a time: those that begin from the same place are fewer, mostly
#define STRIDE 64    // of trials in memory, with room to read some more

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

// Lists are read on to the end of a vector.
static inline int whole_lanes(int count) { return (count + LANES - 1) & -LANES; }

INLINED void distances(float *restrict into, const uint32_t *restrict near, int count, const float *x,
                       const float *root, float scale, int dimensions) {
    for (int i = 0; i < whole_lanes(count); ++i) {
        const float found = distance(doubled(near[i], dimensions), x, root, scale, dimensions);
        into[i] = i < count ? found : INFINITY;
    }
}

// The first of the smallest. Bits of what is not negative are in its order, and those of NaN behind them.
INLINED int smallest(const float *found, int count) {
    uint32_t bits = UINT32_MAX;
    int first = MOST_NEAR;
    for (int i = 0; i < whole_lanes(count); ++i) {
        const uint32_t own = (uint32_t)bits_of(found[i]);
        bits = own < bits ? own : bits;
    }
    for (int i = 0; i < whole_lanes(count); ++i) {
        first = least(first, (uint32_t)bits_of(found[i]) == bits ? i : MOST_NEAR);
    }
    return first;
}

// What each weight of a group costs at each of its levels in each trial: distances are sums of these.
typedef struct {
    float of[8][8][STRIDE]; // by weight, level, trial
} Costs;

INLINED void costs_of(Costs *restrict costs, const float *x, const float *root, const float *scale, int lanes,
                      int dimensions) {
    for (int i = 0; i < dimensions; ++i) {
        for (int level = 0; level < (dimensions == 8 ? 3 : 8); ++level) {
            for (int trial = 0; trial < lanes; ++trial) {
                const float apart = scale[trial] * (float)(2 * level + 1) - x[i];
                costs->of[i][level][trial] = root[i] * apart * apart;
            }
        }
    }
}

typedef float Some __attribute__((vector_size(SOME * 4)));
typedef int32_t SomeBits __attribute__((vector_size(SOME * 4)));

// Add what weight i of a point costs in some trials; `from` are the costs of the first of these. Four bits of a point
// times the bytes of a level are an offset, without a multiplication.
INLINED void add_cost(Some *restrict sum, const char *from, uint32_t point, int i) {
    const uint32_t level = (i < 2 ? point << (8 - 4 * i) : point >> (4 * i - 8)) & 0x700;
    Some cost;
    memcpy(&cost, from + i * (int)sizeof(float[8][STRIDE]) + level, sizeof cost);
    *sum += cost;
}

// Of some points the nearest in each trial from `first` to `end` and perhaps some more.
INLINED void nearest_of(const uint32_t *restrict near, int count, const Costs *costs, int first, int end,
                        uint32_t *restrict points, int dimensions) {
    for (int begin = first; begin < end; begin += SOME) {
        const char *from = (const char *)&costs->of[0][0][begin];
        SomeBits least = {0}, taken = {0};
        least |= 0x7f800000;
        for (int i = 0; i < count; ++i) {
            const uint32_t point = near[i];
            Some sum = {0};
            UNROLLED for (int j = 0; j < dimensions; ++j) add_cost(&sum, from, point, j);
            const SomeBits is_less = sum < (Some)least;
            least = (is_less & (SomeBits)sum) | (~is_less & least);
            taken = (is_less & (int32_t)point) | (~is_less & taken);
        }
        memcpy(points + begin, &taken, sizeof taken);
    }
}

// To leave out most of a long list at once.
//
// Distances are sum of w (s q - x)^2, and what tells points apart in them is s times f(s) = sum of w (s q^2 - 2 q x),
// which is a line in s. Where f of one point is above f of another at both ends of a range of scales, it is so within.
// A step up from a to b adds w (s (b^2 - a^2) - 2 (b - a) x) to f: 16 steps for 8 weights. They are rounded to integers
// so that all together stay below 16,000. Two sums of them are then wrong by 16 at most. What ggml computes is wrong by
// 14 * 2^-24 * sum of w (s q + |x|)^2 at most, which is less than half of the unit as long as |x| is some scales at most
// (`reach`: 12 for 1, 3, 5 and 7 for a step of 1), since the unit is at least sum of w 2 (b - a)^2 s / 16,000. So what is
// more than MARGIN above another point at both ends is not taken within.
#define MARGIN 19
#define FEW 16 // points, for which it is not worth it

typedef struct {
    float by_scale[16], by_x[16];
    int are_exact; // enough for the above
} Steps;

// `first`, `second`: b^2 - a^2 of both steps; `double_step`: 2 (b - a).
INLINED void steps_of(Steps *restrict steps, const float *x, const float *weight, float largest, float smallest_scale,
                      float first, float second, float double_step, float reach) {
    float sum = 0, sum_w = 0, largest_x = 0;
    UNROLLED for (int i = 0; i < 8; ++i) {
        const float by_x = double_step * x[i];
        const float large = fabsf(first * largest - by_x) + fabsf(second * largest - by_x);
        const float small = fabsf(first * smallest_scale - by_x) + fabsf(second * smallest_scale - by_x);
        sum += weight[i] * (large > small ? large : small);
        sum_w += weight[i];
        largest_x = largest_x > fabsf(x[i]) ? largest_x : fabsf(x[i]);
    }
    const float unit = 16000 / sum;
    for (int i = 0; i < 8; ++i) {
        steps->by_scale[i] = first * weight[i] * unit;
        steps->by_scale[i + 8] = second * weight[i] * unit;
        steps->by_x[i] = steps->by_x[i + 8] = double_step * weight[i] * x[i] * unit;
    }
    steps->are_exact = sum > 0x1p-60f && sum < 0x1p60f && sum_w < 0x1p60f && smallest_scale > 0x1p-40f &&
                       largest < 0x1p40f && largest_x <= reach * smallest_scale;
}

typedef int16_t Many __attribute__((vector_size(MANY * 2)));

static const int16_t NUMBERS[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                    16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};

// Leave the points that may be the nearest of a list for a scale between two. Returns how many.
INLINED int may_be_nearest(const uint32_t *restrict near, const uint16_t *restrict codes, int count,
                           const Steps *steps, float one, float other, uint32_t *restrict left) {
    int16_t at_one[MOST_NEAR], at_other[MOST_NEAR], step_one[16], step_other[16];
    uint8_t stays[MOST_NEAR];
    for (int i = 0; i < 16; ++i) {
        step_one[i] = (int16_t)nearest(steps->by_scale[i] * one - steps->by_x[i]);
        step_other[i] = (int16_t)nearest(steps->by_scale[i] * other - steps->by_x[i]);
    }
    Many least_sums = {0}, numbers = {0}, lanes;
    memcpy(&lanes, NUMBERS, sizeof lanes);
    least_sums |= INT16_MAX;
    for (int begin = 0; begin < count; begin += MANY) {
        Many code, sum_one = {0}, sum_other = {0};
        memcpy(&code, codes + begin, sizeof code);
        UNROLLED for (int i = 0; i < 16; ++i) {
            const Many is_up = (code & (int16_t)(1 << i)) != 0;
            sum_one += is_up & step_one[i];
            sum_other += is_up & step_other[i];
        }
        const Many is_in = lanes < (int16_t)(count - begin);
        sum_one = (is_in & sum_one) | (~is_in & INT16_MAX / 2);
        sum_other = (is_in & sum_other) | (~is_in & INT16_MAX / 2);
        memcpy(at_one + begin, &sum_one, sizeof sum_one);
        memcpy(at_other + begin, &sum_other, sizeof sum_other);
        const Many is_less = sum_one + sum_other < least_sums;
        least_sums = (is_less & (sum_one + sum_other)) | (~is_less & least_sums);
        numbers = (is_less & (lanes + (int16_t)begin)) | (~is_less & numbers);
    }
    int16_t least_sum = INT16_MAX, best = INT16_MAX;
    for (int i = 0; i < MANY; ++i) least_sum = least_sums[i] < least_sum ? least_sums[i] : least_sum;
    for (int i = 0; i < MANY; ++i) {
        const int16_t own = least_sums[i] == least_sum ? numbers[i] : INT16_MAX;
        best = own < best ? own : best;
    }
    const int16_t limit_one = (int16_t)(at_one[best] + MARGIN), limit_other = (int16_t)(at_other[best] + MARGIN);
    for (int i = 0; i < (count + MANY - 1) / MANY * MANY; ++i) stays[i] = (at_one[i] <= limit_one) | (at_other[i] <= limit_other);
    int rivals = 0;
    for (int begin = 0; begin < count; begin += 8) {
        uint64_t flags;
        memcpy(&flags, stays + begin, sizeof flags);
        for (; flags; flags &= flags - 1) left[rivals++] = near[begin + __builtin_ctzll(flags) / 8];
    }
    return rivals;
}

// The points of trials `first` to `end` and perhaps some more, which all begin from the same place.
INLINED void nearest_points(const Grid *grid, const Place *place, const Costs *costs, const Steps *steps,
                            const float *scale, int first, int end, uint32_t *restrict points, int dimensions) {
    const uint32_t *near = grid->near + place->begin;
    uint32_t left[MOST_NEAR];
    int count = place->count;
    if (steps && count > FEW && steps->are_exact) {
        count = may_be_nearest(near, grid->steps + place->begin, count, steps, scale[first], scale[end - 1], left);
        near = left;
    }
    nearest_of(near, count, costs, first, end, points, dimensions);
}

INLINED uint32_t nearest_point(const Grid *grid, const Place *place, const float *x, const float *root, float scale,
                               int dimensions) {
    const uint32_t *near = grid->near + place->begin;
    uint32_t left[MOST_NEAR];
    float found[MOST_NEAR];
    int count = place->count;
    if (grid->steps && count > FEW) {
        Steps steps;
        steps_of(&steps, x, root, scale, scale, 8, 16, 4, 12);
        if (steps.are_exact) {
            count = may_be_nearest(near, grid->steps + place->begin, count, &steps, scale, scale, left);
            near = left;
        }
    }
    distances(found, near, count, x, root, scale, dimensions);
    return doubled(near[smallest(found, count)], dimensions);
}

// The points of all trials for one group of weights, from its levels.
INLINED void points_of(const Grid *grid, const Costs *costs, const Steps *steps, const float *scale,
                       const uint32_t *levels, uint32_t *restrict points, int lanes, int trials, int dimensions) {
    uint32_t changes = 0;
    for (int trial = 1; trial < lanes; ++trial) changes |= (uint32_t)(levels[trial] != levels[trial - 1]) << trial;
    for (int first = 0, end; first < trials; first = end) {
        end = changes ? __builtin_ctz(changes) : trials;
        changes &= changes - 1;
        const Place *place = grid->places + place_of(levels[first], dimensions);
        if (place->number < 0) {
            nearest_points(grid, place, costs, steps, scale, first, end < trials ? end : trials, points, dimensions);
        } else {
            for (int begin = first; begin < end; begin += SOME) {
                for (int i = 0; i < SOME; ++i) points[begin + i] = levels[first];
            }
        }
    }
}

// The best scale of some trials, each with the inverse of the scale that it begins from: `scale` where none is any good.
// `points` then become those of the best, and `off_grid` has a bit for each group that was not on the grid.
INLINED float fit(const Grid *grid, const Sub *sub, const float *inverse, int trials, float scale,
                  uint32_t *restrict points, int *restrict off_grid, int size, int dimensions) {
    const int lanes = (trials + SOME - 1) / SOME * SOME, groups = size / dimensions;
    const int with_steps = grid->steps != NULL;
    Costs costs;
    Steps steps;
    uint32_t levels[GROUPS][TRIALS], found[GROUPS][TRIALS + SOME] = {{0}};
    float scales[TRIALS], sum_x[TRIALS], sum_2[TRIALS];
    for (int trial = 0; trial < lanes; ++trial) scales[trial] = 1 / inverse[trial];
    for (int group = 0; group < groups; ++group) {
        const float *x = sub->x + group * dimensions, *root = sub->root + group * dimensions;
        for (int trial = 0; trial < lanes; ++trial) levels[group][trial] = levels_at(x, inverse[trial], dimensions);
        costs_of(&costs, x, root, scales, lanes, dimensions);
        if (with_steps) steps_of(&steps, x, root, scales[0], scales[trials - 1], 8, 16, 4, 12);
        points_of(grid, &costs, with_steps ? &steps : NULL, scales, levels[group], found[group], lanes, trials,
                  dimensions);
    }
    for (int trial = 0; trial < whole_lanes(trials); ++trial) {
        float by_x = 0, by_value = 0;
        for (int group = 0; group < groups; ++group) {
            UNROLLED for (int i = 0; i < dimensions; ++i) {
                const float weight = sub->weight[group * dimensions + i], x = sub->x[group * dimensions + i];
                const float value = coordinate(doubled(found[group][trial], dimensions), i);
                by_x += weight * x * value;
                by_value += weight * value * value;
            }
        }
        sum_x[trial] = by_x;
        sum_2[trial] = by_value;
    }
    float best = 0;
    int taken = -1;
    for (int trial = 0; trial < trials; ++trial) {
        if (sum_2[trial] > 0 && sum_x[trial] * sum_x[trial] > best * sum_2[trial]) {
            scale = sum_x[trial] / sum_2[trial];
            best = scale * sum_x[trial];
            taken = trial;
        }
    }
    if (taken < 0) return scale;
    *off_grid = 0;
    for (int group = 0; group < groups; ++group) {
        points[group] = doubled(found[group][taken], dimensions);
        *off_grid |= (grid->places[place_of(levels[group][taken], dimensions)].number < 0) << group;
    }
    return scale;
}

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

// Body of a quantizer by `block_of(made, x, importance, mean)`, where `mean` is `factor` times the mean square.
#define EACH_SUPER_BLOCK(Block, block_of, factor)                                                                      \
    Block *made = out;                                                                                                 \
    const int64_t blocks = rows * (row / SUPER);                                                                       \
    float sums[AHEAD];                                                                                                 \
    pthread_once(&prepared, prepare);                                                                                  \
    for (int64_t block = 0; block < blocks; ++block, ++made) {                                                         \
        const float *x = values + block * SUPER;                                                                       \
        if (block % AHEAD == 0) sums_of_squares(sums, x, SUPER, blocks - block);                                       \
        block_of(made, x, importance ? importance + block * SUPER % row : NULL, factor * sums[block % AHEAD] / SUPER); \
    }                                                                                                                  \
    return (size_t)blocks * sizeof(Block)

#endif
