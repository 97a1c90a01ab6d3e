/* Fitting sub-blocks (tensor/kernels/block_lanes.h) for x86-64 with AVX-512 (F, BW and VL): sixteen lanes in a register. On other
 * processors this file overrides nothing. No fused products: the same bits as the scalar set. */
#include "tensor/kernels/kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)

#include <immintrin.h>

typedef __m512 lanes;
typedef __mmask16 lanes_mask;
#define LANES_WIDTH 16
#define LANES_KERNEL(name) avx512_##name
#define lanes_load(at) _mm512_loadu_ps(at)
#define lanes_store(at, x) _mm512_storeu_ps((at), (x))
#define lanes_all(x) _mm512_set1_ps(x)
#define lanes_add(a, b) _mm512_add_ps((a), (b))
#define lanes_sub(a, b) _mm512_sub_ps((a), (b))
#define lanes_mul(a, b) _mm512_mul_ps((a), (b))
#define lanes_div(a, b) _mm512_div_ps((a), (b))
#define lanes_min(a, b) _mm512_min_ps((a), (b))
#define lanes_max(a, b) _mm512_max_ps((a), (b))
#define lanes_above(a, b) _mm512_cmp_ps_mask((a), (b), _CMP_GT_OQ)
#define lanes_choose(mask, a, b) _mm512_mask_blend_ps((mask), (b), (a))
#define lanes_round(x) _mm512_roundscale_ps((x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

#define INLINE static inline __attribute__((always_inline))

/* 16 levels, and the 15 points halfway between one and the next. */
typedef struct {
    __m512 levels, halfway;
} lanes_table;

INLINE lanes_table lanes_table_of(const int8_t *levels)
{
    float halfway[16] = {0};
    for (int k = 0; k < 15; k++)
        halfway[k] = (float)(levels[k] + levels[k + 1]) / 2;
    const __m128i all = _mm_loadu_si128((const __m128i *)(const void *)levels);
    return (lanes_table){_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(all)), _mm512_loadu_ps(halfway)};
}

/* Bisection: `code` rises by half the stretch that is left where x lies above the point before its upper half. */
INLINE __m512i bisect(const lanes_table *table, __m512i code, int half, __m512 x)
{
    const __m512i upper = _mm512_add_epi32(code, _mm512_set1_epi32(half));
    const __m512i point = _mm512_add_epi32(code, _mm512_set1_epi32(half - 1));
    return _mm512_mask_mov_epi32(code, lanes_above(x, _mm512_permutexvar_ps(point, table->halfway)), upper);
}

INLINE __m512i nearest_codes(const lanes_table *table, __m512 x)
{
    __m512i code = _mm512_setzero_si512();
    for (int half = 8; half; half /= 2)
        code = bisect(table, code, half, x);
    return code;
}

INLINE __m512 lanes_nearest(const lanes_table *table, __m512 x)
{
    return _mm512_permutexvar_ps(nearest_codes(table, x), table->levels);
}

#include "tensor/kernels/block_lanes.h"

/* Sixteen rows of sixteen, columns made rows: 4 x 4 numbers within each quarter of a register, then 4 x 4 quarters. */
INLINE void transpose(__m512 row[16])
{
    __m512 pair[16], quad[16];
    for (int i = 0; i < 16; i += 2) {
        pair[i] = _mm512_unpacklo_ps(row[i], row[i + 1]);
        pair[i + 1] = _mm512_unpackhi_ps(row[i], row[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        quad[i] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0x44);
        quad[i + 1] = _mm512_shuffle_ps(pair[i], pair[i + 2], 0xee);
        quad[i + 2] = _mm512_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        quad[i + 3] = _mm512_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        const __m512 even_low = _mm512_shuffle_f32x4(quad[i], quad[i + 4], 0x88);
        const __m512 odd_low = _mm512_shuffle_f32x4(quad[i], quad[i + 4], 0xdd);
        const __m512 even_high = _mm512_shuffle_f32x4(quad[i + 8], quad[i + 12], 0x88);
        const __m512 odd_high = _mm512_shuffle_f32x4(quad[i + 8], quad[i + 12], 0xdd);
        row[i] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        row[i + 4] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        row[i + 8] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
        row[i + 12] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
}

/* Sixteen rows of n, of which [begin, begin + 16) are taken. */
INLINE void load_rows(__m512 row[16], const float *rows, uint32_t begin, uint32_t n)
{
    for (uint32_t lane = 0; lane < 16; lane++)
        row[lane] = lanes_load(rows + lane * n + begin);
}

static void avx512_block_gather(struct block_lanes *out, bool *within, const float *weights,
    const float *importance, const float *per, uint32_t n)
{
    const __m512i size = _mm512_set1_epi32(0x7fffffff), allowed = _mm512_castps_si512(lanes_all(BLOCK_MOST));
    const __m512 parts = importance ? lanes_load(per) : lanes_all(0), least = lanes_all(BLOCK_LEAST);
    __m512i most = _mm512_setzero_si512();
    __m512 row[16];
    for (uint32_t begin = 0; begin < n; begin += 16) {
        load_rows(row, weights, begin, n);
        for (uint32_t lane = 0; lane < 16; lane++)
            most = _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(row[lane]), size));
        transpose(row);
        for (uint32_t i = 0; i < 16; i++)
            lanes_store(out->x[begin + i], row[i]);
        if (!importance) continue;
        load_rows(row, importance, begin, n);
        transpose(row);
        for (uint32_t i = 0; i < 16; i++)
            lanes_store(out->w[begin + i], lanes_max(lanes_mul(row[i], parts), least));
    }
    *within = _mm512_cmpgt_epu32_mask(most, allowed) == 0;
}

/* Codes of sixteen weights. */
INLINE __m128i codes_of(const struct lanes_fit *fit, const float *weights, __m512 inverse, __m512 offset)
{
    const __m512 t = lanes_mul(lanes_sub(lanes_load(weights), offset), inverse);
    if (fit->table) return _mm512_cvtepi32_epi8(nearest_codes(&fit->levels, t));
    const __m512i level = _mm512_cvtps_epi32(lanes_within(t, fit->lowest, fit->highest));
    return _mm512_cvtepi32_epi8(_mm512_sub_epi32(level, _mm512_cvtps_epi32(fit->lowest)));
}

INLINE void put_codes(uint8_t *codes, const struct lanes_fit *fit, const float *weights,
    const float *inverses, const float *offsets, uint64_t count)
{
    for (uint64_t lane = 0; lane < count; lane++) {
        const __m512 inverse = lanes_all(inverses[lane]), offset = lanes_all(offsets[lane]);
        for (uint32_t i = 0; i < fit->n; i += 16, weights += 16, codes += 16)
            _mm_storeu_si128((__m128i *)(void *)codes, codes_of(fit, weights, inverse, offset));
    }
}

static void avx512_block_codes(uint8_t *codes, const struct block_grid *grid, const float *weights,
    const float *steps, const float *offsets, uint64_t count)
{
    float inverses[LANES_WIDTH];
    for (uint64_t done = 0; done < count; done += LANES_WIDTH) {
        const uint64_t some = count - done < LANES_WIDTH ? count - done : LANES_WIDTH;
        const __mmask16 there = (__mmask16)((1u << some) - 1);
        lanes_store(inverses, lanes_inverse(_mm512_maskz_loadu_ps(there, steps + done), 0));
#define RUN(n, table)                                                                                        \
    do {                                                                                                     \
        const struct lanes_fit fit = lanes_fit_of(grid, NULL, 0, n, table);                                  \
        put_codes(codes + done * n, &fit, weights + done * n, inverses, offsets + done, some);               \
    } while (0)
        LANES_CHOOSE(grid, RUN)
#undef RUN
    }
}

void kernels_override_fit_avx512(struct kernels *table)
{
    table->block_gather = avx512_block_gather;
    table->block_weigh = avx512_block_weigh;
    table->block_search = avx512_block_search;
    table->block_pick = avx512_block_pick;
    table->block_choose = avx512_block_choose;
    table->block_sums = avx512_block_sums;
    table->block_codes = avx512_block_codes;
}

#else

void kernels_override_fit_avx512(struct kernels *table)
{
    (void)table;
}

#endif
