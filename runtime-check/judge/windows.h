/* A text as the windows of a protocol (runtime-check/judge/perplexity.h): what perplexity and comparison share, so that both score
 * the same positions of the same tokens. */
#ifndef NIBBLE_RUNTIME_CHECK_WINDOWS_H
#define NIBBLE_RUNTIME_CHECK_WINDOWS_H

#include "base/report.h"
#include "model/forward.h"
#include "runtime-check/judge/perplexity.h"

struct windows {
    uint32_t *tokens; /* [token_count], first tokens of windows replaced where the protocol asks for it */
    uint64_t token_count, context, count;
    uint64_t first, scored; /* logits rows first .. first + scored - 1 of a window predict a scored token */
    uint64_t batch;         /* windows to run side by side: about 2048 tokens, at least one, at most count */
};

/* Tokenize the text with the model's tokenizer and cut it. Notes on `report` a context beyond the declared one. Errors: those of
 * perplexity_measure. Release *out with windows_free, also after an error. */
enum status windows_cut(struct windows *out, const struct model *model, const char *text, uint64_t text_bytes,
    const struct perplexity_options *options, const struct report *report, struct error *err);
void windows_free(struct windows *windows);

/* Fill in first, scored and batch, which follow from context and count under a protocol. */
void windows_place(struct windows *windows, enum perplexity_protocol protocol);

/* How many rows of logits to make and score at a time: from 64 to 256 (at most all of a window), few enough to be scored before they
 * leave the cache. The same for perplexity and comparison: products of other sizes round differently. */
uint64_t windows_logit_rows(const struct windows *windows, uint64_t vocabulary);

/* How many windows the batch that begins with window `begin` has. */
uint64_t windows_batch(const struct windows *windows, uint64_t begin);
/* The token that scored row `row` (counted from `first`) of a window predicts. */
uint32_t windows_target(const struct windows *windows, uint64_t window, uint64_t row);

#endif
