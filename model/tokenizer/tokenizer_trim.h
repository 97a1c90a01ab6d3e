/* A tokenizer.json with fewer tokens, which encodes what it still can as before. */
#ifndef NIBBLE_MODEL_TOKENIZER_TRIM_H
#define NIBBLE_MODEL_TOKENIZER_TRIM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Add to the tokens that stay what every text needs and what they themselves need:
 *   added tokens, unk_token, what the post-processor puts around a text;
 *   tokens of one character or byte (<0x00> .. <0xFF>), so that every text can still be encoded;
 *   the two halves of the merge that makes a token, and theirs: a word's tokens are each made as if alone, so of all pairs that could make a
 *   token only one is ever used, and a text whose tokens all stay is cut into the same ones.
 *   keep  [count]  in and out, by id; ids beyond the tokenizer's are left alone. ERR_FORMAT: one of its ids is not below count.
 * Other errors as tokenizer_create. */
enum status tokenizer_trim_close(
    bool *keep, uint64_t count, const char *what, const char *json, uint64_t bytes, struct error *err);

/* The document with only the tokens that stay, their ids changed, and the merges of which both halves and the product stay.
 *   ids     [count]  by old id; UINT32_MAX: gone
 *   out     [*out_bytes]; owner: the caller, memory_free
 * ERR_FORMAT: a section names an id that is gone. */
enum status tokenizer_trim_write(char **out, uint64_t *out_bytes, const uint32_t *ids, uint64_t count,
    const char *what, const char *json, uint64_t bytes, struct error *err);

#endif
