/* Patterns in tokenizer.json are written for Oniguruma (Ruby's syntax) and run here by PCRE2. Most of the two languages
 * is the same; where they differ the difference is translated, or the pattern refused by name. */
#ifndef NIBBLE_MODEL_PATTERN_DIALECT_H
#define NIBBLE_MODEL_PATTERN_DIALECT_H

#include "model/tokenizer/text.h"

/* Append the pattern in PCRE2's syntax (for PCRE2_UTF, PCRE2_UCP, PCRE2_MULTILINE). Well-formed UTF-8 in, no more than
 * PATTERN_LIMIT bytes. ERR_UNSUPPORTED: something that would mean another thing in PCRE2, or that this version does not
 * know; ERR_MEMORY: too long. What is wrong in both languages is left for PCRE2 to refuse. */
enum status pattern_translate(struct text *out, const char *bytes, uint64_t count, struct error *err);

#define PATTERN_LIMIT 16384

#endif
