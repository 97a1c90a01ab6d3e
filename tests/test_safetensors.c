/* The safetensors reader: one file per rule that breaks it, and the files that look odd and are valid. The
 * cases S01 ... are those of the project's reliability notes. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/report.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/testing.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* ---- making files ---- */

static char *bytes;
static uint64_t byte_count;

/* Fill `bytes` with: length, header, data (byte i is i mod 251). */
static void build(const char *header, uint64_t header_bytes, uint64_t length, uint64_t data_bytes)
{
    free(bytes);
    byte_count = 8 + header_bytes + data_bytes;
    bytes = malloc(byte_count);
    REQUIRE(bytes != NULL, NULL);
    bytes_put((uint8_t *)bytes, length, 8);
    memcpy(bytes + 8, header, header_bytes);
    for (uint64_t i = 0; i < data_bytes; i++)
        bytes[8 + header_bytes + i] = (char)(i % 251);
}

static const char *store(const char *name)
{
    const char *path = testing_path("%s", name);

    testing_write(path, bytes, byte_count);
    corpus_keep("safetensors", name, bytes, byte_count);
    return path;
}

static const char *store_header(const char *name, const char *header, uint64_t data_bytes)
{
    build(header, strlen(header), strlen(header), data_bytes);
    return store(name);
}

static struct container *open_good(const char *path)
{
    struct container *container = NULL;
    struct error err = {0};

    REQUIRE(container_open(&container, path, &err) == OK, &err);
    return container;
}

/* Opening must give `expected` and one line that names the file and contains `says`. */
static void check_refused(const char *path, enum status expected, const char *says)
{
    struct container *container = NULL;
    struct error err = {0};
    enum status status = container_open(&container, path, &err);

    CHECK(status == expected, &err);
    CHECK(strstr(err.text, path) != NULL, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CU_ASSERT_PTR_NULL(container);
    CU_ASSERT(strchr(err.text, '\n') == NULL);
    container_close(container);
}

/* ---- refused headers ---- */

#define T(name, dtype, shape, offsets)                                                                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct bad {
    const char *name, *header;
    uint64_t data_bytes;
    enum status expected;
    const char *says;
} bad_headers[] = {
    {"s03-no-header", "", 0, ERR_FORMAT, "header: expected a value"},
    {"s09-brace", "{", 0, ERR_FORMAT, "header"},
    {"s09-no-close", "{" T("a", "U8", "[1]", "[0,1]"), 1, ERR_FORMAT, "header"},
    {"s10-array", "[]", 0, ERR_FORMAT, "expected an object, found an array"},
    {"s10-byte-order-mark", "\xEF\xBB\xBF{}", 0, ERR_FORMAT, "header"},
    {"s10-trailing-text", "{} {}", 0, ERR_FORMAT, "end of the document"},
    {"s10-trailing-comma", "{" T("a", "U8", "[1]", "[0,1]") ",}", 1, ERR_FORMAT, "header"},
    {"s11-value-string", "{\"a\":\"b\"}", 0, ERR_FORMAT, "tensor a: header: expected an object"},
    {"s11-value-null", "{\"a\":null}", 0, ERR_FORMAT, "tensor a: header: expected an object"},
    {"s11-no-dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ERR_FORMAT,
        "tensor a: field dtype is missing"},
    {"s11-no-shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, ERR_FORMAT,
        "field shape is missing"},
    {"s11-no-offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, ERR_FORMAT,
        "field data_offsets is missing"},
    {"s11-dtype-twice", "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
        ERR_FORMAT, "duplicate field dtype"},
    {"s11-shape-twice", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
        ERR_FORMAT, "duplicate field shape"},
    {"s11-offsets-twice",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"data_offsets\":[0,1]}}", 1,
        ERR_FORMAT, "duplicate field data_offsets"},
    {"s11-field-unknown", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"scale\":2}}", 1,
        ERR_UNSUPPORTED, "tensor a: field 'scale' is unknown"},
    {"s12-dtype-number", "{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ERR_FORMAT,
        "tensor a: dtype"},
    {"s13-dtype-f17", "{" T("a", "F17", "[1]", "[0,2]") "}", 2, ERR_UNSUPPORTED,
        "tensor a: type 'F17' is unknown"},
    {"s13-dtype-empty", "{" T("a", "", "[1]", "[0,2]") "}", 2, ERR_UNSUPPORTED, "type '' is unknown"},
    {"s13-dtype-long", "{" T("a", "F16F16F16F16F16F16F16F16F16F16F16F16", "[1]", "[0,2]") "}", 2,
        ERR_UNSUPPORTED, "unknown"},
    {"s13-dtype-f8", "{" T("a", "F8_E4M3", "[2]", "[0,2]") "}", 2, ERR_UNSUPPORTED,
        "type F8_E4M3 is not supported"},
    {"s13-dtype-u16", "{" T("a", "U16", "[1]", "[0,2]") "}", 2, ERR_UNSUPPORTED, "type U16 is not supported"},
    {"s15-shape-negative", "{" T("a", "U8", "[-1]", "[0,1]") "}", 1, ERR_FORMAT, "tensor a: shape"},
    {"s15-shape-fraction", "{" T("a", "U8", "[1.5]", "[0,1]") "}", 1, ERR_FORMAT, "tensor a: shape"},
    {"s15-shape-text", "{" T("a", "U8", "[\"2\"]", "[0,2]") "}", 2, ERR_FORMAT, "tensor a: shape"},
    {"s15-shape-exponent", "{" T("a", "U8", "[1e3]", "[0,1000]") "}", 1000, ERR_FORMAT, "tensor a: shape"},
    {"s15-shape-nested", "{" T("a", "U8", "[[1]]", "[0,1]") "}", 1, ERR_FORMAT, "tensor a: shape"},
    {"s15-shape-number", "{" T("a", "U8", "1", "[0,1]") "}", 1, ERR_FORMAT, "tensor a: shape"},
    {"s15-shape-huge", "{" T("a", "U8", "[18446744073709551616]", "[0,1]") "}", 1, ERR_FORMAT,
        "tensor a: shape"},
    {"s15-rank-9", "{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, ERR_FORMAT,
        "more than 8 dimensions"},
    {"s17-bytes-overflow", "{" T("a", "F16", "[2,9223372036854775807]", "[0,4]") "}", 4, ERR_FORMAT,
        "tensor a: shape [2, 9223372036854775807]"},
    {"s17-elements-wrap-to-0", "{" T("a", "U8", "[4294967296,4294967296]", "[0,0]") "}", 0, ERR_FORMAT,
        "2^63 elements"},
    {"s17-zero-hides-overflow", "{" T("a", "U8", "[0,4294967296,4294967296]", "[0,0]") "}", 0, ERR_FORMAT,
        "2^63 elements"},
    {"s17-bits-overflow", "{" T("a", "U8", "[2305843009213693952]", "[0,2305843009213693952]") "}", 0,
        ERR_FORMAT, "2^64 bits"},
    {"s19-begin-after-end", "{" T("a", "U8", "[1]", "[1,0]") "}", 1, ERR_FORMAT,
        "[1, 0] end before they begin"},
    {"s19-one-offset", "{" T("a", "U8", "[1]", "[1]") "}", 1, ERR_FORMAT, "must be two numbers"},
    {"s19-three-offsets", "{" T("a", "U8", "[1]", "[0,1,2]") "}", 1, ERR_FORMAT, "must be two numbers"},
    {"s19-no-offsets", "{" T("a", "U8", "[1]", "[]") "}", 1, ERR_FORMAT, "must be two numbers"},
    {"s19-negative", "{" T("a", "U8", "[1]", "[-1,0]") "}", 1, ERR_FORMAT, "tensor a: data_offsets"},
    {"s20-beyond-the-file", "{" T("a", "U8", "[8]", "[0,8]") "}", 7, ERR_FORMAT, "cut short"},
    {"s20-begin-at-the-limit",
        "{" T("a", "U8", "[1]", "[0,1]") "," T(
            "b", "U8", "[1]", "[18446744073709551614,18446744073709551615]") "}",
        2, ERR_FORMAT, "tensor b: begins at byte 18446744073709551614"},
    {"s21-overlap", "{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[3,7]") "}", 7, ERR_FORMAT,
        "tensor b: begins at byte 3 of the data, but tensor a ends at byte 4: they overlap"},
    {"s21-same-place", "{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[0,4]") "}", 4, ERR_FORMAT,
        "overlap"},
    {"s22-gap", "{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[4]", "[5,9]") "}", 9, ERR_FORMAT,
        "a gap"},
    {"s22-gap-in-front", "{" T("a", "U8", "[4]", "[1,5]") "}", 5, ERR_FORMAT, "begins at byte 1 of the data"},
    {"s22-empty-tensor-far-out", "{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[0]", "[9,9]") "}", 4,
        ERR_FORMAT, "a gap"},
    {"s23-trailing-bytes", "{" T("a", "U8", "[4]", "[0,4]") "}", 5, ERR_FORMAT,
        "bytes follow the last tensor"},
    {"s23-data-of-no-tensor", "{}", 4, ERR_FORMAT, "bytes follow the last tensor"},
    {"s25-size-differs", "{" T("a", "F32", "[2,2]", "[0,15]") "}", 15, ERR_FORMAT,
        "shape [2, 2] of F32 takes 16 bytes, data_offsets [0, 15] are 15"},
    {"s25-rank-0-size", "{" T("a", "F32", "[]", "[0,8]") "}", 8, ERR_FORMAT, "takes 4 bytes"},
    {"s27-duplicate", "{" T("a", "U8", "[1]", "[0,1]") "," T("a", "U8", "[1]", "[0,1]") "}", 1, ERR_FORMAT,
        "duplicate tensor a"},
    {"s27-duplicate-by-escape", "{" T("a", "U8", "[1]", "[0,1]") "," T("\\u0061", "U8", "[1]", "[1,2]") "}",
        2, ERR_FORMAT, "duplicate tensor a"},
    {"s27-duplicate-metadata", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, ERR_FORMAT,
        "duplicate tensor __metadata__"},
    {"s27-duplicate-in-metadata", "{\"__metadata__\":{\"x\":\"1\",\"x\":\"1\"}}", 0, ERR_FORMAT,
        "duplicate key x"},
    {"s29-name-empty", "{" T("", "U8", "[1]", "[0,1]") "}", 1, ERR_FORMAT, "name is empty"},
    {"s30-name-nul", "{" T("a\\u0000b", "U8", "[1]", "[0,1]") "}", 1, ERR_FORMAT, "U+0000"},
    {"s30-name-bad-utf8", "{" T("a\xC0\x80", "U8", "[1]", "[0,1]") "}", 1, ERR_FORMAT, "UTF-8"},
    {"s30-name-surrogate", "{" T("\\ud800", "U8", "[1]", "[0,1]") "}", 1, ERR_FORMAT, "surrogate"},
    {"s31-metadata-array", "{\"__metadata__\":[]}", 0, ERR_FORMAT,
        "__metadata__: header: expected an object"},
    {"s31-metadata-number", "{\"__metadata__\":{\"x\":1}}", 0, ERR_FORMAT,
        "__metadata__: header: expected a string"},
    {"s31-metadata-nested", "{\"__metadata__\":{\"x\":{\"y\":\"z\"}}}", 0, ERR_FORMAT, "expected a string"},
    {"s37-f4-odd", "{" T("a", "F4", "[3]", "[0,1]") "}", 1, ERR_FORMAT, "does not fill whole bytes"},
    {"s37-f4-even", "{" T("a", "F4", "[4]", "[0,2]") "}", 2, ERR_UNSUPPORTED, "type F4 is not supported"},
    {"s37-f6-odd", "{" T("a", "F6_E2M3", "[2]", "[0,1]") "}", 1, ERR_FORMAT, "does not fill whole bytes"},
};

static void test_bad_headers(void)
{
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        const struct bad *bad = &bad_headers[i];
        check_refused(store_header(bad->name, bad->header, bad->data_bytes), bad->expected, bad->says);
    }
}

static void test_bad_lengths(void)
{
    const char *path;

    build("", 0, 0, 0);
    byte_count = 0;
    check_refused(store("s01-empty"), ERR_FORMAT, "has 0 bytes, too short");
    byte_count = 7;
    check_refused(store("s02-seven-bytes"), ERR_FORMAT, "has 7 bytes, too short");
    build("{}", 2, 3, 0);
    check_refused(
        store("s04-one-byte-short"), ERR_FORMAT, "the header ends at byte 11, but the file has 10 bytes");
    build("{}", 2, UINT64_C(1) << 63, 0);
    check_refused(store("s05-length-2-63"), ERR_FORMAT, "header length 9223372036854775808");
    build("{}", 2, UINT64_MAX, 0);
    check_refused(store("s06-length-2-64"), ERR_FORMAT, "header length 18446744073709551615");
    build("{}", 2, 100000001, 0);
    path = store("s07-length-above-limit");
    REQUIRE(truncate(path, 200000000) == 0, NULL); /* sparse: the header would fit */
    check_refused(path, ERR_FORMAT, "header length 100000001");
}

/* S29, S31: too large for the table. */
static void test_bad_and_large(void)
{
    const uint64_t nested = 50000, name = 1 << 20;
    char *header = calloc(1, 3 << 20), *at = header;

    REQUIRE(header != NULL, NULL);
    at += sprintf(at, "{\"__metadata__\":{\"x\":");
    memset(at, '[', nested);
    memset(at + nested, ']', nested);
    strcpy(at + 2 * nested, "}}");
    check_refused(store_header("s31-nested-arrays", header, 0), ERR_FORMAT, "__metadata__");

    at = header + sprintf(header, "{\"__metadata__\":{\"0\":\"\"");
    for (int i = 1; i <= 65536; i++)
        at += sprintf(at, ",\"%d\":\"\"", i);
    strcpy(at, "}}");
    check_refused(
        store_header("s31-many-keys", header, 0), ERR_MEMORY, "__metadata__ has more than 65536 keys");

    at = header + sprintf(header, "{\"");
    memset(at, 'n', name);
    sprintf(at + name, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
    check_refused(
        store_header("s29-name-long", header, 1), ERR_FORMAT, "has 1048576 bytes, the limit is 512");

    at = header + sprintf(header, "{\"");
    memset(at, 'n', 513);
    sprintf(at + 513, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
    check_refused(store_header("s29-name-513", header, 1), ERR_FORMAT, "has 513 bytes, the limit is 512");
    free(header);
}

/* Truncation at every length of a file with all there is: always an error, never a crash. */
static void test_every_truncation(void)
{
    const char *path = testing_path("truncated");
    uint64_t whole;

    store_header("good-small",
        "{\"__metadata__\":{\"format\":\"pt\",\"x\":\"b\"}," T("b", "F16", "[2]", "[0,4]") "," T(
            "a\\n", "U8", "[3]", "[4,7]") "}",
        7);
    whole = byte_count;
    for (uint64_t count = 0; count < whole; count++) {
        testing_write(path, bytes, count);
        check_refused(path, ERR_FORMAT, "");
    }
}

/* Every byte replaced by each of a few: never a crash (the sanitizers watch), and every error is one line. */
static void test_every_byte_changed(void)
{
    static const uint8_t values[] = {0, ' ', '"', '9', '[', '{', ',', 0xFF};
    const char *path = testing_path("changed");

    build("{" T("b", "F16", "[2]", "[0,4]") "," T("a", "U8", "[3]", "[4,7]") "}", 0, 0, 0);
    store_header("changed", "{" T("b", "F16", "[2]", "[0,4]") "," T("a", "U8", "[3]", "[4,7]") "}", 7);
    for (uint64_t at = 0; at < byte_count; at++) {
        char before = bytes[at];
        for (size_t i = 0; i < sizeof values; i++) {
            struct container *container = NULL;
            struct error err = {0};
            bytes[at] = (char)values[i];
            testing_write(path, bytes, byte_count);
            if (container_open(&container, path, &err) != OK)
                CHECK(err.text[0] && !strchr(err.text, '\n'), &err);
            container_close(container);
        }
        bytes[at] = before;
    }
}

/* ---- accepted files ---- */

static void check_tensor(const struct container *container, uint64_t index, const char *name,
    enum dtype dtype, uint64_t elements, uint64_t bytes_wanted)
{
    const struct tensor *tensor = container_tensor(container, index);

    CU_ASSERT_STRING_EQUAL(tensor->name, name);
    CU_ASSERT_EQUAL(tensor->dtype, dtype);
    CU_ASSERT_EQUAL(tensor->storage, STORAGE_DENSE);
    CU_ASSERT_EQUAL(tensor->elements, elements);
    CU_ASSERT_EQUAL(tensor->bytes, bytes_wanted);
    CU_ASSERT_PTR_EQUAL(container_find(container, name), tensor);
    CU_ASSERT_EQUAL(container_index(container, tensor), index);
}

/* Every supported type; header order is not data order; data through read and through the map. */
static void test_types_and_order(void)
{
    const char *path = store_header("good-types",
        "{" T("i64", "I64", "[1]", "[8,16]") "," T("f64", "F64", "[1]", "[0,8]") "," T(
            "f32", "F32", "[1]", "[16,20]") "," T("i32", "I32", "[1]", "[20,24]") "," T("f16", "F16", "[1]",
            "[24,26]") "," T("bf16", "BF16", "[1]", "[26,28]") "," T("i16", "I16", "[1]",
            "[28,30]") "," T("u8", "U8", "[1]", "[30,31]") "," T("i8", "I8", "[1]", "[31,32]") "," T("bool",
            "BOOL", "[1]", "[32,33]") "}",
        33);
    struct container *container = open_good(path);
    static const struct {
        const char *name;
        enum dtype dtype;
        uint64_t bytes;
    } expected[] = {{"f64", DTYPE_F64, 8}, {"i64", DTYPE_I64, 8}, {"f32", DTYPE_F32, 4},
        {"i32", DTYPE_I32, 4}, {"f16", DTYPE_F16, 2}, {"bf16", DTYPE_BF16, 2}, {"i16", DTYPE_I16, 2},
        {"u8", DTYPE_U8, 1}, {"i8", DTYPE_I8, 1}, {"bool", DTYPE_BOOL, 1}};
    struct error err = {0};
    uint8_t read[8];
    uint64_t at = 0;

    CU_ASSERT_EQUAL(container_count(container), 10);
    CU_ASSERT_STRING_EQUAL(container_format(container), "safetensors");
    CU_ASSERT_EQUAL(container_bytes(container), byte_count);
    CU_ASSERT_PTR_NULL(container_find(container, "f3"));
    REQUIRE(container_map(container, &err) == OK, &err);
    for (uint64_t i = 0; i < 10; i++) {
        const struct tensor *tensor = container_tensor(container, i);
        const uint8_t *data = (const uint8_t *)bytes + byte_count - 33 + at;
        check_tensor(container, i, expected[i].name, expected[i].dtype, 1, expected[i].bytes);
        CHECK(container_read(container, tensor, 0, read, tensor->bytes, &err) == OK, &err);
        CU_ASSERT(memcmp(read, data, tensor->bytes) == 0);
        CU_ASSERT(memcmp(tensor->data, data, tensor->bytes) == 0);
        CU_ASSERT_EQUAL((uintptr_t)tensor->data % dtype_info(tensor->dtype)->bytes, 0);
        at += tensor->bytes;
    }
    CU_ASSERT_EQUAL(container_read(container, container_tensor(container, 0), 4, read, 5, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(
        container_read(container, container_tensor(container, 0), UINT64_MAX, read, 2, &err), ERR_USAGE);
    container_close(container);
}

/* Rank 0, empty tensors at every place, no tensors, white space (S33), an odd name. */
static void test_odd_but_valid(void)
{
    struct container *container;

    container = open_good(store_header("good-rank-0", "{" T("a", "F32", "[]", "[0,4]") "}", 4));
    check_tensor(container, 0, "a", DTYPE_F32, 1, 4);
    container_close(container);

    container = open_good(store_header("good-empty-tensors",
        "{" T("z", "F32", "[2]", "[0,8]") "," T("first", "F32", "[0]", "[0,0]") "," T("mid", "F32", "[3,0,5]",
            "[8,8]") "," T("y", "F32", "[1]", "[8,12]") "," T("last", "F32", "[0]", "[12,12]") "}",
        12));
    check_tensor(container, 0, "first", DTYPE_F32, 0, 0);
    check_tensor(container, 1, "z", DTYPE_F32, 2, 8);
    check_tensor(container, 2, "mid", DTYPE_F32, 0, 0);
    check_tensor(container, 3, "y", DTYPE_F32, 1, 4);
    check_tensor(container, 4, "last", DTYPE_F32, 0, 0);
    REQUIRE(container_map(container, NULL) == OK, NULL);
    CU_ASSERT_PTR_NOT_NULL(container_tensor(container, 4)->data);
    container_close(container);

    container = open_good(store_header("good-no-tensors", "{}", 0));
    CU_ASSERT_EQUAL(container_count(container), 0);
    container_close(container);

    container = open_good(
        store_header("s33-white-space", " \t\r\n{ " T("a", "U8", "[ 1 ]", "[ 0 , 1 ]") " } \t\r\n ", 1));
    check_tensor(container, 0, "a", DTYPE_U8, 1, 1);
    container_close(container);

    container = open_good(store_header(
        "good-odd-name", "{" T("..\\/\\n\\\"\xC3\xA4\\ud83d\\ude00", "U8", "[1]", "[0,1]") "}", 1));
    check_tensor(container, 0, "../\n\"\xC3\xA4\xF0\x9F\x98\x80", DTYPE_U8, 1, 1);
    container_close(container);
}

/* Data that the header leaves unaligned is copied for the map. */
static void test_unaligned_data(void)
{
    struct error err = {0};

    for (int pad = 0; pad < 8; pad++) {
        char header[256];
        struct container *container;
        snprintf(header, sizeof header,
            "{" T("a", "F64", "[2]", "[0,16]") "," T("b", "F16", "[1]", "[16,18]") "}%*s", pad, "");
        container = open_good(store_header("good-unaligned", header, 18));
        for (int twice = 0; twice < 2; twice++) {
            REQUIRE(container_map(container, &err) == OK, &err);
            for (uint64_t i = 0; i < 2; i++) {
                const struct tensor *tensor = container_tensor(container, i);
                CU_ASSERT_EQUAL((uintptr_t)tensor->data % dtype_info(tensor->dtype)->bytes, 0);
                CU_ASSERT(memcmp(tensor->data, bytes + byte_count - 18 + 16 * i, tensor->bytes) == 0);
            }
        }
        container_close(container);
    }
}

/* __metadata__ pairs that are aliases, and those that only look like it. */
static void test_aliases(void)
{
    struct container *container = open_good(store_header("good-aliases",
        "{\"__metadata__\":{\"format\":\"b\",\"tied\":\"b\",\"a\":\"b\",\"other\":\"missing\",\"\":\"b\","
        "\"n\\u0000\":\"b\","
        "\"note\":\"text\",\"second\":\"a\"}," T("a", "U8", "[1]", "[0,1]") "," T(
            "b", "U8", "[1]", "[1,2]") "}",
        2));
    const char *alias, *target;

    CU_ASSERT_EQUAL(container_alias_count(container), 2);
    container_alias(container, 0, &alias, &target);
    CU_ASSERT_STRING_EQUAL(alias, "tied");
    CU_ASSERT_STRING_EQUAL(target, "b");
    container_alias(container, 1, &alias, &target);
    CU_ASSERT_STRING_EQUAL(alias, "second");
    CU_ASSERT_STRING_EQUAL(target, "a");
    CU_ASSERT_PTR_EQUAL(container_find(container, "tied"), container_find(container, "b"));
    CU_ASSERT_PTR_EQUAL(container_find(container, "second"), container_find(container, "a"));
    CU_ASSERT_PTR_NOT_EQUAL(container_find(container, "a"), container_find(container, "b"));
    CU_ASSERT_PTR_NULL(container_find(container, "format"));
    CU_ASSERT_PTR_NULL(container_find(container, "other"));
    container_close(container);
}

/* The whole file's CRC-32 from the checksums of its tensors. */
static void test_sources(void)
{
    struct container *container = open_good(store_header("model.safetensors",
        "{" T("a", "U8", "[3]", "[0,3]") "," T("b", "U8", "[0]", "[3,3]") "," T(
            "c", "F16", "[4]", "[3,11]") "}",
        11));
    struct json_writer writer = {0};
    uint32_t crcs[3];
    char expected[128], *text;
    uint64_t count;

    for (uint64_t i = 0; i < 3; i++) {
        uint8_t data[16];
        const struct tensor *tensor = container_tensor(container, i);
        REQUIRE(container_read(container, tensor, 0, data, tensor->bytes, NULL) == OK, NULL);
        crcs[i] = file_crc32(0, data, tensor->bytes);
    }
    REQUIRE(container_write_sources(container, crcs, &writer, NULL) == OK, NULL);
    REQUIRE(json_writer_take(&writer, &text, &count, NULL) == OK, NULL);
    snprintf(expected, sizeof expected,
        "[{\"file\":\"model.safetensors\",\"bytes\":%" PRIu64 ",\"crc32\":\"%08" PRIx32 "\"}]\n", byte_count,
        file_crc32(0, bytes, byte_count));
    CU_ASSERT_STRING_EQUAL(text, expected);
    memory_free(text);
    container_close(container);
}

/* S35: a million tensors of one byte are accepted, within 10 s and 1 GB; one more is over the limit. */
static void test_a_million_tensors(void)
{
    enum { LIMIT = CONTAINER_TENSOR_LIMIT };
    char *header = malloc(100 * (LIMIT + 1)), *at = header;
    uint64_t before = memory_peak_bytes();
    struct container *container;
    const char *path;
    double begin;

    REQUIRE(header != NULL, NULL);
    *at++ = '{';
    for (int i = 0; i < LIMIT; i++)
        at += sprintf(at, "%s" T("t.%d", "U8", "[1]", "[%d,%d]"), i > 0 ? "," : "",
            (int)((i * 7919L) % LIMIT), i, i + 1);
    path = testing_path("s35-million");
    strcpy(at, "}");
    build(header, strlen(header), strlen(header), LIMIT);
    testing_write(path, bytes, byte_count);
    begin = report_seconds();
    container = open_good(path);
    printf("%.2f s, ", report_seconds() - begin);
    printf("%.0f MB over %.0f MB ", (double)memory_peak_bytes() / 1e6, (double)before / 1e6);
    if (!SANITIZED) CU_ASSERT(memory_peak_bytes() < 1000000000);
    CU_ASSERT_EQUAL(container_count(container), LIMIT);
    CU_ASSERT_PTR_NOT_NULL(container_find(container, "t.999999"));
    container_close(container);

    sprintf(at, "," T("one more", "U8", "[1]", "[%d,%d]") "}", LIMIT, LIMIT + 1);
    build(header, strlen(header), strlen(header), LIMIT + 1);
    testing_write(path, bytes, byte_count);
    check_refused(path, ERR_MEMORY, "more than 1000000 tensors");
    free(header);
    unlink(path);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"bad headers", test_bad_headers},
        {"bad lengths", test_bad_lengths},
        {"bad and large", test_bad_and_large},
        {"every truncation", test_every_truncation},
        {"every byte changed", test_every_byte_changed},
        {"types and order", test_types_and_order},
        {"odd but valid", test_odd_but_valid},
        {"unaligned data", test_unaligned_data},
        {"aliases", test_aliases},
        {"sources", test_sources},
        {"a million tensors", test_a_million_tensors},
    };
    int result = TESTING_RUN("safetensors", cases);

    free(bytes);
    return result;
}
