/* The table of layouts, and bits to and from words. */
#include "formats/packed/packed.h"

#include <string.h>

#define BITS(bits) (1u << (bits))
#define GPTQ_BITS (BITS(2) | BITS(3) | BITS(4) | BITS(8))
#define ALL_BITS (GPTQ_BITS | BITS(5) | BITS(6))
#define GPTQ                                                                                                 \
    .method = "gptq", .codes = "qweight", .scales = "scales", .zeros = "qzeros", .order = "g_idx",           \
    .code_plane = {.words_first = true}, .zero_plane = {.along_rows = true}, .scales_first = true,           \
    .always_order = true, .always_zeros = true, .bits_mask = GPTQ_BITS

static const struct packed_layout layouts[PACKED_KINDS] = {
    [PACKED_GPTQ] = {.name = "gptq", GPTQ, .zero_less = 1},
    [PACKED_GPTQ_V2] = {.name = "gptq-v2", GPTQ},
    [PACKED_AWQ] = {.name = "awq",
        .method = "awq",
        .codes = "qweight",
        .scales = "scales",
        .zeros = "qzeros",
        .code_plane = {.along_rows = true},
        .zero_plane = {.along_rows = true},
        .scales_first = true,
        .always_zeros = true,
        .interleaved = true,
        .bits_mask = BITS(4)},
    [PACKED_COMPRESSED] = {.name = "compressed-tensors",
        .method = "compressed-tensors",
        .codes = "weight_packed",
        .scales = "weight_scale",
        .zeros = "weight_zero_point",
        .order = "weight_g_idx",
        .shape = "weight_shape",
        .zero_plane = {.along_rows = true, .words_first = true},
        .bits_mask = ALL_BITS},
    [PACKED_MLX] = {.name = "mlx",
        .method = "mlx",
        .codes = "weight",
        .scales = "scales",
        .zeros = "biases",
        .always_zeros = true,
        .biases = true,
        .bits_mask = ALL_BITS},
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
