/* See tile_blocks.h. */
#include "tensor/tile_blocks.h"

#include <stddef.h>

enum { WEIGHTS = 32 };

/* Bytes of a block: the scale, then
 *   Q4_0  16 bytes: byte j = | code 16 + j | code j |
 *   Q5_0  4 bytes: bit i is the high bit of code i; then as Q4_0 with the low four bits
 *   Q8_0  32 signed bytes: code - 128 */
static uint8_t *put_scale(uint8_t *at, uint16_t scale)
{
    at[0] = (uint8_t)scale;
    at[1] = (uint8_t)(scale >> 8);
    return at + 2;
}

static void put_nibbles(uint8_t *at, const uint8_t *codes)
{
    for (int j = 0; j < WEIGHTS / 2; j++)
        at[j] = (uint8_t)((codes[j] & 15) | codes[WEIGHTS / 2 + j] << 4);
}

static void put_q4_0(uint8_t *at, uint16_t scale, const uint8_t *codes)
{
    put_nibbles(put_scale(at, scale), codes);
}

static void put_q5_0(uint8_t *at, uint16_t scale, const uint8_t *codes)
{
    uint32_t high = 0;

    at = put_scale(at, scale);
    for (int j = 0; j < WEIGHTS; j++)
        high |= (uint32_t)(codes[j] >> 4) << j;
    for (int j = 0; j < 4; j++)
        at[j] = (uint8_t)(high >> 8 * j);
    put_nibbles(at + 4, codes);
}

static void put_q8_0(uint8_t *at, uint16_t scale, const uint8_t *codes)
{
    at = put_scale(at, scale);
    for (int j = 0; j < WEIGHTS; j++)
        at[j] = codes[j] ^ 0x80; /* code - 128 in two's complement */
}

static const struct {
    uint32_t bits;
    enum block_type type;
    void (*put)(uint8_t *at, uint16_t scale, const uint8_t *codes);
} rows[] = {{4, BLOCK_Q4_0, put_q4_0}, {5, BLOCK_Q5_0, put_q5_0}, {8, BLOCK_Q8_0, put_q8_0}};

enum { ROWS = sizeof rows / sizeof *rows };

enum block_type tile_blocks_type(struct scheme scheme, uint64_t cols)
{
    for (size_t i = 0; i < ROWS && !scheme.asymmetric; i++) {
        if (rows[i].bits == scheme.bits && scheme.group % WEIGHTS == 0 && cols % WEIGHTS == 0)
            return rows[i].type;
    }
    return BLOCK_NONE;
}

void tile_blocks_put(uint8_t *out, enum block_type type, const struct tiles_layout *layout,
    const uint8_t *codes, const uint16_t *scales, uint64_t row_count, uint8_t *scratch)
{
    const uint32_t bytes = block_info(type)->bytes;

    tiles_unpack(layout, scratch, codes);
    for (size_t i = 0; i < ROWS; i++) {
        if (rows[i].type != type) continue;
        for (uint64_t row = 0; row < row_count; row++) {
            for (uint64_t col = 0; col < layout->cols; col += WEIGHTS, out += bytes)
                rows[i].put(
                    out, scales[col / layout->group * TILE_ROWS + row], scratch + row * layout->cols + col);
        }
    }
}
