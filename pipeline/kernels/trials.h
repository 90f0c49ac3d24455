// For a processor: the trials of a sub-block side by side, a lane each.
#ifndef TRIALS_H
#define TRIALS_H

#define SOME (VECTOR < 32 ? 4 : 8) // trials at a time: those that begin from the same place are fewer, mostly
#define STRIDE 64 // of trials in memory, with room to read some more

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
    uint32_t levels[SUB_GROUPS][TRIALS], found[SUB_GROUPS][TRIALS + SOME] = {{0}};
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

#endif
