/* The tokens of a GGUF file: contents, types, scores. */
#ifndef NIBBLE_MODEL_TOKENIZER_GGUF_TOKENS_H
#define NIBBLE_MODEL_TOKENIZER_GGUF_TOKENS_H

#include "formats/metadata.h"
#include "model/tokenizer/token_list.h"

/* Ids count from 0. Types are normal where the file has none. *scored: it has scores. ERR_FORMAT: no tokens, one that is no
 * UTF-8, holds U+0000 or is there twice; types or scores of another number, a type that is none, a score that is no finite
 * number. */
enum status gguf_tokens_read(
    struct token_list *out, bool *scored, const struct metadata *metadata, struct error *err);

#endif
