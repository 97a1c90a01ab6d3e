/* Products with few tokens for x86-64 with AVX-512 (F, BW and VL) in registers of 256 bits: with AVX2 it waits for arithmetic,
 * not for memory. On other processors this file overrides nothing. The sums are those of AVX2, in the same order: the same bits.
 */
#include "tensor/kernels/kernels.h"
#include "tensor/kernels/quads_avx2.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)

/* code - zero of all codes of up to four bits in two registers: the low four bits of a lane pick one. Where a code is
 * narrower, whatever stands above it makes no difference. */
INLINE void step_table(__m256 table[2], uint32_t bits)
{
    const int top = 1 << bits, zero = top / 2;
#define STEP(i) (float)((i) % top - zero)
    table[0] = _mm256_setr_ps(STEP(0), STEP(1), STEP(2), STEP(3), STEP(4), STEP(5), STEP(6), STEP(7));
    table[1] = _mm256_setr_ps(STEP(8), STEP(9), STEP(10), STEP(11), STEP(12), STEP(13), STEP(14), STEP(15));
#undef STEP
}

/* Symmetric codes of up to four bits. Widths of one plane (2 and 4) are looked up where they lie: quad width * t + j begins at
 * bit width * t of the lanes of bytes j. */
INLINE __m256 step_looked_up(const uint8_t *block, uint32_t bits, uint32_t q, uint32_t k, __m256 zero)
{
    const bool one_plane = tiles_low_width(bits) == bits;
    const __m256i quad = one_plane ? load_256(block + 32 * (q % bits)) : get_quad(block, bits, q);
    const uint32_t begin = one_plane ? q / bits * bits : 0;
    __m256 table[2];
    (void)zero;
    step_table(table, bits);
    return _mm256_permutex2var_ps(table[0], _mm256_srli_epi32(quad, begin + 8 * k), table[1]);
}

/* All others: as with AVX2, but a code takes the place of the lowest byte of 2^23 in one step. */
INLINE __m256 step(const uint8_t *block, uint32_t bits, uint32_t q, uint32_t k, __m256 zero)
{
    const __m256i magic = _mm256_castps_si256(_mm256_set1_ps(0x1p23f));
    const __m256 offset = _mm256_add_ps(_mm256_set1_ps(0x1p23f), zero);
    const __m256i byte_k =
        _mm256_broadcastsi128_si256(_mm_setr_epi32((int)k, (int)(4 + k), (int)(8 + k), (int)(12 + k)));
    const __m256i code = _mm256_mask_shuffle_epi8(magic, 0x11111111, get_quad(block, bits, q), byte_k);
    return _mm256_sub_ps(_mm256_castsi256_ps(code), offset);
}

/* CASE(bits, step) for every width. */
#define CHOOSE_STEP(CASE)                                                                                    \
    if (!zeros) {                                                                                            \
        switch (layout->bits) {                                                                              \
            CASE(2, step_looked_up)                                                                          \
            CASE(3, step_looked_up)                                                                          \
            CASE(4, step_looked_up)                                                                          \
        }                                                                                                    \
    }                                                                                                        \
    switch (layout->bits) {                                                                                  \
        CASE(2, step)                                                                                        \
        CASE(3, step)                                                                                        \
        CASE(4, step)                                                                                        \
        CASE(5, step)                                                                                        \
        CASE(6, step)                                                                                        \
        CASE(8, step)                                                                                        \
    }

static void avx512_tile_dot(const struct tiles_layout *layout, float *y, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, const float *x)
{
#define CASE(constant, step)                                                                                 \
    case constant:                                                                                           \
        quads_tile_dot(layout, y, codes, scales, zeros, x, constant, step);                                  \
        return;
    CHOOSE_STEP(CASE)
#undef CASE
}

static void avx512_tile_dots(const struct tiles_layout *layout, float *y, const uint8_t *codes,
    const uint16_t *scales, const uint8_t *zeros, const float *x, uint64_t tokens)
{
#define CASE(constant, step)                                                                                 \
    case constant:                                                                                           \
        quads_tile_dots(layout, y, codes, scales, zeros, x, tokens, constant, step);                         \
        return;
    CHOOSE_STEP(CASE)
#undef CASE
}

void kernels_override_avx512(struct kernels *table)
{
    table->tile_dot = avx512_tile_dot;
    table->tile_dots = avx512_tile_dots;
}

#else

void kernels_override_avx512(struct kernels *table)
{
    (void)table;
}

#endif
