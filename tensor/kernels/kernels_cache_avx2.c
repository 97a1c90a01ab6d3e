/* The quantized cache for x86-64 with AVX2, FMA and F16C: groups of 32; others go to the scalar set. On other processors this
 * file overrides nothing. No fused products: the same bits as the scalar set. */
#include "tensor/cache.h"
#include "tensor/kernels/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>
#include <math.h>

#define INLINE static inline __attribute__((always_inline))

/* ---- decoding ---- */

INLINE float step_of(uint16_t scale)
{
    return _cvtsh_ss(scale) / 16;
}

/* Eight levels (in the low bytes of `levels`) times their step, plus the center. */
INLINE void put(float *out, __m128i levels, __m256 step, const uint16_t *center)
{
    __m256 value = _mm256_mul_ps(step, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(levels)));
    if (center)
        value = _mm256_add_ps(value, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)center)));
    _mm256_storeu_ps(out, value);
}

INLINE void put16(float *out, __m128i levels, __m256 step, const uint16_t *center)
{
    put(out, levels, step, center);
    put(out + 8, _mm_srli_si128(levels, 8), step, center ? center + 8 : NULL);
}

INLINE void decode8(float *out, const uint8_t *codes, uint16_t scale, const uint16_t *center)
{
    __m256 step = _mm256_set1_ps(step_of(scale));
    for (int i = 0; i < CACHE_GROUP; i += 16) {
        __m128i levels = _mm_loadu_si128((const __m128i *)(const void *)(codes + i));
        levels = _mm_xor_si128(levels, _mm_set1_epi8(-128)); /* code - 128 */
        put16(out + i, levels, step, center ? center + i : NULL);
    }
}

INLINE void decode4(float *out, const uint8_t *codes, uint16_t scale, const uint16_t *center)
{
    __m256 step = _mm256_set1_ps(step_of(scale));
    __m128i pairs = _mm_loadu_si128((const __m128i *)(const void *)codes), mask = _mm_set1_epi8(15);
    __m128i levels = _mm_loadu_si128((const __m128i *)(const void *)cache_levels);
    __m128i low = _mm_and_si128(pairs, mask), high = _mm_and_si128(_mm_srli_epi16(pairs, 4), mask);
    put16(out, _mm_shuffle_epi8(levels, low), step, center);
    put16(out + 16, _mm_shuffle_epi8(levels, high), step, center ? center + 16 : NULL);
}

static void avx2_cache_decode8(float *out, const uint8_t *codes, const uint16_t *scales,
    const uint16_t *center, uint64_t rows, uint64_t size)
{
    for (uint64_t row = 0; row < rows; row++) {
        uint64_t i = 0;
        for (; i + CACHE_GROUP <= size; i += CACHE_GROUP)
            decode8(out + i, codes + i, *scales++, center ? center + i : NULL);
        if (i < size)
            kernels_scalar.cache_decode8(
                out + i, codes + i, scales++, center ? center + i : NULL, 1, size - i);
        out += size;
        codes += size;
    }
}

static void avx2_cache_decode4(float *out, const uint8_t *codes, const uint16_t *scales,
    const uint16_t *center, uint64_t rows, uint64_t size)
{
    for (uint64_t row = 0; row < rows; row++) {
        uint64_t i = 0;
        for (; i + CACHE_GROUP <= size; i += CACHE_GROUP)
            decode4(out + i, codes + i / 2, *scales++, center ? center + i : NULL);
        if (i < size)
            kernels_scalar.cache_decode4(
                out + i, codes + i / 2, scales++, center ? center + i : NULL, 1, size - i);
        out += size;
        codes += size / 2;
    }
}

/* ---- encoding in four bits ---- */

/* What a search needs in registers: levels and the points halfway between them. */
struct tables {
    __m256 low, high, halfway[15];
};

INLINE struct tables load_tables(void)
{
    __m128i levels = _mm_loadu_si128((const __m128i *)(const void *)cache_levels);
    struct tables tables = {
        .low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(levels)),
        .high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(levels, 8))),
    };
    for (int k = 0; k < 15; k++)
        tables.halfway[k] = _mm256_set1_ps((float)(cache_levels[k] + cache_levels[k + 1]) / 2);
    return tables;
}

/* Codes: how many of the halfway points lie below. */
INLINE __m256i codes_of(const struct tables *tables, __m256 x)
{
    __m256i codes = _mm256_setzero_si256();
#pragma GCC unroll 15
    for (int k = 0; k < 15; k++)
        codes =
            _mm256_sub_epi32(codes, _mm256_castps_si256(_mm256_cmp_ps(x, tables->halfway[k], _CMP_GT_OQ)));
    return codes;
}

INLINE __m256 levels_of(const struct tables *tables, __m256i codes)
{
    __m256 low = _mm256_permutevar8x32_ps(tables->low, codes);
    __m256 high = _mm256_permutevar8x32_ps(tables->high, codes);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28))); /* by bit 3 */
}

/* In the order of the scalar set. */
INLINE float sum_of_lanes(__m256 value)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

INLINE float inverse_of(float step)
{
    return step != 0 ? 1 / step : 0;
}

INLINE float group_error(const struct tables *tables, const float *x, float step)
{
    __m256 steps = _mm256_set1_ps(step), inverse = _mm256_set1_ps(inverse_of(step)),
           sum = _mm256_setzero_ps();
    for (int i = 0; i < CACHE_GROUP; i += 8) {
        __m256 value = _mm256_loadu_ps(x + i);
        __m256 level = levels_of(tables, codes_of(tables, _mm256_mul_ps(value, inverse)));
        __m256 difference = _mm256_sub_ps(value, _mm256_mul_ps(steps, level));
        sum = _mm256_add_ps(sum, _mm256_mul_ps(difference, difference));
    }
    return sum_of_lanes(sum);
}

static void pack(const struct tables *tables, uint8_t *codes, const float *x, float step)
{
    uint32_t each[CACHE_GROUP];
    __m256 inverse = _mm256_set1_ps(inverse_of(step));
    for (int i = 0; i < CACHE_GROUP; i += 8)
        _mm256_storeu_si256(
            (__m256i *)(void *)(each + i), codes_of(tables, _mm256_mul_ps(_mm256_loadu_ps(x + i), inverse)));
    for (int i = 0; i < CACHE_GROUP / 2; i++)
        codes[i] = (uint8_t)(each[i] | each[i + CACHE_GROUP / 2] << 4);
}

static void avx2_cache_encode4(uint8_t *codes, uint16_t *scale, const float *x, uint64_t n, float extreme)
{
    if (n != CACHE_GROUP) {
        kernels_scalar.cache_encode4(codes, scale, x, n, extreme);
        return;
    }
    struct tables tables = load_tables();
    float least = INFINITY;
    *scale = 0;
    for (int c = 0; c < 16; c++) {
        float factor = (float)(16 + c / 2) / 20;
        float wanted = extreme * factor * (c % 2 ? 16.0f / 127 : -16.0f / 127);
        uint16_t stored = (uint16_t)_cvtss_sh(wanted, _MM_FROUND_TO_NEAREST_INT);
        float error = group_error(&tables, x, step_of(stored));
        if (!(error < least)) continue;
        least = error;
        *scale = stored;
    }
    pack(&tables, codes, x, step_of(*scale));
}

void kernels_override_cache_avx2(struct kernels *table)
{
    table->cache_decode8 = avx2_cache_decode8;
    table->cache_decode4 = avx2_cache_decode4;
    table->cache_encode4 = avx2_cache_encode4;
}

#else

void kernels_override_cache_avx2(struct kernels *table)
{
    (void)table;
}

#endif
