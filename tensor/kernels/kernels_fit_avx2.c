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

/* 16 levels, and the points halfway between them in the order of a bisection. */
typedef struct {
    __m256 first, second, third, last, low, high;
} lanes_table;

INLINE lanes_table lanes_table_of(const int8_t *levels)
{
#define HALFWAY(k) ((float)(levels[k] + levels[(k) + 1]) / 2)
    const __m128i all = _mm_loadu_si128((const __m128i *)(const void *)levels);
    return (lanes_table){
        .first = _mm256_set1_ps(HALFWAY(7)),
        .second = _mm256_setr_ps(HALFWAY(3), HALFWAY(11), 0, 0, 0, 0, 0, 0),
        .third = _mm256_setr_ps(HALFWAY(1), HALFWAY(5), HALFWAY(9), HALFWAY(13), 0, 0, 0, 0),
        .last = _mm256_setr_ps(HALFWAY(0), HALFWAY(2), HALFWAY(4), HALFWAY(6), HALFWAY(8), HALFWAY(10),
            HALFWAY(12), HALFWAY(14)),
        .low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all)),
        .high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all, 8))),
    };
#undef HALFWAY
}

/* One more bit of the codes: the point to compare with is found by the bits so far. */
INLINE __m256i bisect(__m256i code, __m256 points, __m256 x)
{
    const __m256 above = lanes_above(x, _mm256_permutevar8x32_ps(points, code));
    return _mm256_sub_epi32(_mm256_add_epi32(code, code), _mm256_castps_si256(above));
}

INLINE __m256i nearest_codes(const lanes_table *table, __m256 x)
{
    const __m256i code = _mm256_srli_epi32(_mm256_castps_si256(lanes_above(x, table->first)), 31);
    return bisect(bisect(bisect(code, table->second, x), table->third, x), table->last, x);
}

INLINE __m256 lanes_nearest(const lanes_table *table, __m256 x)
{
    const __m256i code = nearest_codes(table, x);
    const __m256 low = _mm256_permutevar8x32_ps(table->low, code);
    const __m256 high = _mm256_permutevar8x32_ps(table->high, code);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(code, 28))); /* by bit 3 */
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

/* Eight lanes; the bits that come back are 0 if all weights are within. */
INLINE __m256i gather_eight(struct block_lanes *out, uint32_t at, const float *weights,
    const float *importance, const float *per, uint32_t n)
{
    const __m256i size = _mm256_set1_epi32(0x7fffffff), most = _mm256_castps_si256(lanes_all(BLOCK_MOST));
    const __m256 parts = importance ? lanes_load(per + at) : lanes_all(0), least = lanes_all(BLOCK_LEAST);
    __m256i wrong = _mm256_setzero_si256();
    __m256 row[8];
    for (uint32_t begin = 0; begin < n; begin += 8) {
        for (uint32_t lane = 0; lane < 8; lane++) {
            row[lane] = lanes_load(weights + (at + lane) * n + begin);
            const __m256i bits = _mm256_and_si256(_mm256_castps_si256(row[lane]), size);
            wrong = _mm256_or_si256(wrong, _mm256_cmpgt_epi32(bits, most));
        }
        transpose(row);
        for (uint32_t i = 0; i < 8; i++)
            lanes_store(out->x[begin + i] + at, row[i]);
        if (!importance) continue;
        for (uint32_t lane = 0; lane < 8; lane++)
            row[lane] = lanes_load(importance + (at + lane) * n + begin);
        transpose(row);
        for (uint32_t i = 0; i < 8; i++)
            lanes_store(out->w[begin + i] + at, lanes_max(lanes_mul(row[i], parts), least));
    }
    return wrong;
}

static void avx2_block_gather(struct block_lanes *out, bool *within, const float *weights,
    const float *importance, const float *per, uint32_t n)
{
    __m256i wrong = _mm256_setzero_si256();
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH)
        wrong = _mm256_or_si256(wrong, gather_eight(out, at, weights, importance, per, n));
    *within = _mm256_testz_si256(wrong, wrong);
}

/* Codes of eight weights. */
INLINE __m256i codes_of(const struct lanes_fit *fit, const float *weights, __m256 inverse, __m256 offset)
{
    const __m256 t = lanes_mul(lanes_sub(lanes_load(weights), offset), inverse);
    if (fit->table) return nearest_codes(&fit->levels, t);
    const __m256 level = lanes_within(t, fit->lowest, fit->highest);
    return _mm256_sub_epi32(_mm256_cvtps_epi32(level), _mm256_cvtps_epi32(fit->lowest));
}

INLINE void put_codes(uint8_t *codes, const struct lanes_fit *fit, const float *weights, const float *steps,
    const float *offsets, uint64_t count)
{
    for (uint64_t lane = 0; lane < count; lane++, weights += fit->n, codes += fit->n) {
        const __m256 inverse = lanes_inverse(lanes_all(steps[lane]), 0), offset = lanes_all(offsets[lane]);
        for (uint32_t i = 0; i < fit->n; i += 16) {
            const __m256i low = codes_of(fit, weights + i, inverse, offset);
            const __m256i high = codes_of(fit, weights + i + 8, inverse, offset);
            const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
            _mm_storeu_si128((__m128i *)(void *)(codes + i),
                _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
        }
    }
}

static void avx2_block_codes(uint8_t *codes, const struct block_grid *grid, const float *weights,
    const float *steps, const float *offsets, uint64_t count)
{
#define RUN(n, table)                                                                                        \
    do {                                                                                                     \
        const struct lanes_fit fit = lanes_fit_of(grid, NULL, 0, n, table);                                  \
        put_codes(codes, &fit, weights, steps, offsets, count);                                              \
    } while (0)
    LANES_CHOOSE(grid, RUN)
#undef RUN
}

void kernels_override_fit_avx2(struct kernels *table)
{
    table->block_gather = avx2_block_gather;
    table->block_weigh = avx2_block_weigh;
    table->block_search = avx2_block_search;
    table->block_pick = avx2_block_pick;
    table->block_choose = avx2_block_choose;
    table->block_sums = avx2_block_sums;
    table->block_codes = avx2_block_codes;
}

#else

void kernels_override_fit_avx2(struct kernels *table)
{
    (void)table;
}

#endif
