/* What the bytes of every block type mean, written once, and used four ways: decoding and products, compiled plainly and for the
 * instruction sets with AVX2. Without fused products (-ffp-contract=off) the decoded bits are the same. Scales are multiplied in the order of ggml's
 * reference code, so that values are the same to the last bit. Private to tensor/blocks.c and to the kernel sets. */
#ifndef NIBBLE_TENSOR_BLOCK_DECODE_H
#define NIBBLE_TENSOR_BLOCK_DECODE_H

#include <math.h>
#include <stddef.h>
#include <string.h>
#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>
#define BLOCK_DECODE_AVX2
#endif

#include "tensor/blocks.h"
#include "tensor/dtype.h"

#define BLOCK_INLINE static inline __attribute__((always_inline))

static inline float half_at(const uint8_t *at)
{
    const uint16_t half = (uint16_t)(at[0] | at[1] << 8);
#ifdef BLOCK_DECODE_AVX2
    return _cvtsh_ss(half);
#else
    return dtype_f16_to_f32(half);
#endif
}

/* ---- sixteen weights at a time ----
 *
 * Vectors of GCC and Clang: every processor has some way to do them. */

typedef uint8_t codes16 __attribute__((vector_size(16)));
typedef int8_t signed16 __attribute__((vector_size(16)));

#ifdef BLOCK_DECODE_AVX2
/* The lower eight of sixteen signed bytes. */
static inline __m256 eight_floats(__m128i bytes)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
#endif

static inline codes16 load16(const uint8_t *at)
{
    codes16 codes;
    memcpy(&codes, at, sizeof codes);
    return codes;
}

/* Where the values of a block go: to memory, or, multiplied by inputs, into four sums of eight lanes as kernels_avx2.c's dot has
 * them. One of `out` and `x` is NULL, known when the code is compiled. */
struct block_sink {
    float *out;     /* [weights of the block] */
    const float *x; /* [weights of the block] */
#ifdef BLOCK_DECODE_AVX2
    __m256 sums[4];
#endif
};

#ifdef BLOCK_DECODE_AVX2
/* The sum of all products, added up in dot's order; + 0 as its empty rest. */
BLOCK_INLINE float block_sum(const struct block_sink *sink)
{
    const __m256 *sums = sink->sums;
    const __m256 all = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two))) + 0.0f;
}

/* Values at .. at + 7 of the block. */
BLOCK_INLINE void put8(struct block_sink *sink, unsigned at, __m256 values)
{
    __m256 *sum = sink->sums + at / 8 % 4;
    if (sink->out)
        _mm256_storeu_ps(sink->out + at, values);
    else
        *sum = _mm256_fmadd_ps(values, _mm256_loadu_ps(sink->x + at), *sum);
}
#endif

/* Values at .. at + 15: step * (code - middle) */
BLOCK_INLINE void put_steps(struct block_sink *sink, unsigned at, codes16 codes, int8_t middle, float step)
{
#ifdef BLOCK_DECODE_AVX2
    const __m128i integers = (__m128i)((signed16)codes - middle);
    const __m256 steps = _mm256_set1_ps(step);
    put8(sink, at, _mm256_mul_ps(eight_floats(integers), steps));
    put8(sink, at + 8, _mm256_mul_ps(eight_floats(_mm_srli_si128(integers, 8)), steps));
#else
    for (int i = 0; i < 16; i++)
        sink->out[at + i] = step * (float)((int8_t)codes[i] - middle);
#endif
}

/* Values at .. at + 15: step * code + offset */
BLOCK_INLINE void put_line(struct block_sink *sink, unsigned at, codes16 codes, float step, float offset)
{
#ifdef BLOCK_DECODE_AVX2
    const __m256 steps = _mm256_set1_ps(step), offsets = _mm256_set1_ps(offset);
    const __m256 low = eight_floats((__m128i)codes), high = eight_floats(_mm_srli_si128((__m128i)codes, 8));
    put8(sink, at, _mm256_add_ps(_mm256_mul_ps(low, steps), offsets));
    put8(sink, at + 8, _mm256_add_ps(_mm256_mul_ps(high, steps), offsets));
#else
    for (int i = 0; i < 16; i++)
        sink->out[at + i] = step * (float)codes[i] + offset;
#endif
}

/* 16 where bit i of the two bytes is set. */
static inline codes16 fifth_bits(const uint8_t *bytes)
{
    const codes16 bits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8_t a = bytes[0], b = bytes[1];
    const codes16 both = {a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b};
    return (codes16)((both & bits) != 0) & 16;
}

/* ---- 32 weights: nibbles, the low ones are the first half ---- */

/* | d: f16 | 16 bytes of nibbles | */
BLOCK_INLINE void decode_q4_0(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block);
    const codes16 nibbles = load16(block + 2);
    put_steps(sink, 0, nibbles & 15, 8, d);
    put_steps(sink, 16, nibbles >> 4, 8, d);
}

/* | d: f16 | m: f16 | 16 bytes of nibbles | */
BLOCK_INLINE void decode_q4_1(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block), m = half_at(block + 2);
    const codes16 nibbles = load16(block + 4);
    put_line(sink, 0, nibbles & 15, d, m);
    put_line(sink, 16, nibbles >> 4, d, m);
}

/* | d: f16 | fifth bits: u32, bit i belongs to weight i | 16 bytes of nibbles | */
BLOCK_INLINE void decode_q5_0(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block);
    const codes16 nibbles = load16(block + 6);
    put_steps(sink, 0, (nibbles & 15) | fifth_bits(block + 2), 16, d);
    put_steps(sink, 16, nibbles >> 4 | fifth_bits(block + 4), 16, d);
}

/* | d: f16 | m: f16 | fifth bits: u32 | 16 bytes of nibbles | */
BLOCK_INLINE void decode_q5_1(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block), m = half_at(block + 2);
    const codes16 nibbles = load16(block + 8);
    put_line(sink, 0, (nibbles & 15) | fifth_bits(block + 4), d, m);
    put_line(sink, 16, nibbles >> 4 | fifth_bits(block + 6), d, m);
}

/* | d: f16 | 32 signed bytes | */
BLOCK_INLINE void decode_q8_0(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block);
    put_steps(sink, 0, load16(block + 2), 0, d);
    put_steps(sink, 16, load16(block + 18), 0, d);
}

/* Levels of the non-linear 4-bit types. */
static const int8_t nl_levels[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Values at + i: d * levels[low nibble i]; at + 16 + i: d * levels[high nibble i]. */
BLOCK_INLINE void decode_levels(
    struct block_sink *sink, unsigned at, const uint8_t *nibbles, const int8_t levels[16], float d)
{
#ifdef BLOCK_DECODE_AVX2
    const __m128i table = _mm_loadu_si128((const __m128i *)levels);
    const codes16 codes = load16(nibbles);
    put_steps(sink, at, (codes16)_mm_shuffle_epi8(table, (__m128i)(codes & 15)), 0, d);
    put_steps(sink, at + 16, (codes16)_mm_shuffle_epi8(table, (__m128i)(codes >> 4)), 0, d);
#else
    for (int i = 0; i < 16; i++) {
        sink->out[at + i] = d * (float)levels[nibbles[i] & 15];
        sink->out[at + i + 16] = d * (float)levels[nibbles[i] >> 4];
    }
#endif
}

/* | d: f16 | 16 bytes of nibbles | */
BLOCK_INLINE void decode_iq4_nl(struct block_sink *sink, const uint8_t *block)
{
    decode_levels(sink, 0, block + 2, nl_levels, half_at(block));
}

/* | e: exponent of the scale, biased by 127 | 16 bytes of nibbles |; levels are doubled here, the scale halved. */
BLOCK_INLINE void decode_mxfp4(struct block_sink *sink, const uint8_t *block)
{
    static const int8_t levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    decode_levels(sink, 0, block + 1, levels, ldexpf(1, block[0] - 128));
}

/* ---- 256 weights ---- */

/* | 16 bytes: scale (low nibble) and min of sub-block i | 64 bytes of 2-bit codes | d: f16 | dmin: f16 |
 * Codes: each half of 128 weights has 32 bytes; weights 32 j .. 32 j + 31 of it are bits 2 j and 2 j + 1. */
BLOCK_INLINE void decode_q2_k(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block + 80), dmin = half_at(block + 82);
#pragma GCC unroll 16
    for (int sub = 0; sub < 16; sub++) {
        const codes16 codes = load16(block + 16 + 32 * (sub / 8) + sub % 2 * 16) >> (sub / 2 % 4 * 2);
        put_line(sink, 16 * sub, codes & 3, d * (float)(block[sub] & 15), -(dmin * (float)(block[sub] >> 4)));
    }
}

/* | 32 bytes of high bits: bit i / 32 of byte i % 32 | 64 bytes of low bits, as Q2_K | 12 bytes of scales | d: f16 |
 * Scales: 6 bits, low nibbles in bytes 0 .. 7 (of scales 0 .. 7, then 8 .. 15), high pairs of bits in bytes 8 .. 11. */
BLOCK_INLINE void decode_q3_k(struct block_sink *sink, const uint8_t *block)
{
    const uint8_t *scales = block + 96;
    const float d = half_at(block + 108);
#pragma GCC unroll 16
    for (int sub = 0; sub < 16; sub++) {
        const int first = sub % 2 * 16;
        const int low = sub < 8 ? scales[sub] & 15 : scales[sub - 8] >> 4;
        const int scale = (low | (scales[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4) - 32;
        const codes16 codes = load16(block + 32 + 32 * (sub / 8) + first) >> (sub / 2 % 4 * 2);
        const codes16 high = load16(block + first) >> (sub / 2);
        put_steps(sink, 16 * sub, (codes & 3) | (high & 1) << 2, 4, d * (float)scale);
    }
}

/* Scale and min of sub-block `sub` out of 12 bytes: 6 bits each; those of sub-blocks 4 .. 7 have their low nibbles in bytes 8 .. 11 and their
 * high bits above the scales and mins of sub-blocks 0 .. 3. */
BLOCK_INLINE void six_bits(const uint8_t *packed, int sub, int *scale, int *min)
{
    if (sub < 4) {
        *scale = packed[sub] & 63;
        *min = packed[sub + 4] & 63;
    } else {
        *scale = (packed[sub + 4] & 15) | packed[sub - 4] >> 6 << 4;
        *min = packed[sub + 4] >> 4 | packed[sub] >> 6 << 4;
    }
}

/* | d: f16 | dmin: f16 | 12 bytes of scales and mins | 128 bytes of nibbles |; 32 bytes are 64 weights, low nibbles first. */
BLOCK_INLINE void decode_q4_k(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block), dmin = half_at(block + 2);
#pragma GCC unroll 8
    for (int sub = 0; sub < 8; sub++) {
        const uint8_t *nibbles = block + 16 + sub / 2 * 32;
        int scale, min;
        six_bits(block + 4, sub, &scale, &min);
        for (int i = 0; i < 32; i += 16)
            put_line(sink, 32 * sub + i, load16(nibbles + i) >> (sub % 2 * 4) & 15, d * (float)scale,
                -(dmin * (float)min));
    }
}

/* As Q4_K, with 32 bytes of fifth bits before the nibbles: bit i / 32 of byte i % 32. */
BLOCK_INLINE void decode_q5_k(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block), dmin = half_at(block + 2);
#pragma GCC unroll 8
    for (int sub = 0; sub < 8; sub++) {
        const uint8_t *nibbles = block + 48 + sub / 2 * 32;
        int scale, min;
        six_bits(block + 4, sub, &scale, &min);
        for (int i = 0; i < 32; i += 16) {
            const codes16 fifth = (load16(block + 16 + i) >> sub & 1) << 4;
            put_line(sink, 32 * sub + i, (load16(nibbles + i) >> (sub % 2 * 4) & 15) | fifth,
                d * (float)scale, -(dmin * (float)min));
        }
    }
}

/* | 128 bytes of low nibbles | 64 bytes of high pairs | 16 signed scales | d: f16 |
 * Each half of 128 weights has 64 bytes of nibbles (weights 0 .. 63 low, 64 .. 127 high) and 32 bytes of pairs. */
BLOCK_INLINE void decode_q6_k(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block + 208);
#pragma GCC unroll 16
    for (int sub = 0; sub < 16; sub++) {
        const int half = sub / 8, quarter = sub / 2 % 4, first = sub % 2 * 16;
        const codes16 nibbles = load16(block + 64 * half + quarter % 2 * 32 + first) >> (quarter / 2 * 4);
        const codes16 pairs = load16(block + 128 + 32 * half + first) >> (quarter * 2);
        put_steps(sink, 16 * sub, (nibbles & 15) | (pairs & 3) << 4, 32, d * (float)(int8_t)block[192 + sub]);
    }
}

/* | d: f16 | high pairs of the scales: u16 | 4 bytes of their low nibbles | 128 bytes of nibbles |; each 16 bytes as IQ4_NL. */
BLOCK_INLINE void decode_iq4_xs(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block);
#pragma GCC unroll 8
    for (int sub = 0; sub < 8; sub++) {
        const int low = block[4 + sub / 2] >> sub % 2 * 4 & 15;
        const int high = (block[2] | block[3] << 8) >> 2 * sub & 3;
        decode_levels(sink, 32 * sub, block + 8 + 16 * sub, nl_levels, d * (float)((low | high << 4) - 32));
    }
}

/* Digit `place` (0 is the most significant) of five ternary digits in a byte, stored as ceil(value * 256 / 243). */
static inline int trit(uint8_t byte, int place)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    const uint8_t shifted = (uint8_t)(byte * powers[place]);
    return shifted * 3 >> 8;
}

/* | 48 bytes of five digits: 32 (digit n of byte m is weight 32 n + m), then 16 | 4 bytes of four digits | d: f16 | */
BLOCK_INLINE void decode_tq1_0(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block + 52);
    uint8_t trits[256];
    for (int i = 0; i < 160; i++)
        trits[i] = (uint8_t)trit(block[i % 32], i / 32);
    for (int i = 0; i < 80; i++)
        trits[160 + i] = (uint8_t)trit(block[32 + i % 16], i / 16);
    for (int i = 0; i < 16; i++)
        trits[240 + i] = (uint8_t)trit(block[48 + i % 4], i / 4);
#pragma GCC unroll 16
    for (unsigned at = 0; at < 256; at += 16)
        put_steps(sink, at, load16(trits + at), 1, d);
}

/* | 64 bytes of 2-bit digits, as Q2_K | d: f16 | */
BLOCK_INLINE void decode_tq2_0(struct block_sink *sink, const uint8_t *block)
{
    const float d = half_at(block + 64);
#pragma GCC unroll 16
    for (int sub = 0; sub < 16; sub++) {
        const codes16 codes = load16(block + 32 * (sub / 8) + sub % 2 * 16) >> (sub / 2 % 4 * 2);
        put_steps(sink, 16 * sub, codes & 3, 1, d);
    }
}

/* A loop over blocks for each type, so that its body is inlined there. */
#define BLOCK_LOOP(type, decode, weights, size)                                                              \
    case type:                                                                                               \
        for (uint64_t i = 0; i < blocks; i++, block += (size)) {                                             \
            decode(&sink, block);                                                                            \
            if (sink.out)                                                                                    \
                sink.out += (weights);                                                                       \
            else                                                                                             \
                sink.x += (weights);                                                                         \
        }                                                                                                    \
        break;
#define BLOCK_LOOPS                                                                                          \
    switch (type) {                                                                                          \
        BLOCK_LOOP(BLOCK_Q4_0, decode_q4_0, 32, 18)                                                          \
        BLOCK_LOOP(BLOCK_Q4_1, decode_q4_1, 32, 20)                                                          \
        BLOCK_LOOP(BLOCK_Q5_0, decode_q5_0, 32, 22)                                                          \
        BLOCK_LOOP(BLOCK_Q5_1, decode_q5_1, 32, 24)                                                          \
        BLOCK_LOOP(BLOCK_Q8_0, decode_q8_0, 32, 34)                                                          \
        BLOCK_LOOP(BLOCK_Q2_K, decode_q2_k, 256, 84)                                                         \
        BLOCK_LOOP(BLOCK_Q3_K, decode_q3_k, 256, 110)                                                        \
        BLOCK_LOOP(BLOCK_Q4_K, decode_q4_k, 256, 144)                                                        \
        BLOCK_LOOP(BLOCK_Q5_K, decode_q5_k, 256, 176)                                                        \
        BLOCK_LOOP(BLOCK_Q6_K, decode_q6_k, 256, 210)                                                        \
        BLOCK_LOOP(BLOCK_IQ4_NL, decode_iq4_nl, 32, 18)                                                      \
        BLOCK_LOOP(BLOCK_IQ4_XS, decode_iq4_xs, 256, 136)                                                    \
        BLOCK_LOOP(BLOCK_MXFP4, decode_mxfp4, 32, 17)                                                        \
        BLOCK_LOOP(BLOCK_TQ1_0, decode_tq1_0, 256, 54)                                                       \
        BLOCK_LOOP(BLOCK_TQ2_0, decode_tq2_0, 256, 66)                                                       \
    case BLOCK_NONE:                                                                                         \
    case BLOCK_COUNT:                                                                                        \
        break;                                                                                               \
    }

#endif
