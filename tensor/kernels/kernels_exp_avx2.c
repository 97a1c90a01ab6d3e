/* The kernels of softmax and SiLU for x86-64 with AVX2 and FMA. On other processors this file overrides
 * nothing. */
#include "tensor/kernels/kernels.h"

#if defined(__AVX2__) && defined(__FMA__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#define LANES 8
#define INLINE static inline __attribute__((always_inline))

/* e^x within 2 units in the last place. x is clamped to -87 .. 88, so results stay normal numbers; NaN stays
 * NaN (the second operand of min and max is what they return then). x = n ln 2 + r with |r| <= ln 2 / 2 (Cody
 * and Waite's reduction: ln 2 in two parts, the first with so few bits that n times it is exact); e^r by the
 * polynomial of Cephes' expf; 2^n is put together from its bits. */
INLINE __m256 exp_lanes(__m256 x)
{
    const __m256 half_bits =
        _mm256_set1_ps(12582912.0f); /* 1.5 * 2^23: adding it leaves the nearest integer */
    __m256 shifted, n, r, power;
    __m256i scale;

    x = _mm256_max_ps(_mm256_set1_ps(-87.0f), _mm256_min_ps(_mm256_set1_ps(88.0f), x));
    shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(1.44269504088896341f), half_bits);
    n = _mm256_sub_ps(shifted, half_bits);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    power = _mm256_set1_ps(1.9875691500e-4f);
    power = _mm256_fmadd_ps(power, r, _mm256_set1_ps(1.3981999507e-3f));
    power = _mm256_fmadd_ps(power, r, _mm256_set1_ps(8.3334519073e-3f));
    power = _mm256_fmadd_ps(power, r, _mm256_set1_ps(4.1665795894e-2f));
    power = _mm256_fmadd_ps(power, r, _mm256_set1_ps(1.6666665459e-1f));
    power = _mm256_fmadd_ps(power, r, _mm256_set1_ps(5.0000001201e-1f));
    power = _mm256_add_ps(_mm256_fmadd_ps(power, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    scale = _mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(power, _mm256_castsi256_ps(scale));
}

/* The last count < 8 elements, the other lanes filled. */
INLINE __m256 load_part(const float *x, uint64_t count, float fill)
{
    float lanes[LANES];

    for (int i = 0; i < LANES; i++)
        lanes[i] = fill;
    memcpy(lanes, x, count * sizeof *x);
    return _mm256_loadu_ps(lanes);
}

INLINE void store_part(float *x, uint64_t count, __m256 value)
{
    float lanes[LANES];

    _mm256_storeu_ps(lanes, value);
    memcpy(x, lanes, count * sizeof *x);
}

static void avx2_maximum(float *out, const float *x, uint64_t n)
{
    __m256 greatest = _mm256_set1_ps(-INFINITY);
    float lanes[LANES];
    uint64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        greatest = _mm256_max_ps(_mm256_loadu_ps(x + i), greatest);
    greatest = _mm256_max_ps(load_part(x + i, n - i, -INFINITY), greatest);
    _mm256_storeu_ps(lanes, greatest);
    *out = lanes[0];
    for (int lane = 1; lane < LANES; lane++)
        *out = lanes[lane] > *out ? lanes[lane] : *out;
}

static void avx2_exp_sum(float *sum, float *x, float shift, uint64_t n)
{
    __m256 shifts = _mm256_set1_ps(shift), sums = _mm256_setzero_ps(), value;
    float lanes[LANES];
    uint64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        value = exp_lanes(_mm256_sub_ps(_mm256_loadu_ps(x + i), shifts));
        _mm256_storeu_ps(x + i, value);
        sums = _mm256_add_ps(sums, value);
    }
    _mm256_storeu_ps(lanes, sums);
    store_part(x + i, n - i, exp_lanes(_mm256_sub_ps(load_part(x + i, n - i, shift), shifts)));
    for (int lane = 0; i < n; i++, lane++)
        lanes[lane] += x[i];
    *sum = ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

INLINE __m256 silu_lanes(__m256 gate, __m256 up)
{
    __m256 below = exp_lanes(_mm256_sub_ps(_mm256_setzero_ps(), gate));

    return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1.0f), below)), up);
}

static void avx2_silu_multiply(float *gate, const float *up, uint64_t n)
{
    uint64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(gate + i, silu_lanes(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    store_part(gate + i, n - i, silu_lanes(load_part(gate + i, n - i, 0), load_part(up + i, n - i, 0)));
}

INLINE __m256 gelu_lanes(__m256 gate, __m256 up)
{
    const __m256 slope = _mm256_set1_ps(-1.5957691216057308f), bend = _mm256_set1_ps(0.044715f);
    __m256 cube = _mm256_mul_ps(_mm256_mul_ps(_mm256_mul_ps(bend, gate), gate), gate);
    __m256 below = exp_lanes(_mm256_mul_ps(slope, _mm256_add_ps(gate, cube)));

    return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1.0f), below)), up);
}

static void avx2_gelu_multiply(float *gate, const float *up, uint64_t n)
{
    uint64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(gate + i, gelu_lanes(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    store_part(gate + i, n - i, gelu_lanes(load_part(gate + i, n - i, 0), load_part(up + i, n - i, 0)));
}

/* tanh(u) = 1 - 2 / (e^2u + 1) */
INLINE __m256 softcap_lanes(__m256 x, __m256 cap)
{
    const __m256 one = _mm256_set1_ps(1.0f), two = _mm256_set1_ps(2.0f);
    __m256 power = exp_lanes(_mm256_div_ps(_mm256_mul_ps(two, x), cap));

    return _mm256_mul_ps(cap, _mm256_sub_ps(one, _mm256_div_ps(two, _mm256_add_ps(power, one))));
}

static void avx2_softcap(float *x, float cap, uint64_t n)
{
    const __m256 caps = _mm256_set1_ps(cap);
    uint64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        _mm256_storeu_ps(x + i, softcap_lanes(_mm256_loadu_ps(x + i), caps));
    store_part(x + i, n - i, softcap_lanes(load_part(x + i, n - i, 0), caps));
}

void kernels_override_exp_avx2(struct kernels *table)
{
    table->maximum = avx2_maximum;
    table->exp_sum = avx2_exp_sum;
    table->silu_multiply = avx2_silu_multiply;
    table->gelu_multiply = avx2_gelu_multiply;
    table->softcap = avx2_softcap;
}

#else

void kernels_override_exp_avx2(struct kernels *table)
{
    (void)table;
}

#endif
