/* Prompts for a measurement of generation where nobody gives any: windows of a text, or the first tokens that a model likes best. */
#ifndef NIBBLE_RUNTIME_CHECK_SPECULATE_PROMPTS_H
#define NIBBLE_RUNTIME_CHECK_SPECULATE_PROMPTS_H

#include "model/prompts.h"

/* Both add to *prompts and need the model's tokenizer (ERR_UNSUPPORTED without one). */

/* `count` windows of `length` tokens, spread evenly over the text, the first token of each replaced by BOS where the tokenizer has
 * one. ERR_USAGE: the text is shorter than count * length tokens. */
enum status speculate_prompts_windows(struct prompts *prompts, const struct model *model, const char *text,
    uint64_t bytes, uint64_t count, uint64_t length, struct error *err);
/* BOS and one more token, for the `count` likeliest ones after BOS. ERR_USAGE: this tokenizer puts no BOS in front. */
enum status speculate_prompts_likeliest(
    struct prompts *prompts, struct model *model, uint64_t count, struct error *err);

#endif
