/* Checksums. zlib 1.2 takes half a nanosecond a byte, which is as long as the rest of writing a large file; where the CPU multiplies
 * polynomials, long stretches are folded instead (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
 * Instruction", Intel 2009): bytes d bits before others count for x^d times as much, and x^d modulo the polynomial is a constant. What is
 * folded to 16 bytes has the checksum of what it was, and zlib takes that. */
#include <zlib.h>

#include "base/file.h"

#if defined(__x86_64__)

#include <immintrin.h>

enum { LANE = 16, LANES = 4, FOLDED_LEAST = 256, LINE = LANES * LANE, LINES = 4 };

#define FOLDING __attribute__((target("pclmul")))
#define WIDE __attribute__((target("vpclmulqdq,avx512f")))

static bool cpu_folds(void)
{
    return __builtin_cpu_supports("pclmul");
}

static bool cpu_folds_lines(void)
{
    return __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx512f");
}

/* `x`, moved past some bits, and added to what lies there. by: x^(bits + 32) in the lower half, x^(bits - 32) in the upper one, both
 * modulo the polynomial, reversed, and shifted by one. */
FOLDING static inline __m128i fold(__m128i x, __m128i by, __m128i there)
{
    const __m128i low = _mm_clmulepi64_si128(x, by, 0x00), high = _mm_clmulepi64_si128(x, by, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), there);
}

FOLDING static inline __m128i load(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)at);
}

/* `fold` for four lanes at once, all moved past the same. */
WIDE static inline __m512i fold_line(__m512i x, __m512i by, __m512i there)
{
    const __m512i low = _mm512_clmulepi64_epi128(x, by, 0x00), high = _mm512_clmulepi64_epi128(x, by, 0x11);
    return _mm512_xor_si512(_mm512_xor_si512(low, high), there);
}

/* What the first LINES * LINE * (count / (LINES * LINE)) bytes, at least that many, become in LANES lanes; `first` is added to where
 * they begin. */
WIDE static void fold_lines(__m128i out[LANES], __m128i first, const uint8_t *bytes, uint64_t count)
{
    const __m512i by_2048 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x1322d1430, 0x11542778a));
    const __m512i by_512 = _mm512_broadcast_i32x4(_mm_set_epi64x(0x1c6e41596, 0x154442bd4));
    __m512i x[LINES];
    for (int i = 0; i < LINES; i++)
        x[i] = _mm512_loadu_si512(bytes + i * LINE);
    x[0] = _mm512_xor_si512(x[0], _mm512_inserti32x4(_mm512_setzero_si512(), first, 0));
    for (uint64_t at = LINES * LINE; count - at >= LINES * LINE; at += LINES * LINE)
        for (int i = 0; i < LINES; i++)
            x[i] = fold_line(x[i], by_2048, _mm512_loadu_si512(bytes + at + i * LINE));
    for (int i = 1; i < LINES; i++)
        x[0] = fold_line(x[0], by_512, x[i]);
    _mm512_storeu_si512(out, x[0]);
}

/* The first LANE * (count / LANE) bytes, at least FOLDED_LEAST. */
FOLDING static uint32_t crc_folded(uint32_t crc, const uint8_t *bytes, uint64_t count)
{
    const __m128i by_512 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i by_128 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    const __m128i first = _mm_cvtsi32_si128((int)~crc); /* as the checksum begins: with what came before */
    const uint8_t *end = bytes + count / LANE * LANE;
    __m128i x[LANES];
    uint8_t rest[LANE];
    if (cpu_folds_lines()) {
        fold_lines(x, first, bytes, count);
        bytes += count / (LINES * LINE) * (LINES * LINE);
    } else {
        for (int i = 0; i < LANES; i++, bytes += LANE)
            x[i] = load(bytes);
        x[0] = _mm_xor_si128(x[0], first);
    }
    for (; end - bytes >= LANES * LANE; bytes += LANES * LANE)
        for (int i = 0; i < LANES; i++)
            x[i] = fold(x[i], by_512, load(bytes + i * LANE));
    for (int i = 1; i < LANES; i++)
        x[0] = fold(x[0], by_128, x[i]);
    for (; bytes < end; bytes += LANE)
        x[0] = fold(x[0], by_128, load(bytes));
    _mm_storeu_si128((__m128i *)(void *)rest, x[0]);
    return (uint32_t)crc32_z(0xffffffff, rest, LANE); /* nothing came before: that is in it */
}

#else

enum { LANE = 16, FOLDED_LEAST = 256 };

static bool cpu_folds(void)
{
    return false;
}

static uint32_t crc_folded(uint32_t crc, const uint8_t *bytes, uint64_t count)
{
    return (uint32_t)crc32_z(crc, bytes, count / LANE * LANE);
}

#endif

uint32_t file_crc32(uint32_t crc, const void *bytes, uint64_t count)
{
    const uint8_t *at = bytes;
    if (count >= FOLDED_LEAST && cpu_folds()) {
        crc = crc_folded(crc, at, count);
        at += count / LANE * LANE;
        count %= LANE;
    }
    if (count == 0) return crc; /* zlib takes a NULL buffer for "give me the start value" */
    return (uint32_t)crc32_z(crc, at, count);
}

uint32_t file_crc32_combine(uint32_t crc_a, uint32_t crc_b, uint64_t bytes_b)
{
    return (uint32_t)crc32_combine64(crc_a, crc_b, (int64_t)bytes_b);
}
