/* Shards: what is read is what was written, packed or not; every flipped bit and every missing byte is found; and whatever a file claims,
 * opening it ends in an error or in a shard that can be read to the end. */
#include "distill/shard.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "distill/shard_layout.h"
#include "formats/bytes.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/testing.h"

enum { VOCABULARY = 300, SEQUENCES = 5, STAMP = 0x12345678 };

static struct token_record_layout layout;

/* ---- a shard to look at ---- */

static void add_sequence(struct shard_draft *draft, uint32_t index, uint64_t *random)
{
    static float logits[VOCABULARY];
    const uint32_t length = 3 + 7 * index;
    uint8_t *records = memory_new(length, layout.bytes, NULL);
    struct token_record work;
    REQUIRE(records && token_record_new(&work, &layout, NULL) == OK, NULL);
    for (uint32_t i = 0; i < length; i++) {
        for (unsigned j = 0; j < VOCABULARY; j++)
            logits[j] = testing_normal(random);
        REQUIRE(
            token_record_put(records + i * layout.bytes, &layout, 10 * index + i, logits, 1, random, &work),
            NULL);
    }
    const struct shard_sequence sequence = {.source = 2 * index,
        .length = length,
        .prompt = index,
        .flags = index % 2,
        .nll = 0.5f * (float)index};
    REQUIRE(shard_draft_add(draft, sequence, records, layout.bytes, NULL) == OK, NULL);
    token_record_free(&work);
    memory_free(records);
}

/* Write shard number 0 of the test's folder; its path. */
static const char *write_shard(uint32_t chunk, struct shard_info *info)
{
    const struct token_record_shape shape = {.vocabulary = VOCABULARY, .count = 4, .value_bits = 8};
    struct shard_draft draft = {0};
    struct error err = {0};
    uint64_t random = 1;
    REQUIRE(token_record_plan(&layout, &shape, &err) == OK, &err);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        add_sequence(&draft, i, &random);
    *info = (struct shard_info){
        .stamp_crc = STAMP, .next_source = 20, .chunk = chunk, .counters = {1, 2, 3, 4, 5}};
    REQUIRE(shard_write(info, testing_path("."), &draft, layout.bytes, &err) == OK, &err);
    shard_draft_free(&draft);
    return testing_path("shard-00000.nbd");
}

/* Everything a shard hands out. False: a record could not be had. */
static bool look(struct shard *shard)
{
    struct token_record record;
    bool sound = true;
    REQUIRE(token_record_new(&record, &layout, NULL) == OK, NULL);
    for (uint64_t i = 0; i < shard_info(shard)->sequences; i++) {
        const struct shard_sequence sequence = shard_sequence(shard, i);
        for (uint64_t j = 0; j < sequence.length && sound; j++) {
            const uint8_t *bytes;
            sound = shard_record(shard, &bytes, sequence.first + j, NULL) == OK;
            if (sound) sound = token_record_get(&record, &layout, bytes, NULL) == OK;
        }
    }
    token_record_free(&record);
    return sound;
}

static enum status open_and_look(const char *path, struct error *err)
{
    struct shard *shard = NULL;
    enum status status = shard_open(&shard, path, &layout, 0, STAMP, err);
    if (!status) look(shard);
    shard_close(shard);
    return status;
}

/* ---- round trips ---- */

static void check_contents(const char *path, const struct shard_info *written)
{
    struct shard *shard = NULL;
    struct error err = {0};
    const uint8_t *bytes;
    CHECK(shard_open(&shard, path, &layout, 0, STAMP, &err) == OK, &err);
    REQUIRE(shard != NULL, &err);
    const struct shard_info *info = shard_info(shard);
    CU_ASSERT(info->sequences == SEQUENCES && info->records == 85 && info->next_source == 20);
    CU_ASSERT(info->crc == written->crc && info->bytes == written->bytes && info->bytes == file_size(path));
    CU_ASSERT(info->counters[0] == 1 && info->counters[4] == 5);
    uint64_t at = 0;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        const struct shard_sequence sequence = shard_sequence(shard, i);
        CU_ASSERT(sequence.first == at && sequence.source == 2 * i && sequence.length == 3 + 7 * i);
        CU_ASSERT(sequence.prompt == i && sequence.flags == i % 2 && sequence.nll == 0.5f * (float)i);
        at += sequence.length;
    }
    CU_ASSERT_TRUE(look(shard));
    for (uint64_t index = 85; index-- > 0;) { /* backwards: chunks in any order */
        REQUIRE(shard_record(shard, &bytes, index, &err) == OK, &err);
        uint32_t sequence = SEQUENCES - 1;
        while (shard_sequence(shard, sequence).first > index)
            sequence--;
        CU_ASSERT_EQUAL(
            token_record_token(bytes), 10 * sequence + index - shard_sequence(shard, sequence).first);
    }
    shard_close(shard);
}

static void test_round_trip(void)
{
    static const uint32_t chunks[] = {0, 1, 7, 85, 256};
    for (unsigned i = 0; i < 5; i++) {
        struct shard_info info;
        testing_folder();
        const char *path = write_shard(chunks[i], &info);
        check_contents(path, &info);
        uint64_t count;
        char *bytes = testing_read(path, &count);
        CU_ASSERT_EQUAL(file_crc32(0, bytes, count), info.crc);
        if (i < 4 && i != 3)
            corpus_keep("shard", i == 0 ? "plain" : i == 1 ? "packed-by-one" : "packed", bytes, count);
        memory_free(bytes);
    }
}

/* ---- damage ---- */

static void test_every_bit(void)
{
    for (uint32_t chunk = 0; chunk < 10; chunk += 9) {
        struct shard_info info;
        testing_folder();
        const char *path = write_shard(chunk, &info), *bad = testing_path("bad");
        uint64_t count;
        char *bytes = testing_read(path, &count);
        for (uint64_t bit = 0; bit < 8 * count; bit += bit < 8 * 160 ? 1 : 31) {
            struct error err = {0};
            bytes[bit / 8] ^= (char)(1 << bit % 8);
            testing_write(bad, bytes, count);
            const enum status status = open_and_look(bad, &err);
            CHECK(status == ERR_FORMAT || status == ERR_UNSUPPORTED, &err);
            CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "bad"));
            bytes[bit / 8] ^= (char)(1 << bit % 8);
        }
        memory_free(bytes);
    }
}

static void test_every_length(void)
{
    struct shard_info info;
    testing_folder();
    const char *path = write_shard(7, &info), *bad = testing_path("bad");
    uint64_t count;
    char *bytes = testing_read(path, &count);
    for (uint64_t length = 0; length < count; length += length < 160 ? 1 : 23) {
        testing_write(bad, bytes, length);
        CU_ASSERT_EQUAL(open_and_look(bad, NULL), ERR_FORMAT);
    }
    char *longer = memory_new(count + 1, 1, NULL);
    memcpy(longer, bytes, count);
    testing_write(bad, longer, count + 1);
    CU_ASSERT_EQUAL(open_and_look(bad, NULL), ERR_FORMAT);
    memory_free(longer);
    memory_free(bytes);
}

/* ---- lies: every checksum is right ---- */

static void repair(uint8_t *bytes, uint64_t count)
{
    const uint64_t sequences = bytes_get_u64(bytes + AT_SEQUENCES);
    uint64_t data = SHARD_HEADER_BYTES;
    if (sequences < count / SHARD_SEQUENCE_BYTES) data += (sequences * SHARD_SEQUENCE_BYTES + 63) / 64 * 64;
    if (data > count) data = count;
    bytes_put(bytes + AT_TABLE_CRC, file_crc32(0, bytes + SHARD_HEADER_BYTES, data - SHARD_HEADER_BYTES), 4);
    bytes_put(bytes + AT_DATA_CRC, file_crc32(0, bytes + data, count - data), 4);
    bytes_put(bytes + AT_HEADER_CRC, 0, 4);
    bytes_put(bytes + AT_HEADER_CRC, file_crc32(0, bytes, SHARD_HEADER_BYTES), 4);
}

struct lie {
    const char *name;
    uint32_t chunk;
    uint64_t at, value;
    unsigned bytes;
    const char *part; /* of the message */
};

static void check_lie(const struct lie *lie)
{
    struct shard_info info;
    struct error err = {0};
    const char *path = write_shard(lie->chunk, &info), *bad = testing_path("bad");
    uint64_t count;
    uint8_t *bytes = (uint8_t *)testing_read(path, &count);
    bytes_put(bytes + lie->at, lie->value, lie->bytes);
    repair(bytes, count);
    testing_write(bad, bytes, count);
    CHECK(open_and_look(bad, &err) == (strcmp(lie->name, "later") == 0 ? ERR_UNSUPPORTED : ERR_FORMAT), &err);
    CHECK(strstr(err.text, lie->part) != NULL, &err);
    corpus_keep("shard", lie->name, bytes, count);
    memory_free(bytes);
}

static void test_lies(void)
{
    enum { FIRST = SHARD_HEADER_BYTES, DATA = FIRST + 192 };
    static const struct lie lies[] = {
        {"later", 0, AT_VERSION, 2, 4, "version 2"},
        {"version-0", 0, AT_VERSION, 0, 4, "header"},
        {"other-number", 0, AT_NUMBER, 1, 4, "another"},
        {"other-stamp", 0, AT_STAMP, 1, 4, "another"},
        {"record-bytes", 0, AT_RECORD_BYTES, 1, 4, "records have 1 bytes"},
        {"sequences", 0, AT_SEQUENCES, UINT64_MAX / 16, 8, "number of sequences"},
        {"sequences-wrap", 0, AT_SEQUENCES, UINT64_C(1) << 59, 8, "number of sequences"},
        {"fewer-sequences", 0, AT_SEQUENCES, 4, 8, "number of records"},
        {"records", 0, AT_RECORDS, 86, 8, "number of records"},
        {"bytes", 0, AT_BYTES, 1 << 20, 8, "its header says"},
        {"next-source", 0, AT_NEXT_SOURCE, 8, 8, "sequence"},
        {"first", 0, FIRST, 1, 8, "sequence"},
        {"source-falls", 0, FIRST + 8, 5, 8, "sequence"},
        {"length-0", 0, FIRST + 16, 0, 4, "sequence"},
        {"length-long", 0, FIRST + 16, UINT32_MAX, 4, "sequence"},
        {"prompt-long", 0, FIRST + 20, 4, 4, "sequence"},
        {"flags", 0, FIRST + 24, 2, 4, "sequence"},
        {"nll", 0, FIRST + 28, 0x7fc00000, 4, "sequence"},
        {"chunk-huge", 9, AT_CHUNK, UINT32_MAX, 4, "chunk"},
        {"chunk-of-plain", 0, AT_CHUNK, 9, 4, "chunk"},
        {"plain-of-chunk", 9, AT_CHUNK, 0, 4, "number of records"},
        {"chunk-end", 9, DATA, UINT64_MAX, 8, "table of chunks"},
        {"chunk-falls", 9, DATA + 8, 0, 8, "table of chunks"},
    };
    testing_folder();
    for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++)
        check_lie(&lies[i]);
}

/* A chunk that is no zlib stream is found when it is asked for; the others are still there. */
static void test_bad_chunk(void)
{
    struct shard_info info;
    struct shard *shard = NULL;
    struct error err = {0};
    const uint8_t *record;
    uint64_t count;
    testing_folder();
    const char *path = write_shard(9, &info);
    uint8_t *bytes = (uint8_t *)testing_read(path, &count);
    const uint64_t data = SHARD_HEADER_BYTES + 192, second = data + 80 + bytes_get_u64(bytes + data);
    bytes[second + 4] ^= 0xff;
    repair(bytes, count);
    testing_write(path, bytes, count);
    corpus_keep("shard", "bad-chunk", bytes, count);
    memory_free(bytes);
    REQUIRE(shard_open(&shard, path, &layout, 0, STAMP, &err) == OK, &err);
    CU_ASSERT_EQUAL(shard_record(shard, &record, 0, &err), OK);
    CHECK(shard_record(shard, &record, 9, &err) == ERR_FORMAT && strstr(err.text, "chunk 1"), &err);
    CU_ASSERT_EQUAL(shard_record(shard, &record, 18, &err), OK);
    shard_close(shard);
}

/* No allocation that fails leaves anything behind or is taken for damage. */
static void test_memory(void)
{
    struct shard_info info;
    testing_folder();
    const char *path = write_shard(9, &info);
    for (uint64_t n = 1;; n++) {
        struct shard *shard = NULL;
        const uint8_t *record;
        memory_fail_at(n, 0);
        enum status status = shard_open(&shard, path, &layout, 0, STAMP, NULL);
        if (!status) status = shard_record(shard, &record, 0, NULL);
        const uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        shard_close(shard);
        if (!failures) break;
        CU_ASSERT_EQUAL(status, ERR_MEMORY);
        REQUIRE(n < 100, NULL);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"round trip", test_round_trip},
        {"every bit", test_every_bit},
        {"every length", test_every_length},
        {"lies", test_lies},
        {"bad chunk", test_bad_chunk},
        {"memory", test_memory},
    };
    return TESTING_RUN("shard", cases);
}
