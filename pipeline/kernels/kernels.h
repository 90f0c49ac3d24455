// Quantizers that give the bytes of ggml_quantize_chunk (ggml/src/ggml-quants.c), several times faster.
//
// Every function takes `rows` rows of `row` weights, a whole number of blocks, and writes them to `out`, row after row.
// `importance` is NULL, or holds one weight for each column, for all rows. Returns the bytes that were written.
// None keeps anything between calls but tables that are made once, or allocates memory: threads may call them at will.
// Those of a GPU keep memory there, and return 0 where it cannot do it now: see gpu.h.
#ifndef KERNELS_H
#define KERNELS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Grid Grid; // of an I-quant: see grid.h

#define PARAMETERS                                                                                                     \
    const float *restrict values, void *restrict out, int64_t rows, int64_t row, const float *restrict importance

#ifdef ON_GPU
#include "gpu.h"
#else

#define QUANTIZER(type) size_t quantize_##type(PARAMETERS)

QUANTIZER(q4_0);
QUANTIZER(q4_1);
QUANTIZER(q5_0);
QUANTIZER(q5_1);
QUANTIZER(q8_0);

QUANTIZER(q1_0);
QUANTIZER(q2_0);
QUANTIZER(tq1_0);
QUANTIZER(tq2_0);
QUANTIZER(mxfp4);
QUANTIZER(nvfp4);

QUANTIZER(q2_k);
QUANTIZER(q3_k);
QUANTIZER(q4_k);
QUANTIZER(q5_k);
QUANTIZER(q6_k);

QUANTIZER(iq1_s);
QUANTIZER(iq1_m);
QUANTIZER(iq2_xxs);
QUANTIZER(iq2_xs);
QUANTIZER(iq2_s);
QUANTIZER(iq3_xxs);
QUANTIZER(iq3_s);
QUANTIZER(iq4_nl);
QUANTIZER(iq4_xs);

#endif
#endif
