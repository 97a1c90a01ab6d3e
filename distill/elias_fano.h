/* Sorted numbers in a fixed number of bytes (Elias 1974, Fano 1971), exactly: `count` ids below `universe`, rising; equal ones may
 * follow one another, so that multisets can be stored too.
 *
 *   bits 0 .. count * low - 1    the low bits of each id, least significant first, one id after the other
 *   then count + top bits        the rest of each id, in unary: for id number i bit (id >> low) + i is set, all others are clear;
 *                                top = (universe - 1) >> low
 *   then clear bits to the byte
 *
 * with low = floor(log2(universe / count)), 0 where count exceeds universe / 2. Bit b is bit b % 8 of byte b / 8. */
#ifndef NIBBLE_DISTILL_ELIAS_FANO_H
#define NIBBLE_DISTILL_ELIAS_FANO_H

#include <stdbool.h>
#include <stdint.h>

struct elias_fano {
    uint32_t universe, count;
    uint32_t low;   /* bits */
    uint32_t upper; /* bits of the unary part */
    uint64_t bytes; /* in all */
};

/* universe and count at least 1, universe at most 2^20. */
struct elias_fano elias_fano_layout(uint32_t universe, uint32_t count);

/* out [code->bytes], ids [count] rising and below universe (the caller sees to that). */
void elias_fano_put(uint8_t *out, const struct elias_fano *code, const uint32_t *ids);

/* ids [count] out. False, with ids of no meaning: these bytes are no such sequence (another number of set bits, an id beyond the
 * universe, falling ids, or set bits in the padding). */
bool elias_fano_get(uint32_t *ids, const struct elias_fano *code, const uint8_t *bytes);

#endif
