/* See charsmap.h. A unit of the double array:
 *
 *     bit 31      its place holds a value, in bits 0 to 30
 *     bits 10-30  where the children lie, relative by XOR; bit 9: in steps of 256
 *     bit 8       a rule ends here: the child of byte 0 is its value
 *     bits 0-7    the byte by which this unit is reached */
#include "model/tokenizer/charsmap.h"

#include <inttypes.h>

#include "base/json.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "model/tokenizer/unicode.h"

enum { SHORT_GRAPHEME = 6 };

struct charsmap {
    uint32_t *units;
    uint64_t unit_count;
    char *strings; /* the last byte is a NUL */
    uint64_t string_bytes;
};

static enum status check(const uint8_t *table, uint64_t bytes, struct error *err)
{
    const uint64_t units = bytes >= 4 ? bytes_get_u32(table) : 0;

    if (units == 0 || units % 4 || units > bytes - 4)
        return fail(err, ERR_FORMAT, "precompiled_charsmap: %" PRIu64 " bytes hold no table of %" PRIu64,
            bytes, units);
    const char *strings = (const char *)table + 4 + units;
    const uint64_t left = bytes - 4 - units;
    if (left == 0 || strings[left - 1] != 0 || !json_valid_utf8(strings, left))
        return fail(err, ERR_FORMAT,
            "precompiled_charsmap: the strings at byte %" PRIu64 " are no UTF-8 ended by a NUL", 4 + units);
    return OK;
}

enum status charsmap_create(struct charsmap **out, const uint8_t *table, uint64_t bytes, struct error *err)
{
    enum status status = check(table, bytes, err);

    if (status) return status;
    struct charsmap *map = memory_new(1, sizeof *map, err);
    if (!map) return ERR_MEMORY;
    map->unit_count = bytes_get_u32(table) / 4;
    map->string_bytes = bytes - 4 - map->unit_count * 4;
    map->units = memory_new(map->unit_count, sizeof *map->units, err);
    map->strings = map->units ? memory_new(map->string_bytes, 1, err) : NULL;
    if (!map->strings) {
        charsmap_free(map);
        return ERR_MEMORY;
    }
    for (uint64_t i = 0; i < map->unit_count; i++)
        map->units[i] = bytes_get_u32(table + 4 + i * 4);
    memcpy(map->strings, table + 4 + map->unit_count * 4, map->string_bytes);
    *out = map;
    return OK;
}

void charsmap_free(struct charsmap *map)
{
    if (!map) return;
    memory_free(map->units);
    memory_free(map->strings);
    memory_free(map);
}

/* ---- finding a rule ---- */

static uint32_t children_of(uint32_t unit)
{
    return (unit >> 10) << ((unit & 1u << 9) >> 6);
}

static enum status outside(uint32_t unit, struct error *err)
{
    return fail(
        err, ERR_FORMAT, "precompiled_charsmap: a rule leads to %" PRIu32 ", outside of the table", unit);
}

/* A rule that begins a text.
 *   length  out: bytes that it takes in; 0: there is none
 *   value   out: where its replacement begins */
static enum status find(const struct charsmap *map, const char *text, uint64_t bytes, bool longest,
    uint64_t *length, uint32_t *value, struct error *err)
{
    uint32_t at = children_of(map->units[0]);

    *length = 0;
    for (uint64_t i = 0; i < bytes && text[i]; i++) {
        const uint8_t byte = (uint8_t)text[i];
        at ^= byte;
        if (at >= map->unit_count) return outside(at, err);
        const uint32_t unit = map->units[at];
        if ((unit & (1u << 31 | 0xFF)) != byte) break;
        at ^= children_of(unit);
        if (!(unit >> 8 & 1)) continue;
        if (at >= map->unit_count) return outside(at, err);
        *length = i + 1;
        *value = map->units[at] & ~(1u << 31);
        if (!longest) break;
    }
    return OK;
}

static bool is_inside_character(char byte)
{
    return ((uint8_t)byte & 0xC0) == 0x80;
}

static enum status append_replacement(
    const struct charsmap *map, struct text *out, uint32_t value, struct error *err)
{
    if (value >= map->string_bytes || is_inside_character(map->strings[value])) return outside(value, err);
    return text_append_string(out, map->strings + value, err);
}

/* ---- rewriting ---- */

/* Rewrite the begin of a text by the longest rule; *length: what that took in. */
static enum status rewrite_longest(const struct charsmap *map, struct text *out, const char *text,
    uint64_t bytes, uint64_t *length, struct error *err)
{
    uint32_t value;
    enum status status = find(map, text, bytes, true, length, &value, err);

    if (status) return status;
    if (*length == 0) {
        *length = unicode_length(*text);
        return text_append(out, text, *length, err);
    }
    if (*length < bytes && is_inside_character(text[*length]))
        return fail(err, ERR_FORMAT, "precompiled_charsmap: a rule takes in half a character");
    return append_replacement(map, out, value, err);
}

/* Rewrite a part as a whole, if a rule begins it. */
static enum status rewrite_part(const struct charsmap *map, struct text *out, const char *text,
    uint64_t bytes, bool *found, struct error *err)
{
    uint64_t length;
    uint32_t value;
    enum status status = find(map, text, bytes, false, &length, &value, err);

    *found = length > 0;
    return *found && !status ? append_replacement(map, out, value, err) : status;
}

static enum status rewrite_grapheme(const struct charsmap *map, struct text *out, const char *text,
    uint64_t bytes, uint64_t *length, struct error *err)
{
    bool found = false;
    enum status status = OK;
    unsigned character;

    *length = unicode_grapheme(text, bytes);
    if (*length < SHORT_GRAPHEME) status = rewrite_part(map, out, text, *length, &found, err);
    for (uint64_t at = 0; at < *length && !found && !status; at += character) {
        bool one = false;
        character = unicode_length(text[at]);
        status = rewrite_part(map, out, text + at, character, &one, err);
        if (!one && !status) status = text_append(out, text + at, character, err);
    }
    return status;
}

enum status charsmap_rewrite(const struct charsmap *map, struct text *out, const char *text, uint64_t bytes,
    bool longest, uint64_t *first, struct error *err)
{
    const uint64_t begin = out->count;
    uint64_t made = 0;
    enum status status = OK;

    for (uint64_t at = 0, length; at < bytes && !status; at += length) {
        /* What stands behind a first character that goes takes its place, as in the library. */
        const bool of_first = *first > 0 && (at < *first || made == 0);
        status =
            (longest ? rewrite_longest : rewrite_grapheme)(map, out, text + at, bytes - at, &length, err);
        if (of_first) made = out->count - begin;
    }
    *first = made;
    return status;
}
