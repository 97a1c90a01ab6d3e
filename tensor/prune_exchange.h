/* Private to prune_polish.c: a weight goes and another of its row comes, where the two together lower the error. */
#ifndef NIBBLE_TENSOR_PRUNE_EXCHANGE_H
#define NIBBLE_TENSOR_PRUNE_EXCHANGE_H

#include "tensor/obs_prune.h"

enum {
    PRUNE_EXCHANGE_ROWS = 8,  /* rows that go through H together: theirs stay in the cache */
    PRUNE_EXCHANGE_BLOCK = 64 /* columns that a bound covers */
};

/* Some rows; all arrays [rows][cols]. g = (w - t) H is kept up to date. */
struct prune_exchange {
    const struct prune_problem *problem;
    const float *tops;    /* [cols][prune_exchange_blocks]; NULL: patterns, which need none */
    const float *inverse; /* [cols] 1 / H_jj */
    uint64_t rows;        /* at most PRUNE_EXCHANGE_ROWS */
    float *weights, *gradient;
    uint8_t *mask;
    float *scratch;                          /* prune_exchange_floats */
    uint64_t exchanged[PRUNE_EXCHANGE_ROWS]; /* out: weights that went and were replaced */
    double gain[PRUNE_EXCHANGE_ROWS];        /* out: by how much the error of a row fell */
};

/* Blocks of so many columns. */
uint64_t prune_exchange_blocks(uint64_t cols);

/* What one column can do to others: of each block the greatest |H_ij| / sqrt(H_jj) over its columns j but i itself. damped [cols][cols],
 * out [blocks]. */
void prune_exchange_tops(float *out, const float *damped, uint64_t cols, uint64_t i);

/* Floats of scratch for rows of so many columns. */
uint64_t prune_exchange_floats(uint64_t cols);

/* Every weight that stays, in the order of the columns: the best weight in its place, if that lowers the error. */
void prune_exchange(struct prune_exchange *exchange);

#endif
