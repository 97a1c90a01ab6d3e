/* GPT-2's alphabet: every byte as one printable character (https://github.com/openai/gpt-2, src/encoder.py,
 * bytes_to_unicode). Printable bytes of Latin-1 are themselves, the 68 others U+0100 to U+0143 in order. */
#ifndef NIBBLE_MODEL_BYTE_LEVEL_H
#define NIBBLE_MODEL_BYTE_LEVEL_H

#include <stdbool.h>
#include <stdint.h>

enum { BYTE_LEVEL_POINTS = 0x144 };

static inline bool byte_level_is_plain(uint32_t point)
{
    return (point >= 0x21 && point <= 0x7E) || (point >= 0xA1 && point <= 0xFF && point != 0xAD);
}

/* The character of a byte. */
static inline uint32_t byte_level_point(uint8_t byte)
{
    if (byte_level_is_plain(byte)) return byte;
    return byte <= 0x20 ? 0x100u + byte : byte == 0xAD ? 0x143u : 0x121u + (byte - 0x7Fu);
}

/* The byte of a character, or -1. */
static inline int byte_level_byte(uint32_t point)
{
    if (byte_level_is_plain(point)) return (int)point;
    if (point < 0x100 || point >= BYTE_LEVEL_POINTS) return -1;
    return point <= 0x120 ? (int)(point - 0x100) : point == 0x143 ? 0xAD : (int)(point - 0x121 + 0x7F);
}

#endif
