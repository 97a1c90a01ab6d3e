/* Sparse tiles (tensor/sparse.h) for x86-64 with AVX2, BMI2, FMA and F16C. On other processors this file overrides nothing. */
#include "tensor/kernels/kernels.h"
#include "tensor/kernels/sparse_bitmap_avx2.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__BMI2__)

/* For 8 bits of a mask: which of the bytes of 8 values in a row go where; 0x80 makes a zero. */
static uint8_t moves[256][16];
PAIRS_DOTS(avx2)

static void fill_tables(void)
{
    kernels_sparse_pairs(&pairs_tables);
    for (unsigned bits = 0; bits < 256; bits++) {
        for (unsigned i = 0, from = 0; i < 8; i++) {
            const bool kept = bits >> i & 1;
            moves[bits][2 * i] = (uint8_t)(kept ? from++ : 0x80);
            moves[bits][2 * i + 1] = (uint8_t)(kept ? from++ : 0x80);
        }
    }
}

INLINE uint64_t shuffle_block(BLOCK_ARGUMENTS)
{
    const uint8_t *from = codes;
    for (uint32_t i = 0; i < 32; i++) {
        const uint8_t bits = mask[i];
        const __m128i move = load_128(moves[bits]);
        _mm_storeu_si128(
            (__m128i *)(void *)(out + i / 4 * stride + i % 4 * 16), _mm_shuffle_epi8(load_128(from), move));
        from += 2 * count_ones(bits);
    }
    return (uint64_t)(from - codes);
}

INLINE uint64_t shuffle_pairs(BLOCK_ARGUMENTS)
{
    uint8_t bitmap[SPARSE_BITMAP_BYTES];
    _mm256_storeu_si256((__m256i *)(void *)bitmap, pair_lookup(mask, pairs_tables.bits));
    shuffle_block(out, stride, bitmap, codes);
    return 256;
}

#define SPREAD_KERNELS                                                                                       \
    (struct spread_kernels)                                                                                  \
    {                                                                                                        \
        deposit_2, deposit_4, deposit_8, shuffle_block, shuffle_pairs, pairs_tables.places                   \
    }

static void avx2_sparse_spread(const struct sparse_layout *layout, void *to, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes)
{
    spread_any(layout, to, masks, codes, code_bytes, SPREAD_KERNELS);
}

static void avx2_sparse_value_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes, const float *x, uint64_t tokens)
{
    value_dots_any(layout, y, masks, codes, code_bytes, x, tokens, SPREAD_KERNELS);
}

void kernels_override_sparse_avx2(struct kernels *table)
{
    fill_tables();
    table->sparse_spread = avx2_sparse_spread;
    table->sparse_dots = avx2_sparse_dots;
    table->sparse_value_dots = avx2_sparse_value_dots;
}

#else

void kernels_override_sparse_avx2(struct kernels *table)
{
    (void)table;
}

#endif
