/* The tokens of a GGUF file: contents, types, scores. Only gguf_tokenizer.c and gguf_merges.c include this. */
#ifndef NIBBLE_MODEL_TOKENIZER_GGUF_TOKENS_H
#define NIBBLE_MODEL_TOKENIZER_GGUF_TOKENS_H

#include "formats/metadata.h"
#include "model/tokenizer/vocabulary.h"

/* The numbers are GGUF's. */
enum gguf_token_type {
    GGUF_TOKEN_UNDEFINED,
    GGUF_TOKEN_NORMAL,
    GGUF_TOKEN_UNKNOWN,
    GGUF_TOKEN_CONTROL,
    GGUF_TOKEN_USER_DEFINED,
    GGUF_TOKEN_UNUSED,
    GGUF_TOKEN_BYTE,
    GGUF_TOKEN_TYPES
};

/* Zero-initialise; release with gguf_tokens_free. An entry's number in the vocabulary is the token's id. */
struct gguf_tokens {
    struct vocabulary vocabulary;
    const struct metadata_item *types, *scores; /* NULL where the file has none; else checked */
};

/* ERR_FORMAT: no tokens, one that is no UTF-8, holds U+0000 or is there twice; types or scores of another number, a type that
 * is none, a score that is no finite number. */
enum status gguf_tokens_read(struct gguf_tokens *out, const struct metadata *metadata, struct error *err);
void gguf_tokens_free(struct gguf_tokens *tokens);

/* Normal where the file has no types. */
enum gguf_token_type gguf_tokens_type(const struct gguf_tokens *tokens, uint32_t id);

#endif
