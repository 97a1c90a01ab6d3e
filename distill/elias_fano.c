#include "distill/elias_fano.h"

#include <string.h>

struct elias_fano elias_fano_layout(uint32_t universe, uint32_t count)
{
    struct elias_fano code = {.universe = universe, .count = count};
    while (universe / count >> (code.low + 1))
        code.low++;
    code.upper = count + ((universe - 1) >> code.low);
    code.bytes = ((uint64_t)count * code.low + code.upper + 7) / 8;
    return code;
}

static void set_bit(uint8_t *bytes, uint64_t at)
{
    bytes[at / 8] |= (uint8_t)(1u << (at % 8));
}

void elias_fano_put(uint8_t *out, const struct elias_fano *code, const uint32_t *ids)
{
    const uint64_t unary = (uint64_t)code->count * code->low;
    memset(out, 0, code->bytes);
    for (uint32_t i = 0; i < code->count; i++) {
        for (uint32_t bit = 0; bit < code->low; bit++) {
            if (ids[i] >> bit & 1) set_bit(out, (uint64_t)i * code->low + bit);
        }
        set_bit(out, unary + (ids[i] >> code->low) + i);
    }
}

static uint32_t get_bits(const uint8_t *bytes, uint64_t at, uint32_t count)
{
    uint32_t value = 0;
    for (uint32_t i = 0; i < count; i++)
        value |= (uint32_t)(bytes[(at + i) / 8] >> ((at + i) % 8) & 1) << i;
    return value;
}

bool elias_fano_get(uint32_t *ids, const struct elias_fano *code, const uint8_t *bytes)
{
    const uint64_t unary = (uint64_t)code->count * code->low;
    uint32_t found = 0;
    for (uint64_t at = 0; at < code->bytes * 8 - unary; at++) {
        if (!(bytes[(unary + at) / 8] >> ((unary + at) % 8) & 1)) continue;
        if (at >= code->upper || found == code->count) return false;
        const uint32_t high = (uint32_t)at - found;
        ids[found] = high << code->low | get_bits(bytes, (uint64_t)found * code->low, code->low);
        if (ids[found] >= code->universe || (found > 0 && ids[found] < ids[found - 1])) return false;
        found++;
    }
    return found == code->count;
}
