// For a thread of a GPU: one trial after the other, and every point of a list, as in ggml.
#ifndef TRIALS_GPU_H
#define TRIALS_GPU_H

INLINED uint32_t nearest_point(const Grid *grid, const Place *place, const float *x, const float *root, float scale,
                               int dimensions) {
    const uint32_t *near = grid->near + place->begin;
    float least_distance = INFINITY;
    uint32_t taken = near[0];
    for (int i = 0; i < place->count; ++i) {
        const float found = distance(doubled(near[i], dimensions), x, root, scale, dimensions);
        taken = found < least_distance ? near[i] : taken;
        least_distance = found < least_distance ? found : least_distance;
    }
    return doubled(taken, dimensions);
}

// The best scale of some trials, each with the inverse of the scale that it begins from: `scale` where none is any good.
// `points` then become those of the best, and `off_grid` has a bit for each group that was not on the grid.
INLINED float fit(const Grid *grid, const Sub *sub, const float *inverse, int trials, float scale,
                  uint32_t *restrict points, int *restrict off_grid, int size, int dimensions) {
    float best = 0;
    for (int trial = 0; trial < trials; ++trial) {
        uint32_t found[SUB_GROUPS];
        float sum_x = 0, sum_2 = 0;
        int off = 0;
        for (int group = 0; group < size / dimensions; ++group) {
            const float *x = sub->x + group * dimensions, *root = sub->root + group * dimensions;
            const uint32_t levels = levels_at(x, inverse[trial], dimensions);
            const Place *place = grid->places + place_of(levels, dimensions);
            const int is_off = place->number < 0;
            found[group] = is_off ? nearest_point(grid, place, x, root, 1 / inverse[trial], dimensions)
                                  : doubled(levels, dimensions);
            off |= is_off << group;
            UNROLLED for (int i = 0; i < dimensions; ++i) {
                const float weight = sub->weight[group * dimensions + i], value = coordinate(found[group], i);
                sum_x += weight * x[i] * value;
                sum_2 += weight * value * value;
            }
        }
        if (sum_2 > 0 && sum_x * sum_x > best * sum_2) {
            scale = sum_x / sum_2;
            best = scale * sum_x;
            *off_grid = off;
            for (int group = 0; group < size / dimensions; ++group) points[group] = found[group];
        }
    }
    return scale;
}

#endif
