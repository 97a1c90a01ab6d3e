/* The meaning of the kernels over sparse tiles (tensor/sparse.h). */
#include <string.h>

#include "tensor/kernels/kernels.h"
#include "tensor/sparse.h"

/* Where a weight of a block goes: a code into its place in a plane, over the zeros that are there. */
static void place(uint8_t *block, uint32_t bits, uint32_t row, uint32_t col, uint32_t code)
{
    const uint32_t quad = col / 4;

    block[quad % bits * 32 + row * 4 + col % 4] |= (uint8_t)(code << quad / bits * bits);
}

/* Number `index` of codes that follow one another; what lies past their end is 0. */
static uint32_t code_at(const uint8_t *codes, uint64_t bytes, uint32_t bits, uint64_t index)
{
    const uint64_t at = index * bits / 8;

    if (at >= bytes) return 0;
    if (bits == 16) return (uint32_t)codes[at] | (uint32_t)codes[at + 1] << 8;
    return (uint32_t)codes[at] >> index * bits % 8 & ((1u << bits) - 1);
}

/* A value of 16 bits of block `block`. */
static void place_value(const struct sparse_layout *layout, uint16_t *out, uint64_t block, uint32_t row,
    uint32_t col, uint32_t value)
{
    out[(row * layout->dense.blocks + block) * TILE_COLS + col] = (uint16_t)value;
}

static void spread_bitmap(const struct sparse_layout *layout, uint8_t *out, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes)
{
    const uint32_t bits = layout->bits, parts = 8 / (bits < 8 ? bits : 8);
    uint64_t at = 0;

    for (uint64_t block = 0; block < layout->dense.blocks; block++, masks += SPARSE_BITMAP_BYTES) {
        const uint64_t left = code_bytes - at;
        uint64_t count = 0;
        for (uint32_t i = 0; i < TILE_ROWS * TILE_COLS; i++) {
            if (!(masks[i / 8] >> i % 8 & 1)) continue;
            const uint32_t code = code_at(codes + at, left, bits, count++);
            if (bits == 16)
                place_value(layout, (uint16_t *)(void *)out, block, i / TILE_COLS, i % TILE_COLS, code);
            else
                out[block * 32 * bits + i / parts] |= (uint8_t)(code << i % parts * bits);
        }
        at += (count * bits + 7) / 8 < left ? (count * bits + 7) / 8 : left;
    }
}

/* Which two of four columns pattern p keeps. */
static uint32_t kept_column(uint32_t p, uint32_t which)
{
    static const uint8_t columns[2][6] = {{0, 0, 0, 1, 1, 2}, {1, 2, 3, 2, 3, 3}};

    return columns[which][p];
}

/* Where stored code n of a row's block belongs: its column. */
static uint32_t column_of(const uint8_t *mask, uint32_t row, uint32_t n)
{
    const uint8_t *at = mask + 3 * row;
    const uint32_t patterns = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16;
    const uint32_t two = patterns >> n / 4 * 6 & 63;

    return n / 2 * 4 + kept_column((n / 2 % 2 ? two / 6 : two) % 6, n % 2);
}

/* Stored code n of a row's block. */
static uint32_t row_code(const uint8_t *codes, uint32_t bits, uint32_t row, uint32_t n)
{
    const uint32_t per_word = 32 / bits;

    if (bits == 16) return code_at(codes, UINT64_MAX, 16, 16 * row + n);
    return code_at(codes + n / per_word * 32 + 4 * row, 4, bits, n % per_word);
}

static void spread_2_4(
    const struct sparse_layout *layout, uint8_t *out, const uint8_t *masks, const uint8_t *codes)
{
    const uint32_t bits = layout->bits;

    for (uint64_t block = 0; block < layout->dense.blocks;
         block++, masks += SPARSE_2_4_BYTES, codes += 16 * bits) {
        for (uint32_t row = 0; row < TILE_ROWS; row++) {
            for (uint32_t n = 0; n < 16; n++) { /* two of every four columns */
                const uint32_t col = column_of(masks, row, n);
                if (bits == 16)
                    place_value(
                        layout, (uint16_t *)(void *)out, block, row, col, row_code(codes, bits, row, n));
                else
                    place(out + block * 32 * bits, bits, row, col, row_code(codes, bits, row, n));
            }
        }
    }
}

void kernels_sparse_spread(const struct sparse_layout *layout, void *out, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes)
{
    const uint8_t zero = layout->bits == 2 ? 0xAA : layout->bits == 4 ? 0x88 : 0x80;
    const uint64_t bytes = sparse_scratch(layout);
    uint8_t *codes_out = out;

    memset(out, 0, bytes);
    if (layout->mask == MASK_BITMAP)
        spread_bitmap(layout, out, masks, codes, code_bytes);
    else
        spread_2_4(layout, out, masks, codes);
    for (uint64_t i = 0; layout->quantized && i < bytes; i++)
        codes_out[i] ^= zero;
}

/* Sums in double precision, of what the codes spread to. */
void kernels_sparse_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, const uint16_t *scales, const float *x, uint64_t tokens)
{
    const struct tiles_layout *dense = &layout->dense;
    const uint32_t bits = layout->bits;
    double sums[TILE_TOKENS][TILE_ROWS] = {{0}};

    for (uint64_t block = 0; block < dense->blocks; block++, masks += SPARSE_2_4_BYTES, codes += 16 * bits) {
        for (uint32_t i = 0; i < TILE_ROWS * 16; i++) {
            const uint32_t row = i / 16, n = i % 16;
            const uint32_t col = column_of(masks, row, n), zero = 1u << (bits - 1);
            const uint64_t group = tiles_half_group(dense, 2 * block + n / 8);
            const float weight = dtype_f16_to_f32(scales[group * TILE_ROWS + row]) *
                                 ((float)(row_code(codes, bits, row, n) ^ zero) - (float)zero);
            for (uint64_t t = 0; t < tokens; t++)
                sums[t][row] += (double)weight * x[(block * tokens + t) * TILE_COLS + col];
        }
    }
    for (uint64_t i = 0; i < tokens * TILE_ROWS; i++)
        y[i] = (float)sums[i / TILE_ROWS][i % TILE_ROWS];
}

void kernels_sparse_value_dots(const struct sparse_layout *layout, float *y, const uint8_t *masks,
    const uint8_t *codes, uint64_t code_bytes, const float *x, uint64_t tokens)
{
    const struct dtype_info *info = dtype_info(layout->dtype);
    double sums[TILE_TOKENS][TILE_ROWS] = {{0}};
    struct sparse_layout one = *layout; /* a block */
    uint16_t values[TILE_ROWS * TILE_COLS];
    uint64_t at = 0;

    one.dense.blocks = 1;
    for (uint64_t block = 0; block < layout->dense.blocks; block++, masks += layout->mask_bytes) {
        const uint64_t stored = 2 * sparse_count(layout, masks, 1), left = code_bytes - at;
        kernels_sparse_spread(&one, values, masks, codes + at, left);
        at += stored < left ? stored : left;
        for (uint32_t i = 0; i < TILE_ROWS * TILE_COLS; i++) {
            float weight;
            info->decode(&weight, values + i, 1);
            for (uint64_t t = 0; t < tokens; t++)
                sums[t][i / TILE_COLS] +=
                    (double)weight * x[(block * tokens + t) * TILE_COLS + i % TILE_COLS];
        }
    }
    for (uint64_t i = 0; i < tokens * TILE_ROWS; i++)
        y[i] = (float)sums[i / TILE_ROWS][i % TILE_ROWS];
}

void kernels_sparse_pairs(struct sparse_pairs *out)
{
    memset(out, 0, sizeof *out);
    for (uint32_t two = 0; two < 64; two++) {
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t column = kept_column((i / 2 ? two / 6 : two) % 6, i % 2);
            out->places[two] |= (uint8_t)(column << 2 * i);
            out->bits[two] |= (uint8_t)(1u << (i / 2 * 4 + column));
        }
    }
}
