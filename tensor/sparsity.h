/* Which weights of a matrix go: scores, and masks that take the lowest of them.
 *
 * A mask is [rows][cols] bytes: 1 stays, 0 goes. How many go is exact: of n weights that are compared with one another the nearest whole
 * number to share * n, halves up; of every `of` consecutive columns of a row all but `keep`. Of equal scores the weight in the lower
 * row goes first, in a row the one in the lower column, so a mask depends on the scores alone. */
#ifndef NIBBLE_TENSOR_SPARSITY_H
#define NIBBLE_TENSOR_SPARSITY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/threads.h"

/* How weights are scored; the norm of an input channel is the root of its mean square. */
enum sparsity_score {
    SPARSITY_MAGNITUDE, /* |w| */
    SPARSITY_WANDA,     /* |w| * norm of its column's input (Sun et al. 2023, arXiv:2306.11695, equation 1) */
    SPARSITY_RIA /* (|w| / sum of its row + |w| / sum of its column) * root of that norm (Zhang et al. 2024, ICLR, equation 4, a = 0.5) */
};

/* Which weights are compared, and how many go. */
struct sparsity_rule {
    double share; /* of the weights that go, 0 <= share < 1; not used with `of` */
    uint32_t keep,
        of; /* of every `of` consecutive columns `keep` stay: 1 <= keep < of <= 32, of divides cols; of 0: anywhere */
    bool by_row; /* compared within their row, else within the matrix; not used with `of` */
};

/* Fill scores [rows][cols], all >= 0 and finite for finite weights (what would be larger is the largest float).
 *   weights  [rows][cols]  in, finite
 *   second   [cols]        in, mean square of the inputs, >= 0; not used for magnitude (NULL)
 * ERR_MEMORY. */
enum status sparsity_scores(float *scores, enum sparsity_score kind, const float *weights, uint64_t rows,
    uint64_t cols, const double *second, struct pool *pool, struct error *err);

/* Fill mask [rows][cols] from scores [rows][cols], which are >= 0. */
enum status sparsity_mask(uint8_t *mask, const float *scores, uint64_t rows, uint64_t cols,
    const struct sparsity_rule *rule, struct pool *pool, struct error *err);

/* How many of `count` weights go at a share. */
uint64_t sparsity_count(double share, uint64_t count);

/* Mark the `keep` of `of` scores that stay. */
void sparsity_mask_few(uint8_t *mask, const float *scores, uint32_t keep, uint32_t of);

/* How many of `count` scores are above `times` their mean (the outliers of Yin et al. 2023, OWL, arXiv:2310.05175, section 3.2); the sums
 * are the caller's, so that several matrices can be one layer: first the mean, then the count. */
double sparsity_sum(const float *scores, uint64_t count);
uint64_t sparsity_above(const float *scores, uint64_t count, double bound);

/* OWL's shares: share[l] = whole - (o_l - mean o) * 2 spread / (max o - min o), means weighted by the layers' weights, so that the whole keeps
 * its share; all alike where no layer differs.
 *   outliers  [layers]  in, the share of outliers of each layer
 *   weights   [layers]  in, how many weights each has
 *   out       [layers]  out
 * False if a share would not be above 0 and below 1. */
bool sparsity_spread(double *out, const double *outliers, const uint64_t *weights, uint64_t layers,
    double whole, double spread);

#endif
