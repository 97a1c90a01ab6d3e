/* See sparse_part.h. */
#include "formats/sparse_part.h"

#include <inttypes.h>
#include <string.h>

/* What a part of `rows` rows is. */
static struct tensor describe(const struct sparse_layout *whole, uint64_t rows)
{
    const struct tiles_layout *dense = &whole->dense;
    struct tensor part = {.storage = STORAGE_SPARSE,
        .dtype = whole->dtype,
        .mask = whole->mask,
        .rank = 2,
        .shape = {rows, dense->cols}};

    if (whole->quantized) part.scheme = (struct scheme){.bits = dense->bits, .group = (uint32_t)dense->group};
    return part;
}

uint64_t sparse_part_bytes(const struct sparse_layout *whole, uint64_t rows)
{
    const struct tensor part = describe(whole, rows);
    const uint64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    struct sparse_layout layout;

    return sparse_layout(&layout, &part, tiles * whole->tile_code_bytes, NULL) ? 0 : layout.bytes;
}

/* The offsets of the tiles from number `first` on, counted from the first; *begin, *bytes: where their codes lie. */
static enum status read_offsets(uint32_t *offsets, uint64_t *begin, uint64_t *bytes,
    struct container *container, const struct tensor *tensor, const struct sparse_layout *whole,
    uint64_t first, uint64_t tiles, struct error *err)
{
    enum status status = container_read(container, tensor, whole->offsets_offset + first * sizeof *offsets,
        offsets, (tiles + 1) * sizeof *offsets, err);

    if (status) return status;
    status = sparse_check_offsets(whole, offsets, first, first + tiles, err);
    if (status) return fail_within(err, status, "tensor %s", tensor->name);
    *begin = (uint64_t)offsets[0] * 8;
    *bytes = (uint64_t)offsets[tiles] * 8 - *begin;
    for (uint64_t i = tiles + 1; i-- > 0;)
        offsets[i] -= offsets[0];
    return OK;
}

enum status sparse_part_read(struct sparse_layout *out, struct container *container,
    const struct tensor *tensor, const struct sparse_layout *whole, uint64_t row_begin, uint64_t row_count,
    uint8_t *buffer, struct error *err)
{
    const struct tensor part = describe(whole, row_count);
    const uint64_t first = row_begin / TILE_ROWS;
    uint64_t begin = first * whole->tile_code_bytes, bytes = 0;
    enum status status = sparse_layout(out, &part, 0, err);

    if (!status && !sparse_part_bytes(whole, row_count))
        status = fail(err, ERR_MEMORY, "tensor %s: %" PRIu64 " rows are too long to be read at once",
            tensor->name, row_count);
    if (!status && whole->mask == MASK_BITMAP) {
        status = read_offsets((uint32_t *)(void *)(buffer + out->offsets_offset), &begin, &bytes, container,
            tensor, whole, first, out->dense.tiles, err);
        if (!status) status = sparse_layout(out, &part, bytes, err);
    }
    if (!status)
        status = container_read(container, tensor, first * whole->tile_mask_bytes, buffer,
            out->dense.tiles * whole->tile_mask_bytes, err);
    if (!status)
        status = container_read(container, tensor, whole->scales_offset + first * whole->tile_scale_bytes,
            buffer + out->scales_offset, out->dense.tiles * whole->tile_scale_bytes, err);
    if (!status)
        status = container_read(
            container, tensor, whole->codes_offset + begin, buffer + out->codes_offset, out->code_bytes, err);
    if (!status) memset(buffer + out->codes_offset + out->code_bytes, 0, SPARSE_SLACK);
    return status;
}
