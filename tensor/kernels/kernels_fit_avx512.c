/* Fitting sub-blocks (tensor/kernels/block_lanes.h) for x86-64 with AVX-512 (F, BW and VL): sixteen lanes in a register. Lanes are
 * filled, and codes taken, as with AVX2. On other processors this file overrides nothing. No fused products: the same bits as the
 * scalar set. */
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

INLINE __m512 lanes_nearest(const lanes_table *table, __m512 x)
{
    __m512i code = _mm512_setzero_si512();
    for (int half = 8; half; half /= 2)
        code = bisect(table, code, half, x);
    return _mm512_permutexvar_ps(code, table->levels);
}

#include "tensor/kernels/block_lanes.h"

void kernels_override_fit_avx512(struct kernels *table)
{
    table->block_search = avx512_block_search;
    table->block_pick = avx512_block_pick;
    table->block_choose = avx512_block_choose;
    table->block_sums = avx512_block_sums;
}

#else

void kernels_override_fit_avx512(struct kernels *table)
{
    (void)table;
}

#endif
