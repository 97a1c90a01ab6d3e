/* See transposed.h. */
#include "formats/transposed.h"

#include <string.h>

#include "base/memory.h"

enum { PANEL_ELEMENTS = 1 << 18 };

/* Rows [first, first + rows) of the matrix, in order; column: room for so many elements. */
static enum status gather(uint8_t *out, uint8_t *column, struct container *container,
    const struct reader_entry *entry, uint64_t first, uint64_t rows, struct error *err)
{
    const uint64_t size = dtype_info(entry->tensor.dtype)->bytes;
    const uint64_t all_rows = entry->column ? entry->column : entry->tensor.shape[0],
                   cols = entry->tensor.shape[1];

    for (uint64_t c = 0; c < cols; c++) {
        enum status status = file_read_at(container->files[entry->file].file,
            entry->offset + (c * all_rows + first) * size, column, rows * size, err);
        if (status) return status;
        for (uint64_t r = 0; r < rows; r++)
            memcpy(out + (r * cols + c) * size, column + r * size, size);
    }
    return OK;
}

enum status transposed_compute(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err)
{
    const uint64_t cols = entry->tensor.shape[1], row_bytes = cols * dtype_info(entry->tensor.dtype)->bytes;
    const uint64_t end = offset + count, panel = cols < PANEL_ELEMENTS ? PANEL_ELEMENTS / cols : 1;
    const uint64_t wanted = count ? (end - 1) / row_bytes - offset / row_bytes + 1 : 0;
    const uint64_t most = wanted < panel ? wanted : panel;
    uint8_t *rows = memory_new(most, row_bytes, err), *column = memory_new(most, row_bytes / cols, err);
    enum status status = rows && column ? OK : ERR_MEMORY;

    for (uint64_t at = offset; at < end && !status;) {
        const uint64_t first = at / row_bytes, left = (end - 1) / row_bytes - first + 1;
        const uint64_t taken = left < most ? left : most, from = at - first * row_bytes;
        const uint64_t part = taken * row_bytes - from < end - at ? taken * row_bytes - from : end - at;
        status = gather(rows, column, container, entry, first, taken, err);
        if (!status) memcpy(buffer + (at - offset), rows + from, part);
        at += part;
    }
    memory_free(rows);
    memory_free(column);
    return status;
}
