/* A shard of a distillation dataset: as it is, and with its checksums made right, so that what lies behind them is reached. Everything it
 * hands out is looked at, and records are decoded. The dataset's document is read from the same bytes. */
#include <string.h>

#include "base/file.h"
#include "distill/dataset_document.h"
#include "distill/shard_layout.h"
#include "formats/bytes.h"
#include "tests/fuzz/fuzz.h"

static struct token_record_layout layout;
static struct token_record record;

static void look(struct shard *shard)
{
    for (uint64_t i = 0; i < shard_info(shard)->sequences; i++) {
        const struct shard_sequence sequence = shard_sequence(shard, i);
        if (sequence.first + sequence.length > shard_info(shard)->records) abort();
    }
    for (uint64_t i = 0; i < shard_info(shard)->records && i < 4096; i++) {
        const uint8_t *bytes;
        if (shard_record(shard, &bytes, i, NULL) != OK) continue;
        if (token_record_get(&record, &layout, bytes, NULL) == OK && record.ids[3] >= 300) abort();
    }
}

static void read_shard(const uint8_t *data, size_t size)
{
    char path[FUZZ_PATH_BYTES];
    struct shard *shard = NULL;
    const uint32_t stamp = size >= SHARD_HEADER_BYTES ? bytes_get_u32(data + AT_STAMP) : 0;
    const int descriptor = fuzz_file(path, data, size);
    if (shard_open(&shard, path, &layout, 0, stamp, NULL) == OK) look(shard);
    shard_close(shard);
    close(descriptor);
}

static void repair(uint8_t *bytes, uint64_t count)
{
    const uint64_t sequences = bytes_get_u64(bytes + AT_SEQUENCES);
    uint64_t data = SHARD_HEADER_BYTES;
    if (sequences < count / SHARD_SEQUENCE_BYTES) data += (sequences * SHARD_SEQUENCE_BYTES + 63) / 64 * 64;
    if (data > count) data = count;
    bytes_put(bytes + AT_BYTES, count, 8);
    bytes_put(bytes + AT_RECORD_BYTES, layout.bytes, 4);
    bytes_put(bytes + AT_TABLE_CRC, file_crc32(0, bytes + SHARD_HEADER_BYTES, data - SHARD_HEADER_BYTES), 4);
    bytes_put(bytes + AT_DATA_CRC, file_crc32(0, bytes + data, count - data), 4);
    bytes_put(bytes + AT_HEADER_CRC, 0, 4);
    bytes_put(bytes + AT_HEADER_CRC, file_crc32(0, bytes, SHARD_HEADER_BYTES), 4);
}

static void read_document(const uint8_t *data, size_t size)
{
    struct dataset_document document;
    if (dataset_document_parse(&document, "dataset.json", (const char *)data, size, NULL) == OK) {
        for (uint64_t i = 0; i < document.shard_count; i++) {
            if (document.shards[i].number != i) abort();
        }
    }
    dataset_document_free(&document);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct token_record_shape shape = {.vocabulary = 300, .count = 4, .value_bits = 8};
    if (!record.ids && (token_record_plan(&layout, &shape, NULL) || token_record_new(&record, &layout, NULL)))
        abort();
    read_shard(data, size);
    read_document(data, size);
    if (size < SHARD_HEADER_BYTES) return 0;
    uint8_t *copy = malloc(size);
    if (!copy) return 0;
    memcpy(copy, data, size);
    repair(copy, size);
    read_shard(copy, size);
    free(copy);
    return 0;
}
