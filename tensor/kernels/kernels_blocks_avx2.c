/* Fitting sub-blocks (tensor/kernels/block_lanes.h) for x86-64 with AVX2: eight lanes in a register. On other processors this file
 * overrides nothing. No fused products: the same bits as the scalar set. */
#include "tensor/kernels/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

typedef __m256 lanes;
typedef __m256 lanes_mask;
#define LANES_WIDTH 8
#define LANES_KERNEL(name) avx2_##name
#define lanes_load(at) _mm256_loadu_ps(at)
#define lanes_store(at, x) _mm256_storeu_ps((at), (x))
#define lanes_all(x) _mm256_set1_ps(x)
#define lanes_add(a, b) _mm256_add_ps((a), (b))
#define lanes_sub(a, b) _mm256_sub_ps((a), (b))
#define lanes_mul(a, b) _mm256_mul_ps((a), (b))
#define lanes_div(a, b) _mm256_div_ps((a), (b))
#define lanes_min(a, b) _mm256_min_ps((a), (b))
#define lanes_max(a, b) _mm256_max_ps((a), (b))
#define lanes_above(a, b) _mm256_cmp_ps((a), (b), _CMP_GT_OQ)
#define lanes_choose(mask, a, b) _mm256_blendv_ps((b), (a), (mask))
#define lanes_round(x) _mm256_round_ps((x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

#define INLINE static inline __attribute__((always_inline))

/* Halfway between level k and the next. */
#define HALFWAY(k) ((float)(levels[k] + levels[(k) + 1]) / 2)

/* The codes of the nearest of 16 levels: four steps of bisection, each looks its point up by the bits found so far. */
INLINE __m256i nearest_codes(const int8_t *levels, __m256 x)
{
    const __m256 second = _mm256_setr_ps(HALFWAY(3), HALFWAY(11), 0, 0, 0, 0, 0, 0);
    const __m256 third = _mm256_setr_ps(HALFWAY(1), HALFWAY(5), HALFWAY(9), HALFWAY(13), 0, 0, 0, 0);
    const __m256 last = _mm256_setr_ps(
        HALFWAY(0), HALFWAY(2), HALFWAY(4), HALFWAY(6), HALFWAY(8), HALFWAY(10), HALFWAY(12), HALFWAY(14));
    __m256i code = _mm256_srli_epi32(_mm256_castps_si256(lanes_above(x, lanes_all(HALFWAY(7)))), 31);
#define BISECT(points)                                                                                       \
    code = _mm256_sub_epi32(_mm256_add_epi32(code, code),                                                    \
        _mm256_castps_si256(lanes_above(x, _mm256_permutevar8x32_ps(points, code))))
    BISECT(second);
    BISECT(third);
    BISECT(last);
#undef BISECT
    return code;
}

INLINE __m256 lanes_nearest(const int8_t *levels, __m256 x)
{
    const __m128i all = _mm_loadu_si128((const __m128i *)(const void *)levels);
    const __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all));
    const __m256 high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all, 8)));
    const __m256i code = nearest_codes(levels, x);
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code), _mm256_permutevar8x32_ps(high, code),
        _mm256_castsi256_ps(_mm256_slli_epi32(code, 28))); /* by bit 3 */
}

#include "tensor/kernels/block_lanes.h"

/* Eight rows of eight, columns made rows. */
INLINE void transpose(__m256 row[8])
{
    __m256 pair[8], quad[8];
    for (int i = 0; i < 8; i += 2) {
        pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
        quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
        quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        row[i] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20);
        row[i + 4] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31);
    }
}

static void avx2_block_gather(struct block_lanes *out, bool *finite, const float *weights,
    const float *importance, const float *per, uint32_t n)
{
    const __m256i size = _mm256_set1_epi32(0x7fffffff), most = _mm256_set1_epi32(0x7f7fffff);
    const __m256 parts = importance ? _mm256_loadu_ps(per) : lanes_all(1), least = lanes_all(BLOCK_LEAST);
    __m256i wrong = _mm256_setzero_si256();
    __m256 row[8];
    for (uint32_t begin = 0; begin < n; begin += 8) {
        for (uint32_t lane = 0; lane < 8; lane++) {
            row[lane] = lanes_load(weights + lane * n + begin);
            const __m256i bits = _mm256_and_si256(_mm256_castps_si256(row[lane]), size);
            wrong = _mm256_or_si256(wrong, _mm256_cmpgt_epi32(bits, most));
        }
        transpose(row);
        for (uint32_t i = 0; i < 8; i++)
            lanes_store(out->x[begin + i], row[i]);
        for (uint32_t lane = 0; importance && lane < 8; lane++)
            row[lane] = lanes_load(importance + lane * n + begin);
        if (importance) transpose(row);
        for (uint32_t i = 0; i < 8; i++)
            lanes_store(out->w[begin + i], importance ? lanes_max(lanes_mul(row[i], parts), least) : parts);
    }
    *finite = _mm256_testz_si256(wrong, wrong);
}

/* Codes of eight weights. */
INLINE __m256i codes_of(struct lanes_grid grid, const float *weights, __m256 inverse, __m256 offset)
{
    const __m256 t = lanes_mul(lanes_sub(lanes_load(weights), offset), inverse);
    if (grid.levels) return nearest_codes(grid.levels, t);
    return _mm256_cvtps_epi32(lanes_sub(lanes_level(grid, t), grid.lowest));
}

static void avx2_block_codes(
    uint8_t *codes, const struct block_grid *grid, const float *weights, float step, float offset)
{
    const struct lanes_grid of = lanes_grid_of(grid);
    const __m256 inverse = lanes_inverse(lanes_all(step)), base = lanes_all(offset);
    for (uint32_t i = 0; i < grid->n; i += 16) {
        const __m256i low = codes_of(of, weights + i, inverse, base);
        const __m256i high = codes_of(of, weights + i + 8, inverse, base);
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
        _mm_storeu_si128((__m128i *)(void *)(codes + i),
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
}

void kernels_override_blocks_avx2(struct kernels *table)
{
    table->block_gather = avx2_block_gather;
    table->block_search = avx2_block_search;
    table->block_pick = avx2_block_pick;
    table->block_choose = avx2_block_choose;
    table->block_sums = avx2_block_sums;
    table->block_codes = avx2_block_codes;
}

#else

void kernels_override_blocks_avx2(struct kernels *table)
{
    (void)table;
}

#endif
