#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "distill/shard.h"
#include "distill/shard_layout.h"
#include "formats/bytes.h"

char *shard_name(char *out, uint32_t number)
{
    snprintf(out, 24, "shard-%05" PRIu32 ".nbd", number % SHARD_LIMIT);
    return out;
}

/* ---- the draft ---- */

enum status shard_draft_add(struct shard_draft *draft, struct shard_sequence sequence, const uint8_t *records,
    uint64_t record_bytes, struct error *err)
{
    const uint64_t used = draft->record_count * record_bytes, more = sequence.length * record_bytes;
    enum status status =
        memory_grow(&draft->sequences, &draft->capacity, draft->count + 1, sizeof sequence, err);
    if (!status) status = memory_grow(&draft->records, &draft->byte_capacity, used + more, 1, err);
    if (status) return status;
    sequence.first = draft->record_count;
    draft->sequences[draft->count++] = sequence;
    memcpy(draft->records + used, records, more);
    draft->record_count += sequence.length;
    return OK;
}

void shard_draft_clear(struct shard_draft *draft)
{
    draft->count = draft->record_count = 0;
}

void shard_draft_free(struct shard_draft *draft)
{
    memory_free(draft->sequences);
    memory_free(draft->records);
    *draft = (struct shard_draft){0};
}

/* ---- the file ---- */

/* The file in parts: front (header, sequences, padding) and data. */
struct image {
    uint8_t *front, *data;
    uint64_t front_bytes, data_bytes;
    bool owned; /* data is not the draft's */
};

static void put_sequence(uint8_t *out, const struct shard_sequence *sequence)
{
    uint32_t nll;
    memcpy(&nll, &sequence->nll, sizeof nll);
    bytes_put(out, sequence->first, 8);
    bytes_put(out + 8, sequence->source, 8);
    bytes_put(out + 16, sequence->length, 4);
    bytes_put(out + 20, sequence->prompt, 4);
    bytes_put(out + 24, sequence->flags, 4);
    bytes_put(out + 28, nll, 4);
}

static void put_header(struct image *image, const struct shard_info *info, uint64_t record_bytes)
{
    uint8_t *out = image->front;
    memcpy(out, SHARD_MAGIC, 8);
    bytes_put(out + AT_VERSION, SHARD_VERSION, 4);
    bytes_put(out + AT_STAMP, info->stamp_crc, 4);
    bytes_put(out + AT_NUMBER, info->number, 4);
    bytes_put(out + AT_RECORD_BYTES, record_bytes, 4);
    bytes_put(out + AT_CHUNK, info->chunk, 4);
    bytes_put(out + AT_SEQUENCES, info->sequences, 8);
    bytes_put(out + AT_RECORDS, info->records, 8);
    bytes_put(out + AT_NEXT_SOURCE, info->next_source, 8);
    bytes_put(out + AT_BYTES, info->bytes, 8);
    bytes_put(out + AT_TABLE_CRC,
        file_crc32(0, out + SHARD_HEADER_BYTES, image->front_bytes - SHARD_HEADER_BYTES), 4);
    bytes_put(out + AT_DATA_CRC, file_crc32(0, image->data, image->data_bytes), 4);
    for (unsigned i = 0; i < SHARD_COUNTERS; i++)
        bytes_put(out + AT_COUNTERS + 8 * i, info->counters[i], 8);
    bytes_put(out + AT_HEADER_CRC, file_crc32(0, out, SHARD_HEADER_BYTES), 4);
}

/* A table of where each chunk ends, counted from behind the table, then the chunks. */
static enum status pack(struct image *image, const struct shard_draft *draft, uint32_t chunk,
    uint64_t record_bytes, struct error *err)
{
    const uint64_t chunks = (draft->record_count + chunk - 1) / chunk, table = 8 * chunks;
    const uint64_t room = table + chunks * file_pack_bound(chunk * record_bytes);
    uint64_t used = table;
    image->data = memory_new(room, 1, err);
    image->owned = true;
    if (!image->data) return ERR_MEMORY;
    for (uint64_t i = 0; i < chunks; i++) {
        const uint64_t left = draft->record_count - i * chunk, count = left < chunk ? left : chunk;
        uint64_t packed;
        enum status status = file_pack(image->data + used, room - used, &packed,
            draft->records + i * chunk * record_bytes, count * record_bytes, err);
        if (status) return status;
        used += packed;
        bytes_put(image->data + 8 * i, used - table, 8);
    }
    image->data_bytes = used;
    return OK;
}

static enum status make_image(struct image *image, struct shard_info *info, const struct shard_draft *draft,
    uint64_t record_bytes, struct error *err)
{
    const uint64_t table_end = SHARD_HEADER_BYTES + draft->count * SHARD_SEQUENCE_BYTES;
    image->front_bytes = (table_end + SHARD_ALIGNMENT - 1) / SHARD_ALIGNMENT * SHARD_ALIGNMENT;
    image->front = memory_new(image->front_bytes, 1, err);
    if (!image->front) return ERR_MEMORY;
    for (uint64_t i = 0; i < draft->count; i++)
        put_sequence(image->front + SHARD_HEADER_BYTES + i * SHARD_SEQUENCE_BYTES, &draft->sequences[i]);
    image->data = draft->records;
    image->data_bytes = draft->record_count * record_bytes;
    enum status status = info->chunk ? pack(image, draft, info->chunk, record_bytes, err) : OK;
    if (status) return status;
    info->sequences = draft->count;
    info->records = draft->record_count;
    info->bytes = image->front_bytes + image->data_bytes;
    put_header(image, info, record_bytes);
    info->crc = file_crc32(file_crc32(0, image->front, image->front_bytes), image->data, image->data_bytes);
    return OK;
}

static enum status write_image(const struct image *image, const char *path, struct error *err)
{
    struct output *output = NULL;
    enum status status = output_open(&output, path, true, err);
    if (!status) status = output_reserve(output, image->front_bytes + image->data_bytes, err);
    if (!status) status = output_write_at(output, 0, image->front, image->front_bytes, err);
    if (!status) status = output_write_at(output, image->front_bytes, image->data, image->data_bytes, err);
    if (!status) return output_commit(output, err);
    output_abandon(output);
    return status;
}

enum status shard_write(struct shard_info *info, const char *folder, const struct shard_draft *draft,
    uint64_t record_bytes, struct error *err)
{
    struct image image = {0};
    char name[24], *path = NULL;
    enum status status = make_image(&image, info, draft, record_bytes, err);
    shard_name(name, info->number);
    if (!status) status = file_join(&path, folder, name, strlen(name), err);
    if (!status) status = write_image(&image, path, err);
    memory_free(path);
    memory_free(image.front);
    if (image.owned) memory_free(image.data);
    return status;
}
