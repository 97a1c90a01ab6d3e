/* Whether a comparison is one at all: both models must predict the same tokens. */
#ifndef NIBBLE_RUNTIME_CHECK_COMPARE_CHECK_H
#define NIBBLE_RUNTIME_CHECK_COMPARE_CHECK_H

#include "model/forward.h"
#include "runtime-check/base_logits.h"

/* A candidate against an open base: equal vocabularies, and tokenizers that cut this text alike, where both have one.
 * ERR_USAGE: not so, naming both files. */
enum status compare_check_model(struct model *base, struct model *candidate, const char *text,
    uint64_t text_bytes, struct error *err);

/* A candidate against a stored base, which holds ids only: equal vocabularies. ERR_USAGE. */
enum status compare_check_stored(
    const struct base_logits *base, const struct model *candidate, struct error *err);

/* A text against the one that a stored base has read. ERR_USAGE: another one. */
enum status compare_check_text(
    const struct base_logits *base, const char *text, uint64_t text_bytes, struct error *err);

#endif
