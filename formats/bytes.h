/* Little-endian numbers at any address, byte by byte: no alignment is assumed and nothing is cast to a
 * structure, so what a file holds never depends on the compiler or the machine. */
#ifndef NIBBLE_FORMATS_BYTES_H
#define NIBBLE_FORMATS_BYTES_H

#include <stdint.h>

static inline uint64_t bytes_get(const uint8_t *at, unsigned count)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < count; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static inline uint16_t bytes_get_u16(const uint8_t *at)
{
    return (uint16_t)bytes_get(at, 2);
}

static inline uint32_t bytes_get_u32(const uint8_t *at)
{
    return (uint32_t)bytes_get(at, 4);
}

static inline uint64_t bytes_get_u64(const uint8_t *at)
{
    return bytes_get(at, 8);
}

/* Write the low `count` bytes of value. */
static inline void bytes_put(uint8_t *at, uint64_t value, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

#endif
