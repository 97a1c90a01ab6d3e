/* How far a compressed model's predictions are from the original's: both read the same text in lock step, token by token, so
 * no file of logits is needed; one may be written, or stand for the original. */
#ifndef NIBBLE_RUNTIME_CHECK_COMPARE_H
#define NIBBLE_RUNTIME_CHECK_COMPARE_H

#include "model/forward.h"
#include "runtime-check/judge/base_logits.h"
#include "runtime-check/judge/estimate.h"
#include "runtime-check/judge/perplexity.h"

/* Steps of the curve of divergences: exceeded by 10^(-step / 12) of the tokens, step 0 .. 48. */
enum { COMPARE_CURVE = 49, COMPARE_CURVE_PER_DECADE = 12 };

/* One candidate against the base, over the n scored tokens. With p the base's distribution for one token, q the candidate's
 * and t the token that followed: KL = sum p ln (p / q), in nats; nll = -ln q(t); change = q(t) - p(t).
 *
 * Standard errors are by block or by token (estimate.h; by_block says which): of means directly; of exp(mean), exp(mean)
 * times as large; of a root mean square r, that of the mean square / (2 r) (both to first order); of percentiles, by
 * resampling blocks. log_ratio is the mean of the paired differences nll - base nll, and its error is that of these
 * differences: the same as from the covariance of both series, much smaller than two independent errors.
 *
 * Percentiles are of all n values (kept in single precision), interpolated linearly at position share * (n - 1) of the
 * sorted row. A divergence that rounding leaves below zero counts as zero. */
struct comparison {
    uint64_t tokens_scored, windows, context, model_bytes;
    bool by_block;
    uint64_t
        base_top_k; /* the base is known by its k likeliest tokens only: divergences are lower bounds; 0: whole */
    struct estimate perplexity, base_perplexity; /* exp of the mean nll */
    struct estimate log_ratio;                   /* ln (perplexity / base_perplexity) */
    struct estimate kld;                         /* mean */
    struct estimate kld_median, kld_p90, kld_p95, kld_p99, kld_p999;
    double kld_max;
    struct estimate probability_rms; /* root mean square change of t's probability */
    struct estimate same_top;        /* share of tokens whose likeliest token is the same */
    double same_top_effective;       /* clustered_effective of it, for a bound */
    double kld_curve[COMPARE_CURVE]; /* divergence exceeded by 10^(-i / 12) of the tokens */
    double *
        layer_errors; /* [layers] trace_error of each decoder layer, or NULL; owner: the caller, memory_free */
    uint32_t layers;
    double *window_nll; /* [windows] mean nll of each, or NULL; owner: the caller, memory_free */
    double seconds;     /* the candidate's own forward passes, and its logits and scoring */
};

/* What stands for the original: an open model, or what was stored of one. The other is NULL. */
struct compare_base {
    struct model *model;
    struct base_logits *stored;
};

struct compare_options {
    struct perplexity_options text; /* with a stored base ignored: the file's */
    bool window_nll;                /* also the mean of every window */
    bool layers;                    /* also the error of every layer's output; needs a base model */
    const char *save_base; /* write the base's predictions to this file, or NULL; needs a base model */
    bool force;            /* replace it */
    uint64_t save_top_k;   /* of each token only so many; 0: all, 16 bits each */
};

/* Compare `count` candidates with the base on one text, cut into windows as perplexity_measure does.
 *   out         [count]  layer_errors of each is the caller's to free, also after an error (zero-initialised by the call)
 *   count       may be 0 with save_base; out[0] then holds base_perplexity and what describes the text
 *   candidates  [count] open models, of one pool; a batch of windows runs through the base once and then through each
 *   text        NULL with a stored base, which holds the tokens
 * The base's tokenizer cuts the text. A candidate that carries another one must give the same ids for it; one that carries
 * none is taken at its vocabulary's word.
 * With a stored base whole rows give the divergences that base_logits.h bounds, and perplexities and same_top as from the
 * model itself up to rounding; rows of the k likeliest give lower bounds of divergences (base_top_k).
 * ERR_USAGE: no candidate; too little text; another vocabulary, tokenizer or text; layers that do not compare; save_base
 * or layers without a base model; save_base exists; ERR_UNSUPPORTED: the base carries no tokenizer; ERR_NUMERIC: a logit
 * is not finite. Memory per model: final hidden states of one batch; once: a KV cache and activations (sessions are made
 * in turn), two chunks of at most 256 rows of logits (not context times vocabulary), and 4 bytes per scored token and
 * candidate (8 more while one is summarized). The result does not depend on the number of threads. */
enum status compare_models(struct comparison *out, const struct compare_base *base,
    struct model *const *candidates, uint64_t count, const char *text, uint64_t text_bytes,
    const struct compare_options *options, const struct report *report, struct error *err);

#endif
