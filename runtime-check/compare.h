/* How far a compressed model's predictions are from the original's: both read the same text in lock step, token by token, so
 * no file of logits is needed. */
#ifndef NIBBLE_RUNTIME_CHECK_COMPARE_H
#define NIBBLE_RUNTIME_CHECK_COMPARE_H

#include "model/forward.h"
#include "runtime-check/perplexity.h"

/* One candidate against the base, over all scored tokens. Divergences in nats per token: KL(base || candidate). Standard errors take
 * tokens as independent. */
struct comparison {
    uint64_t tokens_scored, windows, context, model_bytes;
    double perplexity, perplexity_error;
    double base_perplexity, base_perplexity_error;
    double log_ratio, log_ratio_error; /* mean ln(PPL / base PPL), its error from the covariance */
    double kld, kld_error;
    double kld_median, kld_p90, kld_p95, kld_p99, kld_p999, kld_max;
    double probability_rms,
        probability_rms_error;       /* root mean square change of the right token's probability */
    double same_top, same_top_error; /* share of tokens with the same most likely token */
    double seconds;
};

/* Compare `count` candidates with the base on one text, cut into windows as perplexity_measure does.
 *   out         [count]
 *   candidates  [count] open models; a batch of windows runs through the base once and then through each of them
 * ERR_USAGE: too little text; another vocabulary; ERR_NUMERIC: a logit is not finite. Memory does not grow with
 * context times vocabulary. The result does not depend on the number of threads. */
enum status compare_models(struct comparison *out, struct model *base, struct model *const *candidates,
    uint64_t count, const char *text, uint64_t text_bytes, const struct perplexity_options *options,
    const struct report *report, struct error *err);

/* KL divergence between two rows of logits, in nats, in double precision; *same_top and *probability_change (of
 * target, candidate minus base) likewise. Not finite if a logit is not. */
double compare_kld(const float *base, const float *candidate, uint64_t vocabulary, uint32_t target,
    bool *same_top, double *probability_change);

#endif
