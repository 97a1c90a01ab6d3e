/* Key-value metadata being put together: what a GGUF file will say of itself, already in the bytes of the file.
 *
 *   pair:  key: string | type: u32 | value       string: bytes: u64, then so many
 *                                                array:  element type: u32 | count: u64 | elements
 *
 * Functions below report nothing: the first thing that goes wrong is kept, later calls do nothing, and
 * metadata_builder_status tells. Keys have 1 to 65535 bytes; one that is there already is an error. Source: ggml's GGUF
 * specification. */
#ifndef NIBBLE_FORMATS_METADATA_BUILDER_H
#define NIBBLE_FORMATS_METADATA_BUILDER_H

#include "base/json.h"
#include "formats/metadata.h"

/* Zero-initialise; metadata_builder_free at the end. */
struct metadata_builder {
    uint8_t *bytes; /* [count] the pairs so far, one after the other */
    uint64_t count, capacity;
    uint64_t *begins; /* [pairs] where each begins */
    uint64_t pairs, pair_capacity;
    struct json_keys keys; /* of the pairs */
    struct error error;    /* the first; code OK: none */
};

void metadata_builder_free(struct metadata_builder *builder);

/* OK, or the first error: ERR_FORMAT naming the key, ERR_MEMORY. */
enum status metadata_builder_status(const struct metadata_builder *builder, struct error *err);

/* One pair each. `text` [bytes] need not be terminated; everything is copied. */
void metadata_builder_u16(struct metadata_builder *builder, const char *key, uint16_t value);
void metadata_builder_i32(struct metadata_builder *builder, const char *key, int32_t value);
void metadata_builder_u32(struct metadata_builder *builder, const char *key, uint32_t value);
void metadata_builder_f32(struct metadata_builder *builder, const char *key, float value);
void metadata_builder_bool(struct metadata_builder *builder, const char *key, bool value);
void metadata_builder_string(
    struct metadata_builder *builder, const char *key, const char *text, uint64_t bytes);
void metadata_builder_text(struct metadata_builder *builder, const char *key, const char *terminated);

/* Arrays of `count` elements. */
void metadata_builder_strings(
    struct metadata_builder *builder, const char *key, const struct json_text *texts, uint64_t count);
void metadata_builder_i32s(
    struct metadata_builder *builder, const char *key, const int32_t *values, uint64_t count);
void metadata_builder_u8s(
    struct metadata_builder *builder, const char *key, const uint8_t *values, uint64_t count);
void metadata_builder_f32s(
    struct metadata_builder *builder, const char *key, const float *values, uint64_t count);

/* The value of a pair that was added as a u32; false if there is none. */
bool metadata_builder_find_u32(const struct metadata_builder *builder, const char *key, uint32_t *value);

/* A pair of another file as it is there; passed over if its key is here already. */
void metadata_builder_carry(struct metadata_builder *builder, const struct metadata_item *item);

#endif
