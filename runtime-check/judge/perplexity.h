/* Perplexity of a model on a text, under one of two named protocols. A number without its protocol, context and text means
 * nothing (one model has published values from 5 to 60), so the result carries all three. */
#ifndef NIBBLE_RUNTIME_CHECK_PERPLEXITY_H
#define NIBBLE_RUNTIME_CHECK_PERPLEXITY_H

#include "base/report.h"
#include "model/forward.h"
#include "runtime-check/judge/estimate.h"

/* The text is tokenized once, whole, with what the tokenizer puts in front (BOS), and cut into windows of `context` tokens
 * that do not overlap; the tail is dropped.
 *   gptq       every position but the first of a window is scored (Frantar et al. 2022 and its successors)
 *   llama.cpp  the first token of a window becomes BOS (where the tokenizer has one), and only positions
 *              context/2 + 1 .. context - 1 are scored */
enum perplexity_protocol { PERPLEXITY_GPTQ, PERPLEXITY_LLAMA_CPP };

struct perplexity_options {
    enum perplexity_protocol protocol;
    uint64_t context; /* tokens per window; 0: the model's context, at most 2048 (gptq) or 512 (llama.cpp) */
    uint64_t max_windows; /* score only the first so many; 0: all */
};

struct perplexity_result {
    struct estimate perplexity; /* exp of the mean negative log-likelihood; its standard error, to first order
                                   perplexity times that of the mean */
    bool by_block;        /* the error takes blocks of windows as independent, not tokens (estimate.h) */
    double *window_nll;   /* [windows] mean negative log-likelihood of each; owner: the caller, memory_free */
    double mean_nll;      /* nats per scored token */
    double bits_per_byte; /* mean_nll / ln 2 * tokens of the text / bytes of the text, BOS not counted */
    uint64_t tokens;      /* of the whole text, BOS included */
    uint64_t tokens_scored, windows, context, text_bytes;
    uint32_t text_crc32;
    unsigned kv_bits;         /* of keys and values in the KV cache: 32, 8 or 4 */
    double seconds;           /* forward passes and scoring, without loading */
    double tokens_per_second; /* tokens run through the model */
};

/* Score `text`. After an error *out holds nothing to free.
 * ERR_USAGE: the text gives less than one window, or context below 4. ERR_UNSUPPORTED: the model carries no tokenizer.
 * ERR_NUMERIC: a logit is not finite. The result does not depend on the number of threads. */
enum status perplexity_measure(struct perplexity_result *out, struct model *model, const char *text,
    uint64_t text_bytes, const struct perplexity_options *options, const struct report *report,
    struct error *err);

/* Negative log-likelihood of `target` under one row of logits, in nats: log sum exp(logits) - logits[target], to the bit as
 * divergence_row (divergence.h) finds it, so that a perplexity is the same number whichever command measures it. Not finite if a
 * logit is NaN or +infinity. */
double perplexity_nll(const float *logits, uint64_t vocabulary, uint32_t target);

const char *perplexity_protocol_name(enum perplexity_protocol protocol);

#endif
