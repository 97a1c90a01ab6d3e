/* Whether a model and a text belong to a stored base: both must speak of the same tokens. */
#ifndef NIBBLE_RUNTIME_CHECK_COMPARE_CHECK_H
#define NIBBLE_RUNTIME_CHECK_COMPARE_CHECK_H

#include "model/forward.h"
#include "runtime-check/judge/base_logits.h"

/* The file holds ids and no tokenizer: a candidate is taken at its vocabulary's word. ERR_USAGE: another vocabulary. */
enum status compare_check_stored(
    const struct base_logits *base, const struct model *candidate, struct error *err);

/* A text against the one that the stored base has read. ERR_USAGE: another one. */
enum status compare_check_text(
    const struct base_logits *base, const char *text, uint64_t text_bytes, struct error *err);

#endif
