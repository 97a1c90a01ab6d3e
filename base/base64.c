/* See base64.h. Three bytes are four characters of six bits, the first byte in the highest. */
#include "base/base64.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* The six bits of a character, or -1. */
static int value_of(char character)
{
    const char *at = character ? strchr(alphabet, character) : NULL;

    return at ? (int)(at - alphabet) : -1;
}

/* Four characters, of which the last `padding` count as zeros. */
static enum status decode_four(
    uint8_t *out, const char *text, unsigned padding, uint64_t offset, struct error *err)
{
    uint32_t word = 0;

    for (unsigned i = 0; i < 4; i++) {
        const int value = i < 4 - padding ? value_of(text[i]) : 0;
        if (value < 0)
            return fail(err, ERR_FORMAT, "no base64: the character at %" PRIu64 " is none of it", offset + i);
        word = word << 6 | (uint32_t)value;
    }
    for (unsigned i = 0; i < 3 - padding; i++)
        out[i] = (uint8_t)(word >> (16 - 8 * i));
    return OK;
}

enum status base64_decode(uint8_t **out, uint64_t *bytes, const char *text, uint64_t count, struct error *err)
{
    uint64_t padding = 0;
    enum status status = OK;

    *out = NULL;
    if (count % 4)
        return fail(err, ERR_FORMAT, "no base64: %" PRIu64 " characters are no multiple of four", count);
    while (padding < 2 && padding < count && text[count - 1 - padding] == '=')
        padding++;
    uint8_t *decoded = memory_new(count / 4 * 3, 1, err);
    if (!decoded) return ERR_MEMORY;
    for (uint64_t at = 0; at < count && !status; at += 4)
        status =
            decode_four(decoded + at / 4 * 3, text + at, at + 4 == count ? (unsigned)padding : 0, at, err);
    if (status) {
        memory_free(decoded);
        return status;
    }
    *out = decoded;
    *bytes = count / 4 * 3 - padding;
    return OK;
}

char *base64_encode(const void *bytes, uint64_t count, struct error *err)
{
    const uint8_t *from = bytes;
    char *text = memory_new(count / 3 * 4 + 5, 1, err), *to = text;

    for (uint64_t at = 0; text && at < count; at += 3, to += 4) {
        const uint64_t left = count - at;
        const uint32_t word = (uint32_t)from[at] << 16 | (left > 1 ? (uint32_t)from[at + 1] << 8 : 0) |
                              (left > 2 ? from[at + 2] : 0);
        for (unsigned i = 0; i < 4; i++)
            to[i] = i > left ? '=' : alphabet[word >> (18 - 6 * i) & 63];
    }
    return text;
}
