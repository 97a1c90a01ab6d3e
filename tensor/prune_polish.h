/* Private to obs_prune.c: what improves a strip of rows after it is solved. */
#ifndef NIBBLE_TENSOR_PRUNE_POLISH_H
#define NIBBLE_TENSOR_PRUNE_POLISH_H

#include "tensor/obs_prune.h"

enum { PRUNE_STRIP_MOST = 256 }; /* rows that share products with H */

/* Some rows; all arrays [rows][cols] but the last ones. */
struct prune_strip {
    const struct prune_problem *problem;
    uint64_t row, rows; /* the first, at most PRUNE_STRIP_MOST */
    const float *target;
    float *weights;
    uint8_t *mask;
    const float *tops; /* for exchanges (tensor/prune_exchange.h): of all columns, or NULL */
    float *scratch;    /* prune_polish_floats */
    double power[PRUNE_STRIP_MOST], before[PRUNE_STRIP_MOST], after[PRUNE_STRIP_MOST]; /* out, of each row */
    uint64_t exchanged;                                                                /* out */
};

/* Measure power and error of the rows, and with rounds improve them. A row whose error does not fall keeps its weights and mask. */
void prune_polish(struct prune_strip *strip);

/* Floats of scratch for so many rows of `cols` columns. */
uint64_t prune_polish_floats(uint64_t rows, uint64_t cols);

#endif
