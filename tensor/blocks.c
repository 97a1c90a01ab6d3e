/* See blocks.h. Scales are multiplied in the order of ggml's reference code, so that values are the same to the last bit; speed is
 * the business of kernels. */
#include "tensor/blocks.h"

#include <math.h>
#include <stddef.h>

#include "tensor/dtype.h"

static float half_at(const uint8_t *at)
{
    return dtype_f16_to_f32((uint16_t)(at[0] | at[1] << 8));
}

static uint32_t word_at(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* ---- 32 weights: nibbles, the low ones are the first half ---- */

/* | d: f16 | 16 bytes of nibbles | */
static void decode_q4_0(float *out, const uint8_t *block)
{
    const float d = half_at(block);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)((block[2 + i] & 15) - 8) * d;
        out[i + 16] = (float)((block[2 + i] >> 4) - 8) * d;
    }
}

/* | d: f16 | m: f16 | 16 bytes of nibbles | */
static void decode_q4_1(float *out, const uint8_t *block)
{
    const float d = half_at(block), m = half_at(block + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = (float)(block[4 + i] & 15) * d + m;
        out[i + 16] = (float)(block[4 + i] >> 4) * d + m;
    }
}

/* The fifth bits of all codes are one word: bit i belongs to weight i. */
static int five_bits(const uint8_t *nibbles, uint32_t fifth, int i)
{
    const int low = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
    return low | (int)(fifth >> i & 1) << 4;
}

/* | d: f16 | fifth bits: u32 | 16 bytes of nibbles | */
static void decode_q5_0(float *out, const uint8_t *block)
{
    const float d = half_at(block);
    for (int i = 0; i < 32; i++)
        out[i] = (float)(five_bits(block + 6, word_at(block + 2), i) - 16) * d;
}

/* | d: f16 | m: f16 | fifth bits: u32 | 16 bytes of nibbles | */
static void decode_q5_1(float *out, const uint8_t *block)
{
    const float d = half_at(block), m = half_at(block + 2);
    for (int i = 0; i < 32; i++)
        out[i] = (float)five_bits(block + 8, word_at(block + 4), i) * d + m;
}

/* | d: f16 | 32 signed bytes | */
static void decode_q8_0(float *out, const uint8_t *block)
{
    const float d = half_at(block);
    for (int i = 0; i < 32; i++)
        out[i] = (float)(int8_t)block[2 + i] * d;
}

/* Levels of the non-linear 4-bit types. */
static const int8_t nl_levels[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void decode_levels(float *out, const uint8_t *nibbles, const int8_t levels[16], float d)
{
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)levels[nibbles[i] & 15];
        out[i + 16] = d * (float)levels[nibbles[i] >> 4];
    }
}

/* | d: f16 | 16 bytes of nibbles | */
static void decode_iq4_nl(float *out, const uint8_t *block)
{
    decode_levels(out, block + 2, nl_levels, half_at(block));
}

/* | e: exponent of the scale, biased by 127 | 16 bytes of nibbles |; levels are doubled here, the scale halved. */
static void decode_mxfp4(float *out, const uint8_t *block)
{
    static const int8_t levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    decode_levels(out, block + 1, levels, ldexpf(1, block[0] - 128));
}

/* ---- 256 weights ---- */

/* | 16 bytes: scale (low nibble) and min of sub-block i | 64 bytes of 2-bit codes | d: f16 | dmin: f16 |
 * Codes: each half of 128 weights has 32 bytes; weights 32 j .. 32 j + 31 of it are bits 2 j and 2 j + 1. */
static void decode_q2_k(float *out, const uint8_t *block)
{
    const float d = half_at(block + 80), dmin = half_at(block + 82);
    for (int sub = 0; sub < 16; sub++) {
        const uint8_t *codes = block + 16 + 32 * (sub / 8) + sub % 2 * 16;
        const int shift = sub / 2 % 4 * 2;
        const float ds = d * (float)(block[sub] & 15), m = dmin * (float)(block[sub] >> 4);
        for (int i = 0; i < 16; i++)
            out[16 * sub + i] = ds * (float)(codes[i] >> shift & 3) - m;
    }
}

/* | 32 bytes of high bits: bit i / 32 of byte i % 32 | 64 bytes of low bits, as Q2_K | 12 bytes of scales | d: f16 |
 * Scales: 6 bits, low nibbles in bytes 0 .. 7 (of scales 0 .. 7, then 8 .. 15), high pairs of bits in bytes 8 .. 11. */
static void decode_q3_k(float *out, const uint8_t *block)
{
    const uint8_t *scales = block + 96;
    const float d = half_at(block + 108);
    for (int sub = 0; sub < 16; sub++) {
        const int half = sub / 8, shift = sub / 2 % 4 * 2, first = sub % 2 * 16;
        const int low = sub < 8 ? scales[sub] & 15 : scales[sub - 8] >> 4;
        const int scale = (low | (scales[8 + sub % 4] >> (sub / 4 * 2) & 3) << 4) - 32;
        const uint8_t *codes = block + 32 + 32 * half + first, *high = block + first;
        const float ds = d * (float)scale;
        for (int i = 0; i < 16; i++) {
            const int q = ((codes[i] >> shift & 3) | (high[i] >> sub / 2 & 1) << 2) - 4;
            out[16 * sub + i] = ds * (float)q;
        }
    }
}

/* Scale and min of sub-block `sub` out of 12 bytes: 6 bits each; those of sub-blocks 4 .. 7 have their low nibbles in bytes 8 .. 11 and their
 * high bits above the scales and mins of sub-blocks 0 .. 3. */
static void six_bits(const uint8_t *packed, int sub, int *scale, int *min)
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
static void decode_q4_k(float *out, const uint8_t *block)
{
    const float d = half_at(block), dmin = half_at(block + 2);
    for (int sub = 0; sub < 8; sub++) {
        const uint8_t *nibbles = block + 16 + sub / 2 * 32;
        int scale, min;
        six_bits(block + 4, sub, &scale, &min);
        const float ds = d * (float)scale, m = dmin * (float)min;
        for (int i = 0; i < 32; i++)
            out[32 * sub + i] = ds * (float)(nibbles[i] >> sub % 2 * 4 & 15) - m;
    }
}

/* As Q4_K, with 32 bytes of fifth bits before the nibbles: bit i / 32 of byte i % 32. */
static void decode_q5_k(float *out, const uint8_t *block)
{
    const float d = half_at(block), dmin = half_at(block + 2);
    for (int sub = 0; sub < 8; sub++) {
        const uint8_t *nibbles = block + 48 + sub / 2 * 32, *fifth = block + 16;
        int scale, min;
        six_bits(block + 4, sub, &scale, &min);
        const float ds = d * (float)scale, m = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            const int q = (nibbles[i] >> sub % 2 * 4 & 15) | (fifth[i] >> sub & 1) << 4;
            out[32 * sub + i] = ds * (float)q - m;
        }
    }
}

/* | 128 bytes of low nibbles | 64 bytes of high pairs | 16 signed scales | d: f16 |
 * Each half of 128 weights has 64 bytes of nibbles (weights 0 .. 63 low, 64 .. 127 high) and 32 bytes of pairs. */
static void decode_q6_k(float *out, const uint8_t *block)
{
    const float d = half_at(block + 208);
    for (int sub = 0; sub < 16; sub++) {
        const int half = sub / 8, quarter = sub / 2 % 4, first = sub % 2 * 16;
        const uint8_t *nibbles = block + 64 * half + quarter % 2 * 32 + first;
        const uint8_t *pairs = block + 128 + 32 * half + first;
        const float ds = d * (float)(int8_t)block[192 + sub];
        for (int i = 0; i < 16; i++) {
            const int q = (nibbles[i] >> quarter / 2 * 4 & 15) | (pairs[i] >> quarter * 2 & 3) << 4;
            out[16 * sub + i] = ds * (float)(q - 32);
        }
    }
}

/* | d: f16 | high pairs of the scales: u16 | 4 bytes of their low nibbles | 128 bytes of nibbles |; each 16 bytes as IQ4_NL. */
static void decode_iq4_xs(float *out, const uint8_t *block)
{
    const float d = half_at(block);
    for (int sub = 0; sub < 8; sub++) {
        const int low = block[4 + sub / 2] >> sub % 2 * 4 & 15;
        const int high = (block[2] | block[3] << 8) >> 2 * sub & 3;
        decode_levels(out + 32 * sub, block + 8 + 16 * sub, nl_levels, d * (float)((low | high << 4) - 32));
    }
}

/* Digit `place` (0 is the most significant) of five ternary digits in a byte, stored as ceil(value * 256 / 243). */
static int trit(uint8_t byte, int place)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    const uint8_t shifted = (uint8_t)(byte * powers[place]);
    return shifted * 3 >> 8;
}

/* | 48 bytes of five digits: 32 (digit n of byte m is weight 32 n + m), then 16 | 4 bytes of four digits | d: f16 | */
static void decode_tq1_0(float *out, const uint8_t *block)
{
    const float d = half_at(block + 52);
    for (int i = 0; i < 160; i++)
        out[i] = (float)(trit(block[i % 32], i / 32) - 1) * d;
    for (int i = 0; i < 80; i++)
        out[160 + i] = (float)(trit(block[32 + i % 16], i / 16) - 1) * d;
    for (int i = 0; i < 16; i++)
        out[240 + i] = (float)(trit(block[48 + i % 4], i / 4) - 1) * d;
}

/* | 64 bytes of 2-bit digits, as Q2_K | d: f16 | */
static void decode_tq2_0(float *out, const uint8_t *block)
{
    const float d = half_at(block + 64);
    for (int i = 0; i < 256; i++)
        out[i] = (float)((block[i / 128 * 32 + i % 32] >> i / 32 % 4 * 2 & 3) - 1) * d;
}

/* ---- the table ---- */

static const struct block_info table[BLOCK_COUNT] = {
    [BLOCK_Q4_0] = {"Q4_0", 2, 32, 18, decode_q4_0},
    [BLOCK_Q4_1] = {"Q4_1", 3, 32, 20, decode_q4_1},
    [BLOCK_Q5_0] = {"Q5_0", 6, 32, 22, decode_q5_0},
    [BLOCK_Q5_1] = {"Q5_1", 7, 32, 24, decode_q5_1},
    [BLOCK_Q8_0] = {"Q8_0", 8, 32, 34, decode_q8_0},
    [BLOCK_Q2_K] = {"Q2_K", 10, 256, 84, decode_q2_k},
    [BLOCK_Q3_K] = {"Q3_K", 11, 256, 110, decode_q3_k},
    [BLOCK_Q4_K] = {"Q4_K", 12, 256, 144, decode_q4_k},
    [BLOCK_Q5_K] = {"Q5_K", 13, 256, 176, decode_q5_k},
    [BLOCK_Q6_K] = {"Q6_K", 14, 256, 210, decode_q6_k},
    [BLOCK_IQ4_NL] = {"IQ4_NL", 20, 32, 18, decode_iq4_nl},
    [BLOCK_IQ4_XS] = {"IQ4_XS", 23, 256, 136, decode_iq4_xs},
    [BLOCK_MXFP4] = {"MXFP4", 39, 32, 17, decode_mxfp4},
    [BLOCK_TQ1_0] = {"TQ1_0", 34, 256, 54, decode_tq1_0},
    [BLOCK_TQ2_0] = {"TQ2_0", 35, 256, 66, decode_tq2_0},
};

const struct block_info *block_info(enum block_type type)
{
    return &table[type];
}

enum block_type block_of_id(uint32_t id)
{
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (table[type].id == id) return type;
    }
    return BLOCK_NONE;
}

void blocks_decode(float *out, enum block_type type, const void *data, uint64_t first, uint64_t count)
{
    const struct block_info *info = &table[type];
    const uint8_t *block = (const uint8_t *)data + first / info->weights * info->bytes;
    for (uint64_t i = 0; i < count; i += info->weights, block += info->bytes)
        info->decode(out + i, block);
}
