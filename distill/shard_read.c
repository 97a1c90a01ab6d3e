/* Nothing of a shard is used before it was checked: the header against its own checksum and the file's size, then the sequences, then
 * the data. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "distill/shard.h"
#include "distill/shard_layout.h"
#include "formats/bytes.h"

struct shard {
    struct file *file;
    const struct token_record_layout *layout;
    struct shard_info info;
    uint64_t data_at; /* records, or the table of chunks */
    uint8_t *chunk;   /* unpacked: [info.chunk][record bytes] */
    uint64_t current; /* which chunk that is; UINT64_MAX: none */
};

const struct shard_info *shard_info(const struct shard *shard)
{
    return &shard->info;
}

static enum status damaged(const struct shard *shard, uint64_t at, const char *what, struct error *err)
{
    return fail(err, ERR_FORMAT, "%s: %s at byte %" PRIu64 " is damaged", shard->file->path, what, at);
}

/* ---- the header ---- */

static void read_header(struct shard_info *info, const uint8_t *header)
{
    info->stamp_crc = bytes_get_u32(header + AT_STAMP);
    info->number = bytes_get_u32(header + AT_NUMBER);
    info->chunk = bytes_get_u32(header + AT_CHUNK);
    info->sequences = bytes_get_u64(header + AT_SEQUENCES);
    info->records = bytes_get_u64(header + AT_RECORDS);
    info->next_source = bytes_get_u64(header + AT_NEXT_SOURCE);
    info->bytes = bytes_get_u64(header + AT_BYTES);
    for (unsigned i = 0; i < SHARD_COUNTERS; i++)
        info->counters[i] = bytes_get_u64(header + AT_COUNTERS + 8 * i);
}

static bool crc_holds(const uint8_t *header)
{
    uint8_t copy[SHARD_HEADER_BYTES];
    memcpy(copy, header, sizeof copy);
    bytes_put(copy + AT_HEADER_CRC, 0, 4);
    return file_crc32(0, copy, sizeof copy) == bytes_get_u32(header + AT_HEADER_CRC);
}

static enum status check_identity(
    const struct shard *shard, uint32_t number, uint32_t stamp_crc, struct error *err)
{
    const uint8_t *header = shard->file->map;
    const char *path = shard->file->path;
    const uint32_t version = bytes_get_u32(header + AT_VERSION),
                   found = bytes_get_u32(header + AT_RECORD_BYTES);
    if (version > SHARD_VERSION)
        return fail(err, ERR_UNSUPPORTED,
            "%s: is of version %" PRIu32 " of the format; this program knows %d", path, version,
            SHARD_VERSION);
    if (version != SHARD_VERSION || !crc_holds(header)) return damaged(shard, 0, "the header", err);
    if (shard->info.stamp_crc != stamp_crc || shard->info.number != number)
        return fail(err, ERR_FORMAT, "%s: is of another dataset, or another shard", path);
    if (found == shard->layout->bytes) return OK;
    return fail(err, ERR_FORMAT, "%s: its records have %" PRIu32 " bytes, dataset.json says %" PRIu64, path,
        found, shard->layout->bytes);
}

static enum status check_header(struct shard *shard, uint32_t number, uint32_t stamp_crc, struct error *err)
{
    const struct file *file = shard->file;
    struct shard_info *info = &shard->info;
    uint64_t table, end;
    if (file->bytes < SHARD_HEADER_BYTES)
        return fail(
            err, ERR_FORMAT, "%s: has %" PRIu64 " bytes, less than a header", file->path, file->bytes);
    if (memcmp(file->map, SHARD_MAGIC, 8) != 0)
        return fail(err, ERR_FORMAT, "%s: is no shard of a dataset", file->path);
    read_header(info, file->map);
    enum status status = check_identity(shard, number, stamp_crc, err);
    if (status) return status;
    if (info->bytes != file->bytes)
        return fail(err, ERR_FORMAT, "%s: has %" PRIu64 " bytes, its header says %" PRIu64, file->path,
            file->bytes, info->bytes);
    if (checked_multiply(&table, info->sequences, SHARD_SEQUENCE_BYTES) ||
        checked_add(&end, table, SHARD_HEADER_BYTES) ||
        checked_align(&shard->data_at, end, SHARD_ALIGNMENT) || shard->data_at > file->bytes)
        return damaged(shard, AT_SEQUENCES, "the number of sequences", err);
    if (file_crc32(0, file->map + SHARD_HEADER_BYTES, shard->data_at - SHARD_HEADER_BYTES) !=
        bytes_get_u32(file->map + AT_TABLE_CRC))
        return damaged(shard, SHARD_HEADER_BYTES, "the table of sequences", err);
    if (file_crc32(0, file->map + shard->data_at, file->bytes - shard->data_at) !=
        bytes_get_u32(file->map + AT_DATA_CRC))
        return damaged(shard, shard->data_at, "the data", err);
    info->crc = file_crc32(0, file->map, file->bytes);
    return OK;
}

/* ---- sequences ---- */

struct shard_sequence shard_sequence(const struct shard *shard, uint64_t index)
{
    const uint8_t *at = shard->file->map + SHARD_HEADER_BYTES + index * SHARD_SEQUENCE_BYTES;
    struct shard_sequence sequence = {.first = bytes_get_u64(at),
        .source = bytes_get_u64(at + 8),
        .length = bytes_get_u32(at + 16),
        .prompt = bytes_get_u32(at + 20),
        .flags = bytes_get_u32(at + 24)};
    const uint32_t nll = bytes_get_u32(at + 28);
    memcpy(&sequence.nll, &nll, sizeof nll);
    return sequence;
}

/* They follow one another without gaps, from sources that rise. */
static enum status check_sequences(const struct shard *shard, struct error *err)
{
    uint64_t records = 0, source = 0;
    for (uint64_t i = 0; i < shard->info.sequences; i++) {
        const struct shard_sequence sequence = shard_sequence(shard, i);
        if (sequence.first != records || sequence.length == 0 || sequence.prompt > sequence.length ||
            sequence.source < source || sequence.source >= shard->info.next_source ||
            !isfinite(sequence.nll) || sequence.flags > SHARD_ENDED)
            return damaged(shard, SHARD_HEADER_BYTES + i * SHARD_SEQUENCE_BYTES, "a sequence", err);
        records += sequence.length; /* no overflow: below 2^32 times the file's bytes / 32 */
        source = sequence.source + 1;
    }
    if (records == shard->info.records) return OK;
    return damaged(shard, AT_RECORDS, "the number of records", err);
}

/* ---- data ---- */

static uint64_t chunk_count(const struct shard *shard)
{
    const uint64_t chunk = shard->info.chunk;
    return shard->info.records / chunk + (shard->info.records % chunk != 0);
}

static uint64_t chunk_end(const struct shard *shard, uint64_t index)
{
    return bytes_get_u64(shard->file->map + shard->data_at + 8 * index);
}

static enum status check_chunks(struct shard *shard, struct error *err)
{
    const uint64_t chunks = chunk_count(shard), bytes = shard->file->bytes - shard->data_at;
    uint64_t before = 0, unpacked;
    if (chunks > bytes / 8 || checked_multiply(&unpacked, shard->info.chunk, shard->layout->bytes) ||
        unpacked > FILE_PACK_LIMIT)
        return damaged(shard, AT_CHUNK, "the number of chunks", err);
    for (uint64_t i = 0; i < chunks; i++) {
        const uint64_t end = chunk_end(shard, i);
        if (end < before || end > bytes - 8 * chunks)
            return damaged(shard, shard->data_at + 8 * i, "the table of chunks", err);
        before = end;
    }
    if (before != bytes - 8 * chunks) return damaged(shard, shard->data_at, "the table of chunks", err);
    if (chunks > 0 && shard->info.records < shard->info.chunk)
        unpacked = shard->info.records * shard->layout->bytes;
    /* deflate makes at most 1032 bytes of one: what claims more is not made room for */
    if (unpacked / 1032 > bytes) return damaged(shard, AT_CHUNK, "the size of a chunk", err);
    shard->chunk = memory_new(unpacked, 1, err);
    return shard->chunk ? OK : ERR_MEMORY;
}

static enum status check_data(struct shard *shard, struct error *err)
{
    uint64_t bytes;
    if (shard->info.chunk) return check_chunks(shard, err);
    if (checked_multiply(&bytes, shard->info.records, shard->layout->bytes) ||
        bytes != shard->file->bytes - shard->data_at)
        return damaged(shard, AT_RECORDS, "the number of records", err);
    return OK;
}

static enum status load_chunk(struct shard *shard, uint64_t index, struct error *err)
{
    const uint64_t chunks = chunk_count(shard), begin = index ? chunk_end(shard, index - 1) : 0;
    const uint64_t left = shard->info.records - index * shard->info.chunk;
    const uint64_t count = left < shard->info.chunk ? left : shard->info.chunk;
    const uint64_t at = shard->data_at + 8 * chunks + begin;
    shard->current = UINT64_MAX;
    enum status status = file_unpack(shard->chunk, count * shard->layout->bytes, shard->file->map + at,
        chunk_end(shard, index) - begin, err);
    if (status)
        return fail_within(
            err, status, "%s: chunk %" PRIu64 " at byte %" PRIu64, shard->file->path, index, at);
    shard->current = index;
    return OK;
}

enum status shard_record(struct shard *shard, const uint8_t **out, uint64_t index, struct error *err)
{
    const uint64_t record_bytes = shard->layout->bytes, chunk = shard->info.chunk;
    if (!chunk) {
        *out = shard->file->map + shard->data_at + index * record_bytes;
        return OK;
    }
    enum status status = index / chunk == shard->current ? OK : load_chunk(shard, index / chunk, err);
    *out = status ? NULL : shard->chunk + index % chunk * record_bytes;
    return status;
}

/* ---- life ---- */

enum status shard_open(struct shard **out, const char *path, const struct token_record_layout *layout,
    uint32_t number, uint32_t stamp_crc, struct error *err)
{
    struct shard *shard = memory_new(1, sizeof *shard, err);
    *out = NULL;
    if (!shard) return ERR_MEMORY;
    shard->layout = layout;
    shard->current = UINT64_MAX;
    enum status status = file_open(&shard->file, path, err);
    if (!status) status = file_map(shard->file, err);
    if (!status) status = check_header(shard, number, stamp_crc, err);
    if (!status) status = check_sequences(shard, err);
    if (!status) status = check_data(shard, err);
    if (status)
        shard_close(shard);
    else
        *out = shard;
    return status;
}

void shard_close(struct shard *shard)
{
    if (!shard) return;
    file_close(shard->file);
    memory_free(shard->chunk);
    memory_free(shard);
}
