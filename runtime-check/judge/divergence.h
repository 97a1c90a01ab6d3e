/* The arithmetic of a comparison, apart from models: one pair of logits rows, and statistics over many. */
#ifndef NIBBLE_RUNTIME_CHECK_DIVERGENCE_H
#define NIBBLE_RUNTIME_CHECK_DIVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime-check/judge/compare.h"

/* One scored token. p is the base's distribution, q the candidate's, t the token that followed. */
struct divergence_row {
    double base_nll, nll;      /* -ln p(t), -ln q(t) */
    double kld;                /* sum p ln (p / q); not finite if a logit of either row is not */
    double probability_change; /* q(t) - p(t) */
    bool same_top;             /* the first of the highest logits is the same in both rows */
};

/* Score one pair of rows. Exponentials are single precision (relative error about 1e-7), sums double precision in a fixed
 * order, so kld is good to about 1e-7 + 1e-7 * kld; where rounding leaves it below zero it is set to zero. Equal rows
 * give exactly zero. */
void divergence_row(struct divergence_row *out, const float *base, const float *candidate,
    uint64_t vocabulary, uint32_t target);

/* ln sum e^(x - top) of a row, and its highest value in *top, to the bit as divergence_row finds them. */
double divergence_log_sum(float *top, const float *logits, uint64_t vocabulary);

/* Take what is known exactly of a base row that was stored rounded: ln of the target's probability and the first likeliest
 * token; `candidate` [vocabulary] as given to divergence_row. Changes base_nll, probability_change and same_top. */
void divergence_row_exact(struct divergence_row *row, double base_log_prob, uint32_t base_first,
    const float *candidate, uint64_t vocabulary);

/* Score a row against a base of which only the k likeliest tokens are known, and the probability of all others together:
 *   ids, log_probs [k]  the base's likeliest tokens first, below the vocabulary, none twice
 *   log_rest            ln of the others' probability, -infinity for none
 *   base_log_prob       ln of the target's
 *   candidate           [vocabulary] logits; used up
 * kld is that of the k + 1 classes: never above the divergence of the whole rows (data-processing inequality; Cover and
 * Thomas, Elements of Information Theory, 2.8) and equal to it for k = vocabulary. */
struct divergence_top {
    const uint32_t *ids;
    const float *log_probs;
    uint64_t k;
    double log_rest, base_log_prob;
};
void divergence_row_top(struct divergence_row *out, const struct divergence_top *base, float *candidate,
    uint64_t vocabulary, uint32_t target);

/* What is kept of all rows so far. Zero-initialise but for klds, capacity and per_window. */
struct divergence {
    float *klds;                   /* [capacity], of every row in order, for percentiles; owner: the caller */
    uint64_t capacity, per_window; /* rows */
    double *
        window_nll; /* [capacity / per_window] zeroed, or NULL: the windows' sums of nll; owner: the caller */
    struct clustered base_nll, nll, log_ratio, kld, squared_change, same_top;
};

/* Add the next row; the order of rows decides the bits of the result. No more than `capacity`. */
void divergence_add(struct divergence *divergence, const struct divergence_row *row);

/* Fill in the statistics of *out (compare.h has the formulas); fields about the text and the model are left alone. At
 * least one row, whole windows. Sorts klds; window_nll, divided, goes over to *out. ERR_MEMORY: percentiles take 8 bytes per row more for a while. */
enum status divergence_summarize(struct comparison *out, struct divergence *divergence, struct error *err);

#endif
