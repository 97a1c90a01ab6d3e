/* The tokens: content to id and back. A token is known inside the tokenizer by its entry, a number without gaps in the
 * order of addition; ids are what the file says and may have gaps. */
#ifndef NIBBLE_MODEL_VOCABULARY_H
#define NIBBLE_MODEL_VOCABULARY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/tokenizer/text.h"

#define VOCABULARY_ID_LIMIT (UINT32_C(1) << 24)
#define NO_ENTRY UINT32_MAX

struct vocabulary_entry {
    uint64_t offset; /* of its content in `contents`, where a NUL follows it */
    uint32_t bytes, id;
};

/* Zero-initialise. */
struct vocabulary {
    struct text contents;
    struct vocabulary_entry *entries;
    uint64_t count, capacity;
    uint64_t model_count; /* the entries below belong to the model, those from here on are added tokens */
    uint32_t *by_content, *by_id; /* hash tables of entry + 1 */
    uint64_t slots;
    uint32_t size; /* one more than the highest id */
};

/* Add a token. ERR_FORMAT: the content or the id is there already, or the id is not below VOCABULARY_ID_LIMIT. */
enum status vocabulary_add(
    struct vocabulary *vocabulary, const char *content, uint64_t bytes, uint64_t id, struct error *err);

/* The entry with this content, or NO_ENTRY. `_model`: among the model's own tokens only. */
uint32_t vocabulary_find(const struct vocabulary *vocabulary, const char *content, uint64_t bytes);
uint32_t vocabulary_find_model(const struct vocabulary *vocabulary, const char *content, uint64_t bytes);

/* The entries of the model's tokens for bytes, <0x00> to <0xFF>; NO_ENTRY where there is none. */
void vocabulary_find_bytes(const struct vocabulary *vocabulary, uint32_t tokens[256]);

/* The entry with this id, or NO_ENTRY. */
uint32_t vocabulary_find_id(const struct vocabulary *vocabulary, uint64_t id);

/* The content of an entry, terminated; valid until the next addition. */
const char *vocabulary_content(const struct vocabulary *vocabulary, uint32_t entry, uint64_t *bytes);

void vocabulary_free(struct vocabulary *vocabulary);

#endif
