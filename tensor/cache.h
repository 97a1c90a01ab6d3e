/* Keys and values of attention in 8 or 4 bits (docs/methods/kv-cache.md has the reasons and the numbers).
 *
 * A strip holds the rows (keys, or values) of one head of one sequence, `size` numbers a position. A row is cut into groups of
 * CACHE_GROUP numbers (the last may be shorter) with a signed half-precision scale each:
 *
 *     x = scale / 16 * level(code) + center          8 bits: level = code - 128;  4 bits: cache_levels[code]
 *
 * Centers are there for keys only: a key is mostly the same from one position to the next, so what is stored is its difference
 * from the mean of the positions before. Position p belongs to a span: 0-7, 8-15, 16-31, 32-63, then 64 positions each; the
 * center of a span is the mean of the span before it as decoded, of the first one 0. What a row decodes to thus depends on the
 * rows up to it, never on how they were spread over calls, and rows may be dropped from the end at any time.
 *
 * strip:  codes [capacity][code_bytes] | scales f16 [capacity][groups] | centers f16 [spans][size] | to 64 bytes
 *         8 bits: a byte a code; 4 bits: byte i of a group of n has code i below and code i + n/2 above */
#ifndef NIBBLE_TENSOR_CACHE_H
#define NIBBLE_TENSOR_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define CACHE_GROUP 32
#define CACHE_SPAN 64 /* positions of a long span */
/* The largest magnitude that can be stored: its scale, 1.15 times what it would be without the search, is a finite half. */
#define CACHE_LARGEST 400000.0f

/* What the codes of 4 bits stand for, rising: Lloyd's algorithm (1982) on groups of 32 normal numbers, each under its best scale
 * of those that are tried. Whole numbers, the first -127. */
extern const int8_t cache_levels[16];

/* How a strip lies in memory. */
struct cache_layout {
    uint32_t bits, size, groups;
    bool centered;
    uint64_t capacity;
    uint64_t code_bytes;            /* of one row */
    uint64_t scales_at, centers_at; /* byte offsets in the strip */
    uint64_t bytes;                 /* of the strip, a multiple of 64 */
};

/* bits 8 or 4 (ERR_UNSUPPORTED otherwise); size even, at least 2, capacity at least 1 (ERR_USAGE). ERR_MEMORY: 2^40 bytes or
 * more. */
enum status cache_layout(struct cache_layout *out, uint32_t bits, uint32_t size, uint64_t capacity,
    bool centered, struct error *err);

/* Bytes that one more position takes in a strip, its share of a long span's center included: the numerator over CACHE_SPAN. */
uint64_t cache_row_bytes_spanwise(const struct cache_layout *layout);

/* The cache of one layer. Strips [sequences][kv_heads][layout.bytes], 64-byte aligned; owner: whoever made them. */
struct cache {
    struct cache_layout keys, values;
    uint8_t *key_strips, *value_strips;
};

/* Quantize rows into positions first .. first+count-1 of a strip; those before are there already.
 *   x  [count][size], rows `stride` floats apart
 * A group with NaN or infinity decodes to NaN. ERR_NUMERIC: a finite number whose scale is beyond half precision, naming the
 * position. One strip may be written by one thread at a time. The same bytes for every kernel set. */
enum status cache_write(const struct cache_layout *layout, uint8_t *strip, uint64_t first, const float *x,
    uint64_t stride, uint64_t count, struct error *err);

/* Decode positions first .. first+count-1 to out [count][size]. */
void cache_read(
    const struct cache_layout *layout, float *out, const uint8_t *strip, uint64_t first, uint64_t count);

/* Multiply rows x [rows][size] by an orthogonal matrix, in place: the Hadamard matrix of the largest power of two that divides
 * size, over each such part of the row. It spreads single large channels over all of them, is its own inverse, and leaves the
 * product of a query and a key as it is if both are rotated (QuaRot, arXiv 2404.00456). */
void cache_rotate(float *x, uint64_t rows, uint32_t size);

#endif
