/* Hashes for the tokenizer's open-addressing tables. Which keys collide is known to whoever writes a file, so no table
 * searches further than HASH_PROBE_LIMIT slots: a table of honest keys, at most half full, never comes near it, and a
 * file made of colliding keys is refused instead of taking hours. */
#ifndef NIBBLE_MODEL_HASH_H
#define NIBBLE_MODEL_HASH_H

#include <stdint.h>
#include <string.h>

enum { HASH_PROBE_LIMIT = 1024 };

static inline uint64_t hash_mix(uint64_t value)
{
    value ^= value >> 32;
    value *= UINT64_C(0xD6E8FEB86659FD93);
    value ^= value >> 32;
    value *= UINT64_C(0xD6E8FEB86659FD93);
    return value ^ value >> 32;
}

static inline uint64_t hash_pair(uint32_t a, uint32_t b)
{
    return hash_mix((uint64_t)a << 32 | b);
}

static inline uint64_t hash_bytes(const void *bytes, uint64_t count)
{
    const char *at = bytes;
    uint64_t hash = count * UINT64_C(0x9E3779B97F4A7C15), word;

    for (; count >= 8; at += 8, count -= 8) {
        memcpy(&word, at, 8);
        hash = (hash ^ word) * UINT64_C(0xD6E8FEB86659FD93);
        hash ^= hash >> 32;
    }
    word = 0;
    if (count > 0) memcpy(&word, at, count);
    return hash_mix(hash ^ word);
}

/* The number of slots, a power of two, that keeps `count` keys at most half full. */
static inline uint64_t hash_slots(uint64_t count)
{
    uint64_t slots = 64;
    while (slots < count * 2)
        slots *= 2;
    return slots;
}

#endif
