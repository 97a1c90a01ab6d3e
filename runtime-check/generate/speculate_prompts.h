/* Prompts for a measurement of generation: given ones, the lines of a file, windows of a text, or the first tokens that a model likes
 * best. */
#ifndef NIBBLE_RUNTIME_CHECK_SPECULATE_PROMPTS_H
#define NIBBLE_RUNTIME_CHECK_SPECULATE_PROMPTS_H

#include "model/forward.h"

struct speculate_prompts {
    uint32_t *ids;           /* of all prompts, one after the other */
    uint64_t *ends;          /* [count] where each prompt ends in ids; it begins where the one before ends */
    uint64_t count, longest; /* tokens of the longest prompt */
    uint64_t id_capacity, end_capacity; /* private */
};

/* All add to *prompts (zero-initialise) and need the model's tokenizer (ERR_UNSUPPORTED without one). Release with
 * speculate_prompts_free, also after an error. */

/* One text, with what the tokenizer puts in front. ERR_USAGE: it has no token. */
enum status speculate_prompts_add(struct speculate_prompts *prompts, const struct model *model,
    const char *text, uint64_t bytes, struct error *err);
/* Every line that is not empty. ERR_USAGE: there is none. */
enum status speculate_prompts_lines(struct speculate_prompts *prompts, const struct model *model,
    const char *text, uint64_t bytes, struct error *err);
/* `count` windows of `length` tokens, spread evenly over the text, the first token of each replaced by BOS where the tokenizer has
 * one. ERR_USAGE: the text is shorter than count * length tokens. */
enum status speculate_prompts_windows(struct speculate_prompts *prompts, const struct model *model,
    const char *text, uint64_t bytes, uint64_t count, uint64_t length, struct error *err);
/* BOS and one more token, for the `count` likeliest ones after BOS. ERR_USAGE: this tokenizer puts no BOS in front. */
enum status speculate_prompts_likeliest(
    struct speculate_prompts *prompts, struct model *model, uint64_t count, struct error *err);

void speculate_prompts_free(struct speculate_prompts *prompts);

#endif
