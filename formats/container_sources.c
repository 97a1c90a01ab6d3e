/* The checksums of whole files, from those of their tensors. Declared in container.h. */
#include <stdlib.h>

#include "base/memory.h"
#include "formats/container_json.h"
#include "formats/reader.h"

enum { PIECE = 1 << 20 }; /* bytes read at a time */

/* The CRC-32 of a whole safetensors file: its tensors lie one after the other from the header to the end.
 * `next`: the first tensor of the file; on return, of the next file. */
static uint32_t whole_crc(
    const struct container *container, uint32_t file, const uint32_t *tensor_crcs, uint64_t *next)
{
    uint32_t crc = container->files[file].head_crc;

    for (; *next < container->entry_count && container->entries[*next].file == file; ++*next)
        crc = file_crc32_combine(crc, tensor_crcs[*next], container->entries[*next].tensor.bytes);
    return crc;
}

/* Bytes of a file whose checksum is known. */
struct span {
    uint64_t offset, bytes;
    uint32_t crc;
};

static int by_offset(const void *a, const void *b)
{
    const uint64_t x = ((const struct span *)a)->offset, y = ((const struct span *)b)->offset;
    return (x > y) - (x < y);
}

/* Add the bytes [at, end) to a checksum by reading them. */
static enum status read_crc(
    uint32_t *crc, struct file *file, uint64_t at, uint64_t end, uint8_t *piece, struct error *err)
{
    enum status status = OK;

    for (uint64_t count; at < end && !status; at += count) {
        count = end - at < PIECE ? end - at : PIECE;
        status = file_read_at(file, at, piece, count, err);
        if (!status) *crc = file_crc32(*crc, piece, count);
    }
    return status;
}

/* The tensors of a file whose bytes are seen as they lie there, in the order of the file. */
static uint64_t spans_of(
    struct span *spans, const struct container *container, uint32_t file, const uint32_t *tensor_crcs)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < container->entry_count; i++) {
        const struct reader_entry *entry = &container->entries[i];
        if (entry->file == file && !entry->head && !entry->compute)
            spans[count++] = (struct span){entry->offset, entry->tensor.bytes, tensor_crcs[i]};
    }
    qsort(spans, count, sizeof *spans, by_offset);
    return count;
}

/* The CRC-32 of a file with gaps: what is not known is read. */
static enum status joined_crc(uint32_t *crc, const struct container *container, uint32_t number,
    const uint32_t *tensor_crcs, struct error *err)
{
    struct file *file = container->files[number].file;
    struct span *spans = memory_new(container->entry_count, sizeof *spans, err);
    uint8_t *piece = memory_new(PIECE, 1, err);
    enum status status = spans && piece ? OK : ERR_MEMORY;
    const uint64_t count = status ? 0 : spans_of(spans, container, number, tensor_crcs);
    uint64_t at = 0;

    *crc = 0;
    for (uint64_t i = 0; i < count && !status; i++) {
        if (spans[i].offset < at) continue; /* two tensors share bytes */
        status = read_crc(crc, file, at, spans[i].offset, piece, err);
        *crc = file_crc32_combine(*crc, spans[i].crc, spans[i].bytes);
        at = spans[i].offset + spans[i].bytes;
    }
    if (!status) status = read_crc(crc, file, at, file->bytes, piece, err);
    memory_free(piece);
    memory_free(spans);
    return status;
}

enum status container_write_sources(
    struct container *container, const uint32_t *tensor_crcs, struct json_writer *writer, struct error *err)
{
    uint64_t next = 0;

    json_open_array(writer);
    for (uint64_t i = 0; i < container->file_count; i++) {
        const struct reader_file *file = &container->files[i];
        uint32_t crc = tensor_crcs ? file->head_crc : 0;
        enum status status = OK;
        if (container->has_gaps && tensor_crcs)
            status = joined_crc(&crc, container, (uint32_t)i, tensor_crcs, err);
        else if (!container->records_checksums && tensor_crcs)
            crc = whole_crc(container, (uint32_t)i, tensor_crcs, &next);
        if (status) return status;
        json_open_object(writer);
        json_put_text(writer, "file", file->name);
        json_put_u64(writer, "bytes", file->file->bytes);
        json_put_crc32(writer, "crc32", crc);
        json_close_object(writer);
    }
    json_close_array(writer);
    return OK;
}
