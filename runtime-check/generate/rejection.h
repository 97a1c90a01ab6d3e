/* The rejection rule of speculative decoding (Leviathan, Kalman, Matias 2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318),
 * on rows of probabilities, without models. */
#ifndef NIBBLE_RUNTIME_CHECK_REJECTION_H
#define NIBBLE_RUNTIME_CHECK_REJECTION_H

#include <stdbool.h>
#include <stdint.h>

/* softmax(logits / temperature) in double precision; at temperature 0 all of it on the first of the highest logits. A logit of
 * -infinity gives 0. False: a logit is NaN or +infinity, or all are -infinity; out is then not set. out, logits [vocabulary]. */
bool rejection_probabilities(double *out, const float *logits, uint64_t vocabulary, double temperature);

/* An id drawn with probability weights[id] / their sum; weights [vocabulary] are not negative and not all 0. `random`: state of
 * sampling_uniform. */
uint32_t rejection_draw(const double *weights, uint64_t vocabulary, uint64_t *random);

/* Judge *token, which was drawn from q: accepted (true) with probability min(1, p / q) of that token; else (false) it is replaced by a
 * draw from max(0, p - q), normalised. Either way *token is then distributed as p (Leviathan et al., appendix A.1). With rows of
 * temperature 0 this is: the same likeliest token or not.
 *   p  [vocabulary]  probabilities of the target; used up by a rejection
 *   q  [vocabulary]  probabilities of the draft */
bool rejection_judge(uint32_t *token, double *p, const double *q, uint64_t vocabulary, uint64_t *random);

/* Expected tokens of a cycle, (1 - a^(lookahead + 1)) / (1 - a): accepted ones and the one that the target gives itself, if every
 * drafted token is accepted with probability a, independently (equation 1 of Leviathan et al.). */
double rejection_expected(double acceptance, uint64_t lookahead);

#endif
