/* What the tokenizer knows about characters: UTF-8, classes of code points, lower case, normal forms. The only includer
 * of utf8proc. Every answer is that of the reference implementation (unicode_tables.h has the differences). */
#ifndef NIBBLE_MODEL_UNICODE_H
#define NIBBLE_MODEL_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/utf8.h"
#include "model/tokenizer/text.h"

/* The length of the character that begins with this byte, in text known to be well-formed. */
static inline unsigned unicode_length(char lead)
{
    uint8_t byte = (uint8_t)lead;
    return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/* The code point at `at` in text known to be well-formed; *length is its bytes. */
static inline uint32_t unicode_decode(const char *at, unsigned *length)
{
    *length = unicode_length(*at);
    return utf8_code_point(at, *length);
}

/* The code point that ends just before `end`, in well-formed text that is not empty before `end`. */
uint32_t unicode_decode_before(const char *end);

/* Append a code point (no surrogate, at most U+10FFFF) as UTF-8. */
enum status unicode_append(struct text *out, uint32_t point, struct error *err);

/* Append text of any bytes with U+FFFD for every ill-formed sequence, one per maximal subpart (Unicode 15.0, section 3.9,
 * "U+FFFD Substitution of Maximal Subparts"). */
enum status unicode_repair(struct text *out, const char *bytes, uint64_t count, struct error *err);

/* A property of code points. */
typedef bool (*unicode_class)(uint32_t point);

bool unicode_is_space(uint32_t point);       /* White_Space */
bool unicode_is_word(uint32_t point);        /* \w of Unicode Technical Standard 18, annex C */
bool unicode_is_numeric(uint32_t point);     /* categories Nd, Nl, No */
bool unicode_is_punctuation(uint32_t point); /* category P, and the symbols of ASCII */
bool unicode_is_mark(uint32_t point);        /* category M */

/* Append text in lower case: each character by itself, without regard to its neighbours or to any language. */
enum status unicode_lower(struct text *out, const char *bytes, uint64_t count, struct error *err);

/* The title case of one character (upper case, for most), by the simple mapping: one character stays one. */
uint32_t unicode_title(uint32_t point);

/* The bytes of the first extended grapheme cluster (Unicode Standard Annex 29) of well-formed text that is not empty. */
uint64_t unicode_grapheme(const char *text, uint64_t bytes);

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };

/* Append text in a normal form (Unicode Standard Annex 15). Linear in the text, whatever the text. */
enum status unicode_normalize(
    struct text *out, const char *bytes, uint64_t count, enum unicode_form form, struct error *err);

#endif
