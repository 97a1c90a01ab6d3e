/* Key-value metadata of a file: what a GGUF file says of itself. Values lie where they are in the mapped file; every length was checked when
 * the file was opened, every type is checked when a value is asked for. */
#ifndef NIBBLE_FORMATS_METADATA_H
#define NIBBLE_FORMATS_METADATA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "formats/names.h"

/* The numbers are GGUF's. */
enum metadata_type {
    METADATA_U8 = 0,
    METADATA_I8 = 1,
    METADATA_U16 = 2,
    METADATA_I16 = 3,
    METADATA_U32 = 4,
    METADATA_I32 = 5,
    METADATA_F32 = 6,
    METADATA_BOOL = 7,
    METADATA_STRING = 8,
    METADATA_ARRAY = 9,
    METADATA_U64 = 10,
    METADATA_I64 = 11,
    METADATA_F64 = 12,
    METADATA_TYPES
};

/* "u32", "array". */
const char *metadata_type_name(enum metadata_type type);
/* Bytes of one number of the type; 0 for strings and arrays. */
uint32_t metadata_type_bytes(enum metadata_type type);

struct metadata_item {
    const char *key; /* owner: the container */
    enum metadata_type type;
    enum metadata_type element; /* arrays: of what; never arrays */
    uint64_t count;             /* arrays: elements; strings: bytes */
    const uint8_t *bytes;       /* the number; the string's bytes; the array's elements one after the other */
};

struct metadata {
    struct metadata_item *items; /* [count], in file order */
    uint64_t count, capacity;
    struct names_index index; /* sorted */
};

void metadata_free(struct metadata *metadata);

/* NULL if there is none. */
const struct metadata_item *metadata_find(const struct metadata *metadata, const char *key);

/* Typed values. Absent: *out is left as it is and OK is returned. ERR_FORMAT, naming the key: another type, or out of the
 * range (inclusive). Integers of every width are taken where they are not negative; numbers also as integers. */
enum status metadata_get_u64(const struct metadata *metadata, const char *key, uint64_t minimum,
    uint64_t maximum, uint64_t *out, struct error *err);
enum status metadata_get_number(const struct metadata *metadata, const char *key, double minimum,
    double maximum, double *out, struct error *err);
enum status metadata_get_bool(const struct metadata *metadata, const char *key, bool *out, struct error *err);
/* *out is not terminated and may hold anything. */
enum status metadata_get_string(
    const struct metadata *metadata, const char *key, const char **out, uint64_t *bytes, struct error *err);
/* *out is NULL where there is none. ERR_FORMAT: no array of `element`. */
enum status metadata_get_array(const struct metadata *metadata, const char *key, enum metadata_type element,
    const struct metadata_item **out, struct error *err);

/* The value of an item that is a number, as a double (exact up to 2^53). */
double metadata_value(const struct metadata_item *item);

/* Number `index` of an array of numbers, as a double (exact up to 2^53). */
double metadata_number_at(const struct metadata_item *array, uint64_t index);

/* The strings of an array in order: start at its bytes, call `count` times. Returns the string's bytes. */
const char *metadata_next_string(const uint8_t **at, uint64_t *bytes);

#endif
