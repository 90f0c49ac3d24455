// ggml's searches for the scale of a block, LANES blocks at a time. Each keeps of its best trial what its levels follow
// from, in place of the levels.
#ifndef SEARCH_H
#define SEARCH_H

#include "lanes.h"

#define NOTHING 1e-15f // GROUP_MAX_EPS: blocks whose largest number is smaller are zero

// A level is centre + nearest(inverse * (value - base)), within the bounds of the type.
typedef struct {
    float scale[LANES];
    float minimum[LANES];
    float inverse[LANES];
    float base[LANES];
    int centre[LANES];
} Found;

// make_qkx2_quants and make_qkx3_quants, which differ in their weights alone: levels 0 … `top`, a scale and a minimum,
// of n numbers. `trials` more scales are tried after the first, by least squares; a better one also moves the minimum
// that later trials begin from. `absolute`: errors count by their size, not by their square.
static inline void search_minimum(int n, int top, float first, float step, int trials, int absolute,
                                  const float (*restrict x)[LANES], const float (*restrict w)[LANES],
                                  Found *restrict found) {
    float low[LANES], high[LANES], sum_w[LANES], sum_x[LANES];
    EACH_LANE {
        low[lane] = high[lane] = x[0][lane];
        sum_w[lane] = w[0][lane];
        sum_x[lane] = w[0][lane] * x[0][lane];
    }
    for (int i = 1; i < n; ++i) {
        EACH_LANE {
            low[lane] = x[i][lane] < low[lane] ? x[i][lane] : low[lane];
            high[lane] = x[i][lane] > high[lane] ? x[i][lane] : high[lane];
            sum_w[lane] += w[i][lane];
            sum_x[lane] += w[i][lane] * x[i][lane];
        }
    }
    float scale[LANES], minimum[LANES], inverse[LANES], base[LANES], least_error[LANES] = {0};
    EACH_LANE {
        minimum[lane] = base[lane] = low[lane] > 0 ? 0 : low[lane];
        inverse[lane] = (float)top / (high[lane] - minimum[lane]);
        scale[lane] = 1 / inverse[lane];
    }
    for (int i = 0; i < n; ++i) {
        EACH_LANE {
            const float level = (float)clamped(nearest(inverse[lane] * (x[i][lane] - minimum[lane])), 0, top);
            const float off = scale[lane] * level + minimum[lane] - x[i][lane];
            least_error[lane] += w[i][lane] * (absolute ? fabsf(off) : off * off);
        }
    }
    for (int trial = 0; trial <= trials; ++trial) {
        float tried[LANES], sum_l[LANES] = {0}, sum_l2[LANES] = {0}, sum_xl[LANES] = {0}, error[LANES] = {0};
        float levels[32][LANES], new_scale[LANES], new_minimum[LANES];
        EACH_LANE tried[lane] = (first + step * (float)trial + (float)top) / (high[lane] - minimum[lane]);
        for (int i = 0; i < n; ++i) {
            EACH_LANE {
                const float level = (float)clamped(nearest(tried[lane] * (x[i][lane] - minimum[lane])), 0, top);
                const float weighted = w[i][lane] * level;
                levels[i][lane] = level;
                sum_l[lane] += weighted;
                sum_l2[lane] += weighted * level;
                sum_xl[lane] += weighted * x[i][lane];
            }
        }
        float determinant[LANES];
        EACH_LANE {
            determinant[lane] = sum_w[lane] * sum_l2[lane] - sum_l[lane] * sum_l[lane];
            const float s = (sum_w[lane] * sum_xl[lane] - sum_x[lane] * sum_l[lane]) / determinant[lane];
            const float m = (sum_l2[lane] * sum_x[lane] - sum_l[lane] * sum_xl[lane]) / determinant[lane];
            const float without = sum_xl[lane] / sum_l2[lane];
            new_scale[lane] = m > 0 ? without : s;
            new_minimum[lane] = m > 0 ? 0 : m;
        }
        for (int i = 0; i < n; ++i) {
            EACH_LANE {
                const float off = new_scale[lane] * levels[i][lane] + new_minimum[lane] - x[i][lane];
                error[lane] += w[i][lane] * (absolute ? fabsf(off) : off * off);
            }
        }
        EACH_LANE {
            const int better = (determinant[lane] > 0) & (error[lane] < least_error[lane]);
            least_error[lane] = better ? error[lane] : least_error[lane];
            scale[lane] = better ? new_scale[lane] : scale[lane];
            inverse[lane] = better ? tried[lane] : inverse[lane];
            base[lane] = better ? minimum[lane] : base[lane];
            minimum[lane] = better ? new_minimum[lane] : minimum[lane];
        }
    }
    EACH_LANE {
        const int flat = high[lane] == (low[lane] > 0 ? 0 : low[lane]);
        found->scale[lane] = flat ? 0 : scale[lane];
        found->minimum[lane] = -(flat ? low[lane] : minimum[lane]);
        found->inverse[lane] = flat ? 0 : inverse[lane];
        found->base[lane] = flat ? 0 : base[lane];
        found->centre[lane] = 0;
    }
}

// make_qx_quants with its rmse_type 1: levels -half … half - 1 around zero, of n numbers. Nine larger and nine smaller
// scales are tried.
static inline void search_around_zero(int n, int half, const float (*restrict x)[LANES],
                                      const float (*restrict w)[LANES], Found *restrict found) {
    float extreme[LANES] = {0}, size[LANES] = {0};
    for (int i = 0; i < n; ++i) {
        EACH_LANE {
            const float this_size = fabsf(x[i][lane]);
            extreme[lane] = this_size > size[lane] ? x[i][lane] : extreme[lane];
            size[lane] = this_size > size[lane] ? this_size : size[lane];
        }
    }
    float scale[LANES], inverse[LANES], best[LANES];
    for (int trial = -10; trial <= 9; ++trial) { // the first is the one that ggml begins with
        if (trial == 0) continue;
        const float steps = -((float)half + (trial < -9 ? 0 : 0.1f * (float)trial));
        float tried[LANES], sum_xl[LANES] = {0}, sum_l2[LANES] = {0};
        EACH_LANE tried[lane] = steps / extreme[lane];
        for (int i = 0; i < n; ++i) {
            EACH_LANE {
                const float level = (float)clamped(nearest(tried[lane] * x[i][lane]), -half, half - 1);
                sum_xl[lane] += w[i][lane] * x[i][lane] * level;
                sum_l2[lane] += w[i][lane] * level * level;
            }
        }
        if (trial < -9) {
            EACH_LANE {
                scale[lane] = sum_l2[lane] != 0 ? sum_xl[lane] / sum_l2[lane] : 0;
                best[lane] = scale[lane] * sum_xl[lane];
                inverse[lane] = tried[lane];
            }
            continue;
        }
        EACH_LANE {
            const int better = (sum_l2[lane] > 0) & (sum_xl[lane] * sum_xl[lane] > best[lane] * sum_l2[lane]);
            const float new_scale = sum_xl[lane] / sum_l2[lane];
            scale[lane] = better ? new_scale : scale[lane];
            best[lane] = better ? new_scale * sum_xl[lane] : best[lane];
            inverse[lane] = better ? tried[lane] : inverse[lane];
        }
    }
    EACH_LANE {
        const int zero = size[lane] < NOTHING;
        found->scale[lane] = zero ? 0 : scale[lane];
        found->minimum[lane] = 0;
        found->inverse[lane] = zero ? 0 : inverse[lane];
        found->base[lane] = 0;
        found->centre[lane] = zero ? 0 : half;
    }
}

// The levels of one lane's numbers as they follow from what was found.
static inline void levels_of(int n, int low, int high, const float *restrict x, const Found *found, int lane,
                             uint8_t *restrict levels) {
    const float inverse = found->inverse[lane], base = found->base[lane];
    const int centre = found->centre[lane];
    for (int i = 0; i < n; ++i) levels[i] = (uint8_t)(centre + clamped(nearest(inverse * (x[i] - base)), low, high));
}

// make_qp_quants: levels 0 … `top` of n numbers, the scales of a super-block, weighted. Four larger and four smaller
// scales are tried, and then each level is moved by itself while that helps. ggml keeps a level in a byte without looking
// for a sign, and so do we.
static inline void search_scales(int n, int top, const float (*restrict x)[LANES], const float (*restrict w)[LANES],
                                 float *restrict scale, uint8_t (*restrict levels)[LANES]) {
    float largest[LANES] = {0}, inverse[LANES], first[LANES], least_error[LANES] = {0};
    int now[32][LANES];
    for (int i = 0; i < n; ++i) {
        EACH_LANE largest[lane] = largest[lane] > x[i][lane] ? largest[lane] : x[i][lane];
    }
    EACH_LANE {
        inverse[lane] = (float)top / largest[lane];
        first[lane] = 1 / inverse[lane];
    }
    for (int i = 0; i < n; ++i) {
        EACH_LANE {
            const float off = x[i][lane] - first[lane] * (float)(nearest(inverse[lane] * x[i][lane]) & 255);
            least_error[lane] += w[i][lane] * off * off;
        }
    }
    for (int trial = -4; trial <= 4; ++trial) {
        if (trial == 0) continue;
        float tried[LANES], step[LANES], error[LANES] = {0};
        EACH_LANE {
            tried[lane] = (0.1f * (float)trial + (float)top) / largest[lane];
            step[lane] = 1 / tried[lane];
        }
        for (int i = 0; i < n; ++i) {
            EACH_LANE {
                const float off = x[i][lane] - step[lane] * (float)least(top, nearest(tried[lane] * x[i][lane]));
                error[lane] += w[i][lane] * off * off;
            }
        }
        EACH_LANE {
            const int better = error[lane] < least_error[lane];
            least_error[lane] = better ? error[lane] : least_error[lane];
            inverse[lane] = better ? tried[lane] : inverse[lane];
        }
    }
    float sum_xl[LANES] = {0}, sum_l2[LANES] = {0};
    for (int i = 0; i < n; ++i) {
        EACH_LANE {
            const int level = least(top, nearest(inverse[lane] * x[i][lane]));
            now[i][lane] = level & 255;
            sum_xl[lane] += w[i][lane] * x[i][lane] * (float)level;
            sum_l2[lane] += w[i][lane] * (float)level * (float)level;
        }
    }
    for (int round = 0, moved = 1; round < 5 && moved; ++round) {
        moved = 0;
        for (int i = 0; i < n; ++i) {
            EACH_LANE {
                const float weight = w[i][lane], weighted = weight * x[i][lane], old = (float)now[i][lane];
                const float rest_xl = sum_xl[lane] - weighted * old, rest_l2 = sum_l2[lane] - weight * old * old;
                const int level = least(top, nearest(x[i][lane] * rest_l2 / rest_xl));
                const float new_xl = rest_xl + weighted * (float)level;
                const float new_l2 = rest_l2 + weight * (float)level * (float)level;
                const int better = (rest_xl > 0) & (rest_l2 > 0) & (level != now[i][lane]) &
                                   (new_xl * new_xl * sum_l2[lane] > sum_xl[lane] * sum_xl[lane] * new_l2);
                now[i][lane] = better ? level & 255 : now[i][lane];
                sum_xl[lane] = better ? new_xl : sum_xl[lane];
                sum_l2[lane] = better ? new_l2 : sum_l2[lane];
                moved |= better;
            }
        }
    }
    for (int i = 0; i < n; ++i) {
        EACH_LANE levels[i][lane] = (uint8_t)(largest[lane] < NOTHING ? 0 : now[i][lane]);
    }
    EACH_LANE scale[lane] = largest[lane] < NOTHING || !(sum_l2[lane] > 0) ? 0 : sum_xl[lane] / sum_l2[lane];
}

// make_q3_quants with do_rmse: levels -half … half - 1 around zero, each moved by itself while that helps, weighted by the
// squares of the numbers. Writes level + half.
static inline void search_by_level(int n, int half, const float (*restrict x)[LANES], float *restrict scale,
                                   uint8_t (*restrict levels)[LANES]) {
    float extreme[LANES] = {0}, size[LANES] = {0}, inverse[LANES], sum_xl[LANES] = {0}, sum_l2[LANES] = {0};
    int now[16][LANES];
    for (int i = 0; i < n; ++i) {
        EACH_LANE {
            const float this_size = fabsf(x[i][lane]);
            extreme[lane] = this_size > size[lane] ? x[i][lane] : extreme[lane];
            size[lane] = this_size > size[lane] ? this_size : size[lane];
        }
    }
    EACH_LANE inverse[lane] = (float)-half / extreme[lane];
    for (int i = 0; i < n; ++i) {
        EACH_LANE {
            const int level = clamped(nearest(inverse[lane] * x[i][lane]), -half, half - 1);
            const float weight = x[i][lane] * x[i][lane];
            now[i][lane] = level;
            sum_xl[lane] += weight * x[i][lane] * (float)level;
            sum_l2[lane] += weight * (float)level * (float)level;
        }
    }
    for (int round = 0, moved = 1; round < 5 && moved; ++round) {
        moved = 0;
        for (int i = 0; i < n; ++i) {
            EACH_LANE {
                const float weight = x[i][lane] * x[i][lane], weighted = weight * x[i][lane], old = (float)now[i][lane];
                const float rest_xl = sum_xl[lane] - weighted * old, rest_l2 = sum_l2[lane] - weight * old * old;
                const int level = clamped(nearest(x[i][lane] * rest_l2 / rest_xl), -half, half - 1);
                const float new_xl = rest_xl + weighted * (float)level;
                const float new_l2 = rest_l2 + weight * (float)level * (float)level;
                const int better = (rest_xl > 0) & (level != now[i][lane]) & (new_l2 > 0) &
                                   (new_xl * new_xl * sum_l2[lane] > sum_xl[lane] * sum_xl[lane] * new_l2);
                now[i][lane] = better ? level : now[i][lane];
                sum_xl[lane] = better ? new_xl : sum_xl[lane];
                sum_l2[lane] = better ? new_l2 : sum_l2[lane];
                moved |= better;
            }
        }
    }
    for (int i = 0; i < n; ++i) {
        EACH_LANE levels[i][lane] = (uint8_t)(size[lane] < NOTHING ? 0 : now[i][lane] + half);
    }
    EACH_LANE scale[lane] = size[lane] < NOTHING || !(sum_l2[lane] > 0) ? 0 : sum_xl[lane] / sum_l2[lane];
}

#endif
