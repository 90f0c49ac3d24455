// For a thread of a GPU: one pair of borders after the other, and every point of a list, as in ggml.
#ifndef BORDERS_GPU_H
#define BORDERS_GPU_H

#define WIDTH 0 // of what is read on behind sums

// The weights' places in their order; equal ones as they come, which is how the C library that ggml asks sorts them, or
// the proof finds another one.
INLINED void sort(const float *restrict x, int *restrict order, int *restrict rank, int size) {
    for (int i = 0; i < size; ++i) {
        int before = 0;
        for (int j = 0; j < size; ++j) before += x[j] < x[i] || (x[j] == x[i] && j < i);
        rank[i] = before;
        order[before] = i;
    }
}

INLINED void take_better(Borders *restrict best, float *restrict score, float x, float q, Borders tried) {
    if (!(q > 0 && x * x > *score * q)) return;
    *best = tried;
    best->scale = x / q;
    *score = best->scale * x;
}

INLINED Borders best_of_32(const float *sum_x, const float *sum_w) {
    Borders best = {0, 0, 0, -1};
    float score = -3.402823466e38f;
    for (int first = 0; first <= 32; ++first) {
        for (int second = first; second <= 32; ++second) {
            const float x[3] = {sum_x[first], sum_x[second] - sum_x[first], sum_x[32] - sum_x[second]};
            const float w[3] = {sum_w[first], sum_w[second] - sum_w[first], sum_w[32] - sum_w[second]};
            UNROLLED for (int kind = 0; kind < 2; ++kind) {
                const float delta = kind == 0 ? DELTA : -DELTA, low = -1 + delta, high = 1 + delta;
                take_better(&best, &score, x[0] * low + x[1] * delta + x[2] * high,
                            w[0] * low * low + w[1] * delta * delta + w[2] * high * high,
                            {0, first, second, kind});
            }
        }
    }
    return best;
}

INLINED Borders best_of_16(float (*sum_x)[17], float (*sum_w)[17]) {
    const float more = 1 + DELTA, less = 1 - DELTA;
    Borders best = {0, 0, 0, -1};
    float score = -3.402823466e38f;
    for (int first = 0; first <= 16; ++first) {
        for (int second = first; second <= 16; ++second) {
            float x[2][2], w[2][2]; // by half; a little more, a little less
            UNROLLED for (int half = 0; half < 2; ++half) {
                const float both = sum_x[half][first] + sum_x[half][second];
                const float low = sum_w[half][first], high = sum_w[half][second];
                x[half][0] = sum_x[half][16] * more - both;
                x[half][1] = sum_x[half][16] * less - both;
                w[half][0] = sum_w[half][16] * more * more + low * 0.75f + high * -1.25f;
                w[half][1] = sum_w[half][16] * less * less + low * 1.25f + high * -0.75f;
            }
            UNROLLED for (int kind = 0; kind < 4; ++kind) {
                take_better(&best, &score, x[0][kind / 2] + x[1][kind % 2], w[0][kind / 2] + w[1][kind % 2],
                            {0, first, second, kind});
            }
        }
    }
    return best;
}

// The point for eight weights, which all are `base` plus a level.
INLINED uint32_t point_of(const Grid *grid, uint32_t levels, const float *x, const float *weight, float scale,
                          float base) {
    const Place *place = grid->places + place_of(levels, 8);
    if (place->number >= 0) return levels;
    const uint32_t *near = grid->near + place->begin;
    float least_distance = INFINITY;
    uint32_t taken = near[0];
    for (int i = 0; i < place->count; ++i) {
        float sum = 0;
        UNROLLED for (int j = 0; j < 8; ++j) {
            const float apart = scale * (coordinate(near[i], j) + base) - x[j];
            sum += weight[j] * apart * apart;
        }
        taken = sum < least_distance ? near[i] : taken;
        least_distance = sum < least_distance ? sum : least_distance;
    }
    return taken;
}

#endif
