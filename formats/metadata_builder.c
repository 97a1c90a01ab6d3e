/* See metadata_builder.h. */
#include "formats/metadata_builder.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/bytes.h"

enum { KEY_LIMIT = 65535 };

void metadata_builder_free(struct metadata_builder *builder)
{
    memory_free(builder->bytes);
    memory_free(builder->begins);
    json_keys_free(&builder->keys);
    memset(builder, 0, sizeof *builder);
}

enum status metadata_builder_status(const struct metadata_builder *builder, struct error *err)
{
    return builder->error.code ? fail(err, builder->error.code, "%s", builder->error.text) : OK;
}

/* ---- bytes ---- */

/* Room for `count` more bytes, which are in from here on; NULL after an error. */
static uint8_t *extend(struct metadata_builder *builder, uint64_t count)
{
    uint64_t needed;

    if (builder->error.code) return NULL;
    if (checked_add(&needed, builder->count, count)) {
        fail(&builder->error, ERR_MEMORY, "metadata of 2^64 bytes or more");
        return NULL;
    }
    if (memory_grow(&builder->bytes, &builder->capacity, needed, 1, &builder->error)) return NULL;
    uint8_t *at = builder->bytes + builder->count;
    builder->count = needed;
    return at;
}

static void put_number(struct metadata_builder *builder, uint64_t value, unsigned bytes)
{
    uint8_t *at = extend(builder, bytes);

    if (at) bytes_put(at, value, bytes);
}

static void put_bytes(struct metadata_builder *builder, const void *bytes, uint64_t count)
{
    uint8_t *at = extend(builder, count);

    if (at && count) memcpy(at, bytes, count);
}

static void put_string(struct metadata_builder *builder, const char *text, uint64_t bytes)
{
    put_number(builder, bytes, 8);
    put_bytes(builder, text, bytes);
}

static uint32_t float_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* ---- pairs ---- */

/* Key and type. False: nothing was begun, after an error or (*added false) because the key is there already. */
static bool begin_pair(
    struct metadata_builder *builder, const char *key, enum metadata_type type, bool *added)
{
    const uint64_t bytes = strlen(key);

    if (builder->error.code) return false;
    if (bytes == 0 || bytes > KEY_LIMIT) {
        fail(&builder->error, ERR_FORMAT, "metadata key %.32s: has %" PRIu64 " bytes, must have 1 to %d", key,
            bytes, KEY_LIMIT);
        return false;
    }
    if (json_keys_add(&builder->keys, key, bytes, added, &builder->error) || !*added) return false;
    if (memory_grow(&builder->begins, &builder->pair_capacity, builder->pairs + 1, sizeof *builder->begins,
            &builder->error))
        return false;
    builder->begins[builder->pairs++] = builder->count;
    put_string(builder, key, bytes);
    put_number(builder, type, 4);
    return true;
}

/* The same, where a second pair of the key is an error. */
static bool begin(struct metadata_builder *builder, const char *key, enum metadata_type type)
{
    bool added = true;

    if (begin_pair(builder, key, type, &added)) return true;
    if (!added && !builder->error.code)
        fail(&builder->error, ERR_FORMAT, "duplicate metadata key %.64s", key);
    return false;
}

void metadata_builder_u16(struct metadata_builder *builder, const char *key, uint16_t value)
{
    if (begin(builder, key, METADATA_U16)) put_number(builder, value, 2);
}

void metadata_builder_i32(struct metadata_builder *builder, const char *key, int32_t value)
{
    if (begin(builder, key, METADATA_I32)) put_number(builder, (uint32_t)value, 4);
}

void metadata_builder_u32(struct metadata_builder *builder, const char *key, uint32_t value)
{
    if (begin(builder, key, METADATA_U32)) put_number(builder, value, 4);
}

void metadata_builder_f32(struct metadata_builder *builder, const char *key, float value)
{
    if (begin(builder, key, METADATA_F32)) put_number(builder, float_bits(value), 4);
}

void metadata_builder_bool(struct metadata_builder *builder, const char *key, bool value)
{
    if (begin(builder, key, METADATA_BOOL)) put_number(builder, value, 1);
}

void metadata_builder_string(
    struct metadata_builder *builder, const char *key, const char *text, uint64_t bytes)
{
    if (begin(builder, key, METADATA_STRING)) put_string(builder, text, bytes);
}

void metadata_builder_text(struct metadata_builder *builder, const char *key, const char *terminated)
{
    metadata_builder_string(builder, key, terminated, strlen(terminated));
}

/* ---- arrays ---- */

static bool begin_array(
    struct metadata_builder *builder, const char *key, enum metadata_type element, uint64_t count)
{
    if (!begin(builder, key, METADATA_ARRAY)) return false;
    put_number(builder, element, 4);
    put_number(builder, count, 8);
    return true;
}

void metadata_builder_strings(
    struct metadata_builder *builder, const char *key, const struct json_text *texts, uint64_t count)
{
    if (!begin_array(builder, key, METADATA_STRING, count)) return;
    for (uint64_t i = 0; i < count; i++)
        put_string(builder, texts[i].bytes, texts[i].count);
}

void metadata_builder_i32s(
    struct metadata_builder *builder, const char *key, const int32_t *values, uint64_t count)
{
    if (!begin_array(builder, key, METADATA_I32, count)) return;
    for (uint64_t i = 0; i < count; i++)
        put_number(builder, (uint32_t)values[i], 4);
}

void metadata_builder_u8s(
    struct metadata_builder *builder, const char *key, const uint8_t *values, uint64_t count)
{
    if (!begin_array(builder, key, METADATA_U8, count)) return;
    for (uint64_t i = 0; i < count; i++)
        put_number(builder, values[i], 1);
}

void metadata_builder_f32s(
    struct metadata_builder *builder, const char *key, const float *values, uint64_t count)
{
    if (!begin_array(builder, key, METADATA_F32, count)) return;
    for (uint64_t i = 0; i < count; i++)
        put_number(builder, float_bits(values[i]), 4);
}

bool metadata_builder_find_u32(const struct metadata_builder *builder, const char *key, uint32_t *value)
{
    const uint64_t bytes = strlen(key);

    for (uint64_t i = 0; i < builder->pairs && !builder->error.code; i++) {
        const uint8_t *at = builder->bytes + builder->begins[i];
        if (bytes_get_u64(at) != bytes || memcmp(at + 8, key, bytes) != 0) continue;
        if (bytes_get_u32(at + 8 + bytes) != METADATA_U32) return false;
        *value = bytes_get_u32(at + 8 + bytes + 4);
        return true;
    }
    return false;
}

/* ---- carried over ---- */

/* The bytes of an array's elements. */
static uint64_t element_bytes(const struct metadata_item *item)
{
    const uint8_t *at = item->bytes;
    uint64_t bytes;

    if (item->element != METADATA_STRING) return item->count * metadata_type_bytes(item->element);
    for (uint64_t i = 0; i < item->count; i++)
        metadata_next_string(&at, &bytes);
    return (uint64_t)(at - item->bytes);
}

void metadata_builder_carry(struct metadata_builder *builder, const struct metadata_item *item)
{
    bool added;

    if (!begin_pair(builder, item->key, item->type, &added)) return;
    switch (item->type) {
    case METADATA_STRING:
        put_string(builder, (const char *)item->bytes, item->count);
        break;
    case METADATA_ARRAY:
        put_number(builder, item->element, 4);
        put_number(builder, item->count, 8);
        put_bytes(builder, item->bytes, element_bytes(item));
        break;
    default:
        put_bytes(builder, item->bytes, metadata_type_bytes(item->type));
    }
}
