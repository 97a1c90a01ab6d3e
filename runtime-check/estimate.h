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

/* Running mean and sum of squared differences from it (Welford 1962): no cancellation, one pass. Zero-initialise. */
struct moments {
    uint64_t count;
    double mean, squares;
};
void moments_add(struct moments *moments, double value);
/* The mean, and its standard error with independent samples: sqrt(squares / (n - 1) / n). */
struct estimate moments_estimate(const struct moments *moments);

/* Tokens of one window are not independent: a hard passage is hard for many tokens. From ESTIMATE_WINDOWS windows on, windows
 * are the independent samples (all have equally many tokens, so the standard error of a mean is that of the window means: the
 * cluster-robust error; Miller 2024, arXiv 2411.00640); with fewer, tokens are. */
enum { ESTIMATE_WINDOWS = 8 };

/* A mean over tokens that come window by window. Zero-initialise; `per_window` tokens each. */
struct clustered {
    struct moments tokens, windows;
    double window_sum;
    uint64_t in_window;
};
void clustered_add(struct clustered *clustered, uint64_t per_window, double value);
struct estimate clustered_estimate(const struct clustered *clustered);
/* Independent tokens that would give the same standard error: at most the number of tokens (that many too, where the values
 * do not vary). */
double clustered_effective(const struct clustered *clustered);

/* The quantile of Student's t distribution (degrees of freedom at least 7: Cornish-Fisher expansion, Abramowitz and Stegun
 * 26.7.5, good to 1e-3; UINT64_MAX: the normal distribution). 0 < share < 1. */
double estimate_t_quantile(double share, uint64_t freedom);

/* One-sided bound of a share seen in `effective` independent trials (Wilson 1927), below it at `confidence`: honest also at
 * shares of 0 and 1, where the standard error is 0. z by estimate_t_quantile of the degrees of freedom. */
double estimate_share_lower(double share, double effective, double confidence, uint64_t freedom);

/* Standard errors of order statistics: the standard deviation over resampled windows (bootstrap, Efron 1979; blocks: windows; a
 * fixed number of draws and a fixed seed, so the same input gives the same numbers).
 *   values      [count]  in the order of tokens, per_window of each window; sorted by the call
 *   shares      [share_count]  ascending, 0 to 1, as estimate_percentile
 *   out         [share_count]  value and error; error 0 with fewer than ESTIMATE_WINDOWS windows
 * ERR_MEMORY. */
enum status estimate_percentiles(struct estimate *out, const double *shares, uint64_t share_count,
    float *values, uint64_t count, uint64_t per_window, struct error *err);

/* Of sorted values, between neighbours by their distance, as numpy and llama.cpp do it. */
double estimate_percentile(const float *sorted, uint64_t count, double share);

#endif
