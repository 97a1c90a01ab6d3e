/* Tiles: sizes, and the edges. The kernels know whole blocks of 8 rows and 32 columns only; what hangs over
 * goes through one staged block here. */
#include "tensor/tiles.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "tensor/kernels/kernels.h"

#define PART_ALIGNMENT 64

/* ---- layout ---- */

static bool bits_known(uint32_t bits)
{
    return bits == 2 || bits == 3 || bits == 4 || bits == 5 || bits == 6 || bits == 8;
}

static bool group_fits(uint64_t group, uint64_t cols)
{
    return group == cols || (group != 0 && group % 16 == 0 && cols % group == 0);
}

/* Sizes and offsets of the three parts; true if something does not fit 2^63. */
static bool sizes_overflow(struct tiles_layout *layout)
{
    uint64_t codes, scales, zeros, end;
    if (checked_multiply(&layout->tile_code_bytes, layout->blocks, layout->block_bytes)) return true;
    if (checked_multiply(&layout->tile_scale_bytes, layout->groups, TILE_ROWS * sizeof(uint16_t)))
        return true;
    layout->tile_zero_bytes = layout->asymmetric ? layout->groups * TILE_ROWS : 0;
    if (checked_multiply(&codes, layout->tiles, layout->tile_code_bytes)) return true;
    if (checked_multiply(&scales, layout->tiles, layout->tile_scale_bytes)) return true;
    if (checked_multiply(&zeros, layout->tiles, layout->tile_zero_bytes)) return true;
    if (checked_align(&layout->scales_offset, codes, PART_ALIGNMENT)) return true;
    if (checked_add(&end, layout->scales_offset, scales)) return true;
    layout->zeros_offset = end;
    if (layout->asymmetric && checked_align(&layout->zeros_offset, end, PART_ALIGNMENT)) return true;
    if (checked_add(&layout->bytes, layout->zeros_offset, zeros)) return true;
    return layout->bytes > INT64_MAX;
}

enum status tiles_layout(
    struct tiles_layout *out, uint64_t rows, uint64_t cols, struct scheme scheme, struct error *err)
{
    if (rows == 0 || cols == 0)
        return fail(err, ERR_FORMAT, "a quantized matrix of %" PRIu64 " x %" PRIu64, rows, cols);
    if (!bits_known(scheme.bits)) {
        return fail(
            err, ERR_FORMAT, "%" PRIu32 " bits per weight; 2, 3, 4, 5, 6 and 8 are possible", scheme.bits);
    }
    if (!group_fits(scheme.group, cols)) {
        return fail(err, ERR_FORMAT,
            "groups of %" PRIu32 " in rows of %" PRIu64
            "; a multiple of 16 that divides the row, or the whole row",
            scheme.group, cols);
    }
    *out = (struct tiles_layout){
        .rows = rows,
        .cols = cols,
        .tiles = rows / TILE_ROWS + (rows % TILE_ROWS != 0),
        .blocks = cols / TILE_COLS + (cols % TILE_COLS != 0),
        .groups = cols / scheme.group,
        .group = scheme.group,
        .bits = scheme.bits,
        .asymmetric = scheme.asymmetric,
        .block_bytes = (uint64_t)TILE_ROWS * TILE_COLS * scheme.bits / 8,
    };
    if (sizes_overflow(out)) {
        return fail(
            err, ERR_FORMAT, "a quantized matrix of %" PRIu64 " x %" PRIu64 " is too large", rows, cols);
    }
    return OK;
}

/* ---- packing ---- */

/* The code that decodes to 0 in the last group of a row. */
static uint8_t padding_code(const struct tiles_layout *layout, const uint8_t *zeros, uint64_t row)
{
    if (!layout->asymmetric) return (uint8_t)(1u << (layout->bits - 1));
    return zeros[row * layout->groups + layout->groups - 1];
}

/* Pack block `block` of a tile that it may hang over. */
static void pack_edge(const struct tiles_layout *layout, uint8_t *out, const uint8_t *codes,
    const uint8_t *zeros, uint64_t row_count, uint64_t block)
{
    uint8_t staged[TILE_ROWS][TILE_COLS] = {{0}};
    uint64_t first = block * TILE_COLS;
    uint64_t cols = layout->cols - first < TILE_COLS ? layout->cols - first : TILE_COLS;
    for (uint64_t row = 0; row < row_count; row++) {
        memset(staged[row], padding_code(layout, zeros, row), TILE_COLS);
        memcpy(staged[row], codes + row * layout->cols + first, cols);
    }
    kernels()->blocks_pack(out + block * layout->block_bytes, staged[0], TILE_COLS, 1, layout->bits);
}

/* Blocks that lie wholly inside a tile with `row_count` real rows. */
static uint64_t whole_blocks(const struct tiles_layout *layout, uint64_t row_count)
{
    return row_count == TILE_ROWS ? layout->cols / TILE_COLS : 0;
}

/* Scales and zero-points: from [row][group] to [group][8], with 0 for rows past the end. */
static void interleave(const struct tiles_layout *layout, uint16_t *scales_out, uint8_t *zeros_out,
    const uint16_t *scales, const uint8_t *zeros, uint64_t row_count)
{
    uint64_t groups = layout->groups;
    memset(scales_out, 0, layout->tile_scale_bytes);
    if (zeros_out) memset(zeros_out, 0, layout->tile_zero_bytes);
    for (uint64_t row = 0; row < row_count; row++) {
        for (uint64_t g = 0; g < groups; g++) {
            scales_out[g * TILE_ROWS + row] = scales[row * groups + g];
            if (zeros_out) zeros_out[g * TILE_ROWS + row] = zeros[row * groups + g];
        }
    }
}

void tiles_pack(const struct tiles_layout *layout, uint8_t *codes_out, uint16_t *scales_out,
    uint8_t *zeros_out, const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros,
    uint64_t row_count)
{
    uint64_t whole = whole_blocks(layout, row_count);
    kernels()->blocks_pack(codes_out, codes, layout->cols, whole, layout->bits);
    for (uint64_t block = whole; block < layout->blocks; block++) {
        pack_edge(layout, codes_out, codes, zeros, row_count, block);
    }
    interleave(layout, scales_out, zeros_out, scales, zeros, row_count);
}

void tiles_unpack(const struct tiles_layout *layout, uint8_t *codes, const uint8_t *tile_codes)
{
    uint64_t whole = layout->cols / TILE_COLS, rest = layout->cols % TILE_COLS;
    kernels()->blocks_unpack(codes, layout->cols, tile_codes, whole, layout->bits);
    if (rest == 0) return;
    uint8_t staged[TILE_ROWS][TILE_COLS];
    kernels()->blocks_unpack(staged[0], TILE_COLS, tile_codes + whole * layout->block_bytes, 1, layout->bits);
    for (uint64_t row = 0; row < TILE_ROWS; row++) {
        memcpy(codes + row * layout->cols + whole * TILE_COLS, staged[row], rest);
    }
}

/* ---- decoding ---- */

void tiles_decode_tile(const struct tiles_layout *layout, float *out, uint64_t out_stride,
    const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros, uint64_t row_count)
{
    uint64_t whole = whole_blocks(layout, row_count);
    kernels()->blocks_decode(layout, out, out_stride, codes, scales, zeros, 0, whole);
    for (uint64_t block = whole; block < layout->blocks; block++) {
        float staged[TILE_ROWS][TILE_COLS];
        uint64_t first = block * TILE_COLS;
        uint64_t cols = layout->cols - first < TILE_COLS ? layout->cols - first : TILE_COLS;
        kernels()->blocks_decode(layout, staged[0], TILE_COLS, codes, scales, zeros, block, block + 1);
        for (uint64_t row = 0; row < row_count; row++) {
            memcpy(out + row * out_stride + first, staged[row], cols * sizeof(float));
        }
    }
}

void tiles_decode(const struct tiles_layout *layout, float *out, uint64_t out_stride, const void *base,
    uint64_t row_begin, uint64_t row_count)
{
    for (uint64_t row = 0; row < row_count; row += TILE_ROWS) {
        struct tile tile = tiles_at(layout, base, (row_begin + row) / TILE_ROWS);
        uint64_t rows = row_count - row < TILE_ROWS ? row_count - row : TILE_ROWS;
        tiles_decode_tile(
            layout, out + row * out_stride, out_stride, tile.codes, tile.scales, tile.zeros, rows);
    }
}

struct tile tiles_at(const struct tiles_layout *layout, const void *base, uint64_t index)
{
    const uint8_t *bytes = base;
    const uint8_t *scales = bytes + layout->scales_offset + index * layout->tile_scale_bytes;
    return (struct tile){
        .codes = bytes + index * layout->tile_code_bytes,
        .scales = (const uint16_t *)(const void *)scales,
        .zeros = layout->asymmetric ? bytes + layout->zeros_offset + index * layout->tile_zero_bytes : NULL,
    };
}

/* ---- products ---- */

void tiles_dot(const struct tiles_layout *layout, float *y, const uint8_t *codes, const uint16_t *scales,
    const uint8_t *zeros, const float *x, uint64_t tokens)
{
    if (tokens == 1) {
        kernels()->tile_dot(layout, y, codes, scales, zeros, x);
    } else {
        kernels()->tile_dots(layout, y, codes, scales, zeros, x, tokens);
    }
}
