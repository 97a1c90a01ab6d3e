/* Saving the states at a layer's start, and loading them. All numbers little-endian:
 *
 *   0   magic, 8 bytes
 *   8   u32 version         12  u32 streams
 *   16  u64 samples         24  u64 tokens per sample      32  u64 hidden
 *   40  u32 CRC-32 of the calibration's tokens             44  u32 bytes of the stamp
 *   48  the stamp
 *       f32 states [streams][samples * tokens][hidden]; the current stream first
 *       u32 CRC-32 of everything before */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "model/walk_parts.h"

enum { VERSION = 1, HEAD_BYTES = 48, CRC_BYTES = 4 };
static const char magic[8] = {'\x89', 'N', 'B', 'W', '\r', '\n', '\x1a', '\n'};

/* Everything before the states, in new memory. The walk's shape fits: it is in memory or on disk as states. */
static uint8_t *new_head(const struct walk *walk, const char *stamp, uint64_t *bytes, struct error *err)
{
    uint64_t stamp_bytes = strlen(stamp);
    uint8_t *head;

    assert(stamp_bytes <= UINT32_MAX);
    *bytes = HEAD_BYTES + stamp_bytes;
    head = memory_new(*bytes, 1, err);
    if (!head) return NULL;
    memcpy(head, magic, sizeof magic);
    bytes_put(head + 8, VERSION, 4);
    bytes_put(head + 12, walk->stream_count, 4);
    bytes_put(head + 16, walk->samples, 8);
    bytes_put(head + 24, walk->length, 8);
    bytes_put(head + 32, walk->config->hidden, 8);
    bytes_put(head + 40, walk->calibration->tokens_crc32, 4);
    bytes_put(head + 44, stamp_bytes, 4);
    memcpy(head + HEAD_BYTES, stamp, stamp_bytes);
    return head;
}

/* Bytes of one stream's states. */
static uint64_t stream_bytes(const struct walk *walk)
{
    return walk->samples * walk->length * walk->config->hidden * sizeof(float);
}

/* ---- saving ---- */

static enum status save_stream(struct walk *walk, struct stream *stream, struct output *output,
    uint64_t *offset, uint32_t *crc, struct error *err)
{
    uint64_t hidden = walk->config->hidden;
    struct walk_block block = {0};
    enum status status = OK;

    while (!status && walk_next_block(walk, &block)) {
        uint64_t bytes = block.tokens * hidden * sizeof(float);

        status = walk_read(stream->start, &block, hidden, stream->x, err);
        if (!status) status = output_write_at(output, *offset, stream->x, bytes, err);
        if (!status) *crc = file_crc32(*crc, stream->x, bytes);
        *offset += bytes;
    }
    return status;
}

enum status walk_save(struct walk *walk, const char *path, const char *stamp, struct error *err)
{
    struct output *output = NULL;
    uint64_t offset = 0;
    uint8_t *head = new_head(walk, stamp, &offset, err), end[CRC_BYTES];
    uint32_t crc;
    enum status status = ERR_MEMORY;

    assert(!walk->spoiled);
    if (!head) goto done;
    crc = file_crc32(0, head, offset);
    status = output_open(&output, path, true, err);
    if (!status)
        status = output_reserve(output, offset + walk->stream_count * stream_bytes(walk) + CRC_BYTES, err);
    if (!status) status = output_write_at(output, 0, head, offset, err);
    for (unsigned i = 0; i < walk->stream_count && !status; i++)
        status = save_stream(walk, &walk->streams[i], output, &offset, &crc, err);
    bytes_put(end, crc, CRC_BYTES);
    if (!status) status = output_write_at(output, offset, end, CRC_BYTES, err);
    if (status) goto done;
    status = output_commit(output, err);
    output = NULL;
done:
    output_abandon(output);
    memory_free(head);
    return status;
}

/* ---- loading ---- */

/* The file must begin as this walk would have written it, and be as long. */
static enum status check_head(
    struct file *file, const struct walk *walk, const uint8_t *head, uint64_t head_bytes, struct error *err)
{
    uint8_t *found = memory_new(head_bytes, 1, err);
    enum status status = found ? file_read_at(file, 0, found, head_bytes, err) : ERR_MEMORY;

    if (!status && memcmp(found, magic, sizeof magic) != 0)
        status = fail(err, ERR_FORMAT, "%s: is no saved walk", file->path);
    if (!status && bytes_get_u32(found + 8) != VERSION)
        status = fail(err, ERR_FORMAT, "%s: is of version %" PRIu32 ", this program writes version %d",
            file->path, bytes_get_u32(found + 8), VERSION);
    if (!status && memcmp(found, head, head_bytes) != 0)
        status = fail(err, ERR_FORMAT, "%s: was saved by another walk", file->path);
    if (!status && file->bytes != head_bytes + walk->stream_count * stream_bytes(walk) + CRC_BYTES)
        status = fail(
            err, ERR_FORMAT, "%s: has %" PRIu64 " bytes, not what it says it holds", file->path, file->bytes);
    memory_free(found);
    return status;
}

static enum status load_stream(struct walk *walk, struct stream *stream, struct file *file, uint64_t *offset,
    uint32_t *crc, struct error *err)
{
    uint64_t hidden = walk->config->hidden;
    struct walk_block block = {0};
    enum status status = OK;

    while (!status && walk_next_block(walk, &block)) {
        uint64_t bytes = block.tokens * hidden * sizeof(float);

        status = file_read_at(file, *offset, stream->x, bytes, err);
        if (!status) status = walk_write(stream->middle, &block, hidden, stream->x, err);
        if (!status) *crc = file_crc32(*crc, stream->x, bytes);
        *offset += bytes;
    }
    return status;
}

static enum status check_crc(struct file *file, uint64_t offset, uint32_t crc, struct error *err)
{
    uint8_t end[CRC_BYTES];
    enum status status = file_read_at(file, offset, end, CRC_BYTES, err);

    if (!status && bytes_get_u32(end) != crc)
        status = fail(err, ERR_FORMAT, "%s: is damaged, its checksum does not agree", file->path);
    return status;
}

/* States are read to where the middle of a layer goes, which holds nothing at a layer's start; only when all of them are
 * known to be good do the two change places. */
enum status walk_load(struct walk *walk, const char *path, const char *stamp, struct error *err)
{
    struct file *file = NULL;
    uint64_t offset = 0;
    uint8_t *head = new_head(walk, stamp, &offset, err);
    uint32_t crc;
    enum status status = head ? file_open(&file, path, err) : ERR_MEMORY;

    if (!status) status = check_head(file, walk, head, offset, err);
    if (status) goto done;
    crc = file_crc32(0, head, offset);
    for (unsigned i = 0; i < walk->stream_count; i++)
        walk->streams[i].done = 0;
    for (unsigned i = 0; i < walk->stream_count && !status; i++)
        status = load_stream(walk, &walk->streams[i], file, &offset, &crc, err);
    if (!status) status = check_crc(file, offset, crc, err);
    for (unsigned i = 0; i < walk->stream_count && !status; i++) {
        struct stream *stream = &walk->streams[i];
        struct spill *start = stream->start;

        stream->start = stream->middle;
        stream->middle = start;
    }
    if (!status) walk->spoiled = false;
done:
    file_close(file);
    memory_free(head);
    return status;
}
