/* See metadata.h. */
#include "formats/metadata.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "formats/bytes.h"

/* ---- types ---- */

static const struct {
    const char *name;
    uint32_t bytes;
} types[METADATA_TYPES] = {
    [METADATA_U8] = {"u8", 1},
    [METADATA_I8] = {"i8", 1},
    [METADATA_U16] = {"u16", 2},
    [METADATA_I16] = {"i16", 2},
    [METADATA_U32] = {"u32", 4},
    [METADATA_I32] = {"i32", 4},
    [METADATA_F32] = {"f32", 4},
    [METADATA_BOOL] = {"bool", 1},
    [METADATA_STRING] = {"string", 0},
    [METADATA_ARRAY] = {"array", 0},
    [METADATA_U64] = {"u64", 8},
    [METADATA_I64] = {"i64", 8},
    [METADATA_F64] = {"f64", 8},
};

const char *metadata_type_name(enum metadata_type type)
{
    return types[type].name;
}

uint32_t metadata_type_bytes(enum metadata_type type)
{
    return types[type].bytes;
}

static bool is_signed(enum metadata_type type)
{
    return type == METADATA_I8 || type == METADATA_I16 || type == METADATA_I32 || type == METADATA_I64;
}

static bool is_integer(enum metadata_type type)
{
    return is_signed(type) || type == METADATA_U8 || type == METADATA_U16 || type == METADATA_U32 ||
           type == METADATA_U64;
}

/* ---- finding ---- */

void metadata_free(struct metadata *metadata)
{
    memory_free(metadata->items);
    names_index_free(&metadata->index);
    memset(metadata, 0, sizeof *metadata);
}

const struct metadata_item *metadata_find(const struct metadata *metadata, const char *key)
{
    uint64_t number;

    return names_find(&metadata->index, key, &number) ? &metadata->items[number] : NULL;
}

static enum status wrong_type(const struct metadata_item *item, const char *wanted, struct error *err)
{
    return fail(
        err, ERR_FORMAT, "%s: is of type %s, must be %s", item->key, metadata_type_name(item->type), wanted);
}

/* ---- numbers ---- */

/* An integer's bits, sign extended. */
static uint64_t integer_bits(const uint8_t *bytes, enum metadata_type type)
{
    const unsigned width = 8 * types[type].bytes;
    const uint64_t bits = bytes_get(bytes, types[type].bytes);

    if (!is_signed(type) || width == 64 || !(bits >> (width - 1))) return bits;
    return bits | ~UINT64_C(0) << width;
}

static double number_at(const uint8_t *bytes, enum metadata_type type)
{
    uint64_t bits = bytes_get(bytes, types[type].bytes);
    uint32_t low = (uint32_t)bits;
    float single;
    double value;

    switch (type) {
    case METADATA_F32:
        memcpy(&single, &low, sizeof single);
        return (double)single;
    case METADATA_F64:
        memcpy(&value, &bits, sizeof value);
        return value;
    default:
        bits = integer_bits(bytes, type);
        return is_signed(type) ? (double)(int64_t)bits : (double)bits;
    }
}

enum status metadata_get_u64(const struct metadata *metadata, const char *key, uint64_t minimum,
    uint64_t maximum, uint64_t *out, struct error *err)
{
    const struct metadata_item *item = metadata_find(metadata, key);

    if (!item) return OK;
    if (!is_integer(item->type)) return wrong_type(item, "an integer", err);
    const uint64_t value = integer_bits(item->bytes, item->type);
    const bool negative = is_signed(item->type) && value >> 63;
    if (negative || value < minimum || value > maximum) {
        return fail(err, ERR_FORMAT, "%s: is %s%" PRIu64 ", must be %" PRIu64 " to %" PRIu64, key,
            negative ? "-" : "", negative ? 0 - value : value, minimum, maximum);
    }
    *out = value;
    return OK;
}

enum status metadata_get_number(const struct metadata *metadata, const char *key, double minimum,
    double maximum, double *out, struct error *err)
{
    const struct metadata_item *item = metadata_find(metadata, key);

    if (!item) return OK;
    if (!is_integer(item->type) && item->type != METADATA_F32 && item->type != METADATA_F64)
        return wrong_type(item, "a number", err);
    const double value = number_at(item->bytes, item->type);
    if (!(value >= minimum && value <= maximum))
        return fail(err, ERR_FORMAT, "%s: is %g, must be %g to %g", key, value, minimum, maximum);
    *out = value;
    return OK;
}

enum status metadata_get_bool(const struct metadata *metadata, const char *key, bool *out, struct error *err)
{
    const struct metadata_item *item = metadata_find(metadata, key);

    if (!item) return OK;
    if (item->type != METADATA_BOOL) return wrong_type(item, "bool", err);
    *out = *item->bytes != 0;
    return OK;
}

/* ---- strings and arrays ---- */

enum status metadata_get_string(
    const struct metadata *metadata, const char *key, const char **out, uint64_t *bytes, struct error *err)
{
    const struct metadata_item *item = metadata_find(metadata, key);

    if (!item) return OK;
    if (item->type != METADATA_STRING) return wrong_type(item, "string", err);
    *out = (const char *)item->bytes;
    *bytes = item->count;
    return OK;
}

enum status metadata_get_array(const struct metadata *metadata, const char *key, enum metadata_type element,
    const struct metadata_item **out, struct error *err)
{
    const struct metadata_item *item = *out = metadata_find(metadata, key);

    if (!item) return OK;
    if (item->type == METADATA_ARRAY && item->element == element) return OK;
    *out = NULL;
    if (item->type != METADATA_ARRAY) return wrong_type(item, "array", err);
    return fail(err, ERR_FORMAT, "%s: is an array of %s, must be of %s", key,
        metadata_type_name(item->element), metadata_type_name(element));
}

double metadata_value(const struct metadata_item *item)
{
    return number_at(item->bytes, item->type);
}

double metadata_number_at(const struct metadata_item *array, uint64_t index)
{
    return number_at(array->bytes + index * types[array->element].bytes, array->element);
}

const char *metadata_next_string(const uint8_t **at, uint64_t *bytes)
{
    const char *text = (const char *)*at + 8;

    *bytes = bytes_get_u64(*at);
    *at += 8 + *bytes;
    return text;
}
