/* What cuts text into words, by name: GGUF's tokenizer.ggml.pre, for byte-level BPE. A GGUF file has no pattern, only the name of
 * one; the table here is what a reader and a writer know of these names. Sources: the patterns are those of the models' own
 * tokenizer.json; "default" is llama.cpp's, for files without a name. */
#ifndef NIBBLE_MODEL_TOKENIZER_GGUF_PRE_H
#define NIBBLE_MODEL_TOKENIZER_GGUF_PRE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"

enum { GGUF_PRE_PATTERNS = 5 };

/* Matches of each pattern stand alone, one pattern after the other. */
struct gguf_pre {
    const char *name;
    const char *patterns[GGUF_PRE_PATTERNS]; /* NULL after the last */
    bool nfc, ignore_merges, add_bos;        /* add_bos: unless the file says so itself */
};

/* The row of a name [bytes], or NULL. */
const struct gguf_pre *gguf_pre_find(const char *name, uint64_t bytes);

/* All names with ", " between them, into out [GGUF_PRE_NAMES], which it returns. */
enum { GGUF_PRE_NAMES = 512 };
char *gguf_pre_names(char out[GGUF_PRE_NAMES]);

/* The row that cuts by exactly these patterns [count] in this order, and normalizes so; of several the first with these
 * ignore_merges, else the first. NULL: none. Never "default", which no tokenizer.json stands behind. In a pattern the
 * characters CR and LF are taken for the escapes of the same. */
const struct gguf_pre *gguf_pre_match(
    const struct json_text *patterns, uint64_t count, bool nfc, bool ignore_merges);

#endif
