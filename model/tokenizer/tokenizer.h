/* The tokenizer: tokenizer.json as Hugging Face's `tokenizers` library writes it, with a BPE or a Unigram model. Normalizer,
 * pre-tokenizer, model, post-processor and decoder are each a short list of steps, one table row per kind. Only pattern.c
 * knows PCRE2, only unicode.c utf8proc. */
#ifndef NIBBLE_MODEL_TOKENIZER_H
#define NIBBLE_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct tokenizer;

/* Build from the bytes of tokenizer.json; `what` names it in errors. The bytes are not needed afterwards.
 * ERR_FORMAT: not valid JSON, a merge that names no token, an id twice, a token twice. ERR_UNSUPPORTED: another model than BPE
 * and Unigram, or a step this version does not know, by name. Nothing in the file is ever executed; patterns run with match
 * limits. */
enum status tokenizer_create(
    struct tokenizer **out, const char *what, const char *json, uint64_t bytes, struct error *err);
void tokenizer_free(struct tokenizer *tokenizer);

/* One more than the highest id. */
uint32_t tokenizer_size(const struct tokenizer *tokenizer);

/* Text to ids.
 *   ids    [*count]  out; owner: the caller, memory_free
 *   text   [bytes]   in, any bytes: ill-formed UTF-8 sequences become U+FFFD each (maximal subparts, as Unicode recommends
 *                    and as Python's decode(errors="replace") does)
 *   special          in: let the post-processor add its tokens (BOS and the like)
 * Linear to n log n in the text, for every input. A character that has no token becomes unk_token; a model without one
 * drops it, as the reference library does. ERR_MEMORY: text above 2 GiB or no memory; ERR_FORMAT: a pattern exceeded its
 * match limits, or an unknown character meets an unk_token that is not in the vocabulary.
 * Safe from several threads at once. */
enum status tokenizer_encode(const struct tokenizer *tokenizer, uint32_t **ids, uint64_t *count,
    const char *text, uint64_t bytes, bool special, struct error *err);

/* Ids to text, by the decoder's steps. Ids without a token are ERR_FORMAT.
 *   text  [*bytes]  out, terminated; owner: the caller, memory_free. May contain U+FFFD where tokens are not whole UTF-8
 *   skip_special    in: leave special tokens out */
enum status tokenizer_decode(const struct tokenizer *tokenizer, char **text, uint64_t *bytes,
    const uint32_t *ids, uint64_t count, bool skip_special, struct error *err);

/* The id of a token by its exact content (added tokens first), or -1. */
int64_t tokenizer_find(const struct tokenizer *tokenizer, const char *token, uint64_t bytes);

/* The content of a token, terminated, owned by the tokenizer; NULL if the id has none. */
const char *tokenizer_token(const struct tokenizer *tokenizer, uint32_t id, uint64_t *bytes);

/* True if encoding with `special` puts tokens in front; the first of them is then *id (the BOS). */
bool tokenizer_prefix(const struct tokenizer *tokenizer, uint32_t *id);

#endif
