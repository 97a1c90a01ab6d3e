/* The GGUF reader: one file per rule that breaks it, every truncation, every bit of the head flipped. The cases G01 ... are those of the
 * project's reliability notes. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "formats/metadata.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/testing.h"

/* ---- making files ---- */

static uint8_t file[65536];
static uint64_t size;

static void put(uint64_t value, unsigned bytes)
{
    bytes_put(file + size, value, bytes);
    size += bytes;
}

static void put_bytes(const void *bytes, uint64_t count)
{
    memcpy(file + size, bytes, count);
    size += count;
}

static void put_string(const char *text)
{
    put(strlen(text), 8);
    put_bytes(text, strlen(text));
}

static void put_head(uint64_t tensors, uint64_t pairs)
{
    size = 0;
    put_bytes("GGUF", 4);
    put(3, 4);
    put(tensors, 8);
    put(pairs, 8);
}

static void put_key(const char *key, enum metadata_type type)
{
    put_string(key);
    put(type, 4);
}

static void put_u32(const char *key, uint32_t value)
{
    put_key(key, METADATA_U32);
    put(value, 4);
}

static void put_tensor(const char *name, uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset)
{
    put_string(name);
    put(rows ? 2 : 1, 4);
    put(cols, 8);
    if (rows) put(rows, 8);
    put(type, 4);
    put(offset, 8);
}

static void put_data(uint64_t alignment, uint64_t count)
{
    while (size % alignment)
        put(0, 1);
    for (uint64_t i = 0; i < count; i++)
        put(i % 59, 1);
}

static const char *store(const char *name)
{
    const char *path = testing_path("%s.gguf", name);
    testing_write(path, file, size);
    corpus_keep("gguf", name, file, size);
    return path;
}

/* A sound file: a value of every type, an F32, a Q4_0 and a Q6_K tensor. */
static void build_sound(void)
{
    put_head(3, 9);
    put_key("general.architecture", METADATA_STRING);
    put_string("llama");
    put_u32("llama.block_count", 2);
    put_key("signed", METADATA_I16);
    put(0xFFFE, 2);
    put_key("epsilon", METADATA_F32);
    put(0x3F000000, 4); /* 0.5 */
    put_key("flag", METADATA_BOOL);
    put(1, 1);
    put_key("big", METADATA_U64);
    put(UINT64_MAX, 8);
    put_key("tokens", METADATA_ARRAY);
    put(METADATA_STRING, 4);
    put(2, 8);
    put_string("a");
    put_string("bc");
    put_key("scores", METADATA_ARRAY);
    put(METADATA_I8, 4);
    put(3, 8);
    put(0xFF, 1);
    put(0, 1);
    put(5, 1);
    put_key("double", METADATA_F64);
    put(0x3FF8000000000000, 8); /* 1.5 */
    put_tensor("norm", 0, 3, 0, 0);
    put_tensor("q4", 2, 64, 2, 32);
    put_tensor("q6", 1, 256, 14, 32 + 96);
    put_data(32, 12);
    put_data(32, 72);
    put_data(32, 210);
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
    CHECK(container_open(&container, path, &err) == expected, &err);
    CHECK(strstr(err.text, path) != NULL && strstr(err.text, says) != NULL, &err);
    CU_ASSERT(strchr(err.text, '\n') == NULL);
    CU_ASSERT_PTR_NULL(container);
    container_close(container);
}

/* ---- what is read ---- */

static void tensors(void)
{
    build_sound();
    struct container *container = open_good(store("sound"));
    struct error err = {0};
    CHECK(container_map(container, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(container_format(container), "GGUF");
    CU_ASSERT_EQUAL(container_count(container), 3);
    const struct tensor *norm = container_find(container, "norm"), *q4 = container_find(container, "q4"),
                        *q6 = container_find(container, "q6");
    REQUIRE(norm && q4 && q6, NULL);
    CU_ASSERT(norm->rank == 1 && norm->shape[0] == 3 && norm->bytes == 12 && norm->storage == STORAGE_DENSE);
    CU_ASSERT(q4->rank == 2 && q4->shape[0] == 2 && q4->shape[1] == 64 && q4->bytes == 72);
    CU_ASSERT(q4->storage == STORAGE_BLOCKS && q4->block == BLOCK_Q4_0);
    CU_ASSERT(q6->bytes == 210 && q6->block == BLOCK_Q6_K);
    CU_ASSERT(memcmp(q6->data, file + size - 210, 210) == 0);
    container_close(container);
}

static void metadata(void)
{
    build_sound();
    struct container *container = open_good(store("sound"));
    const struct metadata *found = container_metadata(container);
    const struct metadata_item *array;
    struct error err = {0};
    uint64_t integer = 7, bytes = 0;
    double number = 7;
    const char *text = NULL;
    bool flag = false;
    CU_ASSERT_EQUAL(found->count, 9);
    CHECK(metadata_get_string(found, "general.architecture", &text, &bytes, &err) == OK, &err);
    CU_ASSERT(bytes == 5 && memcmp(text, "llama", 5) == 0);
    CU_ASSERT(metadata_get_u64(found, "llama.block_count", 1, 2, &integer, &err) == OK && integer == 2);
    CU_ASSERT_EQUAL(metadata_get_u64(found, "llama.block_count", 3, 9, &integer, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(metadata_get_u64(found, "signed", 0, UINT64_MAX, &integer, &err), ERR_FORMAT);
    CU_ASSERT(strstr(err.text, "-2") != NULL);
    CU_ASSERT(metadata_get_number(found, "signed", -9, 9, &number, &err) == OK && number == -2);
    CU_ASSERT(metadata_get_number(found, "epsilon", 0, 1, &number, &err) == OK && number == 0.5);
    CU_ASSERT(metadata_get_number(found, "double", 0, 2, &number, &err) == OK && number == 1.5);
    CU_ASSERT(metadata_get_u64(found, "big", 0, UINT64_MAX, &integer, &err) == OK && integer == UINT64_MAX);
    CU_ASSERT(metadata_get_bool(found, "flag", &flag, &err) == OK && flag);
    CU_ASSERT_EQUAL(metadata_get_bool(found, "big", &flag, &err), ERR_FORMAT);
    CU_ASSERT(metadata_get_u64(found, "absent", 0, 1, &integer, &err) == OK && integer == UINT64_MAX);
    CU_ASSERT_EQUAL(metadata_get_array(found, "scores", METADATA_F32, &array, &err), ERR_FORMAT);
    CU_ASSERT_EQUAL(metadata_get_array(found, "flag", METADATA_F32, &array, &err), ERR_FORMAT);
    CHECK(metadata_get_array(found, "scores", METADATA_I8, &array, &err) == OK && array, &err);
    CU_ASSERT(array->count == 3 && metadata_number_at(array, 0) == -1 && metadata_number_at(array, 2) == 5);
    CHECK(metadata_get_array(found, "tokens", METADATA_STRING, &array, &err) == OK && array, &err);
    const uint8_t *at = array->bytes;
    metadata_next_string(&at, &bytes);
    text = metadata_next_string(&at, &bytes);
    CU_ASSERT(bytes == 2 && memcmp(text, "bc", 2) == 0);
    container_close(container);
}

/* G15 and others that look odd and are valid. */
static void odd_and_valid(void)
{
    put_head(0, 0);
    container_close(open_good(store("empty")));
    put_head(1, 1);
    put_u32("general.alignment", 64);
    put_tensor("w", 2, 32, 2, 0);
    put_data(64, 36);
    container_close(open_good(store("alignment-64")));
    put_head(2, 0);
    put_tensor("none", 0, 0, 0, 0);
    put_tensor("w", 0, 1, 0, 0);
    put_data(32, 4);
    struct container *container = open_good(store("G15-zero-dimension"));
    CU_ASSERT_EQUAL(container_tensor(container, 0)->elements, 0);
    container_close(container);
}

/* ---- what is refused ---- */

static void heads(void)
{
    put_head(0, 0);
    file[4] = 0, file[7] = 3; /* G01: version 3, byte-swapped */
    check_refused(store("G01-big-endian"), ERR_UNSUPPORTED, "big-endian");
    put_head(0, 0);
    file[4] = 1;
    check_refused(store("version-1"), ERR_UNSUPPORTED, "version 1");
    put_head(UINT64_C(1) << 63, 0);
    check_refused(store("G03-tensors"), ERR_FORMAT, "9223372036854775808 tensors");
    put_head(UINT64_MAX, 0);
    check_refused(store("G03-tensors-most"), ERR_FORMAT, "tensors");
    put_head(0, 1000000);
    put_data(1, 76);
    check_refused(store("G05-pairs"), ERR_FORMAT, "1000000 metadata pairs");
    put_head(0, UINT64_MAX); /* CVE-2024-23605: times the size of a record it wraps */
    put_data(1, 76);
    check_refused(store("G05-pairs-most"), ERR_FORMAT, "18446744073709551615 metadata pairs");
}

static void pairs(void)
{
    put_head(0, 1);
    put_key("a", METADATA_ARRAY);
    put(METADATA_U64, 4);
    put(UINT64_C(1) << 62, 8);
    check_refused(store("G07-array-count"), ERR_FORMAT, "a: claims 4611686018427387904 elements");
    put_head(0, 1);
    put_key("a", METADATA_ARRAY);
    put(METADATA_STRING, 4);
    put(UINT64_C(1) << 61, 8);
    check_refused(store("G07-array-of-strings"), ERR_FORMAT, "elements");
    put_head(0, 1);
    put_key("a", METADATA_ARRAY);
    put(99, 4);
    put(0, 8);
    check_refused(store("G09-array-type"), ERR_FORMAT, "type 99");
    put_head(0, 1);
    put_key("a", METADATA_ARRAY);
    put(METADATA_ARRAY, 4);
    put(0, 8);
    check_refused(store("array-of-arrays"), ERR_FORMAT, "array of arrays");
    put_head(0, 1);
    put_key("a", (enum metadata_type)13);
    put(0, 8);
    check_refused(store("value-type"), ERR_FORMAT, "type 13");
    put_head(0, 1);
    put(UINT64_MAX, 8);
    put_data(1, 16);
    check_refused(store("key-length"), ERR_FORMAT, "18446744073709551615 bytes needed");
    put_head(0, 1);
    put_key("s", METADATA_STRING); /* CVE-2024-23496: one more for the end wraps to 0 */
    put(UINT64_MAX, 8);
    put_data(1, 16);
    check_refused(store("string-length"), ERR_FORMAT, "s: 18446744073709551615 bytes needed");
    put_head(0, 1);
    put_key("a", METADATA_ARRAY); /* CVE-2024-21825 */
    put(METADATA_STRING, 4);
    put(1, 8);
    put(UINT64_MAX, 8);
    put_data(1, 16);
    check_refused(store("string-length-in-array"), ERR_FORMAT, "a: 18446744073709551615 bytes needed");
    put_head(0, 1);
    put_key("", METADATA_U32);
    put(0, 4);
    put(0, 8);
    check_refused(store("key-empty"), ERR_FORMAT, "has 0 bytes");
    put_head(0, 2);
    put_u32("twice", 1);
    put_u32("twice", 1);
    check_refused(store("G11-duplicate-key"), ERR_FORMAT, "duplicate metadata key twice");
    put_head(0, 1);
    put_key("b", METADATA_BOOL);
    put(2, 1);
    check_refused(store("bool-2"), ERR_FORMAT, "a bool is 2");
}

static void alignments(void)
{
    static const uint32_t bad[] = {0, 3, 131072, UINT32_C(1) << 31};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char name[40];
        snprintf(name, sizeof name, "G13-alignment-%u", bad[i]);
        put_head(0, 1);
        put_u32("general.alignment", bad[i]);
        check_refused(store(name), ERR_FORMAT, "general.alignment");
    }
    put_head(0, 1);
    put_key("general.alignment", METADATA_U64);
    put(32, 8);
    check_refused(store("G13-alignment-type"), ERR_FORMAT, "must be u32");
}

/* A file of one tensor; `count` bytes of data. */
static void one_tensor(
    const char *name, uint64_t rows, uint64_t cols, uint32_t type, uint64_t offset, uint64_t count)
{
    put_head(1, 0);
    put_tensor(name, rows, cols, type, offset);
    put_data(32, count);
}

static void bad_tensors(void)
{
    one_tensor("w", 0, UINT64_C(5124095576030431008), 2, 0, 64);
    check_refused(store("G17-huge"), ERR_FORMAT, "tensor w");
    one_tensor("w", UINT64_C(1) << 40, UINT64_C(1) << 40, 0, 0, 64);
    check_refused(store("product-wraps"), ERR_FORMAT, "tensor w");
    one_tensor("w", 1, 33, 2, 0, 64);
    check_refused(store("G19-block"), ERR_FORMAT, "blocks of 32");
    one_tensor("w", 1, 8, 0, 32, 96);
    check_refused(store("G21-offset"), ERR_FORMAT, "lies at byte 32");
    one_tensor("w", 1, 8, 0, UINT64_MAX - 31, 96);
    check_refused(store("G21-offset-far"), ERR_FORMAT, "tensor w");
    one_tensor("w", 1, 8, 4, 0, 64);
    check_refused(store("type-removed"), ERR_UNSUPPORTED, "type 4");
    one_tensor("w", 1, 8, 4000000000u, 0, 64);
    check_refused(store("type-unknown"), ERR_UNSUPPORTED, "type 4000000000");
    one_tensor("a-name-of-more-than-sixty-three-bytes-which-the-format-does-not-allow", 1, 8, 0, 0, 64);
    check_refused(store("G23-name-long"), ERR_FORMAT, "at most 63 bytes");
    one_tensor("a\033[2Jb", 1, 8, 0, 0, 64);
    check_refused(store("G23-name-control"), ERR_FORMAT, "\\x1b");
    one_tensor("w", 1, 8, 0, 0, 31);
    check_refused(store("G25-short"), ERR_FORMAT, "the file has");
    put_head(2, 0);
    put_tensor("w", 1, 8, 0, 0);
    put_tensor("w", 1, 8, 0, 32);
    put_data(32, 64);
    check_refused(store("tensor-twice"), ERR_FORMAT, "duplicate tensor w");
    put_head(2, 0);
    put_tensor("w", 1, 8, 0, 0);
    put_tensor("v", 1, 8, 0, 0);
    put_data(32, 64);
    check_refused(store("G21-overlap"), ERR_FORMAT, "tensor v: lies at byte 0");
    for (uint32_t rank = 0; rank < 10; rank += 5) {
        put_head(1, 0);
        put_string("w");
        put(rank, 4);
        put_data(1, 100);
        check_refused(store(rank ? "rank-5" : "rank-0"), ERR_FORMAT, "dimensions");
    }
}

/* One tensor of so many dimensions, the fastest first, F32. */
static void put_dimensions(const char *name, uint32_t rank, const uint64_t *dimensions, uint64_t offset)
{
    put_string(name);
    put(rank, 4);
    for (uint32_t i = 0; i < rank && i < 4; i++)
        put(dimensions[i], 8);
    put(0, 4);
    put(offset, 8);
}

/* Products and sums that wrap in 64 bits (CVE-2025-53630, CVE-2026-33298, CVE-2026-27940 and what is open at ggml). */
static void sizes_that_wrap(void)
{
    static const uint64_t hidden[] = {0, UINT64_C(1) << 62, UINT64_C(1) << 62};
    static const uint64_t negative[] = {UINT64_C(1) << 63, 1};
    static const uint64_t quarter[] = {UINT64_C(1) << 30, UINT64_C(1) << 30};
    const uint64_t quarter_bytes = UINT64_C(1) << 62;
    char name[2] = "a";

    put_head(1, 0);
    put_dimensions("w", UINT32_MAX, quarter, 0); /* CVE-2024-21802 */
    put_data(32, 64);
    check_refused(store("rank-most"), ERR_FORMAT, "4294967295 dimensions");
    put_head(1, 0);
    put_dimensions("w", 3, hidden, 0); /* empty, but its strides wrap */
    put_data(32, 64);
    check_refused(store("product-behind-zero"), ERR_FORMAT, "tensor w");
    put_head(1, 0);
    put_dimensions("w", 2, negative, 0);
    put_data(32, 64);
    check_refused(store("dimension-negative"), ERR_FORMAT, "tensor w");
    put_head(4, 0);
    for (uint64_t i = 0; i < 4; i++, name[0]++)
        put_dimensions(name, 2, quarter, i * quarter_bytes);
    put_data(32, 64);
    check_refused(store("sum-wraps"), ERR_FORMAT, "tensor d: its data end beyond 2^64 bytes");
}

/* Every truncation is refused, but for padding behind the last tensor, of which this file has none. */
static void truncations(void)
{
    build_sound();
    const uint64_t whole = size;
    for (uint64_t cut = 0; cut < whole; cut++) {
        struct container *container = NULL;
        const char *path = testing_path("cut.gguf");
        testing_write(path, file, cut);
        CU_ASSERT_NOT_EQUAL(container_open(&container, path, NULL), OK);
        container_close(container);
    }
}

/* No flipped bit of the head makes the reader go astray: refused, or read with all tensors inside the file. */
static void flips(void)
{
    build_sound();
    const uint64_t head = size - 210 - 128;
    for (uint64_t bit = 0; bit < 8 * head; bit++) {
        struct container *container = NULL;
        const char *path = testing_path("flip.gguf");
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
        testing_write(path, file, size);
        if (container_open(&container, path, NULL) == OK && container_map(container, NULL) == OK) {
            for (uint64_t i = 0; i < container_count(container); i++) {
                const struct tensor *tensor = container_tensor(container, i);
                uint8_t last;
                CU_ASSERT(tensor->bytes <= size);
                if (tensor->bytes)
                    CU_ASSERT(container_read(container, tensor, tensor->bytes - 1, &last, 1, NULL) == OK);
            }
        }
        container_close(container);
        file[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"tensors", tensors},
        {"metadata", metadata},
        {"odd and valid", odd_and_valid},
        {"heads", heads},
        {"metadata pairs", pairs},
        {"alignments", alignments},
        {"bad tensors", bad_tensors},
        {"sizes that wrap", sizes_that_wrap},
        {"truncations", truncations},
        {"flipped bits", flips},
    };
    return TESTING_RUN("gguf", cases);
}
