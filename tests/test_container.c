/* Opening a model by what it is: folders, shards, single files; documents, and what is refused. The cases I01
 * ... are those of the project's reliability notes. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/threads.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/testing.h"

#define INDEX_NAME "model.safetensors.index.json"

static void write_text(const char *folder, const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    testing_write(path, text, strlen(text));
}

/* A safetensors file with U8 tensors of two bytes each: names one letter each. */
static uint64_t write_letters(const char *folder, const char *name, const char *letters)
{
    char bytes[2048], path[512], *header = bytes + 8, *at = header;
    size_t count = strlen(letters);

    *at++ = '{';
    for (size_t i = 0; i < count; i++)
        at += sprintf(at, "%s\"%c\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[%zu,%zu]}",
            i > 0 ? "," : "", letters[i], 2 * i, 2 * i + 2);
    *at++ = '}';
    bytes_put((uint8_t *)bytes, (uint64_t)(at - header), 8);
    for (size_t i = 0; i < 2 * count; i++)
        *at++ = letters[i / 2];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    testing_write(path, bytes, (uint64_t)(at - bytes));
    return (uint64_t)(at - bytes);
}

static struct container *open_good(const char *path)
{
    struct container *container = NULL;
    struct error err = {0};

    REQUIRE(container_open(&container, path, &err) == OK, &err);
    return container;
}

static void check_refused(const char *path, enum status expected, const char *says)
{
    struct container *container = NULL;
    struct error err = {0};
    enum status status = container_open(&container, path, &err);

    CHECK(status == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CU_ASSERT(strchr(err.text, '\n') == NULL);
    CU_ASSERT_PTR_NULL(container);
    container_close(container);
}

static void check_document(struct container *container, const char *name, const char *expected)
{
    struct error err = {0};
    uint64_t count;
    char *text;

    CHECK(container_document(container, name, &text, &count, &err) == OK, &err);
    CU_ASSERT((text != NULL) == (expected != NULL));
    if (text && expected) CU_ASSERT(count == strlen(expected) && strcmp(text, expected) == 0);
    memory_free(text);
}

/* ---- folders with one file ---- */

static void test_folder(void)
{
    const char *folder = testing_folder();
    struct container *container;
    char path[512];

    check_refused(folder, ERR_FORMAT, "holds neither model.safetensors nor model.safetensors.index.json");
    write_text(folder, "pytorch_model.bin", "");
    check_refused(folder, ERR_FORMAT, "pytorch_model.bin: the zip archive has no directory at its end");
    write_letters(folder, "model.safetensors", "ab");
    write_text(folder, "config.json", "{\"a\": 1}\n");
    container = open_good(folder);
    CU_ASSERT_STRING_EQUAL(container_path(container), folder);
    CU_ASSERT_STRING_EQUAL(container_format(container), "safetensors");
    CU_ASSERT_EQUAL(container_count(container), 2);
    check_document(container, "config.json", "{\"a\": 1}\n");
    check_document(container, "tokenizer.json", NULL);
    container_close(container);

    /* The file by itself: documents are looked for beside it. */
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    container = open_good(path);
    check_document(container, "config.json", "{\"a\": 1}\n");
    container_close(container);
    REQUIRE(chdir(folder) == 0, NULL);
    container = open_good("model.safetensors");
    check_document(container, "config.json", "{\"a\": 1}\n");
    container_close(container);
    REQUIRE(chdir("/") == 0, NULL);

    /* The name of the file says nothing. */
    write_letters(folder, "weights.nbl", "c");
    snprintf(path, sizeof path, "%s/weights.nbl", folder);
    container = open_good(path);
    CU_ASSERT_STRING_EQUAL(container_format(container), "safetensors");
    container_close(container);
}

/* An oversized document is refused and not read; one that is no file is refused as well. */
static void test_bad_documents(void)
{
    const char *folder = testing_folder();
    struct container *container;
    struct error err = {0};
    char path[512], *text;
    uint64_t count;

    write_letters(folder, "model.safetensors", "a");
    write_text(folder, "tokenizer.json", "");
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    REQUIRE(truncate(path, CONTAINER_DOCUMENT_LIMIT + 1) == 0, NULL);
    container = open_good(folder);
    CHECK(container_document(container, "tokenizer.json", &text, &count, &err) == ERR_MEMORY, &err);
    CHECK(container_document(container, "../config.json", &text, &count, &err) == ERR_FORMAT, &err);
    snprintf(path, sizeof path, "%s/config.json", folder);
    REQUIRE(mkfifo(path, 0600) == 0, NULL);
    CHECK(container_document(container, "config.json", &text, &count, &err) == ERR_FORMAT, &err);
    container_close(container);
}

static void test_other_things(void)
{
    const char *folder = testing_folder();
    static const struct {
        const char *name, *bytes;
        uint64_t count;
        enum status expected;
        const char *says;
    } others[] = {
        {"a.bin", "PK\3\4\0\0\x08\x08\0\0\0\0", 12, ERR_FORMAT, "zip archive has no directory"},
        {"b.bin", "\x80\2\x8a\nl\xfc\x9c\x46\xf9 j", 11, ERR_UNSUPPORTED, "before PyTorch 1.6"},
    };
    char path[512];

    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, others[i].name);
        testing_write(path, others[i].bytes, others[i].count);
        check_refused(path, others[i].expected, others[i].says);
    }
    snprintf(path, sizeof path, "%s/absent", folder);
    check_refused(path, ERR_IO, "absent");
    check_refused("/dev/null", ERR_FORMAT, "device");
    snprintf(path, sizeof path, "%s/fifo", folder);
    REQUIRE(mkfifo(path, 0600) == 0, NULL);
    check_refused(path, ERR_FORMAT, "FIFO");
    write_text(folder, "config.json", "{\"hidden_size\": 1}");
    snprintf(path, sizeof path, "%s/config.json", folder);
    check_refused(path, ERR_FORMAT, "not a model file");
}

/* ---- shards ---- */

/* Two shards, opened in name order whatever the order of the index. */
static const char *write_shards(const char *index)
{
    const char *folder = testing_folder();

    write_letters(folder, "m-1.safetensors", "ba");
    write_letters(folder, "m-2.safetensors", "dc");
    write_text(folder, INDEX_NAME, index);
    return folder;
}

#define GOOD_MAP                                                                                             \
    "\"d\":\"m-2.safetensors\",\"a\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\",\"b\":\"m-1."             \
    "safetensors\""

static void test_shards(void)
{
    const char *folder =
        write_shards("{\"metadata\":{\"total_size\":8},\"weight_map\":{" GOOD_MAP "},\"more\":[1,{}]}");
    struct container *container = open_good(folder);
    struct error err = {0};

    CU_ASSERT_EQUAL(container_count(container), 4);
    REQUIRE(container_map(container, &err) == OK, &err);
    for (uint64_t i = 0; i < 4; i++) {
        const struct tensor *tensor = container_tensor(container, i);
        char read[2];
        CU_ASSERT_EQUAL(tensor->name[0], "badc"[i]);
        CHECK(container_read(container, tensor, 0, read, 2, &err) == OK, &err);
        CU_ASSERT(read[0] == tensor->name[0] && read[1] == tensor->name[0]);
        CU_ASSERT(memcmp(tensor->data, read, 2) == 0);
    }
    container_close(container);
}

/* Tensors that do not lie aligned are copied in chunks, by any number of threads: two of nine million elements, and an empty one. */
static void test_map_by(void)
{
    enum { BYTES = 9000004 };
    char *file = memory_new(300 + 2 * BYTES, 1, NULL), path[512], *at = file + 8;
    struct error err = {0};

    REQUIRE(file != NULL, NULL);
    at += sprintf(at,
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2250001],\"data_offsets\":[0,%d]},\"b\":{\"dtype\":\"F32\","
        "\"shape\":[0],"
        "\"data_offsets\":[%d,%d]},\"c\":{\"dtype\":\"F32\",\"shape\":[2250001],\"data_offsets\":[%d,%d]}}",
        BYTES, BYTES, BYTES, BYTES, 2 * BYTES);
    while ((at - file) % 4 != 1)
        *at++ = ' ';
    bytes_put((uint8_t *)file, (uint64_t)(at - file) - 8, 8);
    for (uint32_t i = 0; i < 2 * BYTES; i++)
        at[i] = (char)(i * 2654435761u >> 24);
    snprintf(path, sizeof path, "%s/model.safetensors", testing_folder());
    testing_write(path, file, (uint64_t)(at - file) + 2 * BYTES);
    for (unsigned workers = 0; workers < 4; workers++) { /* 0: no pool */
        struct container *container = open_good(path);
        struct pool *pool = NULL;
        REQUIRE(workers == 0 || pool_create(&pool, workers, &err) == OK, &err);
        CHECK(container_map_by(container, pool, &err) == OK, &err);
        CHECK(container_map_by(container, pool, &err) == OK, &err); /* once is enough */
        for (uint64_t i = 0; i < 3; i++) {
            const struct tensor *tensor = container_tensor(container, i);
            CU_ASSERT((uintptr_t)tensor->data % 4 == 0);
            CU_ASSERT(memcmp(tensor->data, at + (*tensor->name == 'c' ? BYTES : 0), tensor->bytes) == 0);
        }
        pool_free(pool);
        container_close(container);
    }
    memory_free(file);
}

/* Provenance names every shard with its own checksum. */
static void test_shard_sources(void)
{
    const char *folder = write_shards("{\"weight_map\":{" GOOD_MAP "}}");
    struct container *container = open_good(folder);
    struct json_writer writer = {0};
    char expected[256], *text, path[512];
    uint32_t crcs[4], whole[2];
    uint64_t count, sizes[2];

    for (uint64_t i = 0; i < 4; i++) {
        char read[2];
        REQUIRE(container_read(container, container_tensor(container, i), 0, read, 2, NULL) == OK, NULL);
        crcs[i] = file_crc32(0, read, 2);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/m-%d.safetensors", folder, i + 1);
        text = testing_read(path, &sizes[i]);
        whole[i] = file_crc32(0, text, sizes[i]);
        memory_free(text);
    }
    CU_ASSERT_EQUAL(container_bytes(container), sizes[0] + sizes[1]);
    REQUIRE(container_write_sources(container, crcs, &writer, NULL) == OK, NULL);
    REQUIRE(json_writer_take(&writer, &text, &count, NULL) == OK, NULL);
    snprintf(expected, sizeof expected,
        "[{\"file\":\"m-1.safetensors\",\"bytes\":%" PRIu64 ",\"crc32\":\"%08" PRIx32
        "\"},{\"file\":\"m-2.safetensors\",\"bytes\":%" PRIu64 ",\"crc32\":\"%08" PRIx32 "\"}]\n",
        sizes[0], whole[0], sizes[1], whole[1]);
    CU_ASSERT_STRING_EQUAL(text, expected);
    memory_free(text);
    container_close(container);
}

/* Aliases hold within the shard that states them. */
static void test_shard_aliases(void)
{
    static const char shard[] = "{\"__metadata__\":{\"x\":\"a\",\"y\":\"c\",\"d\":\"a\"},"
                                "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}";
    const char *folder = testing_folder();
    struct container *container;
    char bytes[256] = {0}, path[512];

    bytes_put((uint8_t *)bytes, sizeof shard - 1, 8);
    memcpy(bytes + 8, shard, sizeof shard - 1);
    snprintf(path, sizeof path, "%s/1", folder);
    testing_write(path, bytes, 8 + sizeof shard - 1);
    write_letters(folder, "2", "cd");
    write_text(folder, INDEX_NAME, "{\"weight_map\":{\"a\":\"1\",\"c\":\"2\",\"d\":\"2\"}}");
    container = open_good(folder);
    CU_ASSERT_EQUAL(container_alias_count(container), 1);
    CU_ASSERT_PTR_EQUAL(container_find(container, "x"), container_find(container, "a"));
    CU_ASSERT_PTR_NULL(container_find(container, "y"));
    container_close(container);
}

static const struct bad_index {
    const char *name, *text;
    enum status expected;
    const char *says;
} bad_indexes[] = {
    {"i01-climbs", "{\"weight_map\":{\"a\":\"../../etc/passwd\"}}", ERR_FORMAT,
        "tensor a: '../../etc/passwd' cannot be the name of a file"},
    {"i02-absolute", "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", ERR_FORMAT, "'/etc/passwd' cannot be"},
    {"i03-sub-folder", "{\"weight_map\":{\"a\":\"sub/../../x\"}}", ERR_FORMAT, "'sub/../../x' cannot be"},
    {"i04-dots", "{\"weight_map\":{\"a\":\"..\"}}", ERR_FORMAT, "'..' cannot be"},
    {"i04-dot", "{\"weight_map\":{\"a\":\".\"}}", ERR_FORMAT, "'.' cannot be"},
    {"i04-empty-name", "{\"weight_map\":{\"a\":\"\"}}", ERR_FORMAT, "has 0 bytes"},
    {"i04-nul", "{\"weight_map\":{\"a\":\"m-1\\u0000.safetensors\"}}", ERR_FORMAT,
        "cannot be the name of a file"},
    {"i07-missing", "{\"weight_map\":{\"a\":\"m-3.safetensors\"}}", ERR_FORMAT,
        "m-3.safetensors: this shard is missing"},
    {"i08-listed-only", "{\"weight_map\":{" GOOD_MAP ",\"e\":\"m-2.safetensors\"}}", ERR_FORMAT,
        "tensor e: listed in m-2.safetensors, but it is not there"},
    {"i09-not-listed",
        "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\",\"d\":\"m-2.safetensors\"}}",
        ERR_FORMAT, "tensor b: is in m-1.safetensors, but not listed"},
    {"i10-wrong-shard",
        "{\"weight_map\":{\"a\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\","
        "\"d\":\"m-2.safetensors\"}}",
        ERR_FORMAT, "tensor a: listed in m-2.safetensors, but it is in m-1.safetensors"},
    {"i11-map-is-array", "{\"weight_map\":[]}", ERR_FORMAT, "weight_map: index: expected an object"},
    {"i11-value-is-number", "{\"weight_map\":{\"a\":1}}", ERR_FORMAT, "tensor a: index: expected a string"},
    {"i11-value-is-null", "{\"weight_map\":{\"a\":null}}", ERR_FORMAT, "tensor a: index: expected a string"},
    {"i11-no-map", "{\"metadata\":{}}", ERR_FORMAT, "weight_map is missing"},
    {"i11-empty-map", "{\"weight_map\":{}}", ERR_FORMAT, "weight_map names no tensors"},
    {"i11-map-twice", "{\"weight_map\":{" GOOD_MAP "},\"weight_map\":{" GOOD_MAP "}}", ERR_FORMAT,
        "duplicate key weight_map"},
    {"i11-tensor-twice", "{\"weight_map\":{" GOOD_MAP ",\"a\":\"m-1.safetensors\"}}", ERR_FORMAT,
        "duplicate tensor a"},
    {"i11-name-empty", "{\"weight_map\":{\"\":\"m-1.safetensors\"}}", ERR_FORMAT, "name is empty"},
    {"i12-empty-file", "", ERR_FORMAT, "index: expected a value"},
    {"i12-cut-short", "{\"weight_map\":{\"a\":\"m-1.safe", ERR_FORMAT, "the text ends"},
    {"i12-trailing", "{\"weight_map\":{" GOOD_MAP "}} x", ERR_FORMAT, "end of the document"},
};

static void test_bad_indexes(void)
{
    for (size_t i = 0; i < sizeof bad_indexes / sizeof *bad_indexes; i++) {
        const struct bad_index *bad = &bad_indexes[i];
        const char *folder = write_shards(bad->text);
        corpus_keep("index", bad->name, bad->text, strlen(bad->text));
        check_refused(folder, bad->expected, bad->says);
        check_refused(folder, bad->expected, folder);
    }
    corpus_keep(
        "index", "good", "{\"weight_map\":{" GOOD_MAP "}}", strlen("{\"weight_map\":{" GOOD_MAP "}}"));
}

/* I05: links are the owner's business, but they must lead to a regular file. */
static void test_linked_shards(void)
{
    const char *folder = write_shards("{\"weight_map\":{\"a\":\"link\",\"b\":\"link\"}}");
    char link[512], target[512];

    snprintf(link, sizeof link, "%s/link", folder);
    snprintf(target, sizeof target, "%s/m-1.safetensors", folder);
    REQUIRE(symlink(target, link) == 0, NULL);
    container_close(open_good(folder));
    unlink(link);
    REQUIRE(symlink("/dev/zero", link) == 0, NULL);
    check_refused(folder, ERR_FORMAT, "link: is a device");
    unlink(link);
    REQUIRE(symlink("/tmp", link) == 0, NULL);
    check_refused(folder, ERR_FORMAT, "link: is a folder");
    unlink(link);
    REQUIRE(mkfifo(link, 0600) == 0, NULL);
    check_refused(folder, ERR_FORMAT, "link: is a FIFO");
    unlink(link);
    REQUIRE(symlink("gone", link) == 0, NULL);
    check_refused(folder, ERR_FORMAT, "link: this shard is missing");
}

/* I13, and I15: a shard that a download left incomplete. */
static void test_sizes(void)
{
    const char *folder = write_shards("{\"weight_map\":{" GOOD_MAP "}}");
    char path[512], says[128];
    struct stat info;

    snprintf(path, sizeof path, "%s/m-2.safetensors", folder);
    REQUIRE(stat(path, &info) == 0 && truncate(path, info.st_size - 1) == 0, NULL);
    snprintf(says, sizeof says,
        "m-2.safetensors: the header describes a file of %" PRIu64 " bytes, it has %" PRIu64 ": cut short",
        (uint64_t)info.st_size, (uint64_t)info.st_size - 1);
    check_refused(folder, ERR_FORMAT, says);
    REQUIRE(truncate(path, 20) == 0, NULL);
    check_refused(folder, ERR_FORMAT, "m-2.safetensors: the header ends at byte");
    snprintf(path, sizeof path, "%s/" INDEX_NAME, folder);
    REQUIRE(truncate(path, 200000000) == 0, NULL);
    check_refused(folder, ERR_MEMORY, "has 200000000 bytes, the limit is");
}

static void test_tensor_in_two_shards(void)
{
    const char *folder = testing_folder();

    write_letters(folder, "1", "ab");
    write_letters(folder, "2", "bc");
    write_text(folder, INDEX_NAME, "{\"weight_map\":{\"a\":\"1\",\"b\":\"2\",\"c\":\"2\"}}");
    check_refused(folder, ERR_FORMAT, "duplicate tensor b: in 1 and in 2");
}

/* Real checkpoints, where they are at hand. */
static void test_shared_models(void)
{
    const char *folder = testing_shared("models/TinyStories-656K");
    struct container *container;

    if (!folder) {
        printf("skipped: ../shared/data is absent ");
        return;
    }
    container = open_good(folder);
    CU_ASSERT_EQUAL(container_alias_count(container), 1);
    CU_ASSERT_PTR_EQUAL(
        container_find(container, "model.embed_tokens.weight"), container_find(container, "lm_head.weight"));
    container_close(container);
    container = open_good(testing_shared("models/wiki-6M"));
    CU_ASSERT_EQUAL(container_count(container), 56);
    container_close(container);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"a folder", test_folder},
        {"bad documents", test_bad_documents},
        {"other things", test_other_things},
        {"shards", test_shards},
        {"mapping by several threads", test_map_by},
        {"provenance of shards", test_shard_sources},
        {"aliases in shards", test_shard_aliases},
        {"bad indexes", test_bad_indexes},
        {"linked shards", test_linked_shards},
        {"sizes", test_sizes},
        {"a tensor in two shards", test_tensor_in_two_shards},
        {"shared models", test_shared_models},
    };

    return TESTING_RUN("container", cases);
}
