/* Packing sparse matrices, a tile at a time. */
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/sparse.h"

enum { BLOCK_WEIGHTS = TILE_ROWS * TILE_COLS };

/* One block as it is stored: 0 is the value 0. */
struct block {
    uint16_t words[TILE_ROWS][TILE_COLS];
};

/* Block number `index` of a tile; what hangs over is 0. */
static void take_block(struct block *out, const struct sparse_layout *layout, const void *weights,
    uint64_t row_count, uint64_t index)
{
    const uint64_t first = index * TILE_COLS, cols = layout->dense.cols;
    const uint64_t count = cols - first < TILE_COLS ? cols - first : TILE_COLS;
    const uint8_t *codes = weights;
    const uint16_t *values = weights;

    memset(out, 0, sizeof *out);
    for (uint64_t row = 0; row < row_count; row++) {
        for (uint64_t col = 0; col < count; col++) {
            const uint64_t at = row * cols + first + col;
            if (layout->quantized)
                out->words[row][col] = codes[at] ^ (uint16_t)(1u << (layout->bits - 1));
            else if (values[at] != 0x8000) /* -0 */
                out->words[row][col] = values[at];
        }
    }
}

/* Where bits are written: whole bytes as they fill up. */
struct bits {
    uint8_t *out;
    uint64_t pending;
    uint32_t count;
};

static void put(struct bits *bits, uint64_t value, uint32_t count)
{
    bits->pending |= value << bits->count;
    for (bits->count += count; bits->count >= 8; bits->count -= 8) {
        *bits->out++ = (uint8_t)bits->pending;
        bits->pending >>= 8;
    }
}

/* Fill the byte that is begun. */
static void flush(struct bits *bits)
{
    if (bits->count) put(bits, 0, 8 - bits->count);
}

/* The weight that bit i of a bitmap stands for. */
static uint16_t weight_of_bit(const struct block *block, uint32_t bits, uint32_t i)
{
    const uint32_t parts = 8 / (bits < 8 ? bits : 8), byte = i / parts, t = i % parts;

    if (bits == 16) return block->words[i / TILE_COLS][i % TILE_COLS];
    return block->words[byte % 32 / 4][4 * (bits * t + byte / 32) + byte % 4];
}

static void pack_bitmap(uint8_t *mask, struct bits *codes, const struct block *block, uint32_t bits)
{
    memset(mask, 0, SPARSE_BITMAP_BYTES);
    for (uint32_t i = 0; i < BLOCK_WEIGHTS; i++) {
        const uint16_t word = weight_of_bit(block, bits, i);
        if (!word) continue;
        mask[i / 8] |= (uint8_t)(1u << i % 8);
        put(codes, word, bits);
    }
    flush(codes);
}

static uint64_t stored(const struct block *block)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < BLOCK_WEIGHTS; i++)
        count += block->words[i / TILE_COLS][i % TILE_COLS] != 0;
    return count;
}

uint64_t sparse_measure(const struct sparse_layout *layout, const void *weights, uint64_t row_count)
{
    uint64_t bytes = 0;
    struct block block;

    if (layout->mask == MASK_2_4) return layout->tile_code_bytes;
    for (uint64_t i = 0; i < layout->dense.blocks; i++) {
        take_block(&block, layout, weights, row_count, i);
        bytes += (stored(&block) * layout->bits + 7) / 8;
    }
    return (bytes + 7) / 8 * 8;
}

/* The first pattern that has all columns of four which are not 0; 6: there is none. */
static uint32_t pattern_of(const uint16_t four[4])
{
    static const uint8_t kept[6] = {0x3, 0x5, 0x9, 0x6, 0xA, 0xC};
    uint32_t wanted = 0, p = 0;

    for (uint32_t k = 0; k < 4; k++)
        wanted |= (uint32_t)(four[k] != 0) << k;
    while (p < 6 && (wanted & ~kept[p]))
        p++;
    return p;
}

/* A row of a block: its patterns and codes. False: at column *at of the block begin four with more than two. */
static bool pack_row(uint8_t mask[3], struct bits *codes, const uint16_t *words, uint32_t bits, uint64_t *at)
{
    static const uint8_t columns[6][2] = {{0, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}, {2, 3}};
    struct bits patterns = {.out = mask};
    uint32_t before = 0;

    for (*at = 0; *at < TILE_COLS; *at += 4) {
        const uint32_t p = pattern_of(words + *at);
        if (p == 6) return false;
        if (*at % 8) put(&patterns, before + 6 * p, 6);
        before = p;
        put(codes, words[*at + columns[p][0]], bits);
        put(codes, words[*at + columns[p][1]], bits);
    }
    return true;
}

/* The words of 32 bits of a row lie 32 bytes apart. */
static enum status pack_2_4(uint8_t *mask, uint8_t *out, const struct block *block,
    const struct sparse_layout *layout, uint64_t index, struct error *err)
{
    const uint32_t bits = layout->bits, words = bits < 16 ? bits / 2 : 1, bytes = bits < 16 ? 4 : 32;

    for (uint32_t row = 0; row < TILE_ROWS; row++) {
        uint8_t line[32];
        struct bits codes = {.out = line};
        uint64_t at;
        if (!pack_row(mask + 3 * row, &codes, block->words[row], bits, &at))
            return fail(err, ERR_FORMAT,
                "row %" PRIu32 ": more than two of columns %" PRIu64 " to %" PRIu64 " are not 0", row,
                index * TILE_COLS + at, index * TILE_COLS + at + 3);
        for (uint32_t j = 0; j < words; j++)
            memcpy(out + (j * TILE_ROWS + row) * bytes, line + j * bytes, bytes);
    }
    return OK;
}

/* From [row][group] to [group][8], with 0 for rows past the end. */
static void pack_scales(
    const struct sparse_layout *layout, uint16_t *out, const uint16_t *scales, uint64_t row_count)
{
    const uint64_t groups = layout->dense.groups;

    memset(out, 0, layout->tile_scale_bytes);
    for (uint64_t row = 0; row < row_count; row++)
        for (uint64_t g = 0; g < groups; g++)
            out[g * TILE_ROWS + row] = scales[row * groups + g];
}

enum status sparse_pack(const struct sparse_layout *layout, uint8_t *masks_out, uint8_t *codes_out,
    uint16_t *scales_out, const void *weights, const uint16_t *scales, uint64_t row_count, struct error *err)
{
    struct bits codes = {.out = codes_out};
    enum status status = OK;
    struct block block;

    for (uint64_t i = 0; i < layout->dense.blocks && !status; i++) {
        uint8_t *mask = masks_out + i * layout->mask_bytes;
        take_block(&block, layout, weights, row_count, i);
        if (layout->mask == MASK_BITMAP)
            pack_bitmap(mask, &codes, &block, layout->bits);
        else
            status = pack_2_4(mask, codes_out + i * 16 * layout->bits, &block, layout, i, err);
    }
    while (layout->mask == MASK_BITMAP && (codes.out - codes_out) % 8)
        put(&codes, 0, 8);
    if (layout->quantized) pack_scales(layout, scales_out, scales, row_count);
    return status;
}

/* ---- a whole tensor ---- */

/* Where the rows of a tile begin in [rows][cols] weights, and how many it has. */
static const void *tile_weights(
    const struct sparse_layout *layout, const void *weights, uint64_t tile, uint64_t *row_count)
{
    const uint64_t row = tile * TILE_ROWS, left = layout->dense.rows - row;

    *row_count = left < TILE_ROWS ? left : TILE_ROWS;
    return (const uint8_t *)weights + row * layout->dense.cols * (layout->quantized ? 1 : 2);
}

static enum status pack_all(const struct sparse_layout *layout, uint8_t *data, const void *weights,
    const uint16_t *scales, struct error *err)
{
    uint32_t *offsets =
        layout->mask == MASK_BITMAP ? (uint32_t *)(void *)(data + layout->offsets_offset) : NULL;
    uint8_t *codes = data + layout->codes_offset;
    enum status status = OK;
    uint64_t rows;

    for (uint64_t i = 0; i < layout->dense.tiles && !status; i++) {
        const void *tile = tile_weights(layout, weights, i, &rows);
        status = sparse_pack(layout, data + i * layout->tile_mask_bytes, codes,
            (uint16_t *)(void *)(data + layout->scales_offset + i * layout->tile_scale_bytes), tile,
            scales ? scales + i * TILE_ROWS * layout->dense.groups : NULL, rows, err);
        if (status) return fail_within(err, status, "rows from %" PRIu64, i * TILE_ROWS);
        codes += sparse_measure(layout, tile, rows);
        if (offsets) offsets[i + 1] = (uint32_t)((uint64_t)(codes - data - layout->codes_offset) / 8);
    }
    return status;
}

enum status sparse_make(struct tensor *tensor, const void *weights, const uint16_t *scales, struct error *err)
{
    uint64_t code_bytes = 0, rows;
    struct sparse_layout layout;
    enum status status = sparse_layout(&layout, tensor, 0, err);
    uint8_t *data;

    if (status) return status;
    for (uint64_t i = 0; i < layout.dense.tiles; i++) {
        const void *tile = tile_weights(&layout, weights, i, &rows);
        code_bytes += sparse_measure(&layout, tile, rows);
    }
    status = sparse_layout(&layout, tensor, layout.mask == MASK_BITMAP ? code_bytes : 0, err);
    if (status) return status;
    data = memory_new(layout.bytes, 1, err);
    if (!data) return ERR_MEMORY;
    status = pack_all(&layout, data, weights, scales, err);
    if (status) {
        memory_free(data);
        return status;
    }
    tensor->elements = layout.dense.rows * layout.dense.cols;
    tensor->bytes = layout.bytes;
    tensor->data = data;
    return OK;
}
