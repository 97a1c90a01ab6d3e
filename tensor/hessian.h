/* The Hessian of a linear layer's squared output error, and what is derived from it: for inputs x (one column vector of `cols`
 * channels per token) and a change dW of the weights, the mean squared change of the output is the sum over rows of
 * dw H dw^T with H = mean over tokens of x x^T. (Frantar et al. 2022, arXiv:2210.17323, use 2H; the factor cancels.)
 *
 * Two further sums make it possible to aim at the original network instead of at the weights as they are, when x already
 * carries the error of the layers before (x_o: the same input in the original network):
 *   cross     mean of (x_o - x) x^T                 [cols][cols]
 *   residual  mean of (r_o - r) x^T                 [rows][cols], r: the residual stream that the output is added to
 * The weights whose outputs are nearest to the original ones are then, with ridge l (the damping),
 *   W* = W + (W cross + residual) (H + l)^-1.
 *
 * Life: hessian_create, hessian_add for every batch of tokens, hessian_mean, then (if wanted)
 * hessian_permute, hessian_factor, hessian_correct for every matrix, hessian_finish. Sums are taken in single precision over at
 * most 2048 tokens at a time and added up in double precision; everything up to hessian_finish is double precision.
 * Results do not depend on the number of workers of the pool, but (in the last bits) on how tokens are cut into batches.
 * After an error of any function here the Hessian is good for hessian_free only. One thread at a time per Hessian. */
#ifndef NIBBLE_TENSOR_HESSIAN_H
#define NIBBLE_TENSOR_HESSIAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/threads.h"

struct hessian {
    uint64_t cols, rows; /* rows: of `residual`, 0 without */
    uint64_t tokens;     /* added so far */
    double
        *second;   /* [cols][cols]; before hessian_mean only what is on and above the diagonal is valid; after
                            hessian_factor the factor is there, and H below the diagonal; NULL after hessian_finish */
    double *cross; /* [cols][cols], or NULL */
    double *residual;  /* [rows][cols], or NULL */
    double *magnitude; /* [cols] mean |x| (AWQ) */
    uint64_t dead;     /* after hessian_mean: channels whose diagonal is 0, which never saw anything but 0 */
    /* after hessian_factor */
    float *diagonal; /* [cols] of H + l */
    double damping;  /* relative, as it was needed: l = damping * mean diagonal of H */
    double ridge;    /* l */
    unsigned escalations;
    /* after hessian_finish; these two are one block of memory, the one that `second` was */
    float *damped; /* [cols][cols] H + l, symmetric, all of it */
    float *
        factor; /* [cols][cols] row-major, upper triangular U with U^T U = (H + l)^-1; below the diagonal zeros */
    /* private */
    float *scratch; /* [workers] tiles, until hessian_finish */
    unsigned workers;
};

/* Bytes that a Hessian takes at its largest, with what its functions need for a while, for the plan of a run. */
uint64_t hessian_bytes(uint64_t cols, bool with_cross, uint64_t residual_rows, unsigned workers);

/* Zeroed sums for pools of at most `workers` workers. residual_rows 0: no residual. ERR_MEMORY. Release with
 * hessian_free, also after an error. */
enum status hessian_create(struct hessian *out, uint64_t cols, bool with_cross, uint64_t residual_rows,
    unsigned workers, struct error *err);
void hessian_free(struct hessian *hessian);

/* Add a batch of any size. Many tokens at once are faster: every call goes through all of the sums.
 *   x         [tokens][cols]  in: the inputs
 *   original  [tokens][cols]  in: x_o; needed with cross, else NULL
 *   residual  [tokens][rows]  in: r_o - r; needed with residual, else NULL
 * ERR_NUMERIC: an input or difference is NaN or infinite, or so large (4e17) that a sum of 2048 squares would be; the text
 * names channel and token. */
enum status hessian_add(struct hessian *hessian, struct pool *pool, const float *x, const float *original,
    const float *residual, uint64_t tokens, struct error *err);

/* Sums become means, and `second` symmetric. ERR_NUMERIC: no tokens, or every channel is dead. */
enum status hessian_mean(struct hessian *hessian, struct pool *pool, struct error *err);

/* Put channel order[j] into place j: rows and columns of `second` and `cross`, columns of `residual`, magnitude.
 * order [cols] is a permutation. In place. ERR_MEMORY. */
enum status hessian_permute(struct hessian *hessian, const uint32_t *order, struct error *err);

/* Factor H + l in double precision without forming its inverse: with rows and columns in reverse order, one Cholesky
 * factorization and one triangular inverse give U directly (tensor/factor.h). If it is not positive definite, or the
 * factor not finite, damping is multiplied by 10, at most up to 1, and *hessian says so.
 *   damping  relative to the mean of H's diagonal, > 0
 * ERR_NUMERIC: not positive definite even then; the text gives dampings tried, tokens and channels; *hessian says what was
 * tried last. ERR_MEMORY. */
enum status hessian_factor(struct hessian *hessian, struct pool *pool, double damping, struct error *err);

/* Replace weights by the target W* above (only the sums that exist enter; with neither, nothing happens).
 *   weights    [rows][cols]  in: W; out: W*
 *   residual   whether the residual sum enters; its rows are then `rows`
 * After hessian_factor, before hessian_finish. ERR_NUMERIC: W* is not finite; the text names row and column. ERR_MEMORY. */
enum status hessian_correct(struct hessian *hessian, struct pool *pool, float *weights, uint64_t rows,
    bool residual, struct error *err);

/* What that takes per worker. */
uint64_t hessian_correct_scratch_bytes(uint64_t cols);

/* Round to single precision: `damped` and `factor` take the place of `second`; the other sums are released, magnitude and
 * diagonal stay. ERR_MEMORY. */
enum status hessian_finish(struct hessian *hessian, struct pool *pool, struct error *err);

#endif
