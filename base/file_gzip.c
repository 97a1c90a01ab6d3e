/* Whole texts from files that may be packed with gzip (RFC 1952). The file streams through a chunk and what comes out
 * grows by doubling, so a small file that unpacks to something huge costs no more than the limit. */
#include "base/file.h"

#include <inttypes.h>
#include <string.h>

#include "base/file_zlib.h"
#include "base/memory.h"

enum {
    CHUNK_BYTES = 128 * 1024,
    GZIP_ONLY = 16 + MAX_WBITS /* inflateInit2: a gzip header is required, checksum and length are checked */
};

/* One file on its way into memory. */
struct unpacking {
    struct file *file;
    uint64_t offset; /* how much of the file was read */
    uint32_t crc;    /* of that */
    z_stream stream;
    char *text; /* [capacity], `count` bytes used, never all of them: the NUL */
    uint64_t count, capacity, limit;
    uint8_t chunk[CHUNK_BYTES];
};

static enum status over_limit(const struct unpacking *unpacking, struct error *err)
{
    return fail(err, ERR_MEMORY, "%s: has more than %" PRIu64 " bytes once unpacked, the limit",
        unpacking->file->path, unpacking->limit);
}

/* Room for at least one more byte and the NUL. memory_grow may double beyond the limit; this does not. */
static enum status make_room(struct unpacking *unpacking, struct error *err)
{
    uint64_t larger = unpacking->capacity ? unpacking->capacity * 2 : 4 * CHUNK_BYTES;
    char *grown;

    if (unpacking->count + 1 < unpacking->capacity) return OK;
    /* One byte beyond the limit, to see that there is more, and the NUL. */
    if (larger > unpacking->limit + 2) larger = unpacking->limit + 2;
    grown = memory_new(larger, 1, err);
    if (!grown) return fail_within(err, ERR_MEMORY, "%s", unpacking->file->path);
    if (unpacking->count > 0) memcpy(grown, unpacking->text, unpacking->count);
    memory_free(unpacking->text);
    unpacking->text = grown;
    unpacking->capacity = larger;
    return OK;
}

static enum status read_chunk(struct unpacking *unpacking, struct error *err)
{
    uint64_t left = unpacking->file->bytes - unpacking->offset;
    uint64_t count = left < CHUNK_BYTES ? left : CHUNK_BYTES;
    enum status status;

    if (unpacking->stream.avail_in > 0 || count == 0) return OK;
    status = file_read_at(unpacking->file, unpacking->offset, unpacking->chunk, count, err);
    if (status) return status;
    unpacking->crc = file_crc32(unpacking->crc, unpacking->chunk, count);
    unpacking->offset += count;
    unpacking->stream.next_in = unpacking->chunk;
    unpacking->stream.avail_in = (unsigned)count;
    return OK;
}

static enum status damaged(const struct unpacking *unpacking, int code, struct error *err)
{
    const char *path = unpacking->file->path, *reason = unpacking->stream.msg;

    if (code == Z_MEM_ERROR) return fail(err, ERR_MEMORY, "%s: no memory left to unpack it", path);
    if (code == Z_BUF_ERROR) return fail(err, ERR_FORMAT, "%s: the gzip data is cut short", path);
    return fail(err, ERR_FORMAT, "%s: the gzip data is damaged at byte %" PRIu64 " or before (%s)", path,
        unpacking->offset - unpacking->stream.avail_in, reason ? reason : "unknown reason");
}

/* One call of inflate. *at_end: the last member of the file is complete. */
static enum status unpack_step(struct unpacking *unpacking, bool *at_end, struct error *err)
{
    z_stream *stream = &unpacking->stream;
    uint64_t room = unpacking->capacity - unpacking->count - 1;
    unsigned given = room < 1u << 30 ? (unsigned)room : 1u << 30;
    int code;

    stream->next_out = (uint8_t *)unpacking->text + unpacking->count;
    stream->avail_out = given;
    code = inflate(stream, Z_NO_FLUSH);
    unpacking->count += given - stream->avail_out;
    if (unpacking->count > unpacking->limit) return over_limit(unpacking, err);
    if (code == Z_OK) return OK;
    if (code != Z_STREAM_END) return damaged(unpacking, code, err);
    *at_end = stream->avail_in == 0 && unpacking->offset == unpacking->file->bytes;
    /* gzip files may be joined end to end; what follows is another member or an error. */
    code = inflateReset(stream);
    return code == Z_OK ? OK : damaged(unpacking, code, err);
}

static enum status unpack(struct unpacking *unpacking, struct error *err)
{
    bool at_end = false;
    enum status status = OK;
    int code;

    unpacking->stream.zalloc = file_zlib_new;
    unpacking->stream.zfree = file_zlib_free;
    code = inflateInit2(&unpacking->stream, GZIP_ONLY);
    if (code != Z_OK) return damaged(unpacking, code, err);
    while (!at_end && !status) {
        status = read_chunk(unpacking, err);
        if (!status) status = make_room(unpacking, err);
        if (!status) status = unpack_step(unpacking, &at_end, err);
    }
    inflateEnd(&unpacking->stream);
    if (!status) unpacking->text[unpacking->count] = 0; /* inflate may use room beyond what it counts */
    return status;
}

/* A file that is not packed: its size is known. */
static enum status take_plain(struct unpacking *unpacking, struct error *err)
{
    const struct file *file = unpacking->file;
    enum status status;

    if (file->bytes > unpacking->limit)
        return fail(err, ERR_MEMORY, "%s: has %" PRIu64 " bytes, the limit is %" PRIu64, file->path,
            file->bytes, unpacking->limit);
    unpacking->text = memory_new(file->bytes + 1, 1, err);
    if (!unpacking->text) return fail_within(err, ERR_MEMORY, "%s", file->path);
    status = file_read_at(unpacking->file, 0, unpacking->text, file->bytes, err);
    unpacking->count = file->bytes;
    unpacking->crc = file_crc32(0, unpacking->text, unpacking->count);
    return status;
}

static enum status is_packed(bool *packed, struct file *file, struct error *err)
{
    uint8_t magic[2] = {0};
    enum status status = file->bytes < 2 ? OK : file_read_at(file, 0, magic, 2, err);

    *packed = magic[0] == 0x1F && magic[1] == 0x8B;
    return status;
}

enum status file_read_text(char **out, uint64_t *bytes, uint32_t *file_crc, const char *path,
    uint64_t limit_bytes, struct error *err)
{
    const uint64_t highest = UINT64_C(1) << 62; /* so that limit + 2 is a number */
    struct unpacking *unpacking = memory_new(1, sizeof *unpacking, err);
    bool packed = false;
    enum status status = unpacking ? OK : ERR_MEMORY;

    *out = NULL;
    if (!status) status = file_open(&unpacking->file, path, err);
    if (status) goto done;
    unpacking->limit = limit_bytes < highest ? limit_bytes : highest;
    status = is_packed(&packed, unpacking->file, err);
    if (!status) status = packed ? unpack(unpacking, err) : take_plain(unpacking, err);
    if (status) goto done;
    *out = unpacking->text;
    *bytes = unpacking->count;
    *file_crc = unpacking->crc;
    unpacking->text = NULL;
done:
    if (unpacking) {
        file_close(unpacking->file);
        memory_free(unpacking->text);
    }
    memory_free(unpacking);
    return status;
}
