// For a processor: all pairs of borders between the values of IQ1_S and IQ1_M side by side, and of their grid's points
// those that may be the nearest.
#ifndef BORDERS_H
#define BORDERS_H

#define WIDTH (VECTOR / 4)
// Pairs of borders are tried by chunks of WIDTH with the same first border: of 33 places at most so many.
#define CHUNKS (WIDTH == 16 ? 51 : WIDTH == 8 ? 85 : 153)
#define ROWS (2 * CHUNKS) // each chunk has a row for each kind, a little more and a little less

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

INLINED Borders best_of_32(const float *sum_x, const float *sum_w) {
    Trials trials;
    try_32(&trials, sum_x, sum_w);
    return best_of(&trials, sum_w[32], 2);
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

INLINED Borders best_of_16(float (*sum_x)[17 + WIDTH], float (*sum_w)[17 + WIDTH]) {
    Trials trials;
    try_16(&trials, sum_x, sum_w);
    return best_of(&trials, sum_w[0][16] + sum_w[1][16], 4);
}

// The point for eight weights, which all are `base` plus a level.
INLINED uint32_t point_of(const Grid *grid, uint32_t levels, const float *x, const float *weight, float scale, float base) {
    const Place *place = grid->places + place_of(levels, 8);
    if (place->number >= 0) return levels;
    const uint32_t *near = grid->near + place->begin;
    float found[MOST_NEAR];
    uint32_t left[MOST_NEAR];
    int count = place->count;
    Steps steps;
    steps_of(&steps, x, weight, scale, scale, 2 * base + 1, 2 * base + 3, 2, 7);
    if (steps.are_exact) {
        count = may_be_nearest(near, grid->steps + place->begin, count, &steps, scale, scale, left);
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

#endif
