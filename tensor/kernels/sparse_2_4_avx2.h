/* Tiles of two of four (tensor/sparse.h) for x86-64: what the kernels for AVX2 and those for AVX-512 share. Only they include this.
 *
 * A lane of 32 bits is a row. Of the columns 4q .. 4q+3 a row has two codes, each at a place of its own: the two values of x that they are
 * multiplied by are picked from four, lane by lane, so that a product takes half the steps of a dense one. */
#ifndef NIBBLE_TENSOR_SPARSE_2_4_AVX2_H
#define NIBBLE_TENSOR_SPARSE_2_4_AVX2_H

#include "tensor/kernels/quads_avx2.h"
#include "tensor/sparse.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__BMI2__)

/* For each of the 32 numbers of a block its byte of a table of 64 (kernels_sparse_pairs); four of a row, 24 bits, make a lane of 32. With the
 * places that is, in the lane of each row, of quad q bits 4q .. : the first column | the second << 2. */
#if defined(__AVX512VBMI__)

INLINE __m256i pair_lookup(const uint8_t *mask, const uint8_t table[64])
{
#define LANE(n) (0x0505050403020100 + (n)*0x0606060606060606) /* six bytes, two rows, to 64 bits */
    const __m256i gather = _mm256_set_epi64x(LANE(3), LANE(2), LANE(1), LANE(0));
#undef LANE
    const __m256i shifts = _mm256_set1_epi64x(0x2A241E18120C0600);
    const __m256i rows = _mm256_permutexvar_epi8(gather, _mm256_maskz_loadu_epi8(0xFFFFFF, mask));
    const __m256i numbers = _mm256_multishift_epi64_epi8(shifts, rows); /* the lookup takes six bits */
    return _mm512_castsi512_si256(
        _mm512_permutexvar_epi8(_mm512_castsi256_si512(numbers), _mm512_loadu_si512(table)));
}

#else

/* A byte of 16 .. 31 of the table for numbers in that range, else 0, and so on: all but 16 numbers are made to have the high bit. */
INLINE __m256i pair_lookup_16(const uint8_t *table, __m256i numbers, int first)
{
    const __m256i from = _mm256_sub_epi8(numbers, _mm256_set1_epi8((char)first));
    return _mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(load_128(table + first)), _mm256_adds_epu8(from, _mm256_set1_epi8(0x70)));
}

INLINE __m256i pair_lookup(const uint8_t *mask, const uint8_t table[64])
{
    const __m256i gather = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1, 4, 5, 6, -1,
        7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
    const __m256i rows = _mm256_shuffle_epi8(_mm256_set_m128i(load_128(mask + 8), load_128(mask)), gather);
    const __m256i even = _mm256_or_si256(_mm256_and_si256(rows, _mm256_set1_epi32(0x3F)),
        _mm256_and_si256(_mm256_slli_epi32(rows, 4), _mm256_set1_epi32(0x3F0000)));
    const __m256i odd =
        _mm256_or_si256(_mm256_and_si256(_mm256_slli_epi32(rows, 2), _mm256_set1_epi32(0x3F00)),
            _mm256_and_si256(_mm256_slli_epi32(rows, 6), _mm256_set1_epi32(0x3F000000)));
    const __m256i numbers = _mm256_or_si256(even, odd);
    return _mm256_or_si256(
        _mm256_or_si256(pair_lookup_16(table, numbers, 0), pair_lookup_16(table, numbers, 16)),
        pair_lookup_16(table, numbers, 32));
}

#endif

/* Stored code n of every row, at bit *at of its lane. The lowest bits of a float's mantissa are enough for the codes of half a lane or more
 * where they lie; those above are moved down once for all. */
INLINE __m256i pair_word(const uint8_t *codes, uint32_t bits, uint32_t n, uint32_t *at)
{
    const uint32_t per_word = 32 / bits, split = 23 / bits * bits;
    const __m256i word = load_256(codes + n / per_word * 32);
    *at = n % per_word * bits;
    if (*at < split) return word;
    *at -= split;
    return _mm256_srli_epi32(word, (int)split);
}

/* The value of stored code n of every row, two's complement, as a float, without conversion: in the mantissa of 2^(23-at), at bit `at`,
 * the code with its sign bit turned counts 1 per unit, from which 2^(23-at) + 2^(bits-1) is taken, exactly. */
INLINE __m256 pair_value(const uint8_t *codes, uint32_t bits, uint32_t n)
{
    uint32_t at;
    const __m256i word = pair_word(codes, bits, n, &at);
    const int mask = (int)(((1u << bits) - 1) << at), sign = (int)(1u << (bits - 1) << at);
    const __m256i one = _mm256_set1_epi32((int)((150 - at) << 23 | (uint32_t)sign));
    const __m256 offset = _mm256_set1_ps((float)(1u << (23 - at)) + (float)(1u << (bits - 1)));
    const __m256i code = _mm256_xor_si256(_mm256_and_si256(word, _mm256_set1_epi32(mask)), one);
    return _mm256_sub_ps(_mm256_castsi256_ps(code), offset);
}

/* Half a block of all rows: the two codes of four quads, and where they belong. */
struct pairs {
    __m256 value[4][2];
    __m256i place[4][2];
};

INLINE struct pairs take_pairs(const uint8_t *codes, uint32_t bits, __m256i places, uint32_t first_quad)
{
    struct pairs pairs;
#pragma GCC unroll 8
    for (uint32_t q = 0; q < 4; q++) {
#pragma GCC unroll 8
        for (uint32_t s = 0; s < 2; s++) {
            pairs.value[q][s] = pair_value(codes, bits, 2 * (first_quad + q) + s);
            pairs.place[q][s] = _mm256_srli_epi32(places, (int)(4 * (first_quad + q) + 2 * s));
        }
    }
    return pairs;
}

/* The sum of the rows' values times x, which is that of the first quad; two sums, added in the end. */
INLINE __m256 dot_pairs(const struct pairs *pairs, const float *x)
{
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
#pragma GCC unroll 8
    for (uint32_t q = 0; q < 4; q++) {
        const __m256 four = _mm256_broadcast_ps((const __m128 *)(const void *)(x + 4 * q));
#pragma GCC unroll 8
        for (uint32_t s = 0; s < 2; s++)
            sums[s] =
                _mm256_fmadd_ps(pairs->value[q][s], _mm256_permutevar_ps(four, pairs->place[q][s]), sums[s]);
    }
    return _mm256_add_ps(sums[0], sums[1]);
}

/* The places of a block take a while to come, so they are begun a block early. */
INLINE void pairs_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, const uint16_t *scales, const float *x, uint64_t tokens, uint32_t bits,
    const uint8_t places[64])
{
    const uint64_t blocks = layout->dense.blocks;
    struct quads_walk walk = {.end = layout->dense.group};
    __m256i next = pair_lookup(masks, places);
    __m256 sums[TILE_TOKENS];
    for (uint64_t t = 0; t < tokens; t++)
        sums[t] = _mm256_setzero_ps();
    for (uint64_t block = 0; block < blocks; block++, codes += 16 * bits, x += tokens * TILE_COLS) {
        const __m256i here = next;
        if (block + 1 < blocks) next = pair_lookup(masks += SPARSE_2_4_BYTES, places);
#pragma GCC unroll 8
        for (uint32_t half = 0; half < 2; half++) {
            const struct half_grid grid = next_half_grid(&layout->dense, scales, NULL, &walk);
            const struct pairs pairs = take_pairs(codes, bits, here, 4 * half);
            for (uint64_t t = 0; t < tokens; t++)
                sums[t] =
                    _mm256_fmadd_ps(dot_pairs(&pairs, x + t * TILE_COLS + 16 * half), grid.scale, sums[t]);
        }
    }
    for (uint64_t t = 0; t < tokens; t++)
        _mm256_storeu_ps(y + t * TILE_ROWS, sums[t]);
}

/* A case for every width, and one for one token, whose sum then stays in a register. The tables are filled when a set is chosen. */
#define PAIRS_DOTS(set)                                                                                      \
    static struct sparse_pairs pairs_tables;                                                                 \
                                                                                                             \
    static void set##_sparse_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,        \
        const uint8_t *codes, const uint16_t *scales, const float *x, uint64_t tokens)                       \
    {                                                                                                        \
        switch (layout->bits << 1 | (tokens == 1)) {                                                         \
            PAIRS_CASE(2)                                                                                    \
            PAIRS_CASE(4)                                                                                    \
            PAIRS_CASE(8)                                                                                    \
        }                                                                                                    \
    }
#define PAIRS_CASE(bits)                                                                                     \
    case (bits) << 1 | 1:                                                                                    \
        pairs_dots(layout, y, masks, codes, scales, x, 1, bits, pairs_tables.places);                        \
        break;                                                                                               \
    case (bits) << 1:                                                                                        \
        pairs_dots(layout, y, masks, codes, scales, x, tokens, bits, pairs_tables.places);                   \
        break;

/* ---- spreading ---- */

/* Stored codes where they belong: a byte for each column, quad q of all rows. */
INLINE __m256i spread_quad(const uint8_t *codes, uint32_t bits, __m256i places, uint32_t q)
{
    __m256i bytes = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (uint32_t s = 0; s < 2; s++) {
        const uint32_t n = 2 * q + s, per_word = 32 / bits;
        const __m256i word = load_256(codes + n / per_word * 32);
        const __m256i code = _mm256_and_si256(
            _mm256_srli_epi32(word, (int)(n % per_word * bits)), _mm256_set1_epi32((1 << bits) - 1));
        const __m256i place =
            _mm256_and_si256(_mm256_srli_epi32(places, (int)(4 * q + 2 * s)), _mm256_set1_epi32(3));
        bytes = _mm256_or_si256(bytes, _mm256_sllv_epi32(code, _mm256_slli_epi32(place, 3)));
    }
    return bytes;
}

/* A block of tiles from one of two of four. */
INLINE void spread_pairs_block(
    uint8_t *out, const uint8_t *mask, const uint8_t *codes, uint32_t bits, const uint8_t table[64])
{
    const __m256i places = pair_lookup(mask, table);
    const uint32_t parts = 8 / bits;
    const __m256i zero = _mm256_set1_epi8((char)(bits == 2 ? 0xAA : bits == 4 ? 0x88 : 0x80));
#pragma GCC unroll 8
    for (uint32_t j = 0; j < bits; j++) {
        __m256i plane = zero;
#pragma GCC unroll 8
        for (uint32_t t = 0; t < parts; t++)
            plane = _mm256_xor_si256(
                plane, _mm256_slli_epi32(spread_quad(codes, bits, places, bits * t + j), (int)(bits * t)));
        _mm256_storeu_si256((__m256i *)(void *)(out + 32 * j), plane);
    }
}

INLINE void spread_pairs(uint8_t *out, uint64_t blocks, const uint8_t *masks, const uint8_t *codes,
    uint32_t bits, const uint8_t places[64])
{
    for (uint64_t block = 0; block < blocks; block++)
        spread_pairs_block(out + block * 32 * bits, masks + block * SPARSE_2_4_BYTES,
            codes + block * 16 * bits, bits, places);
}

#endif
#endif
