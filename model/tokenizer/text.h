/* Text that grows: the one buffer type of the tokenizer's steps. Bytes with a count, no terminator. */
#ifndef NIBBLE_MODEL_TEXT_H
#define NIBBLE_MODEL_TEXT_H

#include <stdint.h>
#include <string.h>

#include "base/error.h"

/* Zero-initialise; release with text_free. */
struct text {
    char *bytes;
    uint64_t count, capacity;
    uint64_t limit; /* growing beyond so many bytes is ERR_MEMORY; 0: TEXT_LIMIT */
};

/* No text anywhere in the tokenizer is longer: positions fit in 32 bits. */
#define TEXT_LIMIT (UINT64_C(1) << 31)

/* Make room for `count` more bytes. */
enum status text_reserve(struct text *text, uint64_t count, struct error *err);

static inline enum status text_append(struct text *text, const char *bytes, uint64_t count, struct error *err)
{
    if (count > text->capacity - text->count && text_reserve(text, count, err) != OK) return ERR_MEMORY;
    if (count > 0) memcpy(text->bytes + text->count, bytes, count);
    text->count += count;
    return OK;
}

/* Append a terminated string. */
enum status text_append_string(struct text *text, const char *string, struct error *err);

void text_free(struct text *text);

#endif
