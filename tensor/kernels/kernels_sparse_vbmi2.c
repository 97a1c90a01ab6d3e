/* Sparse tiles (tensor/sparse.h) for x86-64 with AVX-512 VBMI and VBMI2, which spread bytes and words by a mask. On other
 * processors this file overrides nothing. Codes of 2 bits are deposited, as with BMI2. */
#include "tensor/kernels/kernels.h"
#include "tensor/kernels/sparse_bitmap_avx2.h"

#if defined(__AVX512VBMI__) && defined(__AVX512VBMI2__) && defined(__AVX512BW__) && defined(__AVX512VL__)

PAIRS_DOTS(vbmi2)

/* The 64 codes of 4 bits that begin at bit `at` (0 or 4): a byte each, whose high bits are anything. Every lane of 64 bits gets the bytes
 * that its 8 codes are in. */
INLINE __m512i take_64(const uint8_t *codes, uint32_t at)
{
#define LANE(n) (0x0706050403020100 + (n)*0x0404040404040404)
    const __m512i gather =
        _mm512_set_epi64(LANE(7), LANE(6), LANE(5), LANE(4), LANE(3), LANE(2), LANE(1), LANE(0));
#undef LANE
    const __m512i shifts =
        _mm512_set1_epi64((long long)(0x1C1814100C080400 + at * UINT64_C(0x0101010101010101)));
    return _mm512_multishift_epi64_epi8(shifts, _mm512_permutexvar_epi8(gather, _mm512_loadu_si512(codes)));
}

/* Two bytes next to one another become one, the second's code above the first's. */
INLINE uint64_t expand_4(BLOCK_ARGUMENTS)
{
    const __m512i low = _mm512_set1_epi16(0xF);
    uint64_t at = 0; /* in codes */
    (void)stride;
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
        const uint64_t kept = load_u64(mask + 8 * i);
        const __m512i spread =
            _mm512_maskz_expand_epi8((__mmask64)kept, take_64(codes + at / 2, (uint32_t)(at % 2 * 4)));
        const __m512i two = _mm512_ternarylogic_epi32(low, spread, _mm512_srli_epi16(spread, 4), 0xCA);
        _mm256_storeu_si256((__m256i *)(void *)(out + 32 * i),
            _mm256_xor_si256(_mm512_cvtepi16_epi8(two), _mm256_set1_epi8((char)0x88)));
        at += count_ones(kept);
    }
    return (at + 1) / 2;
}

INLINE uint64_t expand_8(BLOCK_ARGUMENTS)
{
    const uint8_t *from = codes;
    (void)stride;
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
        const uint64_t kept = load_u64(mask + 8 * i);
        const __m512i spread = _mm512_maskz_expand_epi8((__mmask64)kept, _mm512_loadu_si512(from));
        _mm512_storeu_si512(out + 64 * i, _mm512_xor_si512(spread, _mm512_set1_epi8((char)0x80)));
        from += count_ones(kept);
    }
    return (uint64_t)(from - codes);
}

/* Values: a row of the block at a time. */
INLINE uint64_t expand_16(BLOCK_ARGUMENTS)
{
    const uint8_t *from = codes;
#pragma GCC unroll 8
    for (uint32_t row = 0; row < TILE_ROWS; row++) {
        uint32_t kept;
        memcpy(&kept, mask + 4 * row, sizeof kept);
        _mm512_storeu_si512(
            out + row * stride, _mm512_maskz_expand_epi16((__mmask32)kept, _mm512_loadu_si512(from)));
        from += 2 * count_ones(kept);
    }
    return (uint64_t)(from - codes);
}

INLINE uint64_t expand_pairs(BLOCK_ARGUMENTS)
{
    uint8_t bitmap[SPARSE_BITMAP_BYTES];
    _mm256_storeu_si256((__m256i *)(void *)bitmap, pair_lookup(mask, pairs_tables.bits));
    expand_16(out, stride, bitmap, codes);
    return 256;
}

#define SPREAD_KERNELS                                                                                       \
    (struct spread_kernels)                                                                                  \
    {                                                                                                        \
        deposit_2, expand_4, expand_8, expand_16, expand_pairs, pairs_tables.places                          \
    }

static void vbmi2_sparse_spread(const struct sparse_layout *layout, void *to, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes)
{
    spread_any(layout, to, masks, codes, code_bytes, SPREAD_KERNELS);
}

static void vbmi2_sparse_value_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes, const float *x, uint64_t tokens)
{
    value_dots_any(layout, y, masks, codes, code_bytes, x, tokens, SPREAD_KERNELS);
}

void kernels_override_sparse_vbmi2(struct kernels *table)
{
    kernels_sparse_pairs(&pairs_tables);
    table->sparse_spread = vbmi2_sparse_spread;
    table->sparse_dots = vbmi2_sparse_dots;
    table->sparse_value_dots = vbmi2_sparse_value_dots;
}

#else

void kernels_override_sparse_vbmi2(struct kernels *table)
{
    (void)table;
}

#endif
