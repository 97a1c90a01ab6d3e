/* Whether a sparse tile is what a writer would write. */
#include <string.h>

#include "tensor/sparse.h"

enum { BLOCK_WEIGHTS = TILE_ROWS * TILE_COLS };

/* Does weight i of a bitmap's block lie in the matrix? Weights are counted as sparse.h says. */
static bool exists(const struct sparse_layout *layout, uint64_t block, uint32_t i)
{
    const uint32_t bits = layout->bits, parts = 8 / (bits < 8 ? bits : 8), byte = i / parts, t = i % parts;
    const uint32_t row = bits == 16 ? i / TILE_COLS : byte % 32 / 4;
    const uint32_t col = bits == 16 ? i % TILE_COLS : 4 * (bits * t + byte / 32) + byte % 4;

    return row < layout->dense.rows && block * TILE_COLS + col < layout->dense.cols;
}

static bool is_finite(const struct sparse_layout *layout, uint16_t value)
{
    const uint16_t exponent = layout->dtype == DTYPE_F16 ? 0x7C00 : 0x7F80;

    return (value & exponent) != exponent;
}

/* 16-bit values [count] from any address. */
static bool all_finite(const struct sparse_layout *layout, const uint8_t *at, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++, at += 2) {
        uint16_t value;
        memcpy(&value, at, sizeof value);
        if (!is_finite(layout, value)) return false;
    }
    return true;
}

/* One block of a bitmap, whose codes begin at *at of the tile's; moves *at on. NULL: it is right. */
static const char *check_bitmap(
    const struct sparse_layout *layout, const struct sparse_tile *tile, uint64_t block, uint64_t *at)
{
    const uint8_t *mask = tile->masks + block * SPARSE_BITMAP_BYTES;
    const uint64_t count = sparse_count(layout, mask, 1), bits = count * layout->bits, bytes = (bits + 7) / 8;

    for (uint32_t i = 0; i < BLOCK_WEIGHTS; i++) {
        if ((mask[i / 8] >> i % 8 & 1) && !exists(layout, block, i)) return "a weight past the end is stored";
    }
    if (bytes > tile->code_bytes - *at) return "its codes lie beyond the tile's";
    if (layout->bits == 16 && !all_finite(layout, tile->codes + *at, count)) return "a value is not finite";
    *at += bytes;
    if (bits % 8 && tile->codes[*at - 1] >> bits % 8) return "the bits behind its codes are not zero";
    return NULL;
}

/* Stored code n of a row of a block of 2:4 is not 0. */
static bool is_nonzero(const struct sparse_layout *layout, const uint8_t *codes, uint32_t row, uint32_t n)
{
    const uint32_t bits = layout->bits, per_word = 32 / bits;
    const uint8_t *at = codes + n / per_word * 32 + 4 * row + n % per_word * bits / 8;

    if (bits == 16) {
        at = codes + 2 * (16 * row + n);
        return at[0] || at[1];
    }
    return (*at >> n % per_word * bits % 8 & ((1u << bits) - 1)) != 0;
}

static const char *check_2_4(
    const struct sparse_layout *layout, const struct sparse_tile *tile, uint64_t block)
{
    static const uint8_t columns[2][6] = {{0, 0, 0, 1, 1, 2}, {1, 2, 3, 2, 3, 3}};
    const uint8_t *mask = tile->masks + block * SPARSE_2_4_BYTES;
    const uint8_t *codes = tile->codes + block * 16 * layout->bits;

    for (uint32_t i = 0; i < TILE_ROWS * 16; i++) {
        const uint32_t row = i / 16, n = i % 16;
        const uint8_t *at = mask + 3 * row;
        const uint32_t two = (at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16) >> n / 4 * 6 & 63;
        if (two > 35) return "a pattern of 2:4 is above 35";
        const uint64_t col = block * TILE_COLS + n / 2 * 4 + columns[n % 2][n / 2 % 2 ? two / 6 : two % 6];
        if ((row >= layout->dense.rows || col >= layout->dense.cols) && is_nonzero(layout, codes, row, n))
            return "a weight past the end is stored";
    }
    return layout->bits < 16 || all_finite(layout, codes, TILE_ROWS * 16) ? NULL : "a value is not finite";
}

bool sparse_check(
    struct sparse_fault *out, const struct sparse_layout *layout, const struct sparse_tile *tile)
{
    uint64_t at = 0;

    *out = (struct sparse_fault){0};
    for (; out->block < layout->dense.blocks; out->block++) {
        out->text = layout->mask == MASK_BITMAP ? check_bitmap(layout, tile, out->block, &at)
                                                : check_2_4(layout, tile, out->block);
        if (out->text) return false;
    }
    if (layout->mask != MASK_BITMAP) return true;
    out->block--;
    out->text = "the bytes behind its codes are not zero";
    for (uint64_t i = at; i < tile->code_bytes; i++) {
        if (tile->codes[i]) return false;
    }
    out->text = "the next tile's codes do not follow";
    return (at + 7) / 8 * 8 == tile->code_bytes;
}
