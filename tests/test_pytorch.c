/* PyTorch checkpoints: files that torch.save wrote against the same values as safetensors, and archives that are broken, or meant
 * to do harm. The cases P01 ... are those of the project's reliability notes. */
#include "formats/pytorch/pytorch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/testing.h"
#include "tests/support/zip_file.h"

/* ---- golden files ---- */

static const struct golden {
    const char *name; /* NAME.pt, or the folder NAME */
    uint64_t aliases;
} goldens[] = {
    {"types", 0},
    {"views", 2}, /* same, tied; flat and unit have shapes of their own */
    {"protocol-2", 0},
    {"protocol-3", 0},
    {"protocol-4", 0},
    {"protocol-5", 0},
    {"module", 1},
    {"parameters", 1},
    {"training", 1},
    {"state-dict", 1},
    {"module-wrapped", 1},
    {"rewritten", 0},
    {"unaligned", 0},
    {"sharded", 0},
};

static struct container *open_golden(const char *format, const char *name)
{
    struct container *container = NULL;
    struct error err = {0};
    char relative[256];

    snprintf(relative, sizeof relative, format, name);
    REQUIRE(container_open(&container, testing_source(relative), &err) == OK, &err);
    return container;
}

/* The same type, shape and bytes, in one piece and in pieces that cut elements and rows. */
static void compare(struct container *container, struct container *expected, const struct tensor *right)
{
    const struct tensor *left = container_find(container, right->name);
    struct error err = {0};
    char *a = memory_new(right->bytes + 1, 1, NULL), *b = memory_new(right->bytes + 1, 1, NULL);

    CU_ASSERT_PTR_NOT_NULL_FATAL(left);
    CU_ASSERT(left->dtype == right->dtype && left->rank == right->rank && left->bytes == right->bytes);
    CU_ASSERT(memcmp(left->shape, right->shape, sizeof left->shape) == 0);
    REQUIRE(left->bytes == right->bytes, NULL);
    REQUIRE(container_read(expected, right, 0, b, right->bytes, &err) == OK, &err);
    CHECK(container_read(container, left, 0, a, left->bytes, &err) == OK, &err);
    CU_ASSERT(memcmp(a, b, left->bytes) == 0);
    memset(a, 0, left->bytes);
    for (uint64_t at = 0; at < left->bytes; at += 5)
        CHECK(container_read(
                  container, left, at, a + at, left->bytes - at < 5 ? left->bytes - at : 5, &err) == OK,
            &err);
    CU_ASSERT(memcmp(a, b, left->bytes) == 0);
    if (left->data) CU_ASSERT(memcmp(left->data, b, left->bytes) == 0);
    memory_free(a);
    memory_free(b);
}

/* Checksums of whole files from those of tensors, some of which lie over one another. */
static void check_sources(struct container *container)
{
    uint32_t *crcs = memory_new(container_count(container), sizeof *crcs, NULL);
    struct json_writer writer = {0};
    struct error err = {0};
    uint64_t bytes;
    char *text = NULL;

    for (uint64_t i = 0; i < container_count(container); i++) {
        const struct tensor *tensor = container_tensor(container, i);
        char *data = memory_new(tensor->bytes, 1, NULL);
        CHECK(container_read(container, tensor, 0, data, tensor->bytes, &err) == OK, &err);
        crcs[i] = file_crc32(0, data, tensor->bytes);
        memory_free(data);
    }
    CHECK(container_write_sources(container, crcs, &writer, &err) == OK, &err);
    REQUIRE(json_writer_take(&writer, &text, &bytes, &err) == OK, &err);
    for (uint64_t i = 0; i < container_file_count(container); i++) {
        char *file = testing_read(container_file(container, i).path, &bytes), crc[16];
        snprintf(crc, sizeof crc, "\"%08" PRIx32 "\"", file_crc32(0, file, bytes));
        CU_ASSERT_PTR_NOT_NULL(strstr(text, crc));
        memory_free(file);
    }
    json_writer_free(&writer);
    memory_free(text);
    memory_free(crcs);
}

static void count_fault(void *context, const char *text)
{
    printf("%s\n", text);
    ++*(int *)context;
}

static void test_golden(void)
{
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        const bool folder = strcmp(goldens[i].name, "sharded") == 0;
        struct container *container =
            open_golden(folder ? "golden/pytorch/%s" : "golden/pytorch/%s.pt", goldens[i].name);
        struct container *expected = open_golden("golden/pytorch/%s.safetensors", goldens[i].name);
        struct error err = {0};
        int faults = 0;
        CU_ASSERT_STRING_EQUAL(container_format(container), "PyTorch");
        CU_ASSERT_EQUAL(container_alias_count(container), goldens[i].aliases);
        CU_ASSERT_EQUAL(container_count(container) + goldens[i].aliases, container_count(expected));
        for (int mapped = 0; mapped < 2; mapped++) {
            for (uint64_t t = 0; t < container_count(expected); t++)
                compare(container, expected, container_tensor(expected, t));
            CHECK(container_map(container, &err) == OK, &err);
        }
        CHECK(pytorch_verify(container, count_fault, &faults, &err) == OK && faults == 0, &err);
        check_sources(container);
        container_close(container);
        container_close(expected);
    }
}

/* Tied names lead to the tensor that the state dict names first. */
static void test_aliases(void)
{
    struct container *container = open_golden("golden/pytorch/%s.pt", "module");
    const char *alias, *target;

    container_alias(container, 0, &alias, &target);
    CU_ASSERT_STRING_EQUAL(alias, "head.weight");
    CU_ASSERT_STRING_EQUAL(target, "embed.weight");
    container_close(container);
}

static void check_refused(const char *path, enum status expected, const char *says)
{
    struct container *container = NULL;
    struct error err = {0};
    const enum status status = container_open(&container, path, &err);

    if (status != expected || !strstr(err.text, says)) printf("expected '%s': %s\n", says, err.text);
    CU_ASSERT(
        status == expected && strstr(err.text, path) && strstr(err.text, says) && !strchr(err.text, '\n'));
    container_close(container);
}

static void test_golden_refused(void)
{
    static const struct {
        const char *name;
        enum status expected;
        const char *says;
    } files[] = {
        {"strided", ERR_UNSUPPORTED, "tensor w: shape [3, 4] with strides [8, 1] is not row-major"},
        {"expanded", ERR_UNSUPPORTED, "tensor w: shape [3, 4] with strides [0, 1]"},
        {"permuted", ERR_UNSUPPORTED, "tensor w: shape [4, 2, 3] with strides [1, 12, 4]"},
        {"float8", ERR_UNSUPPORTED, "tensor w: type torch.float8_e4m3fn is not supported"},
        {"complex", ERR_UNSUPPORTED, "tensor w: type torch.complex64 is not supported"},
        {"nested", ERR_UNSUPPORTED, "entry a of the state dict is a dict"},
        {"list", ERR_UNSUPPORTED, "is a list, not a dict of tensors"},
        {"sparse", ERR_FORMAT, "torch._utils._rebuild_sparse_tensor"},
        {"ordered", ERR_FORMAT, "collections.Counter"},
        {"big-endian", ERR_UNSUPPORTED, "entry archive/byteorder: is not 'little'"},
        {"deflated", ERR_UNSUPPORTED, "entry archive/data.pkl: is compressed (method 8)"},
        {"no-pickle", ERR_UNSUPPORTED, "is a zip archive without data.pkl"},
        {"script", ERR_UNSUPPORTED, "is a TorchScript archive"},
    };

    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char relative[256];
        snprintf(relative, sizeof relative, "golden/pytorch/refused/%s.pt", files[i].name);
        check_refused(testing_source(relative), files[i].expected, files[i].says);
    }
}

/* ---- archives made here ---- */

#define TEXT(n, s) "X" n "\0\0\0" s
#define STORAGE(key, n)                                                                                      \
    "(" TEXT("\7", "storage") "ctorch\nFloatStorage\n" TEXT("\1", key) TEXT("\3", "cpu") n "tQ"
#define TENSOR(key, n, view) "ctorch._utils\n_rebuild_tensor_v2\n(" STORAGE(key, n) view "\x89}tR"
#define ONE(key, n, view) "\x80\2}" TEXT("\1", "w") TENSOR(key, n, view) "s."
#define ROWS "K\0K\2K\3\x86K\3K\1\x86" /* [2, 3] from element 0 on */

static const struct made {
    const char *name, *pickle;
    uint64_t count;
    enum status expected; /* the archive has storage 0, of six floats */
    const char *says;
} mades[] = {
    {"sound", ONE("0", "K\6", ROWS), sizeof ONE("0", "K\6", ROWS) - 1, OK, ""},
#define MADE(name, pickle, expected, says)                                                                   \
    {                                                                                                        \
        name, pickle, sizeof(pickle) - 1, expected, says                                                     \
    }
    MADE("p01-os-system", "\x80\2cos\nsystem\n" TEXT("\4", "true") "\x85R.", ERR_FORMAT,
        "entry m/data.pkl: byte 2: unpickling would import os.system, which plain tensors do not need"),
    MADE("storage-absent", ONE("1", "K\6", ROWS), ERR_FORMAT,
        "tensor w: its storage data/1 is not in the archive"),
    MADE("storage-of-a-path", ONE("/", "K\6", ROWS), ERR_FORMAT, "its storage data// is not in the archive"),
    MADE("p09-storage-longer", ONE("0", "K\5", ROWS), ERR_FORMAT,
        "tensor w: its storage m/data/0 has 24 bytes, must have 20"),
    MADE("p09-storage-shorter", ONE("0", "K\7", ROWS), ERR_FORMAT, "has 24 bytes, must have 28"),
    MADE("p09-beyond", ONE("0", "K\6", "K\1K\2K\3\x86K\3K\1\x86"), ERR_FORMAT,
        "tensor w: elements 1 to 7 of storage m/data/0, which has 6"),
    MADE("p09-offset-huge", ONE("0", "K\6", "\x8a\x08\0\0\0\0\0\0\0\x40K\2K\3\x86K\3K\1\x86"), ERR_FORMAT,
        "tensor w: elements 4611686018427387904 to"),
    MADE("p09-shape-overflow", ONE("0", "K\6", "K\0\x8a\x05\0\0\0\0\1\x8a\x05\0\0\0\0\1\x86K\1K\1\x86"),
        ERR_FORMAT, "2^63 elements"),
    MADE("p09-shape-huge", ONE("0", "K\6", "K\0\x8a\x05\0\0\0\0\1\x85K\1\x85"), ERR_FORMAT,
        "elements 0 to 4294967296"),
    MADE("p09-transposed-beyond", ONE("0", "K\6", "K\1K\2K\3\x86K\1K\2\x86"), ERR_FORMAT, "elements 1 to 7"),
    MADE("p09-stride-huge", ONE("0", "K\6", "K\0K\2K\3\x86\x8a\x08\0\0\0\0\0\0\0\x40K\1\x86"),
        ERR_UNSUPPORTED, "is not row-major"),
    MADE("name-empty", "\x80\2}" TEXT("\0", "") TENSOR("0", "K\6", ROWS) "s.", ERR_FORMAT,
        "a tensor's name is empty"),
    MADE("name-twice",
        "\x80\2}(" TEXT("\1", "w") TENSOR("0", "K\6", ROWS) TEXT("\1", "w")
            TENSOR("0", "K\6", "K\0K\2\x85K\1\x85") "u.",
        ERR_FORMAT, "duplicate tensor w"),
    MADE("name-tied-twice",
        "\x80\2}(" TEXT("\1", "w") TENSOR("0", "K\6", ROWS) TEXT("\1", "w") TENSOR("0", "K\6", ROWS) "u.",
        ERR_FORMAT, "alias w: the name is in use already"),
    MADE("empty-view", ONE("0", "K\6", "K\6K\0K\3\x86K\3K\1\x86"), OK, ""),
    MADE("empty-beyond", ONE("0", "K\6", "K\7K\0K\3\x86K\3K\1\x86"), ERR_FORMAT, "elements 7 to 7"),
};

static const float six[] = {1, 2, 3, 4, 5, 6};

static void make(struct zip_file *zip, const struct made *made)
{
    zip_file_add(zip, "m/data.pkl", made->pickle, made->count);
    zip_file_add(zip, "m/byteorder", "little", 6);
    zip_file_add_aligned(zip, "m/data/0", six, sizeof six, 64);
    zip_file_add(zip, "m/version", "3\n", 2);
}

static const char *store(struct zip_file *zip, const char *name)
{
    const char *path = testing_path("%s.pt", name);

    zip_file_finish(zip);
    testing_write(path, zip->bytes, zip->count);
    corpus_keep("pytorch", name, zip->bytes, zip->count);
    zip_file_free(zip);
    return path;
}

static void test_made(void)
{
    for (size_t i = 0; i < sizeof mades / sizeof *mades; i++) {
        struct zip_file zip = {0};
        make(&zip, &mades[i]);
        const char *path = store(&zip, mades[i].name);
        if (mades[i].expected) {
            check_refused(path, mades[i].expected, mades[i].says);
            continue;
        }
        struct container *container = NULL;
        struct error err = {0};
        CHECK(container_open(&container, path, &err) == OK, &err);
        container_close(container);
    }
}

static void test_archives(void)
{
    static const char old[] = PYTORCH_OLD_MAGIC "\x2e";
    struct zip_file zip = {0};

    make(&zip, &mades[0]);
    zip_file_add(&zip, "n/data.pkl", "\x80\2}.", 4);
    check_refused(
        store(&zip, "two-pickles"), ERR_FORMAT, "entries m/data.pkl and n/data.pkl: a checkpoint has one");
    zip_file_add(&zip, "a/m/data.pkl", "\x80\2}.", 4);
    check_refused(store(&zip, "deeper-pickle"), ERR_UNSUPPORTED, "without data.pkl");
    make(&zip, &mades[0]);
    zip_file_add(&zip, "m/constants.pkl", "\x80\2).", 4);
    check_refused(store(&zip, "p-script"), ERR_UNSUPPORTED, "TorchScript");
    zip_file_add(&zip, "m/data.pkl", "\x80\2}.", 4);
    zip_file_add(&zip, "m/byteorder", "little, or so they say", 22);
    check_refused(store(&zip, "byteorder-long"), ERR_UNSUPPORTED, "m/byteorder: is not 'little'");
    testing_write(testing_path("old.pt"), old, sizeof old - 1);
    check_refused(testing_path("old.pt"), ERR_UNSUPPORTED, "was written before PyTorch 1.6");
}

/* A changed byte of the pickle is found on opening, one of a storage by verify. */
static void test_checksums(void)
{
    struct container *container = NULL;
    struct error err = {0};
    struct zip_file zip = {0};
    int faults = 0;

    make(&zip, &mades[0]);
    zip_file_finish(&zip);
    zip.bytes[zip.entry[0].data + 5] ^= 1;
    testing_write(testing_path("pickle.pt"), zip.bytes, zip.count);
    check_refused(testing_path("pickle.pt"), ERR_FORMAT, "entry m/data.pkl: the checksum of its");
    zip.bytes[zip.entry[0].data + 5] ^= 1;
    zip.bytes[zip.entry[2].data + 5] ^= 1;
    testing_write(testing_path("storage.pt"), zip.bytes, zip.count);
    CHECK(container_open(&container, testing_path("storage.pt"), &err) == OK, &err);
    CHECK(pytorch_verify(container, count_fault, &faults, &err) == OK && faults == 1, &err);
    container_close(container);
    zip_file_free(&zip);
}

static void test_truncated(void)
{
    struct error err = {0};
    struct zip_file zip = {0};

    make(&zip, &mades[0]);
    zip_file_finish(&zip);
    for (uint64_t count = 4; count < zip.count; count++) {
        struct container *container = NULL;
        remove(testing_path("cut.pt")); /* writing over a file waits for the disk on some file systems */
        testing_write(testing_path("cut.pt"), zip.bytes, count);
        CHECK(container_open(&container, testing_path("cut.pt"), &err) == ERR_FORMAT, &err);
        container_close(container);
    }
    zip_file_free(&zip);
}

/* Every allocation of opening may fail. */
static void test_memory(void)
{
    const char *path = testing_source("golden/pytorch/training.pt");
    enum status status = ERR_MEMORY;

    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 1000; nth++) {
        struct container *container = NULL;
        struct error err = {0};
        memory_fail_at(nth, 1);
        status = container_open(&container, path, &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || status == ERR_MEMORY, &err);
        container_close(container);
    }
    CU_ASSERT_EQUAL(status, OK);
}

/* ---- folders ---- */

static void write_text(const char *path, const char *text)
{
    testing_write(path, text, strlen(text));
}

static void test_folder(void)
{
    const char *folder = testing_folder();
    struct container *container = NULL;
    struct error err = {0};
    struct zip_file zip = {0};
    char path[512];

    make(&zip, &mades[0]);
    zip_file_finish(&zip);
    snprintf(path, sizeof path, "%s/pytorch_model.bin.index.json", folder);
    write_text(path, "{\"weight_map\": {\"w\": \"a.bin\"}}");
    check_refused(folder, ERR_FORMAT, "a.bin: this shard is missing; pytorch_model.bin.index.json names it");
    write_text(path, "{\"weight_map\": {\"w\": \"../a.bin\"}}");
    check_refused(folder, ERR_FORMAT, "'../a.bin' cannot be the name of a file");
    write_text(path, "{\"weight_map\": {\"v\": \"a.bin\"}}");
    snprintf(path, sizeof path, "%s/a.bin", folder);
    testing_write(path, zip.bytes, zip.count);
    check_refused(folder, ERR_FORMAT, "tensor v: listed in a.bin, but it is not there");
    snprintf(path, sizeof path, "%s/pytorch_model.bin", folder);
    testing_write(path, zip.bytes, zip.count);
    CHECK(container_open(&container, folder, &err) == OK, &err);
    CU_ASSERT(
        container && container_count(container) == 1 && strcmp(container_format(container), "PyTorch") == 0);
    container_close(container);
    snprintf(path, sizeof path, "%s/model.safetensors", folder); /* preferred */
    testing_write(path, "\2\0\0\0\0\0\0\0{}", 10);
    CHECK(container_open(&container, folder, &err) == OK, &err);
    CU_ASSERT(container && container_count(container) == 0 &&
              strcmp(container_format(container), "safetensors") == 0);
    container_close(container);
    zip_file_free(&zip);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"what torch wrote", test_golden},
        {"tied weights", test_aliases},
        {"what torch wrote and is refused", test_golden_refused},
        {"one storage", test_made},
        {"archives", test_archives},
        {"checksums", test_checksums},
        {"cut short", test_truncated},
        {"no memory", test_memory},
        {"folders", test_folder},
    };

    return TESTING_RUN("pytorch", cases);
}
