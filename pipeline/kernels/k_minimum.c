// Q2_K, Q4_K and Q5_K: sub-blocks with a scale and a minimum.
#include "super_block.h"

typedef struct {
    uint8_t scales[16]; // four bits each: scale, minimum
    uint8_t levels[64];
    uint16_t scale, minimum;
} BlockQ2_K;

typedef struct {
    uint16_t scale, minimum;
    uint8_t scales[12];
    uint8_t levels[128];
} BlockQ4_K;

typedef struct {
    uint16_t scale, minimum;
    uint8_t scales[12];
    uint8_t high[32];
    uint8_t levels[128];
} BlockQ5_K;

// What a batch of super-blocks becomes: of each its scale and minimum, and of each sub-block how many of them.
typedef struct {
    float scale[LANES], minimum[LANES];
    uint8_t scales[16][LANES], minima[16][LANES];
    Found found[16];
} Scaled;

// The scales and minima of sub-blocks of n with an imatrix.
static inline void scale_weighted(int n, int top, const SuperBlocks *restrict blocks, Scaled *restrict into) {
    const int subs = SUPER / n;
    float sums[16][LANES], scales[16][LANES], minima[16][LANES];
    sum_weights(n, blocks, sums);
    for (int sub = 0; sub < subs; ++sub) {
        Found *found = &into->found[sub];
        search_minimum(n, top, -0.9f, 0.05f, 36, 0, blocks->values + sub * n, blocks->weights + sub * n, found);
        memcpy(scales[sub], found->scale, sizeof found->scale);
        memcpy(minima[sub], found->minimum, sizeof found->minimum);
    }
    search_scales(subs, n == 16 ? 15 : 63, scales, sums, into->scale, into->scales);
    search_scales(subs, n == 16 ? 15 : 63, minima, sums, into->minimum, into->minima);
}

// Without: the largest takes the largest number that there is.
static inline void share_out(int subs, int top, Scaled *restrict into) {
    float largest[LANES] = {0}, lowest[LANES] = {0};
    for (int sub = 0; sub < subs; ++sub) {
        const Found *found = &into->found[sub];
        EACH_LANE {
            largest[lane] = found->scale[lane] > largest[lane] ? found->scale[lane] : largest[lane];
            lowest[lane] = found->minimum[lane] > lowest[lane] ? found->minimum[lane] : lowest[lane];
        }
    }
    float inverse[LANES], inverse_minimum[LANES];
    EACH_LANE {
        inverse[lane] = largest[lane] > 0 ? (float)top / largest[lane] : 0;
        inverse_minimum[lane] = lowest[lane] > 0 ? (float)top / lowest[lane] : 0;
        into->scale[lane] = largest[lane] / (float)top;
        into->minimum[lane] = lowest[lane] / (float)top;
    }
    for (int sub = 0; sub < subs; ++sub) {
        const Found *found = &into->found[sub];
        EACH_LANE {
            into->scales[sub][lane] = (uint8_t)nearest(inverse[lane] * found->scale[lane]);
            into->minima[sub][lane] = (uint8_t)nearest(inverse_minimum[lane] * found->minimum[lane]);
        }
    }
}

// The levels of a sub-block by its scale and minimum as they are kept; where the scale is 0, by the search.
static inline void requantize(int n, int top, const float *restrict x, float scale, float minimum, const Found *found,
                              int lane, uint8_t *restrict levels) {
    if (scale == 0) {
        levels_of(n, 0, top, x, found, lane, levels);
        return;
    }
    for (int i = 0; i < n; ++i) levels[i] = (uint8_t)clamped(nearest((x[i] + minimum) / scale), 0, top);
}

QUANTIZER(q2_k) {
    const int64_t blocks = rows * (row / SUPER);
    SuperBlocks now;
    Scaled scaled;
    for (int64_t first = THREAD * LANES; first < blocks; first += THREADS * LANES) {
        const Batch from = batch(values, first, blocks, SUPER, row, importance);
        load(&now, &from);
        if (importance) {
            weigh(&now, 1);
            scale_weighted(16, 3, &now, &scaled);
        } else {
            for (int i = 0; i < SUPER; ++i) {
                EACH_LANE now.weights[i][lane] = fabsf(now.values[i][lane]);
            }
            for (int sub = 0; sub < 16; ++sub) {
                search_minimum(16, 3, -0.5f, 0.1f, 15, 1, now.values + sub * 16, now.weights + sub * 16,
                               &scaled.found[sub]);
            }
            share_out(16, 15, &scaled);
        }
        BlockQ2_K *made = (BlockQ2_K *)out + first;
        for (int lane = 0; lane < from.count; ++lane, ++made) {
            uint8_t levels[SUPER];
            made->scale = to_half(scaled.scale[lane]);
            made->minimum = to_half(scaled.minimum[lane]);
            for (int sub = 0; sub < 16; ++sub) {
                made->scales[sub] = (uint8_t)(scaled.scales[sub][lane] | scaled.minima[sub][lane] << 4);
                const float scale = from_half(made->scale) * (float)(made->scales[sub] & 15);
                const float minimum = from_half(made->minimum) * (float)(made->scales[sub] >> 4);
                requantize(16, 3, from.values[lane] + sub * 16, scale, minimum, &scaled.found[sub], lane,
                           levels + sub * 16);
            }
            pack_2_bits(levels, made->levels);
        }
    }
    return (size_t)blocks * sizeof(BlockQ2_K);
}

// Q4_K and Q5_K, which differ in their levels alone.
static inline void scale_4_5(int top, float first, int trials, int with_imatrix, SuperBlocks *restrict now,
                             Scaled *restrict into) {
    if (with_imatrix) {
        weigh(now, 2);
        scale_weighted(32, top, now, into);
        return;
    }
    for (int sub = 0; sub < 8; ++sub) {
        float(*x)[LANES] = now->values + sub * 32, (*w)[LANES] = now->weights + sub * 32, sum[LANES] = {0};
        for (int i = 0; i < 32; ++i) {
            EACH_LANE sum[lane] += x[i][lane] * x[i][lane];
        }
        EACH_LANE sum[lane] = sqrtf(sum[lane] / 32);
        for (int i = 0; i < 32; ++i) {
            EACH_LANE w[i][lane] = sum[lane] + fabsf(x[i][lane]);
        }
        search_minimum(32, top, first, 0.1f, trials, 0, x, w, &into->found[sub]);
    }
    share_out(8, 63, into);
}

// Scales and minima of six bits each, in 12 bytes: the upper two of the last four are kept above those of the first.
static inline void pack_scales(const Scaled *scaled, int lane, int limit, uint8_t *restrict into) {
    for (int sub = 0; sub < 8; ++sub) {
        const int scale = least(limit, scaled->scales[sub][lane]), minimum = least(limit, scaled->minima[sub][lane]);
        if (sub < 4) {
            into[sub] = (uint8_t)scale;
            into[sub + 4] = (uint8_t)minimum;
        } else {
            into[sub + 4] = (uint8_t)((scale & 15) | (minimum & 15) << 4);
            into[sub - 4] |= (uint8_t)(scale >> 4 << 6);
            into[sub] |= (uint8_t)(minimum >> 4 << 6);
        }
    }
}

static inline void levels_4_5(int top, const float *restrict x, uint16_t scale, uint16_t minimum,
                              const uint8_t *restrict scales, const Scaled *scaled, int lane,
                              uint8_t *restrict levels) {
    for (int sub = 0; sub < 8; ++sub) {
        const int many = sub < 4 ? scales[sub] & 63 : (scales[sub + 4] & 15) | scales[sub - 4] >> 6 << 4;
        const int many_minima = sub < 4 ? scales[sub + 4] & 63 : scales[sub + 4] >> 4 | scales[sub] >> 6 << 4;
        requantize(32, top, x + sub * 32, from_half(scale) * (float)many, from_half(minimum) * (float)many_minima,
                   &scaled->found[sub], lane, levels + sub * 32);
    }
}

static inline void pack_4_bits(const uint8_t *restrict levels, uint8_t *restrict into) {
    for (int part = 0; part < 4; ++part) {
        for (int i = 0; i < 32; ++i) {
            into[part * 32 + i] = (uint8_t)((levels[part * 64 + i] & 15) | (levels[part * 64 + 32 + i] & 15) << 4);
        }
    }
}

QUANTIZER(q4_k) {
    const int64_t blocks = rows * (row / SUPER);
    SuperBlocks now;
    Scaled scaled;
    for (int64_t first = THREAD * LANES; first < blocks; first += THREADS * LANES) {
        const Batch from = batch(values, first, blocks, SUPER, row, importance);
        load(&now, &from);
        scale_4_5(15, -1.f, 20, importance != NULL, &now, &scaled);
        BlockQ4_K *made = (BlockQ4_K *)out + first;
        for (int lane = 0; lane < from.count; ++lane, ++made) {
            uint8_t levels[SUPER];
            made->scale = to_half(scaled.scale[lane]);
            made->minimum = to_half(scaled.minimum[lane]);
            // With an imatrix ggml takes the scales as they were found.
            pack_scales(&scaled, lane, importance ? 255 : 63, made->scales);
            levels_4_5(15, from.values[lane], made->scale, made->minimum, made->scales, &scaled, lane, levels);
            pack_4_bits(levels, made->levels);
        }
    }
    return (size_t)blocks * sizeof(BlockQ4_K);
}

QUANTIZER(q5_k) {
    const int64_t blocks = rows * (row / SUPER);
    SuperBlocks now;
    Scaled scaled;
    for (int64_t first = THREAD * LANES; first < blocks; first += THREADS * LANES) {
        const Batch from = batch(values, first, blocks, SUPER, row, importance);
        load(&now, &from);
        scale_4_5(31, -0.5f, 15, importance != NULL, &now, &scaled);
        BlockQ5_K *made = (BlockQ5_K *)out + first;
        for (int lane = 0; lane < from.count; ++lane, ++made) {
            uint8_t levels[SUPER];
            made->scale = to_half(scaled.scale[lane]);
            made->minimum = to_half(scaled.minimum[lane]);
            pack_scales(&scaled, lane, 63, made->scales);
            levels_4_5(31, from.values[lane], made->scale, made->minimum, made->scales, &scaled, lane, levels);
            pack_4_bits(levels, made->levels);
            for (int i = 0; i < 32; ++i) {
                int bits = 0;
                for (int sub = 0; sub < 8; ++sub) bits |= levels[sub * 32 + i] >> 4 << sub;
                made->high[i] = (uint8_t)bits;
            }
        }
    }
    return (size_t)blocks * sizeof(BlockQ5_K);
}
