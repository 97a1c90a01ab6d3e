/* Writing stored base logits. Rows are encoded as they come into a group of blocks; a full group is packed by all workers and
 * written in order, so that the bytes do not depend on who packed what. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "runtime-check/judge/base_logits_parts.h"

enum { GROUP_BLOCKS = 16 };

struct base_logits_writer {
    struct output *output;
    struct base_logits_info info;
    struct base_logits_layout layout;
    const struct windows *windows;
    struct pool *pool;
    uint64_t offset;    /* where the next block goes */
    uint64_t row;       /* the next row */
    uint64_t group_row; /* the first row of the group */
    uint8_t *blocks;    /* [GROUP_BLOCKS][block_bytes] */
    uint8_t *packed;    /* [GROUP_BLOCKS][packed_bytes], each with its header in front */
    uint64_t block_bytes, packed_bytes;
    uint64_t packed_counts[GROUP_BLOCKS];  /* bytes of each, with the header */
    struct base_logits_candidate *scratch; /* [workers][top_k] */
};

/* ---- header and tokens ---- */

static enum status write_header(struct base_logits_writer *writer, struct error *err)
{
    const struct base_logits_info *info = &writer->info;
    uint8_t header[BASE_LOGITS_HEADER_BYTES] = {0};
    memcpy(header, base_logits_magic, sizeof base_logits_magic);
    bytes_put(header + 8, BASE_LOGITS_VERSION, 4);
    bytes_put(header + 12, (uint64_t)info->protocol, 4);
    bytes_put(header + 16, info->vocabulary, 4);
    bytes_put(header + 20, info->top_k, 4);
    bytes_put(header + 24, info->context, 8);
    bytes_put(header + 32, info->windows, 8);
    bytes_put(header + 40, info->model_bytes, 8);
    bytes_put(header + 48, info->model_weights, 8);
    bytes_put(header + 56, info->text_bytes, 8);
    bytes_put(header + 64, info->text_crc32, 4);
    snprintf((char *)header + 72, BASE_LOGITS_NAME, "%s", info->model);
    const uint64_t crc_at = sizeof header - BASE_LOGITS_CRC_BYTES;
    bytes_put(header + crc_at, file_crc32(0, header, crc_at), BASE_LOGITS_CRC_BYTES);
    writer->offset = sizeof header;
    return output_write_at(writer->output, 0, header, sizeof header, err);
}

static enum status write_tokens(struct base_logits_writer *writer, struct error *err)
{
    enum { PIECE = 4096 };
    const uint64_t count = writer->info.windows * writer->info.context;
    uint8_t piece[PIECE * sizeof(uint32_t)];
    uint32_t crc = 0;
    enum status status = OK;
    for (uint64_t begin = 0; begin < count && !status; begin += PIECE) {
        const uint64_t here = count - begin < PIECE ? count - begin : PIECE, bytes = here * sizeof(uint32_t);
        for (uint64_t i = 0; i < here; i++)
            bytes_put(piece + 4 * i, writer->windows->tokens[begin + i], 4);
        crc = file_crc32(crc, piece, bytes);
        status = output_write_at(writer->output, writer->offset, piece, bytes, err);
        writer->offset += bytes;
    }
    if (status) return status;
    bytes_put(piece, crc, BASE_LOGITS_CRC_BYTES);
    status = output_write_at(writer->output, writer->offset, piece, BASE_LOGITS_CRC_BYTES, err);
    writer->offset += BASE_LOGITS_CRC_BYTES;
    return status;
}

/* ---- blocks ---- */

static enum status pack_block(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct base_logits_writer *writer = context;
    const uint64_t block = writer->group_row / writer->layout.block_rows + index;
    const uint64_t bytes = base_logits_block_rows(&writer->layout, block) * writer->layout.row_bytes;
    uint8_t *out = writer->packed + index * writer->packed_bytes,
            *data = out + BASE_LOGITS_BLOCK_HEADER_BYTES;
    uint64_t count;
    (void)worker;
    enum status status = file_pack(data, writer->packed_bytes - BASE_LOGITS_BLOCK_HEADER_BYTES, &count,
        writer->blocks + index * writer->block_bytes, bytes, err);
    if (status) return status;
    bytes_put(out, count, 4);
    bytes_put(out + 4, file_crc32(0, data, count), 4);
    writer->packed_counts[index] = BASE_LOGITS_BLOCK_HEADER_BYTES + count;
    return OK;
}

/* Pack and write the group, whose blocks are full or the file's last. */
static enum status flush(struct base_logits_writer *writer, struct error *err)
{
    const uint64_t block_rows = writer->layout.block_rows;
    const uint64_t blocks = (writer->row - writer->group_row + block_rows - 1) / block_rows;
    enum status status = pool_run(writer->pool, blocks, pack_block, writer, err);
    for (uint64_t i = 0; i < blocks && !status; i++) {
        status = output_write_at(writer->output, writer->offset, writer->packed + i * writer->packed_bytes,
            writer->packed_counts[i], err);
        writer->offset += writer->packed_counts[i];
    }
    writer->group_row = writer->row;
    return status;
}

struct encoding {
    struct base_logits_writer *writer;
    const float *logits;
};

static enum status encode_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct encoding *encoding = context;
    struct base_logits_writer *writer = encoding->writer;
    const struct base_logits_layout *layout = &writer->layout;
    const uint64_t row = writer->row + index, block = row / layout->block_rows;
    const uint64_t slot = block - writer->group_row / layout->block_rows;
    const uint64_t window = row / writer->windows->scored, position = row % writer->windows->scored;
    const uint32_t target = windows_target(writer->windows, window, position);
    if (base_logits_encode(layout, writer->blocks + slot * writer->block_bytes,
            base_logits_block_rows(layout, block), row % layout->block_rows,
            encoding->logits + index * layout->vocabulary, target, writer->scratch + worker * layout->top_k))
        return OK;
    return fail(err, ERR_NUMERIC,
        "window %" PRIu64 ", position %" PRIu64 ": the base's logits are not finite", window,
        writer->windows->first + position);
}

enum status base_logits_add(
    struct base_logits_writer *writer, const float *logits, uint64_t count, struct error *err)
{
    const struct base_logits_layout *layout = &writer->layout;
    if (count > layout->rows - writer->row)
        return fail(err, ERR_USAGE, "more rows of logits than the windows have");
    while (count > 0) {
        const uint64_t room = writer->group_row + GROUP_BLOCKS * layout->block_rows - writer->row;
        const uint64_t here = count < room ? count : room;
        struct encoding encoding = {writer, logits};
        enum status status = pool_run(writer->pool, here, encode_row, &encoding, err);
        if (status) return status;
        writer->row += here;
        logits += here * layout->vocabulary;
        count -= here;
        if ((here == room || writer->row == layout->rows) && (status = flush(writer, err))) return status;
    }
    return OK;
}

/* ---- life ---- */

static enum status allocate(struct base_logits_writer *writer, struct error *err)
{
    const struct base_logits_layout *layout = &writer->layout;
    const uint64_t blocks = layout->blocks < GROUP_BLOCKS ? layout->blocks : GROUP_BLOCKS;
    const uint64_t scratch = pool_workers(writer->pool) * layout->top_k;
    writer->block_bytes = layout->block_rows * layout->row_bytes;
    writer->packed_bytes = BASE_LOGITS_BLOCK_HEADER_BYTES + file_pack_bound(writer->block_bytes);
    writer->blocks = memory_new(blocks, writer->block_bytes, err);
    writer->packed = writer->blocks ? memory_new(blocks, writer->packed_bytes, err) : NULL;
    writer->scratch = writer->packed ? memory_new(scratch, sizeof *writer->scratch, err) : NULL;
    return writer->scratch ? OK : ERR_MEMORY;
}

enum status base_logits_create(struct base_logits_writer **out, const char *path, bool force,
    const struct base_logits_info *info, const struct windows *windows, struct pool *pool, struct error *err)
{
    struct base_logits_writer *writer = memory_new(1, sizeof *writer, err);
    *out = NULL;
    if (!writer) return ERR_MEMORY;
    writer->info = *info;
    writer->info.scored = windows->scored;
    writer->windows = windows;
    writer->pool = pool;
    enum status status = base_logits_check_info(&writer->info, err) ? ERR_USAGE : OK;
    if (!status) {
        base_logits_layout(&writer->layout, &writer->info);
        status = allocate(writer, err);
    }
    if (!status) status = output_open(&writer->output, path, force, err);
    if (!status) status = write_header(writer, err);
    if (!status) status = write_tokens(writer, err);
    if (status)
        base_logits_abandon(writer);
    else
        *out = writer;
    return status;
}

enum status base_logits_commit(struct base_logits_writer *writer, struct error *err)
{
    enum status status = OK;
    if (writer->row < writer->layout.rows) {
        status = fail(err, ERR_USAGE, "only %" PRIu64 " of %" PRIu64 " rows of logits were added",
            writer->row, writer->layout.rows);
    } else {
        status = output_commit(writer->output, err);
        writer->output = NULL;
    }
    base_logits_abandon(writer);
    return status;
}

void base_logits_abandon(struct base_logits_writer *writer)
{
    if (!writer) return;
    output_abandon(writer->output);
    memory_free(writer->blocks);
    memory_free(writer->packed);
    memory_free(writer->scratch);
    memory_free(writer);
}
