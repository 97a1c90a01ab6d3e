/* See block_parts.h. Codes lie in planes: a plane holds `width` bits of every code. A span of weights has span * width / 8 bytes, and
 * weight i of it is bits i / bytes * width .. of byte i % bytes. All layouts of tensor/blocks.c are one or two of these. */
#include "tensor/block_parts.h"

#include <stddef.h>
#include <string.h>

#include "tensor/dtype.h"

struct plane {
    uint32_t at, width, span; /* width 0: there is none */
};

/* Where the parts of a block lie. */
struct layout {
    struct block_form form;
    uint32_t d, m;          /* of the halves; m only if form.offset */
    struct plane low, high; /* high: the bits above those of low */
    uint8_t flipped;        /* bits of the stored codes that are inverted */
    void (*take_scales)(struct block_parts *parts, const uint8_t *block); /* NULL: there are none */
    void (*put_scales)(uint8_t *block, const struct block_parts *parts);
};

/* ---- scales ---- */

/* Q2_K: nibbles, the scale is the low one. */
static void take_nibbles(struct block_parts *parts, const uint8_t *block)
{
    for (int sub = 0; sub < 16; sub++) {
        parts->scale[sub] = block[sub] & 15;
        parts->min[sub] = block[sub] >> 4;
    }
}

static void put_nibbles(uint8_t *block, const struct block_parts *parts)
{
    for (int sub = 0; sub < 16; sub++)
        block[sub] = (uint8_t)(parts->scale[sub] | parts->min[sub] << 4);
}

/* Q3_K: low nibbles in 8 bytes (of scales 0 .. 7, then 8 .. 15), high pairs of bits in 4. */
static void take_q3_k(struct block_parts *parts, const uint8_t *block)
{
    for (int sub = 0; sub < 16; sub++) {
        const int low = block[96 + sub % 8] >> sub / 8 * 4 & 15,
                  high = block[104 + sub % 4] >> sub / 4 * 2 & 3;
        parts->scale[sub] = (int16_t)((low | high << 4) - 32);
    }
}

static void put_q3_k(uint8_t *block, const struct block_parts *parts)
{
    memset(block + 96, 0, 12);
    for (int sub = 0; sub < 16; sub++) {
        const int scale = parts->scale[sub] + 32;
        block[96 + sub % 8] |= (uint8_t)((scale & 15) << sub / 8 * 4);
        block[104 + sub % 4] |= (uint8_t)(scale >> 4 << sub / 4 * 2);
    }
}

/* Q4_K and Q5_K: six bits each in 12 bytes; see tensor/blocks.c. */
static void take_six_bits(struct block_parts *parts, const uint8_t *block)
{
    const uint8_t *packed = block + 4;
    for (int sub = 0; sub < 4; sub++) {
        parts->scale[sub] = packed[sub] & 63;
        parts->min[sub] = packed[sub + 4] & 63;
        parts->scale[sub + 4] = (int16_t)((packed[sub + 8] & 15) | packed[sub] >> 6 << 4);
        parts->min[sub + 4] = (uint8_t)(packed[sub + 8] >> 4 | packed[sub + 4] >> 6 << 4);
    }
}

static void put_six_bits(uint8_t *block, const struct block_parts *parts)
{
    uint8_t *packed = block + 4;
    for (int sub = 0; sub < 4; sub++) {
        const int scale = parts->scale[sub + 4], min = parts->min[sub + 4];
        packed[sub] = (uint8_t)(parts->scale[sub] | scale >> 4 << 6);
        packed[sub + 4] = (uint8_t)(parts->min[sub] | min >> 4 << 6);
        packed[sub + 8] = (uint8_t)((scale & 15) | (min & 15) << 4);
    }
}

/* Q6_K: signed bytes. */
static void take_bytes(struct block_parts *parts, const uint8_t *block)
{
    for (int sub = 0; sub < 16; sub++)
        parts->scale[sub] = (int8_t)block[192 + sub];
}

static void put_bytes(uint8_t *block, const struct block_parts *parts)
{
    for (int sub = 0; sub < 16; sub++)
        block[192 + sub] = (uint8_t)parts->scale[sub];
}

/* IQ4_XS: high pairs in 2 bytes, low nibbles in 4. */
static void take_iq4_xs(struct block_parts *parts, const uint8_t *block)
{
    for (int sub = 0; sub < 8; sub++) {
        const int low = block[4 + sub / 2] >> sub % 2 * 4 & 15, high = block[2 + sub / 4] >> sub % 4 * 2 & 3;
        parts->scale[sub] = (int16_t)((low | high << 4) - 32);
    }
}

static void put_iq4_xs(uint8_t *block, const struct block_parts *parts)
{
    memset(block + 2, 0, 6);
    for (int sub = 0; sub < 8; sub++) {
        const int scale = parts->scale[sub] + 32;
        block[4 + sub / 2] |= (uint8_t)((scale & 15) << sub % 2 * 4);
        block[2 + sub / 4] |= (uint8_t)(scale >> 4 << sub % 4 * 2);
    }
}

/* ---- the table ---- */

static const int8_t nl_levels[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* clang-format off */
#define NONE {0, 0, 0}
static const struct layout table[BLOCK_COUNT] = {
    /* form: weights, sub, subs, codes, lowest, levels, scales, min, offset; d, m; planes; flipped; scales */
    [BLOCK_Q4_0] = {{32, 32, 1, 16, -8, NULL, 1, 1, 0, false}, 0, 0, {2, 4, 32}, NONE, 0, NULL, NULL},
    [BLOCK_Q4_1] = {{32, 32, 1, 16, 0, NULL, 1, 1, 0, true}, 0, 2, {4, 4, 32}, NONE, 0, NULL, NULL},
    [BLOCK_Q5_0] = {{32, 32, 1, 32, -16, NULL, 1, 1, 0, false}, 0, 0, {6, 4, 32}, {2, 1, 8}, 0, NULL, NULL},
    [BLOCK_Q5_1] = {{32, 32, 1, 32, 0, NULL, 1, 1, 0, true}, 0, 2, {8, 4, 32}, {4, 1, 8}, 0, NULL, NULL},
    [BLOCK_Q8_0] = {{32, 32, 1, 256, -128, NULL, 1, 1, 0, false}, 0, 0, {2, 8, 32}, NONE, 128, NULL, NULL},
    [BLOCK_Q2_K] = {{256, 16, 16, 4, 0, NULL, 0, 15, 15, true}, 80, 82, {16, 2, 128}, NONE, 0,
        take_nibbles, put_nibbles},
    [BLOCK_Q3_K] = {{256, 16, 16, 8, -4, NULL, -32, 31, 0, false}, 108, 0, {32, 2, 128}, {0, 1, 256}, 0,
        take_q3_k, put_q3_k},
    [BLOCK_Q4_K] = {{256, 32, 8, 16, 0, NULL, 0, 63, 63, true}, 0, 2, {16, 4, 64}, NONE, 0,
        take_six_bits, put_six_bits},
    [BLOCK_Q5_K] = {{256, 32, 8, 32, 0, NULL, 0, 63, 63, true}, 0, 2, {48, 4, 64}, {16, 1, 256}, 0,
        take_six_bits, put_six_bits},
    [BLOCK_Q6_K] = {{256, 16, 16, 64, -32, NULL, -128, 127, 0, false}, 208, 0, {0, 4, 128}, {128, 2, 128}, 0,
        take_bytes, put_bytes},
    [BLOCK_IQ4_NL] = {{32, 32, 1, 16, 0, nl_levels, 1, 1, 0, false}, 0, 0, {2, 4, 32}, NONE, 0, NULL, NULL},
    [BLOCK_IQ4_XS] = {{256, 32, 8, 16, 0, nl_levels, -32, 31, 0, false}, 0, 0, {8, 4, 32}, NONE, 0,
        take_iq4_xs, put_iq4_xs},
};
/* clang-format on */

const struct block_form *block_form(enum block_type type)
{
    return table[type].form.weights ? &table[type].form : NULL;
}

/* ---- codes ---- */

#define ALL_BYTES UINT64_C(0x0101010101010101)

/* Called with constants, so that the loops have known lengths. */
#define PLANE_INLINE static inline __attribute__((always_inline))

PLANE_INLINE void take_span(
    uint8_t *codes, const uint8_t *block, uint32_t weights, uint32_t width, uint32_t span, uint32_t shift)
{
    const uint32_t bytes = span * width / 8, mask = (1u << width) - 1;
    for (uint32_t begin = 0; begin < weights; begin += span, block += bytes) {
        for (uint32_t part = 0; part < 8 / width; part++) {
            for (uint32_t i = 0; i < bytes; i++)
                codes[begin + part * bytes + i] |= (uint8_t)((block[i] >> part * width & mask) << shift);
        }
    }
}

/* The bits of eight codes, each in its own byte. */
PLANE_INLINE uint64_t eight_codes(const uint8_t *codes, uint32_t width, uint32_t shift)
{
    uint64_t word;
    memcpy(&word, codes, sizeof word);
    return word >> shift & ALL_BYTES * ((1u << width) - 1);
}

/* Every byte belongs to one plane. Eight codes at a time: into a byte each of eight, or all into one. */
PLANE_INLINE void put_span(uint8_t *block, const uint8_t *codes, uint32_t weights, uint32_t width,
    uint32_t span, uint32_t shift, uint32_t flipped)
{
    const uint32_t bytes = span * width / 8;
    for (uint32_t begin = 0; begin < weights; begin += span, block += bytes) {
        for (uint32_t i = 0; i < bytes; i += 8) {
            uint64_t word = ALL_BYTES * flipped;
            if (span == 8) { /* of width 1: bit 8 k goes to bit 56 + k, and none of them meet */
                *block = (uint8_t)(eight_codes(codes + begin, 1, shift) * 0x0102040810204080 >> 56);
                break;
            }
            for (uint32_t part = 0; part < 8 / width; part++)
                word ^= eight_codes(codes + begin + part * bytes + i, width, shift) << part * width;
            memcpy(block + i, &word, sizeof word);
        }
    }
}

/* CASE(width, span) for the planes of the table. */
#define CHOOSE_PLANE(CASE)                                                                                   \
    switch (plane->width * 1000 + plane->span) {                                                             \
        CASE(8, 32)                                                                                          \
        CASE(4, 32)                                                                                          \
        CASE(4, 64)                                                                                          \
        CASE(4, 128)                                                                                         \
        CASE(2, 128)                                                                                         \
        CASE(1, 256)                                                                                         \
        CASE(1, 8)                                                                                           \
    }

static void take_plane(
    uint8_t *codes, const uint8_t *block, const struct plane *plane, uint32_t weights, uint32_t shift)
{
#define CASE(width, span)                                                                                    \
    case width * 1000 + span:                                                                                \
        take_span(codes, block + plane->at, weights, width, span, shift);                                    \
        return;
    CHOOSE_PLANE(CASE)
#undef CASE
}

/* Of `count` blocks, one after the other, as are their codes. */
static void put_plane(uint8_t *blocks, enum block_type type, const struct plane *plane, const uint8_t *codes,
    uint64_t count, uint32_t shift, uint32_t flipped)
{
    const uint32_t weights = table[type].form.weights, bytes = block_info(type)->bytes;
    uint8_t *at = blocks + plane->at;
#define CASE(width, span)                                                                                    \
    case width * 1000 + span:                                                                                \
        for (uint64_t i = 0; i < count; i++, at += bytes, codes += weights) {                                \
            if (shift == 0)                                                                                  \
                put_span(at, codes, weights, width, span, 0, flipped);                                       \
            else                                                                                             \
                put_span(at, codes, weights, width, span, shift, flipped);                                   \
        }                                                                                                    \
        return;
    CHOOSE_PLANE(CASE)
#undef CASE
}

static void put_planes(uint8_t *blocks, enum block_type type, const uint8_t *codes, uint64_t count)
{
    const struct layout *layout = &table[type];
    put_plane(blocks, type, &layout->low, codes, count, 0, layout->flipped);
    if (layout->high.width) put_plane(blocks, type, &layout->high, codes, count, layout->low.width, 0);
}

static uint16_t take_half(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static void put_half(uint8_t *at, uint16_t half)
{
    at[0] = (uint8_t)half;
    at[1] = (uint8_t)(half >> 8);
}

void block_parts_take(struct block_parts *out, enum block_type type, const uint8_t *block)
{
    const struct layout *layout = &table[type];
    const struct block_form *form = &layout->form;
    memset(out, 0, sizeof *out);
    out->d = take_half(block + layout->d);
    if (form->offset) out->m = take_half(block + layout->m);
    out->scale[0] = 1;
    if (layout->take_scales) layout->take_scales(out, block);
    take_plane(out->codes, block, &layout->low, form->weights, 0);
    if (layout->high.width) take_plane(out->codes, block, &layout->high, form->weights, layout->low.width);
    for (uint32_t i = 0; layout->flipped && i < form->weights; i++)
        out->codes[i] ^= layout->flipped;
}

void block_parts_put(uint8_t *block, enum block_type type, const struct block_parts *parts)
{
    const struct layout *layout = &table[type];
    put_half(block + layout->d, parts->d);
    if (layout->form.offset) put_half(block + layout->m, parts->m);
    if (layout->put_scales) layout->put_scales(block, parts);
    put_planes(block, type, parts->codes, 1);
}

void block_parts_put_small(uint8_t *out, enum block_type type, const uint16_t *d, const uint16_t *m,
    const uint8_t *codes, uint64_t count)
{
    const struct layout *layout = &table[type];
    const uint32_t bytes = block_info(type)->bytes;
    for (uint64_t i = 0; i < count; i++) {
        put_half(out + i * bytes + layout->d, d[i]);
        if (layout->form.offset) put_half(out + i * bytes + layout->m, m[i]);
    }
    put_planes(out, type, codes, count);
}

/* ---- values ---- */

struct block_line block_parts_line(enum block_type type, const struct block_parts *parts, uint32_t sub)
{
    const struct block_form *form = &table[type].form;
    struct block_line line = {.step = dtype_f16_to_f32(parts->d) * (float)parts->scale[sub]};
    if (form->min_most)
        line.offset = -(dtype_f16_to_f32(parts->m) * (float)parts->min[sub]);
    else if (form->offset)
        line.offset = dtype_f16_to_f32(parts->m);
    return line;
}

/* No sum where there is no offset: it would make 0 of -0. */
void block_parts_values(float *out, enum block_type type, const struct block_parts *parts)
{
    const struct block_form *form = &table[type].form;
    for (uint32_t sub = 0; sub < form->subs; sub++) {
        const struct block_line line = block_parts_line(type, parts, sub);
        for (uint32_t i = sub * form->sub; i < (sub + 1) * form->sub; i++) {
            const uint8_t code = parts->codes[i];
            const float level = (float)(form->levels ? form->levels[code] : code + form->lowest);
            out[i] = form->offset ? line.step * level + line.offset : line.step * level;
        }
    }
}
