/* Tiles with a bitmap (tensor/sparse.h) for x86-64: the walk over blocks that the kernels for AVX2 and those for AVX-512 share. Only they
 * include this. */
#ifndef NIBBLE_TENSOR_SPARSE_BITMAP_AVX2_H
#define NIBBLE_TENSOR_SPARSE_BITMAP_AVX2_H

#include "tensor/kernels/sparse_2_4_avx2.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__BMI2__)

INLINE uint64_t load_u64(const void *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

INLINE uint32_t count_ones(uint64_t word)
{
    return (uint32_t)__builtin_popcountll(word);
}

/* Spread one block; returns how many bytes of codes it has. May read SPARSE_SLACK bytes more than a block has at most.
 *   stride  of 16-bit values: bytes from one row of `out` to the next */
typedef uint64_t (*spread_block)(uint8_t *out, uint64_t stride, const uint8_t *mask, const uint8_t *codes);

/* Whatever the masks say, what is read ends with the slack: a block that begins too near to it is read from a copy. */
INLINE uint64_t spread_near_end(uint8_t *out, uint64_t stride, const uint8_t *mask, const uint8_t *codes,
    uint64_t left, uint64_t most, spread_block spread)
{
    uint8_t copy[TILE_ROWS * TILE_COLS * 2 + SPARSE_SLACK];
    const uint64_t there = left + SPARSE_SLACK, count = there < most ? there : most;
    memcpy(copy, codes, count);
    memset(copy + count, 0, most + SPARSE_SLACK - count);
    const uint64_t taken = spread(out, stride, mask, copy);
    return taken < left ? taken : left;
}

/* All blocks of a tile. out_step: bytes from a block to the next; stride: of 16-bit values, bytes from row to row. */
INLINE void spread_blocks(uint8_t *out, uint64_t out_step, uint64_t stride, uint64_t blocks,
    const uint8_t *masks, uint64_t mask_bytes, const uint8_t *codes, uint64_t code_bytes, uint64_t most,
    spread_block spread)
{
    uint64_t at = 0;
    for (uint64_t block = 0; block < blocks; block++, out += out_step, masks += mask_bytes) {
        if (at + most <= code_bytes) /* and the slack behind */
            at += spread(out, stride, masks, codes + at);
        else
            at += spread_near_end(out, stride, masks, codes + at, code_bytes - at, most, spread);
    }
}

/* ---- codes, by depositing bits ---- */

/* A block of codes of `bits` bits: 64 bits of the block at a time. Codes begin at any bit of a byte; two loads have all of 64. */
INLINE uint64_t deposit_block(uint8_t *out, const uint8_t *mask, const uint8_t *codes, uint32_t bits)
{
    const uint64_t lowest = bits == 2   ? 0x5555555555555555
                            : bits == 4 ? 0x1111111111111111
                                        : 0x0101010101010101;
    const uint64_t ones = (UINT64_C(1) << bits) - 1, zero = lowest << (bits - 1);
    const uint32_t per_word = 64 / bits, words = 256 / per_word;
    uint64_t at = 0; /* in bits */
#pragma GCC unroll 4
    for (uint32_t i = 0; i < words; i++, out += 8) {
        uint64_t kept = 0;
        memcpy(&kept, mask + i * per_word / 8, per_word / 8);
        const uint8_t *from = codes + at / 8;
        uint64_t word = load_u64(from);
        if (bits < 8) word = word >> at % 8 | load_u64(from + 1) << (8 - at % 8);
        const uint64_t spread = _pdep_u64(word, _pdep_u64(kept, lowest) * ones) ^ zero;
        memcpy(out, &spread, sizeof spread);
        at += count_ones(kept) * bits;
    }
    return (at + 7) / 8;
}

#define BLOCK_ARGUMENTS uint8_t *out, uint64_t stride, const uint8_t *mask, const uint8_t *codes

INLINE uint64_t deposit_2(BLOCK_ARGUMENTS)
{
    (void)stride;
    return deposit_block(out, mask, codes, 2);
}

INLINE uint64_t deposit_4(BLOCK_ARGUMENTS)
{
    (void)stride;
    return deposit_block(out, mask, codes, 4);
}

INLINE uint64_t deposit_8(BLOCK_ARGUMENTS)
{
    (void)stride;
    return deposit_block(out, mask, codes, 8);
}

/* ---- the choice ---- */

/* What a block is spread by, for each width; 2:4 of codes is the same for all. */
struct spread_kernels {
    spread_block codes_2, codes_4, codes_8, values, value_pairs;
    const uint8_t *places; /* [64] */
};

INLINE void spread_any(const struct sparse_layout *layout, uint8_t *out, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes, struct spread_kernels by)
{
    const uint64_t blocks = layout->dense.blocks, row = 64 * blocks, m = SPARSE_BITMAP_BYTES;
    switch (layout->bits << 1 | (layout->mask == MASK_2_4)) {
    case 2 << 1:
        spread_blocks(out, 64, 0, blocks, masks, m, codes, code_bytes, 64, by.codes_2);
        break;
    case 4 << 1:
        spread_blocks(out, 128, 0, blocks, masks, m, codes, code_bytes, 128, by.codes_4);
        break;
    case 8 << 1:
        spread_blocks(out, 256, 0, blocks, masks, m, codes, code_bytes, 256, by.codes_8);
        break;
    case 16 << 1:
        spread_blocks(out, 64, row, blocks, masks, m, codes, code_bytes, 512, by.values);
        break;
    case 2 << 1 | 1:
        spread_pairs(out, blocks, masks, codes, 2, by.places);
        break;
    case 4 << 1 | 1:
        spread_pairs(out, blocks, masks, codes, 4, by.places);
        break;
    case 8 << 1 | 1:
        spread_pairs(out, blocks, masks, codes, 8, by.places);
        break;
    case 16 << 1 | 1:
        spread_blocks(out, 64, row, blocks, masks, SPARSE_2_4_BYTES, codes, code_bytes, 256, by.value_pairs);
        break;
    }
}

/* ---- products of values ---- */

INLINE __m256 load_values(const uint8_t *at, bool brain)
{
    const __m128i eight = load_128(at);
    if (brain) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
    return _mm256_cvtph_ps(eight);
}

/* The lanes of a sum, from the middle: ((0+4)+(2+6)) + ((1+5)+(3+7)). */
INLINE float sum_of_lanes(__m256 sum)
{
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Every block is spread to a place that stays in the first cache, and multiplied there. A sum of eight lanes for each token and row. */
INLINE void value_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes, const float *x, uint64_t tokens, bool brain,
    spread_block spread, uint64_t most)
{
    const uint64_t blocks = layout->dense.blocks, mask_bytes = layout->mask_bytes;
    uint8_t values[TILE_ROWS * TILE_COLS * 2];
    __m256 sums[TILE_TOKENS][TILE_ROWS];
    uint64_t at = 0;
    for (uint64_t i = 0; i < tokens * TILE_ROWS; i++)
        sums[i / TILE_ROWS][i % TILE_ROWS] = _mm256_setzero_ps();
    for (uint64_t block = 0; block < blocks; block++, masks += mask_bytes, x += tokens * TILE_COLS) {
        if (at + most <= code_bytes)
            at += spread(values, 64, masks, codes + at);
        else
            at += spread_near_end(values, 64, masks, codes + at, code_bytes - at, most, spread);
        for (uint64_t t = 0; t < tokens; t++) {
#pragma GCC unroll 8
            for (uint32_t row = 0; row < TILE_ROWS; row++) {
#pragma GCC unroll 4
                for (uint32_t i = 0; i < 4; i++)
                    sums[t][row] = _mm256_fmadd_ps(load_values(values + 64 * row + 16 * i, brain),
                        _mm256_loadu_ps(x + t * TILE_COLS + 8 * i), sums[t][row]);
            }
        }
    }
    for (uint64_t i = 0; i < tokens * TILE_ROWS; i++)
        y[i] = sum_of_lanes(sums[i / TILE_ROWS][i % TILE_ROWS]);
}

/* A case for one token, whose sums then stay in registers. */
INLINE void value_dots_any(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes, const float *x, uint64_t tokens, struct spread_kernels by)
{
#define VALUE_DOTS(tokens, brain)                                                                            \
    if (layout->mask == MASK_BITMAP)                                                                         \
        value_dots(layout, y, masks, codes, code_bytes, x, tokens, brain, by.values, 512);                   \
    else                                                                                                     \
        value_dots(layout, y, masks, codes, code_bytes, x, tokens, brain, by.value_pairs, 256);
    switch ((tokens == 1) << 1 | (layout->dtype == DTYPE_BF16)) {
    case 0:
        VALUE_DOTS(tokens, false)
        break;
    case 1:
        VALUE_DOTS(tokens, true)
        break;
    case 2:
        VALUE_DOTS(1, false)
        break;
    case 3:
        VALUE_DOTS(1, true)
        break;
    }
#undef VALUE_DOTS
}

#endif
#endif
