/* Checked arithmetic for sizes and offsets that come from a file. Every helper returns true when the result does not
 * fit, so that a validation reads `if (checked_add(&end, begin, bytes) || end > file_bytes) return fail(...)`. */
#ifndef NIBBLE_BASE_CHECKED_H
#define NIBBLE_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

static inline bool checked_add(uint64_t *sum, uint64_t a, uint64_t b)
{
    return __builtin_add_overflow(a, b, sum);
}

static inline bool checked_multiply(uint64_t *product, uint64_t a, uint64_t b)
{
    return __builtin_mul_overflow(a, b, product);
}

/* Round value up to a multiple of alignment (a power of two, at least 1). */
static inline bool checked_align(uint64_t *aligned, uint64_t value, uint64_t alignment)
{
    uint64_t sum;
    if (__builtin_add_overflow(value, alignment - 1, &sum)) return true;
    *aligned = sum & ~(alignment - 1);
    return false;
}

#endif
