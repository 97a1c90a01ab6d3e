/* What a dataset keeps of one row of a teacher's logits: the k likeliest tokens, or tokens drawn from the distribution. */
#ifndef NIBBLE_DISTILL_TEACHER_ROW_H
#define NIBBLE_DISTILL_TEACHER_ROW_H

#include <stdbool.h>
#include <stdint.h>

/* A row of logits [vocabulary] and its normalisation, in double precision but for the weights, which are floats. */
struct teacher_row {
    const float *logits;
    float *weights; /* e^(logit - highest) */
    uint32_t vocabulary;
    float highest;
    double sum;     /* of e^(logit - highest) */
    double log_sum; /* ln of the sum of e^logit: logsumexp */
};

/* False: a logit is not finite. Keeps both pointers.
 *   weights  [vocabulary]  scratch */
bool teacher_row_init(struct teacher_row *row, const float *logits, float *weights, uint32_t vocabulary);

/* ln of a token's probability. */
double teacher_row_log_prob(const struct teacher_row *row, uint32_t id);

/* Entropy in nats. */
double teacher_row_entropy(const struct teacher_row *row);

/* The k likeliest tokens (of equally likely ones the lowest ids), by rising id.
 *   ids  [k]    out; 1 <= k <= vocabulary
 * Returns the probability of all others; 0 where k is the vocabulary. Uses up the row's weights. */
double teacher_row_top(struct teacher_row *row, uint32_t *ids, uint32_t k);

/* `count` tokens drawn, each independently and with replacement, with probabilities in proportion to p^(1 / temperature); by
 * rising id. At another temperature than 1 the row's weights are used up.
 *   ids      [count]  out
 *   weights  [count]  out: ln of (p / the probability it was drawn with), 0 at temperature 1
 *   random            state of sampling_uniform; advanced by `count` draws
 *   scratch  [count] */
void teacher_row_draw(struct teacher_row *row, uint32_t *ids, double *weights, uint32_t count,
    double temperature, uint64_t *random, double *scratch);

#endif
