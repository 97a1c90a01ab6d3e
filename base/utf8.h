/* UTF-8 as RFC 3629 defines it: the one place that knows which byte sequences are well-formed. */
#ifndef NIBBLE_BASE_UTF8_H
#define NIBBLE_BASE_UTF8_H

#include <stdint.h>

/* The length (1 to 4) of the well-formed sequence at the start of `bytes`, or 0 if there is none: nothing
 * overlong, no surrogates, nothing above U+10FFFF, not cut off by `count` (at least 1). */
static inline unsigned utf8_sequence(const char *bytes, uint64_t count)
{
    const uint8_t *at = (const uint8_t *)bytes;
    uint8_t first = at[0], low = 0x80,
            high = 0xBF; /* the range of the second byte: table 3-7 of the Unicode standard */
    unsigned length;

    if (first < 0x80) return 1;
    if (first < 0xC2 || first > 0xF4) return 0;
    length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
    if (count < length || at[1] < low || at[1] > high) return 0;
    for (unsigned i = 2; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80) return 0;
    }
    return length;
}

/* The code point of a sequence that utf8_sequence found to be well-formed. */
static inline uint32_t utf8_code_point(const char *bytes, unsigned length)
{
    const uint8_t *at = (const uint8_t *)bytes;
    uint32_t point = length == 1 ? at[0] : at[0] & (0x7Fu >> length);

    for (unsigned i = 1; i < length; i++)
        point = point << 6 | (at[i] & 0x3Fu);
    return point;
}

#endif
