/* The table of layouts, and bits to and from words. */
#include "formats/packed.h"

#include <string.h>

#define BITS(bits) (1u << (bits))
#define GPTQ_BITS (BITS(2) | BITS(3) | BITS(4) | BITS(8))
#define ALL_BITS (GPTQ_BITS | BITS(5) | BITS(6))
#define GPTQ_TENSORS                                                                                         \
    "gptq", "qweight", "scales", "qzeros", "g_idx", NULL, {false, true}, {true, false}, true, true

static const struct packed_layout layouts[PACKED_KINDS] = {
    [PACKED_GPTQ] = {"gptq", GPTQ_TENSORS, .zero_less = 1, .bits_mask = GPTQ_BITS},
    [PACKED_GPTQ_V2] = {"gptq-v2", GPTQ_TENSORS, .bits_mask = GPTQ_BITS},
    [PACKED_AWQ] = {"awq", "awq", "qweight", "scales", "qzeros", NULL, NULL, {true, false}, {true, false},
        true, true, .interleaved = true, .bits_mask = BITS(4)},
    [PACKED_COMPRESSED] = {"compressed-tensors", "compressed-tensors", "weight_packed", "weight_scale",
        "weight_zero_point", "weight_g_idx", "weight_shape", {false, false}, {true, true},
        .bits_mask = ALL_BITS},
    [PACKED_MLX] = {"mlx", "mlx", "weight", "scales", "biases", NULL, NULL, {false, false}, {false, false},
        .always_zeros = true, .biases = true, .bits_mask = ALL_BITS},
};

const struct packed_layout *packed_layout(enum packed_kind kind)
{
    return &layouts[kind];
}

uint64_t packed_words(uint64_t count, uint32_t bits)
{
    return count / 32 * bits + (count % 32 * bits + 31) / 32;
}

/* The nibble of a word that holds column c of eight. */
static const uint8_t nibbles[8] = {0, 4, 1, 5, 2, 6, 3, 7};

/* The bit of its line at which code i begins. */
static uint64_t bit_of(uint64_t i, uint32_t bits, bool interleaved)
{
    return interleaved ? (i & ~UINT64_C(7)) * 4 + nibbles[i % 8] * 4u : i * bits;
}

void packed_get(uint8_t *codes, uint64_t code_step, const uint32_t *words, uint64_t word_step, uint32_t first,
    uint64_t count, uint32_t bits, bool interleaved)
{
    const uint32_t mask = (1u << bits) - 1;

    for (uint64_t i = 0; i < count; i++) {
        const uint64_t bit = first + bit_of(i, bits, interleaved);
        const uint32_t *word = words + bit / 32 * word_step;
        const uint32_t shift = bit % 32;
        uint32_t code = *word >> shift;
        if (shift + bits > 32) code |= word[word_step] << (32 - shift);
        codes[i * code_step] = (uint8_t)(code & mask);
    }
}

void packed_put(uint32_t *words, uint64_t word_step, const uint8_t *codes, uint64_t code_step, uint64_t count,
    uint32_t bits, bool interleaved)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t bit = bit_of(i, bits, interleaved);
        uint32_t *word = words + bit / 32 * word_step;
        const uint32_t shift = bit % 32, code = codes[i * code_step];
        *word |= code << shift;
        if (shift + bits > 32) word[word_step] |= code >> (32 - shift);
    }
}
