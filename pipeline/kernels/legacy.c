// Q8_0: blocks of 32 weights with one scale.
#include "lanes.h"

typedef struct {
    uint16_t scale;
    int8_t levels[32];
} BlockQ8_0;

QUANTIZER(q8_0) {
    (void)importance; // ggml does not read it
    BlockQ8_0 *made = out;
    const int64_t blocks = rows * (row / 32);
    for (int64_t block = 0; block < blocks; ++block, ++made) {
        const float *x = values + block * 32;
        float largest[LANES] = {0}, amax = 0;
        for (int half = 0; half < 32; half += LANES) {
            EACH_LANE {
                const float size = fabsf(x[half + lane]);
                largest[lane] = largest[lane] > size ? largest[lane] : size;
            }
        }
        EACH_LANE amax = amax > largest[lane] ? amax : largest[lane];
        const float scale = amax / 127;
        const float inverse = scale != 0 ? 1.0f / scale : 0.0f;
        made->scale = to_half(scale);
        for (int i = 0; i < 32; ++i) {
            // roundf: halves away from zero. Half a step less its last bit keeps 0.49999997 from becoming 1.
            const float level = x[i] * inverse;
            made->levels[i] = (int8_t)(int)(level + copysignf(0.49999997f, level));
        }
    }
    return (size_t)blocks * sizeof(BlockQ8_0);
}
