/* Whether two models speak of the same tokens: without that, no two of their predictions can be held against each other. */
#ifndef NIBBLE_RUNTIME_CHECK_SAME_TOKENS_H
#define NIBBLE_RUNTIME_CHECK_SAME_TOKENS_H

#include "model/forward.h"

/* Check that `candidate` has the base's vocabulary and its tokenizer. Two tokenizers that are not written in the same bytes
 * must cut the text into the same ids or, without a text, know the same token by every id. A model that carries no tokenizer is
 * taken at its vocabulary's word.
 *   text  [text_bytes]  in, or NULL
 * ERR_USAGE: they differ, naming both models and how; errors of reading. */
enum status same_tokens_check(
    struct model *base, struct model *candidate, const char *text, uint64_t text_bytes, struct error *err);

#endif
