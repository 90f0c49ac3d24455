// IQ1_S and IQ1_M: super-blocks of 256 weights in sub-blocks of 32 or 16, eight weights as a point of a grid of 2048. A
// weight is -1, 0 or 1, all of them a little more or all a little less, times the scale.
//
// ggml sorts the weights of a sub-block and tries all pairs of borders between the three values.
#include "fit.h"
#include "tables.h"
#include <stdlib.h>

#define DELTA 0.125f
#define WIDTH (VECTOR / 4)
// Pairs of borders are tried by chunks of WIDTH with the same first border: of 33 places at most so many.
#define CHUNKS (WIDTH == 16 ? 51 : WIDTH == 8 ? 85 : 153)
#define ROWS (2 * CHUNKS) // each chunk has a row for each kind, a little more and a little less

typedef struct {
    uint16_t scale;
    uint8_t points[SUPER / 8]; // all but the three highest bits
    uint16_t high[SUPER / 32]; // these, then three bits of a scale, then whether it is a little less
} BlockIQ1_S;

typedef struct {
    uint8_t points[SUPER / 8];
    uint8_t high[SUPER / 16];
    uint16_t scales[SUPER / 64]; // three bits a sub-block, and in the other bits the scale of all
} BlockIQ1_M;

static Place places[6561];
static uint32_t near_points[340000];
static uint16_t steps_of_points[340000];
static const Grid GRID = {IQ1_S_POINTS, 2048, 8, 3, 3, places, near_points, steps_of_points, sizeof near_points / 4};

// One for all types here: they share the tables, and a second time would write what threads are reading.
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

static void prepare(void) { grid_prepare(&GRID); }

typedef float Wide __attribute__((vector_size(VECTOR)));
typedef int32_t WideBits __attribute__((vector_size(VECTOR)));
typedef uint8_t WideBytes __attribute__((vector_size(WIDTH)));

// What is weighed in the choice of two borders, lane by lane: the sums of w x q and of w q^2.
typedef struct {
    int chunks;
    uint8_t first[CHUNKS], second[CHUNKS]; // the first border, and the second of lane 0
    Wide by_x[ROWS], by_value[ROWS];
} Trials;

typedef struct {
    float scale;
    int first, second, kind; // -1: there is none
} Borders;

typedef struct {
    float value;
    int at;
} Pair;

static int compare(const void *left, const void *right) {
    const float a = ((const Pair *)left)->value, b = ((const Pair *)right)->value;
    return a < b ? -1 : a > b ? 1 : 0;
}

// The weights' places in their order. Only where two are equal does that depend on how they are sorted: then the C
// library has to do it, as for ggml.
INLINED void sort(const float *restrict x, int *restrict order, int *restrict rank, int size) {
    uint32_t seen = 0;
    for (int i = 0; i < size; ++i) {
        int before = 0;
        for (int j = 0; j < size; ++j) before += x[j] < x[i];
        rank[i] = before;
    }
    for (int i = 0; i < size; ++i) {
        order[rank[i]] = i;
        seen |= 1u << rank[i];
    }
    if (seen == UINT32_MAX >> (32 - size)) return;
    Pair pairs[32];
    for (int i = 0; i < size; ++i) pairs[i] = (Pair){x[i], i};
    qsort(pairs, (size_t)size, sizeof *pairs, compare);
    for (int i = 0; i < size; ++i) rank[order[i] = pairs[i].at] = i;
}

// The best of all trials, as ggml goes through them: one is better where x * x > score * value.
//
// What is far from the best need not be gone through. Rounding may let ggml take what is worse by some 2^-22 of the
// score, and that at most once for each of 1,122 trials: what is 2^-9 below the largest ratio does not matter in the end.
// That holds as long as nothing overflows or loses bits, which the weights and the largest ratio tell; else all count.
INLINED Borders best_of(const Trials *trials, float weight, int kinds) {
    Borders best = {0, 0, 0, -1};
    const float unit = 1 / weight;
    float largest = 0, score = -3.402823466e38f;
    uint8_t counts[(CHUNKS + 1) * WIDTH] = {0};
    Wide top[4] = {{0}}, below[4] = {{0}};
    UNROLLED for (int kind = 0; kind < kinds; ++kind) below[kind] += 1;
    for (int chunk = 0; chunk < trials->chunks; ++chunk) {
        UNROLLED for (int kind = 0; kind < kinds; ++kind) {
            const Wide by_x = trials->by_x[chunk * kinds + kind], x = by_x * by_x;
            const Wide q = trials->by_value[chunk * kinds + kind] * unit;
            const WideBits is_better = x * below[kind] > top[kind] * q;
            top[kind] = (Wide)((is_better & (WideBits)x) | (~is_better & (WideBits)top[kind]));
            below[kind] = (Wide)((is_better & (WideBits)q) | (~is_better & (WideBits)below[kind]));
        }
    }
    for (int kind = 0; kind < kinds; ++kind) {
        const Wide ratio = top[kind] / below[kind] * unit;
        for (int lane = 0; lane < WIDTH; ++lane) largest = ratio[lane] > largest ? ratio[lane] : largest;
    }
    const int all = -!(weight > 0x1p-40f && weight < 0x1p40f && largest > 0x1p-60f && largest < 0x1p60f);
    const float limit = all ? 0 : largest * (1 - 0x1p-9f);
    for (int chunk = 0; chunk < trials->chunks; ++chunk) {
        WideBits bits = {0};
        UNROLLED for (int kind = 0; kind < kinds; ++kind) {
            const Wide x = trials->by_x[chunk * kinds + kind], q = trials->by_value[chunk * kinds + kind];
            bits |= (q > 0) & ((x * x >= limit * q) | all) & (1 << kind);
        }
        const WideBytes bytes = __builtin_convertvector(bits, WideBytes);
        memcpy(counts + chunk * WIDTH, &bytes, sizeof bytes);
    }
    for (int at = 0; at < trials->chunks * WIDTH; at += 8) {
        uint64_t flags;
        memcpy(&flags, counts + at, sizeof flags);
        for (; flags; flags &= flags - 1) {
            const int bit = __builtin_ctzll(flags), kind = bit % 8, number = at + bit / 8;
            const int chunk = number / WIDTH, lane = number % WIDTH;
            const float x = trials->by_x[chunk * kinds + kind][lane], q = trials->by_value[chunk * kinds + kind][lane];
            if (x * x > score * q) {
                best = (Borders){x / q, trials->first[chunk], trials->second[chunk] + lane, kind};
                score = best.scale * x;
            }
        }
    }
    return best;
}

// The point for eight weights, which all are `base` plus a level.
INLINED uint32_t point_of(uint32_t levels, const float *x, const float *weight, float scale, float base) {
    const Place *place = GRID.places + place_of(levels, 8);
    if (place->number >= 0) return levels;
    const uint32_t *near = GRID.near + place->begin;
    float found[MOST_NEAR];
    uint32_t left[MOST_NEAR];
    int count = place->count;
    Steps steps;
    steps_of(&steps, x, weight, scale, scale, 2 * base + 1, 2 * base + 3, 2, 7);
    if (steps.are_exact) {
        count = may_be_nearest(near, GRID.steps + place->begin, count, &steps, scale, scale, left);
        near = left;
    }
    for (int i = 0; i < whole_lanes(count); ++i) {
        float sum = 0;
        UNROLLED for (int j = 0; j < 8; ++j) {
            const float apart = scale * (coordinate(near[i], j) + base) - x[j];
            sum += weight[j] * apart * apart;
        }
        found[i] = i < count ? sum : INFINITY;
    }
    return near[smallest(found, count)];
}

// What becomes of a sub-block once its borders are found.
typedef struct {
    float scale;
    float base[2]; // of each half
    uint32_t points[4];
} Found;

INLINED void settle(Found *restrict found, Borders borders, const int *restrict rank, const float *restrict x,
                    const float *restrict weight, int size) {
    const int turned = borders.scale < 0;
    uint32_t levels[4] = {0};
    float by_x[32], by_value[32], sum_x = 0, sum_2 = 0;
    int off_grid = 0;
    found->scale = turned ? -borders.scale : borders.scale;
    for (int i = 0; i < size; ++i) {
        const int level = (rank[i] >= borders.first) + (rank[i] >= borders.second);
        levels[i / 8] |= (uint32_t)(turned ? 2 - level : level) << i % 8 * 4;
    }
    for (int group = 0; group < size / 8; ++group) {
        const float base = found->base[group * 2 / (size / 8)];
        found->points[group] = point_of(levels[group], x + group * 8, weight + group * 8, found->scale, base);
        off_grid |= found->points[group] != levels[group];
        UNROLLED for (int i = 0; i < 8; ++i) {
            const float value = coordinate(found->points[group], i) + base;
            by_x[group * 8 + i] = weight[group * 8 + i] * value * x[group * 8 + i];
            by_value[group * 8 + i] = weight[group * 8 + i] * value * value;
        }
    }
    for (int i = 0; i < size; ++i) {
        sum_x += by_x[i];
        sum_2 += by_value[i];
    }
    if (off_grid && sum_x > 0 && sum_2 > 0) found->scale = sum_x / sum_2;
}

static float largest_size(const float *x, int size) {
    int bits = 0;
    float largest;
    for (int i = 0; i < size; ++i) bits = most(bits, bits_of(fabsf(x[i])));
    memcpy(&largest, &bits, sizeof largest);
    return largest;
}

// All pairs of borders of a sub-block of 32. Rows are read on with what is no number, so that it does not win.
static void try_32(Trials *restrict trials, const float *restrict sum_x, const float *restrict sum_w) {
    const float more[3] = {-1 + DELTA, DELTA, 1 + DELTA}, less[3] = {-1 - DELTA, -DELTA, 1 - DELTA};
    int chunk = 0;
    for (int first = 0; first <= 32; ++first) {
        const float x0 = sum_x[first], w0 = sum_w[first];
        for (int begin = first; begin <= 32; begin += WIDTH, ++chunk) {
            const float *x1 = sum_x + begin, *w1 = sum_w + begin;
            trials->first[chunk] = (uint8_t)first;
            trials->second[chunk] = (uint8_t)begin;
            for (int lane = 0; lane < WIDTH; ++lane) {
                const float x_middle = x1[lane] - x0, w_middle = w1[lane] - w0;
                const float x_high = sum_x[32] - x1[lane], w_high = sum_w[32] - w1[lane];
                trials->by_x[chunk * 2][lane] = x0 * more[0] + x_middle * more[1] + x_high * more[2];
                trials->by_value[chunk * 2][lane] =
                    w0 * more[0] * more[0] + w_middle * more[1] * more[1] + w_high * more[2] * more[2];
                trials->by_x[chunk * 2 + 1][lane] = x0 * less[0] + x_middle * less[1] + x_high * less[2];
                trials->by_value[chunk * 2 + 1][lane] =
                    w0 * less[0] * less[0] + w_middle * less[1] * less[1] + w_high * less[2] * less[2];
            }
        }
    }
    trials->chunks = chunk;
}

static void borders_32(Found *restrict found, const float *restrict x, const float *restrict weight) {
    float sum_x[33 + WIDTH], sum_w[33 + WIDTH];
    int order[32], rank[32];
    Trials trials;
    sort(x, order, rank, 32);
    sum_x[0] = sum_w[0] = 0;
    for (int i = 0; i < 32; ++i) {
        sum_x[i + 1] = sum_x[i] + weight[order[i]] * x[order[i]];
        sum_w[i + 1] = sum_w[i] + weight[order[i]];
    }
    for (int i = 33; i < 33 + WIDTH; ++i) sum_x[i] = sum_w[i] = NAN;
    try_32(&trials, sum_x, sum_w);
    const Borders borders = best_of(&trials, sum_w[32], 2);
    if (borders.kind < 0) return;
    found->base[0] = found->base[1] = -1 + ((borders.kind == 0) == !(borders.scale < 0) ? DELTA : -DELTA);
    settle(found, borders, rank, x, weight, 32);
}

static void weigh(float *restrict weight, const float *restrict x, const float *restrict importance, float mean) {
    for (int i = 0; i < SUPER; ++i) weight[i] = importance ? importance[i] * sqrtf(mean + x[i] * x[i]) : x[i] * x[i];
}

static void block_s(BlockIQ1_S *restrict made, const float *restrict x, const float *restrict columns, float mean) {
    Found found[SUPER / 32];
    float weight[SUPER], largest = 0;
    memset(made, 0, sizeof *made);
    weigh(weight, x, columns, mean);
    for (int i = 0; i < SUPER / 32; ++i) {
        found[i] = (Found){0, {0}, {0}};
        if (largest_size(x + i * 32, 32) < 1e-12f) continue;
        borders_32(&found[i], x + i * 32, weight + i * 32);
        for (int j = 0; j < 4; ++j) {
            const int number = GRID.places[place_of(found[i].points[j], 8)].number;
            made->points[i * 4 + j] = (uint8_t)number;
            made->high[i] |= (uint16_t)(number >> 8 << j * 3);
        }
        largest = largest > found[i].scale ? largest : found[i].scale;
    }
    if (largest == 0) return;
    const float scale = largest / 15, inverse = 1 / scale;
    made->scale = to_half(scale * 1.125f);
    for (int i = 0; i < SUPER / 32; ++i) {
        const int level = clamped(nearest(0.5f * (inverse * found[i].scale - 1)), 0, 7);
        made->high[i] |= (uint16_t)((level | (found[i].base[0] < -1 ? 8 : 0)) << 12);
    }
}

// All pairs of borders of a sub-block of 16. Each half may be a little more or a little less, and has its own sums.
static void try_16(Trials *restrict trials, float (*restrict sum_x)[17 + WIDTH], float (*restrict sum_w)[17 + WIDTH]) {
    const float more = 1 + DELTA, less = 1 - DELTA;
    int chunk = 0;
    for (int first = 0; first <= 16; ++first) {
        for (int begin = first; begin <= 16; begin += WIDTH, ++chunk) {
            trials->first[chunk] = (uint8_t)first;
            trials->second[chunk] = (uint8_t)begin;
            for (int lane = 0; lane < WIDTH; ++lane) {
                float x_more[2], x_less[2], w_more[2], w_less[2];
                UNROLLED for (int half = 0; half < 2; ++half) {
                    const float both = sum_x[half][first] + sum_x[half][begin + lane];
                    const float low = sum_w[half][first], high = sum_w[half][begin + lane];
                    x_more[half] = sum_x[half][16] * more - both;
                    x_less[half] = sum_x[half][16] * less - both;
                    w_more[half] = sum_w[half][16] * more * more + low * 0.75f + high * -1.25f;
                    w_less[half] = sum_w[half][16] * less * less + low * 1.25f + high * -0.75f;
                }
                trials->by_x[chunk * 4][lane] = x_more[0] + x_more[1];
                trials->by_x[chunk * 4 + 1][lane] = x_more[0] + x_less[1];
                trials->by_x[chunk * 4 + 2][lane] = x_less[0] + x_more[1];
                trials->by_x[chunk * 4 + 3][lane] = x_less[0] + x_less[1];
                trials->by_value[chunk * 4][lane] = w_more[0] + w_more[1];
                trials->by_value[chunk * 4 + 1][lane] = w_more[0] + w_less[1];
                trials->by_value[chunk * 4 + 2][lane] = w_less[0] + w_more[1];
                trials->by_value[chunk * 4 + 3][lane] = w_less[0] + w_less[1];
            }
        }
    }
    trials->chunks = chunk;
}

static void borders_16(Found *restrict found, const float *restrict x, const float *restrict weight) {
    float sum_x[2][17 + WIDTH], sum_w[2][17 + WIDTH];
    int order[16], rank[16];
    Trials trials;
    sort(x, order, rank, 16);
    sum_x[0][0] = sum_x[1][0] = sum_w[0][0] = sum_w[1][0] = 0;
    for (int i = 0; i < 16; ++i) {
        const int is_low = order[i] < 8;
        const float by_x = weight[order[i]] * x[order[i]], by_1 = weight[order[i]];
        sum_x[0][i + 1] = sum_x[0][i] + (is_low ? by_x : 0);
        sum_x[1][i + 1] = sum_x[1][i] + (is_low ? 0 : by_x);
        sum_w[0][i + 1] = sum_w[0][i] + (is_low ? by_1 : 0);
        sum_w[1][i + 1] = sum_w[1][i] + (is_low ? 0 : by_1);
    }
    for (int i = 17; i < 17 + WIDTH; ++i) sum_x[0][i] = sum_x[1][i] = sum_w[0][i] = sum_w[1][i] = NAN;
    try_16(&trials, sum_x, sum_w);
    Borders borders = best_of(&trials, sum_w[0][16] + sum_w[1][16], 4);
    if (borders.kind < 0) return;
    if (borders.scale < 0) borders.kind = 3 - borders.kind;
    found->base[0] = borders.kind < 2 ? -1 + DELTA : -1 - DELTA;
    found->base[1] = borders.kind % 2 == 0 ? -1 + DELTA : -1 - DELTA;
    settle(found, borders, rank, x, weight, 16);
}

// The scale of all that fits best, given those of the sub-blocks.
static float scale_of_all(const Found *found, const int *levels, const float *x, const float *weight, float scale) {
    float by_x[SUPER], by_value[SUPER], sum_x = 0, sum_2 = 0;
    for (int group = 0; group < SUPER / 8; ++group) {
        const Found *sub = found + group / 2;
        UNROLLED for (int i = 0; i < 8; ++i) {
            const float value = (coordinate(sub->points[group % 2], i) + sub->base[group % 2]) *
                                (float)(2 * levels[group / 2] + 1);
            by_x[group * 8 + i] = weight[group * 8 + i] * value * x[group * 8 + i];
            by_value[group * 8 + i] = weight[group * 8 + i] * value * value;
        }
    }
    for (int i = 0; i < SUPER; ++i) {
        sum_x += by_x[i];
        sum_2 += by_value[i];
    }
    return sum_2 > 0 ? sum_x / sum_2 : scale;
}

static void block_m(BlockIQ1_M *restrict made, const float *restrict x, const float *restrict columns, float mean) {
    Found found[SUPER / 16];
    float weight[SUPER], largest = 0;
    int levels[SUPER / 16];
    memset(made, 0, sizeof *made);
    weigh(weight, x, columns, mean);
    for (int i = 0; i < SUPER / 16; ++i) {
        found[i] = (Found){0, {-1 + DELTA, -1 + DELTA}, {0}};
        if (largest_size(x + i * 16, 16) < 1e-7f) continue;
        borders_16(&found[i], x + i * 16, weight + i * 16);
        for (int j = 0; j < 2; ++j) {
            const int number = GRID.places[place_of(found[i].points[j], 8)].number;
            made->points[i * 2 + j] = (uint8_t)number;
            made->high[i] |= (uint8_t)(number >> 8 << j * 4);
        }
        largest = largest > found[i].scale ? largest : found[i].scale;
    }
    if (largest == 0) return;
    const float scale = largest / 15, inverse = 1 / scale;
    for (int i = 0; i < SUPER / 16; ++i) {
        levels[i] = clamped(nearest(0.5f * (inverse * found[i].scale - 1)), 0, 7);
        made->scales[i / 4] |= (uint16_t)(levels[i] << i % 4 * 3);
        made->high[i] |= (uint8_t)((found[i].base[0] < -1 ? 8 : 0) | (found[i].base[1] < -1 ? 128 : 0));
    }
    const uint16_t half = to_half(scale_of_all(found, levels, x, weight, scale) * 1.1125f);
    for (int i = 0; i < 4; ++i) made->scales[i] |= (uint16_t)((half >> i * 4 & 15) << 12);
}

QUANTIZER(iq1_s) { EACH_SUPER_BLOCK(BlockIQ1_S, block_s, 2); }

QUANTIZER(iq1_m) { EACH_SUPER_BLOCK(BlockIQ1_M, block_m, 2); }
