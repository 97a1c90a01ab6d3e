/* Added tokens: texts that are one token wherever they stand, found before the model sees anything. Some are looked for in
 * the text as it came, some ("normalized") in the normalized text. */
#ifndef NIBBLE_MODEL_ADDED_TOKENS_H
#define NIBBLE_MODEL_ADDED_TOKENS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/vocabulary.h"

enum { ADDED_BYTES_LIMIT = 256 }; /* of one token: matching takes so many steps per character at most */

struct added_token {
    uint32_t entry; /* in the vocabulary */
    bool single_word, strip_left, strip_right, normalized, special;
    uint64_t offset; /* in `texts`: what is looked for */
    uint32_t bytes;
};

/* One of the two sets to look for, sorted by text. */
struct added_set {
    const struct added_token **tokens;
    uint64_t count;
    uint32_t first[257]; /* tokens[first[b]] up to first[b + 1] begin with byte b */
};

/* Zero-initialise. */
struct added_tokens {
    struct added_token *tokens; /* in order of their entry */
    uint64_t count, capacity;
    struct text texts;
    struct added_set raw, normalized;
};

/* Read the "added_tokens" section and put what the model lacks into the vocabulary. ERR_FORMAT: a token twice, an id that
 * is not the vocabulary's. */
enum status added_tokens_read(struct added_tokens *added, struct vocabulary *vocabulary,
    const struct normalizer *normalizer, const struct json_text *section, struct error *err);
void added_tokens_free(struct added_tokens *added);

/* The added token of an entry, or NULL. */
const struct added_token *added_tokens_find(const struct added_tokens *added, uint32_t entry);

/* Called for every part of a text in order: an added token, or (token NULL) what lies between two of them. */
typedef enum status (*added_sink)(
    void *context, const struct added_token *token, uint64_t begin, uint64_t end, struct error *err);

/* Cut a well-formed text at the tokens of one set: the leftmost, and of those the longest. */
enum status added_tokens_split(const struct added_tokens *added, const struct added_set *set,
    const char *text, uint64_t bytes, added_sink sink, void *context, struct error *err);

#endif
