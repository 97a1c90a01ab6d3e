/* Sparse matrices: sizes, what a file says of them, and decoding. Packing is sparse_pack.c; how a tile is spread is the kernels'. */
#include "tensor/sparse.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "tensor/kernels/kernels.h"

#define PART_ALIGNMENT 64
#define OFFSET_UNIT 8

/* ---- layout ---- */

static enum status check_description(const struct tensor *tensor, struct error *err)
{
    const struct scheme *scheme = &tensor->scheme;

    if (tensor->rank != 2)
        return fail(err, ERR_FORMAT, "sparse storage of rank %" PRIu32 ", must be a matrix", tensor->rank);
    if (tensor->mask != MASK_BITMAP && tensor->mask != MASK_2_4)
        return fail(err, ERR_FORMAT, "mask kind %u is unknown", (unsigned)tensor->mask);
    if (scheme->asymmetric) return fail(err, ERR_FORMAT, "sparse storage with zero-points");
    if (scheme->bits == 0) {
        if (tensor->dtype != DTYPE_F16 && tensor->dtype != DTYPE_BF16)
            return fail(err, ERR_FORMAT, "sparse storage of type %s, must be F16 or BF16",
                dtype_info(tensor->dtype)->name);
        if (scheme->group != 0) return fail(err, ERR_FORMAT, "sparse values with groups");
        return OK;
    }
    if (tensor->dtype != DTYPE_F16)
        return fail(err, ERR_FORMAT, "sparse codes with scales of type %s, must be F16",
            dtype_info(tensor->dtype)->name);
    if (scheme->bits != 2 && scheme->bits != 4 && scheme->bits != 8)
        return fail(
            err, ERR_FORMAT, "%" PRIu32 " bits per sparse weight; 2, 4 and 8 are possible", scheme->bits);
    return OK;
}

/* Sizes and offsets up to the codes, and the most that those may take; true if something does not fit 2^63. */
static bool sizes_overflow(struct sparse_layout *layout, uint64_t *most)
{
    const struct tiles_layout *dense = &layout->dense;
    const uint64_t block_bytes = (layout->mask == MASK_2_4 ? 16 : 32) * (uint64_t)layout->bits;
    uint64_t end;

    layout->mask_bytes = layout->mask == MASK_2_4 ? SPARSE_2_4_BYTES : SPARSE_BITMAP_BYTES;
    layout->tile_scale_bytes = layout->quantized ? dense->tile_scale_bytes : 0;
    if (checked_multiply(&layout->tile_mask_bytes, dense->blocks, layout->mask_bytes)) return true;
    if (checked_multiply(&layout->tile_code_bytes, dense->blocks, block_bytes)) return true;
    if (checked_multiply(&end, dense->tiles, layout->tile_mask_bytes)) return true;
    if (checked_align(&layout->offsets_offset, end, PART_ALIGNMENT) || layout->offsets_offset > INT64_MAX / 2)
        return true;
    end = layout->offsets_offset; /* an offset takes 4 bytes where its tile's masks take 24 at least */
    if (layout->mask == MASK_BITMAP) end += (dense->tiles + 1) * sizeof(uint32_t);
    if (checked_align(&layout->scales_offset, end, PART_ALIGNMENT)) return true;
    if (checked_multiply(&end, dense->tiles, layout->tile_scale_bytes)) return true;
    if (checked_add(&end, end, layout->scales_offset)) return true;
    if (checked_align(&layout->codes_offset, end, PART_ALIGNMENT)) return true;
    return checked_multiply(most, dense->tiles, layout->tile_code_bytes);
}

enum status sparse_layout(
    struct sparse_layout *out, const struct tensor *tensor, uint64_t code_bytes, struct error *err)
{
    /* Sizes of unquantized tiles are not used: any scheme that always fits will do. */
    const bool quantized = tensor->scheme.bits != 0;
    enum status status = check_description(tensor, err);
    struct scheme scheme = tensor->scheme;
    uint64_t most = 0;

    if (!status && !quantized && tensor->shape[1] > UINT32_MAX)
        status = fail(err, ERR_FORMAT, "rows of %" PRIu64 " columns are too long", tensor->shape[1]);
    if (status) return status;
    if (!quantized) scheme = (struct scheme){.bits = 8, .group = (uint32_t)tensor->shape[1]};
    *out = (struct sparse_layout){.mask = tensor->mask,
        .dtype = tensor->dtype,
        .quantized = quantized,
        .bits = quantized ? scheme.bits : 16,
        .code_bytes = code_bytes};
    status = tiles_layout(&out->dense, tensor->shape[0], tensor->shape[1], scheme, err);
    if (status) return status;
    if (sizes_overflow(out, &most) || checked_add(&out->bytes, out->codes_offset, SPARSE_SLACK))
        return fail(err, ERR_FORMAT, "a sparse matrix of %" PRIu64 " x %" PRIu64 " is too large",
            tensor->shape[0], tensor->shape[1]);
    if (out->mask == MASK_2_4) out->code_bytes = most;
    if (out->code_bytes % OFFSET_UNIT || out->code_bytes > most)
        return fail(err, ERR_FORMAT,
            "%" PRIu64 " bytes of codes; a multiple of %d up to %" PRIu64 " is possible", out->code_bytes,
            OFFSET_UNIT, most);
    if (out->mask == MASK_BITMAP && out->code_bytes / OFFSET_UNIT > UINT32_MAX)
        return fail(err, ERR_FORMAT, "%" PRIu64 " bytes of codes; the limit is 2^35", out->code_bytes);
    if (checked_add(&out->bytes, out->bytes, out->code_bytes) || out->bytes > INT64_MAX)
        return fail(err, ERR_FORMAT, "a sparse matrix of %" PRIu64 " x %" PRIu64 " is too large",
            tensor->shape[0], tensor->shape[1]);
    return OK;
}

enum status sparse_layout_of(struct sparse_layout *out, const struct tensor *tensor, struct error *err)
{
    enum status status = sparse_layout(out, tensor, 0, err);

    if (status || tensor->mask != MASK_BITMAP) return status;
    if (tensor->bytes < out->bytes)
        return fail(err, ERR_FORMAT, "%" PRIu64 " bytes, its shape needs %" PRIu64 " without any codes",
            tensor->bytes, out->bytes);
    return sparse_layout(out, tensor, tensor->bytes - out->bytes, err);
}

void sparse_describe_spread(struct tensor *tensor)
{
    if (tensor->storage != STORAGE_SPARSE) return;
    tensor->storage = tensor->scheme.bits ? STORAGE_TILES : STORAGE_DENSE;
    tensor->mask = MASK_NONE;
}

/* ---- one tile ---- */

enum status sparse_check_offsets(const struct sparse_layout *layout, const uint32_t *offsets, uint64_t begin,
    uint64_t end, struct error *err)
{
    const uint64_t all = layout->code_bytes / OFFSET_UNIT;

    for (uint64_t i = begin; offsets && i < end; i++, offsets++) {
        if (offsets[0] <= offsets[1] && offsets[1] <= all &&
            offsets[1] - offsets[0] <= layout->tile_code_bytes / OFFSET_UNIT)
            continue;
        return fail(err, ERR_FORMAT,
            "codes of tile %" PRIu64 " from %" PRIu32 " to %" PRIu32 " (times 8 bytes) of %" PRIu64, i,
            offsets[0], offsets[1], all);
    }
    return OK;
}

enum status sparse_at(struct sparse_tile *out, const struct sparse_layout *layout, const void *base,
    uint64_t index, struct error *err)
{
    const uint8_t *bytes = base;
    const uint32_t *offsets = NULL;
    const void *scales = bytes + layout->scales_offset + index * layout->tile_scale_bytes;
    uint64_t begin = index * layout->tile_code_bytes;

    *out = (struct sparse_tile){.masks = bytes + index * layout->tile_mask_bytes,
        .scales = layout->quantized ? scales : NULL,
        .code_bytes = layout->tile_code_bytes};
    if (layout->mask == MASK_BITMAP) {
        offsets = (const uint32_t *)(const void *)(bytes + layout->offsets_offset) + index;
        enum status status = sparse_check_offsets(layout, offsets, index, index + 1, err);
        if (status) return status;
        begin = (uint64_t)offsets[0] * OFFSET_UNIT;
        out->code_bytes = (uint64_t)(offsets[1] - offsets[0]) * OFFSET_UNIT;
    }
    out->codes = bytes + layout->codes_offset + begin;
    return OK;
}

uint64_t sparse_scratch(const struct sparse_layout *layout)
{
    return layout->dense.blocks * 32 * layout->bits;
}

void sparse_spread(const struct sparse_layout *layout, void *out, const struct sparse_tile *tile)
{
    const uint64_t cols = layout->dense.cols, stride = layout->dense.blocks * TILE_COLS;
    uint16_t *values = out;

    kernels()->sparse_spread(layout, out, tile->masks, tile->codes, tile->code_bytes);
    for (uint64_t row = 1; !layout->quantized && cols != stride && row < TILE_ROWS; row++)
        memmove(values + row * cols, values + row * stride, cols * sizeof *values);
}

/* Past the end tiles have codes 0: of every 32 bytes of a plane, four are a row's. */
void sparse_put_tile(
    const struct sparse_layout *layout, uint8_t *out, const struct sparse_tile *tile, uint64_t row_count)
{
    sparse_spread(layout, out, tile);
    for (uint64_t at = 0; row_count < TILE_ROWS && at < layout->dense.tile_code_bytes; at += 32)
        memset(out + at + 4 * row_count, 0, 4 * (TILE_ROWS - row_count));
}

void sparse_decode_tile(const struct sparse_layout *layout, float *out, uint64_t out_stride,
    const struct sparse_tile *tile, uint64_t row_count, void *scratch)
{
    const uint64_t cols = layout->dense.cols;
    const uint16_t *values = scratch;

    sparse_spread(layout, scratch, tile);
    if (layout->quantized) {
        tiles_decode_tile(&layout->dense, out, out_stride, scratch, tile->scales, NULL, row_count);
        return;
    }
    for (uint64_t row = 0; row < row_count; row++)
        (layout->dtype == DTYPE_F16 ? kernels()->f16_to_f32 : kernels()->bf16_to_f32)(
            out + row * out_stride, values + row * cols, cols);
}

enum status sparse_decode(const struct sparse_layout *layout, float *out, uint64_t out_stride,
    const void *base, uint64_t row_begin, uint64_t row_count, void *scratch, struct error *err)
{
    for (uint64_t row = 0; row < row_count; row += TILE_ROWS) {
        const uint64_t rows = row_count - row < TILE_ROWS ? row_count - row : TILE_ROWS;
        struct sparse_tile tile;
        enum status status = sparse_at(&tile, layout, base, (row_begin + row) / TILE_ROWS, err);
        if (status) return status;
        sparse_decode_tile(layout, out + row * out_stride, out_stride, &tile, rows, scratch);
    }
    return OK;
}

enum status sparse_rows(
    const struct tensor *tensor, float *out, uint64_t row_begin, uint64_t row_count, struct error *err)
{
    struct sparse_layout layout;
    enum status status = sparse_layout_of(&layout, tensor, err);
    void *scratch = status ? NULL : memory_new(sparse_scratch(&layout), 1, err);

    if (!status && !scratch) return ERR_MEMORY;
    if (!status)
        status =
            sparse_decode(&layout, out, layout.dense.cols, tensor->data, row_begin, row_count, scratch, err);
    memory_free(scratch);
    return status ? fail_within(err, status, "tensor %s", tensor->name) : OK;
}

void sparse_dot(const struct sparse_layout *layout, float *y, const struct sparse_tile *tile, const float *x,
    uint64_t tokens, void *scratch)
{
    if (!layout->quantized) {
        kernels()->sparse_value_dots(layout, y, tile->masks, tile->codes, tile->code_bytes, x, tokens);
        return;
    }
    if (layout->mask == MASK_2_4) {
        kernels()->sparse_dots(layout, y, tile->masks, tile->codes, tile->scales, x, tokens);
        return;
    }
    sparse_spread(layout, scratch, tile);
    tiles_dot(&layout->dense, y, scratch, tile->scales, NULL, x, tokens);
}

uint64_t sparse_count(const struct sparse_layout *layout, const uint8_t *masks, uint64_t blocks)
{
    uint64_t count = 0;

    if (layout->mask == MASK_2_4) return blocks * TILE_ROWS * TILE_COLS / 2;
    for (uint64_t i = 0; i < blocks * SPARSE_BITMAP_BYTES; i += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, masks + i, sizeof word);
        count += (uint64_t)__builtin_popcountll(word);
    }
    return count;
}
