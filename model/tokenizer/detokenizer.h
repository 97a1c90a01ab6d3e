/* The decoder: steps that turn the texts of tokens back into one text. */
#ifndef NIBBLE_MODEL_DETOKENIZER_H
#define NIBBLE_MODEL_DETOKENIZER_H

#include "base/json.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/text.h"

/* A list of texts, one after the other; text i ends at ends[i]. Zero-initialise. */
struct token_texts {
    struct text bytes;
    uint64_t *ends;
    uint64_t count, capacity;
};

enum status token_texts_add(struct token_texts *texts, const char *bytes, uint64_t count, struct error *err);
void token_texts_free(struct token_texts *texts);

struct detokenizer;

/* Read the "decoder" section; NULL or null: the tokens with spaces between them. ERR_UNSUPPORTED: a type that is not
 * known. */
enum status detokenizer_create(struct detokenizer **out, const struct json_value *section, struct error *err);
void detokenizer_free(struct detokenizer *detokenizer);

/* Decode the tokens (well-formed UTF-8, overwritten) and append the text. */
enum status detokenizer_apply(const struct detokenizer *detokenizer, struct pattern_scratch *scratch,
    struct token_texts *tokens, struct text *out, struct error *err);

#endif
