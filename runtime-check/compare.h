/* How far a compressed model's predictions are from the original's: both read the same text in lock step, token by token, so
 * no file of logits is needed. */
#ifndef NIBBLE_RUNTIME_CHECK_COMPARE_H
#define NIBBLE_RUNTIME_CHECK_COMPARE_H

#include "model/forward.h"
#include "runtime-check/perplexity.h"

/* One candidate against the base, over the n scored tokens. With p the base's distribution for one token, q the candidate's
 * and t the token that followed: KL = sum p ln (p / q), in nats; nll = -ln q(t); change = q(t) - p(t).
 *
 * Every standard error takes tokens as independent. Of a mean it is s / sqrt(n), s^2 = sum (x - mean)^2 / (n - 1)
 * (Bessel's correction); from it follow, to first order, that of exp(mean), exp(mean) times as large, and that of a root
 * mean square r, the error of the mean square / (2 r). A share a has sqrt(a (1 - a) / (n - 1)). With n = 1 all are 0.
 * log_ratio is the mean of the paired differences nll - base nll, and its error is that of these differences: the same as
 * sqrt((var a + var b - 2 cov(a, b)) / n), much smaller than two independent errors.
 *
 * Percentiles are of all n values (kept in single precision), interpolated linearly at position share * (n - 1) of the
 * sorted row. A divergence that rounding leaves below zero counts as zero. */
struct comparison {
    uint64_t tokens_scored, windows, context, model_bytes;
    double perplexity, perplexity_error; /* exp of the mean nll */
    double base_perplexity, base_perplexity_error;
    double log_ratio, log_ratio_error; /* ln (perplexity / base_perplexity) */
    double kld, kld_error;             /* mean */
    double kld_median, kld_p90, kld_p95, kld_p99, kld_p999, kld_max;
    double probability_rms, probability_rms_error; /* root mean square change of t's probability */
    double same_top, same_top_error;               /* share of tokens whose likeliest token is the same */
    double seconds; /* the candidate's own forward passes, and its logits and scoring */
};

/* Compare `count` candidates with the base on one text, cut into windows as perplexity_measure does.
 *   out         [count]
 *   candidates  [count] open models, of the base's pool; a batch of windows runs through the base once and then through each
 * The base's tokenizer cuts the text. A candidate that carries another one must give the same ids for it; one that carries
 * none is taken at its vocabulary's word.
 * ERR_USAGE: no candidate; too little text; another vocabulary or tokenizer; ERR_UNSUPPORTED: the base carries no
 * tokenizer; ERR_NUMERIC: a logit is not finite. Memory per model: a KV cache, activations and final hidden states of one
 * batch; beside them two chunks of at most 256 rows of logits (not context times vocabulary) and 4 bytes per scored token
 * and candidate. The result does not depend on the number of threads. */
enum status compare_models(struct comparison *out, struct model *base, struct model *const *candidates,
    uint64_t count, const char *text, uint64_t text_bytes, const struct perplexity_options *options,
    const struct report *report, struct error *err);

/* KL divergence between two rows of logits, in nats (divergence_row); *same_top and *probability_change (of target, candidate
 * minus base) likewise. Not finite if a logit is not. */
double compare_kld(const float *base, const float *candidate, uint64_t vocabulary, uint32_t target,
    bool *same_top, double *probability_change);

#endif
