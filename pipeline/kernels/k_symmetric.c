// Q3_K and Q6_K: sub-blocks of 16 with a scale, around zero.
#include "super_block.h"

typedef struct {
    uint8_t high[32];
    uint8_t levels[64];
    uint8_t scales[12];
    uint16_t scale;
} BlockQ3_K;

typedef struct {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    uint16_t scale;
} BlockQ6_K;

// What a batch of super-blocks becomes.
typedef struct {
    float scale[LANES];
    float scales[16][LANES];
    uint8_t shares[16][LANES]; // of the scale, six bits
    uint8_t levels[SUPER][LANES];
    Found found[16];
} Scaled;

// The scale of largest size, the first of equals.
static inline void largest_scale(const Scaled *scaled, float *restrict largest) {
    float size[LANES] = {0};
    EACH_LANE largest[lane] = 0;
    for (int sub = 0; sub < 16; ++sub) {
        EACH_LANE {
            const float scale = scaled->scales[sub][lane];
            largest[lane] = fabsf(scale) > size[lane] ? scale : largest[lane];
            size[lane] = fabsf(scale) > size[lane] ? fabsf(scale) : size[lane];
        }
    }
}

static inline void requantize(int half, const float *restrict x, float scale, uint8_t *restrict levels) {
    for (int i = 0; i < 16; ++i) levels[i] = (uint8_t)(clamped(nearest(x[i] / scale), -half, half - 1) + half);
}

// Q3_K with an imatrix: scales of sub-blocks are multiples of the scale as levels are.
static inline void scale_weighted(SuperBlocks *restrict blocks, Scaled *restrict into) {
    float sums[16][LANES];
    Found found;
    weigh(blocks, 2);
    sum_weights(16, blocks, sums);
    for (int sub = 0; sub < 16; ++sub) {
        search_around_zero(16, 4, blocks->values + sub * 16, blocks->weights + sub * 16, &into->found[sub]);
        memcpy(into->scales[sub], into->found[sub].scale, sizeof found.scale);
    }
    search_around_zero(16, 32, into->scales, sums, &found);
    memcpy(into->scale, found.scale, sizeof found.scale);
    for (int sub = 0; sub < 16; ++sub) {
        EACH_LANE {
            const int share = clamped(nearest(found.inverse[lane] * into->scales[sub][lane]), -32, 31);
            into->shares[sub][lane] = (uint8_t)(found.centre[lane] + share);
        }
    }
}

static inline void scale_alone(SuperBlocks *restrict blocks, Scaled *restrict into) {
    float largest[LANES], inverse[LANES];
    for (int sub = 0; sub < 16; ++sub) {
        search_by_level(16, 4, blocks->values + sub * 16, into->scales[sub], into->levels + sub * 16);
    }
    largest_scale(into, largest);
    EACH_LANE {
        inverse[lane] = -32.f / largest[lane];
        into->scale[lane] = largest[lane] != 0 ? 1 / inverse[lane] : 0;
    }
    for (int sub = 0; sub < 16; ++sub) {
        EACH_LANE {
            const int share = (int8_t)nearest(inverse[lane] * into->scales[sub][lane]);
            into->shares[sub][lane] = (uint8_t)(largest[lane] != 0 ? clamped(share, -32, 31) + 32 : 0);
        }
    }
}

QUANTIZER(q3_k) {
    const int64_t blocks = rows * (row / SUPER);
    SuperBlocks now;
    Scaled scaled;
    for (int64_t first = THREAD * LANES; first < blocks; first += THREADS * LANES) {
        const Batch from = batch(values, first, blocks, SUPER, row, importance);
        load(&now, &from);
        if (importance) {
            scale_weighted(&now, &scaled);
        } else {
            scale_alone(&now, &scaled);
        }
        BlockQ3_K *made = (BlockQ3_K *)out + first;
        for (int lane = 0; lane < from.count; ++lane, ++made) {
            uint8_t levels[SUPER];
            made->scale = to_half(scaled.scale[lane]);
            memset(made->scales, 0, sizeof made->scales);
            for (int sub = 0; sub < 16; ++sub) {
                const int share = scaled.shares[sub][lane];
                made->scales[sub & 7] |= (uint8_t)((share & 15) << (sub < 8 ? 0 : 4));
                made->scales[8 + (sub & 3)] |= (uint8_t)(share >> 4 << 2 * (sub / 4));
                const float scale = from_half(made->scale) * (float)(share - 32);
                const float *x = from.values[lane] + sub * 16;
                if (scale != 0) {
                    requantize(4, x, scale, levels + sub * 16);
                } else if (importance) {
                    levels_of(16, -4, 3, x, &scaled.found[sub], lane, levels + sub * 16);
                } else {
                    for (int i = 0; i < 16; ++i) levels[sub * 16 + i] = scaled.levels[sub * 16 + i][lane];
                }
            }
            for (int i = 0; i < 32; ++i) {
                int bits = 0;
                for (int part = 0; part < 8; ++part) bits |= levels[part * 32 + i] >> 2 << part;
                made->high[i] = (uint8_t)bits;
            }
            for (int i = 0; i < SUPER; ++i) levels[i] &= 3;
            pack_2_bits(levels, made->levels);
        }
    }
    return (size_t)blocks * sizeof(BlockQ3_K);
}

static inline void pack_6_bits(const uint8_t *restrict levels, BlockQ6_K *restrict into) {
    for (int half = 0; half < 2; ++half, levels += 128) {
        uint8_t *low = into->low + half * 64, *high = into->high + half * 32;
        for (int i = 0; i < 64; ++i) low[i] = (uint8_t)((levels[i] & 15) | (levels[i + 64] & 15) << 4);
        for (int i = 0; i < 32; ++i) {
            high[i] = (uint8_t)(levels[i] >> 4 | levels[i + 32] >> 4 << 2 | levels[i + 64] >> 4 << 4 |
                                levels[i + 96] >> 4 << 6);
        }
    }
}

QUANTIZER(q6_k) {
    const int64_t blocks = rows * (row / SUPER);
    SuperBlocks now;
    Scaled scaled;
    float largest[LANES];
    for (int64_t first = THREAD * LANES; first < blocks; first += THREADS * LANES) {
        const Batch from = batch(values, first, blocks, SUPER, row, importance);
        load(&now, &from);
        if (!importance) {
            for (int i = 0; i < SUPER; ++i) {
                EACH_LANE now.weights[i][lane] = now.values[i][lane] * now.values[i][lane];
            }
        }
        for (int sub = 0; sub < 16; ++sub) {
            search_around_zero(16, 32, now.values + sub * 16, now.weights + sub * 16, &scaled.found[sub]);
            memcpy(scaled.scales[sub], scaled.found[sub].scale, sizeof scaled.scales[sub]);
        }
        largest_scale(&scaled, largest);
        BlockQ6_K *made = (BlockQ6_K *)out + first;
        for (int lane = 0; lane < from.count; ++lane, ++made) {
            if (fabsf(largest[lane]) < NOTHING) {
                memset(made, 0, sizeof *made);
                continue;
            }
            uint8_t levels[SUPER];
            const float inverse = -128.f / largest[lane];
            made->scale = to_half(1 / inverse);
            for (int sub = 0; sub < 16; ++sub) {
                made->scales[sub] = (int8_t)least(127, nearest(inverse * scaled.scales[sub][lane]));
                const float scale = from_half(made->scale) * (float)made->scales[sub];
                const float *x = from.values[lane] + sub * 16;
                if (scale != 0) {
                    requantize(32, x, scale, levels + sub * 16);
                } else {
                    levels_of(16, -32, 31, x, &scaled.found[sub], lane, levels + sub * 16);
                }
            }
            pack_6_bits(levels, made);
        }
    }
    return (size_t)blocks * sizeof(BlockQ6_K);
}
