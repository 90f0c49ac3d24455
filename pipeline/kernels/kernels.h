// Quantizers that give the bytes of ggml_quantize_chunk (ggml/src/ggml-quants.c), several times faster.
//
// Every function takes `rows` rows of `row` weights, a whole number of blocks, and writes them to `out`, row after row.
// `importance` is NULL, or holds one weight for each column, for all rows. Returns the bytes that were written.
// None keeps anything between calls or allocates memory, so that threads may call them at will.
#ifndef KERNELS_H
#define KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define QUANTIZER(type)                                                                                                \
    size_t quantize_##type(const float *restrict values, void *restrict out, int64_t rows, int64_t row,                \
                           const float *restrict importance)

QUANTIZER(q4_0);
QUANTIZER(q4_1);
QUANTIZER(q5_0);
QUANTIZER(q5_1);
QUANTIZER(q8_0);

QUANTIZER(q2_k);
QUANTIZER(q3_k);
QUANTIZER(q4_k);
QUANTIZER(q5_k);
QUANTIZER(q6_k);

#endif
