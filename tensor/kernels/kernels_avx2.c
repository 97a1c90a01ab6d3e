/* Conversions, dot products and the grid for x86-64 with AVX2, FMA and F16C. On other processors this file
 * overrides nothing. What must give the same bits as the scalar set uses no fused products. */
#include "tensor/kernels/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>
#include <math.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m128i load_128(const void *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

INLINE void store_128(void *at, __m128i value)
{
    _mm_storeu_si128((__m128i *)at, value);
}

/* ---- conversion: eight at a time, the rest by the scalar set ---- */

INLINE __m256 f16_load(const void *in)
{
    return _mm256_cvtph_ps(load_128(in));
}

INLINE __m256 bf16_load(const void *in)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(in)), 16));
}

static void avx2_f16_to_f32(float *out, const void *in, uint64_t n)
{
    const uint8_t *bytes = in;
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, f16_load(bytes + 2 * i));
    kernels_scalar.f16_to_f32(out + i, bytes + 2 * i, n - i);
}

static void avx2_bf16_to_f32(float *out, const void *in, uint64_t n)
{
    const uint8_t *bytes = in;
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, bf16_load(bytes + 2 * i));
    kernels_scalar.bf16_to_f32(out + i, bytes + 2 * i, n - i);
}

static void avx2_f32_to_f16(void *out, const float *in, uint64_t n)
{
    uint8_t *bytes = out;
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        store_128(bytes + 2 * i, _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
    }
    kernels_scalar.f32_to_f16(bytes + 2 * i, in + i, n - i);
}

/* See dtype_f32_to_bf16: add half of what is cut off (less one, plus the last bit kept), but keep NaN quiet.
 */
INLINE __m256i bf16_of(__m256 value)
{
    __m256i bits = _mm256_castps_si256(value);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}

static void avx2_f32_to_bf16(void *out, const float *in, uint64_t n)
{
    uint8_t *bytes = out;
    uint64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i words = bf16_of(_mm256_loadu_ps(in + i));
        store_128(bytes + 2 * i,
            _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    }
    kernels_scalar.f32_to_bf16(bytes + 2 * i, in + i, n - i);
}

/* ---- dot products: four sums of eight lanes, so that one product need not wait for the last ---- */

INLINE float sum_of_lanes(__m256 value)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

INLINE __m256 f32_load(const void *in)
{
    return _mm256_loadu_ps(in);
}

INLINE void dot(float *sum, const void *weights, const float *x, uint64_t n, uint64_t bytes_each,
    __m256 (*load)(const void *), void (*scalar)(float *, const void *, const float *, uint64_t))
{
    const uint8_t *bytes = weights;
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    uint64_t i = 0;
    for (; i + 32 <= n; i += 32) {
#pragma GCC unroll 8
        for (int k = 0; k < 4; k++) {
            uint64_t at = i + 8 * (uint64_t)k;
            sums[k] = _mm256_fmadd_ps(load(bytes + bytes_each * at), _mm256_loadu_ps(x + at), sums[k]);
        }
    }
    float rest;
    scalar(&rest, bytes + bytes_each * i, x + i, n - i);
    *sum =
        sum_of_lanes(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]))) + rest;
}

static void avx2_dot_f32(float *sum, const void *weights, const float *x, uint64_t n)
{
    dot(sum, weights, x, n, 4, f32_load, kernels_scalar.dot_f32);
}

static void avx2_dot_f16(float *sum, const void *weights, const float *x, uint64_t n)
{
    dot(sum, weights, x, n, 2, f16_load, kernels_scalar.dot_f16);
}

static void avx2_dot_bf16(float *sum, const void *weights, const float *x, uint64_t n)
{
    dot(sum, weights, x, n, 2, bf16_load, kernels_scalar.dot_bf16);
}

/* ---- dot products of several rows with several tokens ---- */

/* Rows of one type. */
struct dense_rows {
    const uint8_t *bytes;
    uint64_t bytes_each, n;
    __m256 (*load)(const void *);
    void (*scalar)(float *, const void *, const float *, uint64_t);
};

/* Two sums of eight lanes for each row and token, added up. */
struct dots {
    __m256 of[2][3];
};

/* Columns first .. first + 15 of every 32. Two rows and three tokens fill twelve of the sixteen registers. */
INLINE struct dots half_dots(
    struct dense_rows weights, uint32_t rows, const float *x, uint32_t tokens, uint64_t first)
{
    const uint64_t n = weights.n;
    __m256 sums[2][3][2];
    struct dots result;
#pragma GCC unroll 16
    for (uint32_t s = 0; s < 12; s++)
        sums[s / 6][s / 2 % 3][s % 2] = _mm256_setzero_ps();
    for (uint64_t i = 0; i + 32 <= n; i += 32) {
#pragma GCC unroll 16
        for (uint32_t s = 0; s < 2 * rows; s++) {
            const uint32_t k = s / rows, r = s % rows;
            const uint64_t at = i + first + 8 * k;
            const __m256 weight = weights.load(weights.bytes + (r * n + at) * weights.bytes_each);
#pragma GCC unroll 16
            for (uint32_t t = 0; t < tokens; t++)
                sums[r][t][k] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(x + t * n + at), sums[r][t][k]);
        }
    }
#pragma GCC unroll 16
    for (uint32_t s = 0; s < 6; s++)
        result.of[s / 3][s % 3] = _mm256_add_ps(sums[s / 3][s % 3][0], sums[s / 3][s % 3][1]);
    return result;
}

/* In the order of dot(): the same bits. */
INLINE void dots(
    float *out, uint64_t stride, struct dense_rows weights, uint32_t rows, const float *x, uint32_t tokens)
{
    const struct dots low = half_dots(weights, rows, x, tokens, 0),
                      high = half_dots(weights, rows, x, tokens, 16);
    const uint64_t n = weights.n, whole = n / 32 * 32;
#pragma GCC unroll 16
    for (uint32_t s = 0; s < rows * tokens; s++) {
        const uint32_t r = s / tokens, t = s % tokens;
        out[t * stride + r] = sum_of_lanes(_mm256_add_ps(low.of[r][t], high.of[r][t]));
    }
    for (uint32_t s = 0; s < rows * tokens; s++) {
        const uint32_t r = s / tokens, t = s % tokens;
        float rest = 0;
        if (whole < n)
            weights.scalar(
                &rest, weights.bytes + (r * n + whole) * weights.bytes_each, x + t * n + whole, n - whole);
        out[t * stride + r] += rest;
    }
}

INLINE void dots_of_rows(
    float *out, uint64_t stride, struct dense_rows weights, uint32_t rows, const float *x, uint64_t tokens)
{
    uint64_t t = 0;
    for (; tokens - t > 4 || tokens - t == 3; t += 3)
        dots(out + t * stride, stride, weights, rows, x + t * weights.n, 3);
    for (; tokens - t >= 2; t += 2)
        dots(out + t * stride, stride, weights, rows, x + t * weights.n, 2);
    if (tokens - t == 1) dots(out + t * stride, stride, weights, rows, x + t * weights.n, 1);
}

INLINE void dots_of_all(
    float *sums, struct dense_rows weights, uint64_t rows, const float *x, uint64_t tokens)
{
    uint64_t r = 0;
    for (; r + 2 <= rows; r += 2, weights.bytes += 2 * weights.n * weights.bytes_each)
        dots_of_rows(sums + r, rows, weights, 2, x, tokens);
    if (r < rows) dots_of_rows(sums + r, rows, weights, 1, x, tokens);
}

static void avx2_dots_f32(
    float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n)
{
    struct dense_rows dense = {weights, 4, n, f32_load, kernels_scalar.dot_f32};
    dots_of_all(sums, dense, rows, x, tokens);
}

static void avx2_dots_f16(
    float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n)
{
    struct dense_rows dense = {weights, 2, n, f16_load, kernels_scalar.dot_f16};
    dots_of_all(sums, dense, rows, x, tokens);
}

static void avx2_dots_bf16(
    float *sums, const void *weights, uint64_t rows, const float *x, uint64_t tokens, uint64_t n)
{
    struct dense_rows dense = {weights, 2, n, bf16_load, kernels_scalar.dot_bf16};
    dots_of_all(sums, dense, rows, x, tokens);
}

/* ---- the grid ---- */

/* Extremes so far, and the largest bits without their sign: above those of the largest finite number once a
 * NaN or an infinity came by. */
struct extremes {
    __m256 low, high;
    __m256i magnitude;
};

INLINE void take(struct extremes *seen, const float *weights)
{
    __m256 value = _mm256_loadu_ps(weights);
    __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(value), _mm256_set1_epi32(0x7fffffff));
    seen->low = _mm256_min_ps(seen->low, value);
    seen->high = _mm256_max_ps(seen->high, value);
    seen->magnitude = _mm256_max_epi32(seen->magnitude, magnitude);
}

INLINE float least_lane(__m256 value)
{
    __m128 four = _mm_min_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}

INLINE float greatest_lane(__m256 value)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static void avx2_group_extremes(
    float *low, float *high, const float *weights, uint64_t groups, uint64_t group)
{
    if (group < 8) {
        kernels_scalar.group_extremes(low, high, weights, groups, group);
        return;
    }
    for (uint64_t g = 0; g < groups; g++, weights += group) {
        __m256 first = _mm256_loadu_ps(weights);
        struct extremes seen = {first, first, _mm256_setzero_si256()};
        for (uint64_t i = 0; i + 8 <= group; i += 8)
            take(&seen, weights + i);
        if (group % 8) take(&seen, weights + group - 8); /* some are seen twice: it does no harm */
        __m256i beyond = _mm256_cmpgt_epi32(seen.magnitude, _mm256_set1_epi32(0x7f7fffff));
        bool finite = _mm256_testz_si256(beyond, beyond);
        low[g] = finite ? least_lane(seen.low) : NAN;
        high[g] = finite ? greatest_lane(seen.high) : NAN;
    }
}

/* weight / scale, limited to what a code can express but not yet rounded. */
INLINE __m256 limited_steps(__m256 weights, __m256 inverse, __m256 least, __m256 greatest)
{
    return _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(weights, inverse), least), greatest);
}

/* Codes of columns [0, group) in sixteens; what is left over goes to the scalar set. */
INLINE void encode_group(
    uint8_t *codes, const float *weights, uint64_t group, float inverse, float zero, float top)
{
    __m256 inverses = _mm256_set1_ps(inverse), least = _mm256_set1_ps(-zero),
           greatest = _mm256_set1_ps(top - zero);
    __m128i zeros = _mm_set1_epi16((int16_t)zero);
    uint64_t i = 0;
    for (; i + 16 <= group; i += 16) {
        __m256 left = limited_steps(_mm256_loadu_ps(weights + i), inverses, least, greatest);
        __m256 right = limited_steps(_mm256_loadu_ps(weights + i + 8), inverses, least, greatest);
        /* packing works within 128-bit lanes: a0-3 b0-3 | a4-7 b4-7; the permutation puts b behind a again */
        __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(left), _mm256_cvtps_epi32(right));
        words = _mm256_permute4x64_epi64(words, _MM_SHUFFLE(3, 1, 2, 0));
        __m128i low = _mm_add_epi16(_mm256_castsi256_si128(words), zeros);
        __m128i high = _mm_add_epi16(_mm256_extracti128_si256(words, 1), zeros);
        store_128(codes + i, _mm_packus_epi16(low, high));
    }
    if (i < group) kernels_scalar.group_encode(codes + i, weights + i, 1, group - i, &inverse, &zero, top);
}

static void avx2_group_encode(uint8_t *codes, const float *weights, uint64_t groups, uint64_t group,
    const float *inverses, const float *zeros, float top)
{
    for (uint64_t g = 0; g < groups; g++) {
        encode_group(codes + g * group, weights + g * group, group, inverses[g], zeros[g], top);
    }
}

/* Eight candidates, one per lane. */
struct lanes {
    __m256 scale, inverse, least, greatest;
};

/* Squared error of GRID_SEARCH_CHUNK columns or fewer, with the operations of the scalar set in the same
 * order. */
INLINE __m256 chunk_error(
    const struct lanes *lanes, const float *weights, const float *importance, uint64_t count, bool weighted)
{
    __m256 sum = _mm256_setzero_ps();
    for (uint64_t i = 0; i < count; i++) {
        __m256 weight = _mm256_broadcast_ss(weights + i);
        __m256 steps = limited_steps(weight, lanes->inverse, lanes->least, lanes->greatest);
        steps = _mm256_round_ps(steps, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __m256 difference = _mm256_sub_ps(weight, _mm256_mul_ps(lanes->scale, steps));
        __m256 square = _mm256_mul_ps(difference, difference);
        if (weighted) square = _mm256_mul_ps(square, _mm256_broadcast_ss(importance + i));
        sum = _mm256_add_ps(sum, square);
    }
    return sum;
}

/* Errors of eight candidates over a whole group; false as soon as none of them can be below `least` any more:
 * sums of squares only grow. */
INLINE bool group_errors(double errors[8], const struct lanes *lanes, const float *weights,
    const float *importance, uint64_t count, double least, bool weighted)
{
    __m256d limit = _mm256_set1_pd(least), low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    for (uint64_t i = 0; i < count; i += GRID_SEARCH_CHUNK) {
        __m256 sum = count - i >= GRID_SEARCH_CHUNK
                         ? chunk_error(lanes, weights + i, importance + i, GRID_SEARCH_CHUNK, weighted)
                         : chunk_error(lanes, weights + i, importance + i, count - i, weighted);
        low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(sum)));
        high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(sum, 1)));
        __m256d below =
            _mm256_or_pd(_mm256_cmp_pd(low, limit, _CMP_LT_OQ), _mm256_cmp_pd(high, limit, _CMP_LT_OQ));
        if (_mm256_movemask_pd(below) == 0) return false;
    }
    _mm256_storeu_pd(errors, low);
    _mm256_storeu_pd(errors + 4, high);
    return true;
}

INLINE uint64_t search(const struct grid_candidates *candidates, const float *weights,
    const float *importance, uint64_t count, bool weighted)
{
    double least = INFINITY;
    uint64_t best = 0;
    for (uint64_t c = 0; c < candidates->count; c += 8) {
        __m256 zero = _mm256_loadu_ps(candidates->zero + c);
        struct lanes lanes = {
            .scale = _mm256_loadu_ps(candidates->scale + c),
            .inverse = _mm256_loadu_ps(candidates->inverse + c),
            .least = _mm256_sub_ps(_mm256_setzero_ps(), zero),
            .greatest = _mm256_sub_ps(_mm256_set1_ps(candidates->top), zero),
        };
        double errors[8];
        if (!group_errors(errors, &lanes, weights, importance, count, least, weighted)) continue;
        for (uint64_t k = 0; k < 8; k++) {
            if (!(errors[k] < least)) continue;
            least = errors[k];
            best = c + k;
        }
    }
    return best;
}

static void avx2_grid_search(uint64_t *best, const struct grid_candidates *candidates, const float *weights,
    const float *importance, uint64_t count)
{
    if (importance) {
        *best = search(candidates, weights, importance, count, true);
    } else {
        *best =
            search(candidates, weights, weights, count, false); /* the second `weights` is not looked at */
    }
}

void kernels_override_avx2(struct kernels *table)
{
    table->f16_to_f32 = avx2_f16_to_f32;
    table->bf16_to_f32 = avx2_bf16_to_f32;
    table->f32_to_f16 = avx2_f32_to_f16;
    table->f32_to_bf16 = avx2_f32_to_bf16;
    table->dot_f32 = avx2_dot_f32;
    table->dot_f16 = avx2_dot_f16;
    table->dot_bf16 = avx2_dot_bf16;
    table->dots_f32 = avx2_dots_f32;
    table->dots_f16 = avx2_dots_f16;
    table->dots_bf16 = avx2_dots_bf16;
    table->group_extremes = avx2_group_extremes;
    table->group_encode = avx2_group_encode;
    table->grid_search = avx2_grid_search;
}

#else

void kernels_override_avx2(struct kernels *table)
{
    (void)table;
}

#endif
