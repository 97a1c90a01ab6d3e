/* Numbers with their uncertainty: standard errors of dependent samples, and the bounds that a decision stands on. */
#ifndef NIBBLE_RUNTIME_CHECK_ESTIMATE_H
#define NIBBLE_RUNTIME_CHECK_ESTIMATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* A statistic and its standard error (0 where it is not known: one sample). */
struct estimate {
    double value, error;
};

/* exp of an estimate, with the error that follows to first order: exp(value) * error. */
struct estimate estimate_exp(struct estimate estimate);

/* Running mean and sum of squared differences from it (Welford 1962): no cancellation, one pass. Zero-initialise. */
struct moments {
    uint64_t count;
    double mean, squares;
};
void moments_add(struct moments *moments, double value);
/* The mean, and its standard error with independent samples: sqrt(squares / (n - 1) / n). */
struct estimate moments_estimate(const struct moments *moments);

/* Tokens of one window are not independent: a hard passage is hard for many tokens, and often for the next window, too. The
 * independent samples are therefore blocks of consecutive windows (batch means; Schmeiser 1982): all have equally many tokens, so
 * the standard error of a mean is that of the block means, the cluster-robust error (Miller 2024, arXiv 2411.00640). Up to
 * 2 ESTIMATE_BLOCKS - 1 windows a block is one window; from then on there are ESTIMATE_BLOCKS of them or a few more, as long as they can
 * be. With fewer than ESTIMATE_LEAST windows tokens have to do. Windows behind the last whole block count in values, not in
 * errors. */
enum { ESTIMATE_LEAST = 8, ESTIMATE_BLOCKS = 20 };
/* Windows of a block, and whole blocks, for so many windows (at least one). */
uint64_t estimate_block(uint64_t windows);
uint64_t estimate_blocks(uint64_t windows);

/* A mean over tokens that come block by block. Zero-initialise; `per_block` tokens each. */
struct clustered {
    struct moments tokens, blocks;
    double block_sum;
    uint64_t in_block;
};
void clustered_add(struct clustered *clustered, uint64_t per_block, double value);
struct estimate clustered_estimate(const struct clustered *clustered);
/* Whether its error is by block. */
bool clustered_by_block(const struct clustered *clustered);
/* Independent tokens that would give the same standard error: at most the number of tokens (that many too, where the values
 * do not vary). */
double clustered_effective(const struct clustered *clustered);

/* The quantile of Student's t distribution (Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5): from 7 degrees of freedom
 * on, for shares from 0.001 to 0.999, good to 1e-3 of itself. freedom UINT64_MAX: the normal distribution, to rounding.
 * 1e-300 <= share < 1. */
double estimate_t_quantile(double share, uint64_t freedom);

/* One-sided bound of a share seen in `effective` independent trials (above 0), below it at `confidence` (Wilson 1927): honest
 * also at shares of 0 and 1, where the standard error is 0. z by estimate_t_quantile of the degrees of freedom.
 * 0.5 <= confidence < 1. */
double estimate_share_lower(double share, double effective, double confidence, uint64_t freedom);

/* Standard errors of order statistics: the standard deviation over resampled blocks (bootstrap, Efron 1979; a fixed
 * number of draws and a fixed seed, so the same input gives the same numbers), times sqrt(blocks / (blocks - 1)), so
 * that of a mean it would estimate the variance without bias. So many draws give a standard deviation to about 3.5 percent. */
enum { ESTIMATE_DRAWS = 400 };

/* Percentiles of values that come block by block.
 *   values      [count]  finite, in the order of tokens, per_block of each block (both at least 1; what follows the last
 *                        whole block is not resampled); sorted by the call
 *   shares      [share_count]  ascending, 0 to 1, as estimate_percentile
 *   out         [share_count]  value and error; error 0 with fewer than ESTIMATE_LEAST blocks
 * ERR_MEMORY, also above 2^32 - 2 blocks. Takes 8 bytes per value (sorted in place), and time for ESTIMATE_DRAWS passes over them. */
enum status estimate_percentiles(struct estimate *out, const double *shares, uint64_t share_count,
    float *values, uint64_t count, uint64_t per_block, struct error *err);

/* Of sorted values (at least one): position share * (count - 1), between neighbours by their distance, as numpy and llama.cpp
 * do it. 0 <= share <= 1. */
double estimate_percentile(const float *sorted, uint64_t count, double share);

#endif
