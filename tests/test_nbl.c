/* The .nbl format: what is written is read back, one broken file per rule of formats/SPEC.md, every flip and
 * every truncation. Where Python is installed, tests/spec_reader.py, written from the specification alone,
 * must agree: on every broken file with the same rule, on the good one with the same values. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "formats/nbl.h"
#include "tensor/tiles.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/sparse_sample.h"
#include "tests/support/testing.h"

/* ---- a small model with all there is ---- */

enum { DENSE, TILES, SYMMETRIC, ASYMMETRIC, EMPTY, ONE, BLOCKS, BITMAP, PAIRS, VALUES, TENSORS };

static const struct tensor model[TENSORS] = {
    {.name = "dense", .dtype = DTYPE_F32, .rank = 2, .shape = {3, 5}},
    {.name = "tiles",
        .storage = STORAGE_TILES,
        .dtype = DTYPE_F16,
        .rank = 2,
        .shape = {5, 32},
        .scheme = {3, 16, true}},
    {.name = "symmetric",
        .storage = STORAGE_TILES,
        .dtype = DTYPE_F16,
        .rank = 2,
        .shape = {8, 48},
        .scheme = {4, 48, false}},
    {.name = "asymmetric",
        .storage = STORAGE_TILES,
        .dtype = DTYPE_F16,
        .rank = 2,
        .shape = {11, 40},
        .scheme = {5, 40, true}},
    {.name = "none", .dtype = DTYPE_F16, .rank = 2, .shape = {0, 4}},
    {.name = "\xC3\xA4n", .dtype = DTYPE_BF16, .rank = 0},
    {.name = "blocks", .storage = STORAGE_BLOCKS, .block = BLOCK_Q8_0, .rank = 2, .shape = {2, 64}},
    {.name = "bitmap",
        .storage = STORAGE_SPARSE,
        .dtype = DTYPE_F16,
        .mask = MASK_BITMAP,
        .rank = 2,
        .shape = {11, 40},
        .scheme = {4, 40, false}},
    {.name = "pairs",
        .storage = STORAGE_SPARSE,
        .dtype = DTYPE_F16,
        .mask = MASK_2_4,
        .rank = 2,
        .shape = {5, 64},
        .scheme = {8, 64, false}},
    {.name = "values",
        .storage = STORAGE_SPARSE,
        .dtype = DTYPE_F16,
        .mask = MASK_BITMAP,
        .rank = 2,
        .shape = {8, 32}},
};

static struct tiles_layout layout_of(const struct tensor *tensor)
{
    struct tiles_layout layout;
    struct error err = {0};

    REQUIRE(tiles_layout(&layout, tensor->shape[0], tensor->shape[1], tensor->scheme, &err) == OK, &err);
    return layout;
}

/* Random codes, scales and zero-points, packed as the library packs them. */
static void fill_tiles(uint8_t *out, const struct tensor *tensor, uint64_t *seed)
{
    struct tiles_layout layout = layout_of(tensor);
    uint8_t codes[8 * 64], zeros[8 * 4];
    uint16_t scales[8 * 4];

    for (uint64_t tile = 0; tile < layout.tiles; tile++) {
        uint64_t rows = layout.rows - 8 * tile < 8 ? layout.rows - 8 * tile : 8;
        for (uint64_t i = 0; i < rows * layout.cols; i++)
            codes[i] = (uint8_t)(testing_random(seed) % (1u << layout.bits));
        for (uint64_t i = 0; i < rows * layout.groups; i++) {
            scales[i] = dtype_f32_to_f16(testing_normal(seed));
            zeros[i] = (uint8_t)(testing_random(seed) % (1u << layout.bits));
        }
        tiles_pack(&layout, out + tile * layout.tile_code_bytes,
            (uint16_t *)(void *)(out + layout.scales_offset + tile * layout.tile_scale_bytes),
            layout.asymmetric ? out + layout.zeros_offset + tile * layout.tile_zero_bytes : NULL, codes,
            scales, layout.asymmetric ? zeros : NULL, rows);
    }
}

/* A random sparse matrix, half of it 0. */
static uint8_t *make_sparse(const struct tensor *description, uint64_t *bytes, uint64_t *seed)
{
    struct tensor tensor = *description;
    uint16_t values[11 * 64], scales[11];
    uint8_t codes[11 * 64];
    void *weights = tensor.scheme.bits ? (void *)codes : values;
    struct error err = {0};

    for (unsigned i = 0; i < 11 * 64; i++) {
        codes[i] = (uint8_t)(testing_random(seed) % (1u << tensor.scheme.bits));
        values[i] = dtype_f32_to_f16(testing_normal(seed));
    }
    for (unsigned i = 0; i < 11; i++)
        scales[i] = dtype_f32_to_f16(testing_normal(seed));
    sparse_sample_prune(weights, tensor.shape[0], tensor.shape[1], tensor.scheme.bits, tensor.mask, 50);
    REQUIRE(sparse_make(&tensor, weights, scales, &err) == OK, &err);
    *bytes = tensor.bytes;
    return (uint8_t *)(uintptr_t)tensor.data;
}

/* The bytes of each tensor, the same in every run. */
static uint8_t *data_of(unsigned index, uint64_t *bytes)
{
    static const uint64_t dense_bytes[TENSORS] = {[DENSE] = 60, [EMPTY] = 0, [ONE] = 2, [BLOCKS] = 136};
    uint64_t seed = 100 + index;
    uint8_t *data;

    if (model[index].storage == STORAGE_SPARSE) return make_sparse(&model[index], bytes, &seed);
    *bytes = model[index].storage == STORAGE_TILES ? layout_of(&model[index]).bytes : dense_bytes[index];
    data = memory_new(*bytes, 1, NULL);
    REQUIRE(data != NULL, NULL);
    if (model[index].storage == STORAGE_TILES) {
        fill_tiles(data, &model[index], &seed);
    } else {
        for (uint64_t i = 0; i < *bytes; i++)
            data[i] = (uint8_t)(testing_random(&seed) & 0x3F); /* no infinities among the floats */
    }
    return data;
}

/* Write the model; with `backwards`, tensors from last to first and each in pieces of 7 bytes. */
static void write_model(const char *path, bool backwards)
{
    struct writer *writer = NULL;
    struct error err = {0};

    REQUIRE(nbl_writer_create(&writer, path, true, &err) == OK, &err);
    for (unsigned i = 0; i < TENSORS; i++) {
        struct tensor tensor = model[i];
        uint64_t index;
        memory_free(data_of(i, &tensor.bytes));
        REQUIRE(writer_add(writer, &tensor, &index, &err) == OK && index == i, &err);
    }
    REQUIRE(writer_alias(writer, "tied", "dense", &err) == OK, &err);
    REQUIRE(writer_document(writer, "config.json", "{}\n", 3, &err) == OK, &err);
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    for (unsigned i = 0; i < TENSORS; i++) {
        unsigned index = backwards ? TENSORS - 1 - i : i;
        uint64_t bytes, piece = backwards ? 7 : UINT64_MAX;
        uint8_t *data = data_of(index, &bytes);
        for (uint64_t at = 0; at < bytes; at += piece) {
            if (piece > bytes - at) piece = bytes - at;
            REQUIRE(writer_write(writer, index, at, data + at, piece, &err) == OK, &err);
        }
        writer_checksum(writer, index, file_crc32(0, data, bytes));
        memory_free(data);
    }
    REQUIRE(writer_document(writer, "empty1.json", "", 0, &err) == OK, &err);
    REQUIRE(writer_alias(writer, "late", "symmetric", &err) == OK, &err);
    REQUIRE(writer_commit(writer, &err) == OK, &err);
}

/* ---- looking at the result ---- */

static void check_opens(const char *path)
{
    struct container *container = NULL;
    struct nbl_verification found;
    struct error err = {0};

    CHECK(container_open(&container, path, &err) == OK, &err);
    container_close(container);
    CHECK(nbl_verify(&found, path, NULL, NULL, &err) == OK, &err);
    CU_ASSERT_EQUAL(found.faults, 0);
}

static void test_round_trip(void)
{
    const char *path = testing_path("model.nbl");
    struct container *container = NULL;
    struct nbl_verification found;
    struct error err = {0};
    const char *alias, *target;
    uint64_t bytes, count;
    char *text;

    write_model(path, false);
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    CU_ASSERT_STRING_EQUAL(container_format(container), "nbl");
    CU_ASSERT_EQUAL(container_count(container), TENSORS);
    REQUIRE(container_map(container, &err) == OK, &err);
    for (unsigned i = 0; i < TENSORS; i++) {
        const struct tensor *tensor = container_tensor(container, i);
        uint8_t *data = data_of(i, &bytes);
        uint32_t crc = 0;
        CU_ASSERT_STRING_EQUAL(tensor->name, model[i].name);
        CU_ASSERT_PTR_EQUAL(container_find(container, model[i].name), tensor);
        CU_ASSERT_EQUAL(tensor->storage, model[i].storage);
        CU_ASSERT_EQUAL(tensor->mask, model[i].mask);
        CU_ASSERT_EQUAL(tensor->dtype, model[i].dtype);
        CU_ASSERT_EQUAL(tensor->scheme.bits, model[i].scheme.bits);
        CU_ASSERT_EQUAL(tensor->scheme.group, model[i].scheme.group);
        CU_ASSERT_EQUAL(tensor->scheme.asymmetric, model[i].scheme.asymmetric);
        CU_ASSERT_EQUAL(tensor->rank, model[i].rank);
        CU_ASSERT(memcmp(tensor->shape, model[i].shape, sizeof tensor->shape) == 0);
        REQUIRE(tensor->bytes == bytes, NULL);
        CU_ASSERT(memcmp(tensor->data, data, bytes) == 0);
        CU_ASSERT_EQUAL((uintptr_t)tensor->data % 64, 0);
        CU_ASSERT(container_checksum(container, tensor, &crc));
        CU_ASSERT_EQUAL(crc, file_crc32(0, data, bytes));
        memory_free(data);
    }
    CU_ASSERT_EQUAL(container_alias_count(container), 2);
    container_alias(container, 1, &alias, &target);
    CU_ASSERT_STRING_EQUAL(alias, "late");
    CU_ASSERT_STRING_EQUAL(target, "symmetric");
    CU_ASSERT_PTR_EQUAL(container_find(container, "tied"), container_find(container, "dense"));
    REQUIRE(container_document(container, "config.json", &text, &count, &err) == OK, &err);
    CU_ASSERT(count == 3 && strcmp(text, "{}\n") == 0);
    memory_free(text);
    REQUIRE(container_document(container, "empty1.json", &text, &count, &err) == OK, &err);
    CU_ASSERT(count == 0 && text && text[0] == 0);
    memory_free(text);
    REQUIRE(container_document(container, "tokenizer.json", &text, &count, &err) == OK, &err);
    CU_ASSERT_PTR_NULL(text);
    container_close(container);
    CHECK(nbl_verify(&found, path, NULL, NULL, &err) == OK, &err);
    CU_ASSERT(found.tensors == TENSORS && found.faults == 0);
}

/* The order in which the bytes arrive leaves no trace. */
static void test_write_order(void)
{
    uint64_t count, other_count;
    char *bytes, *other;

    write_model(testing_path("forwards"), false);
    write_model(testing_path("backwards"), true);
    bytes = testing_read(testing_path("forwards"), &count);
    other = testing_read(testing_path("backwards"), &other_count);
    CU_ASSERT(count == other_count && memcmp(bytes, other, count) == 0);
    memory_free(bytes);
    memory_free(other);
}

static void test_no_tensors(void)
{
    const char *path = testing_path("nothing.nbl");
    struct writer *writer = NULL;
    struct error err = {0};

    REQUIRE(nbl_writer_create(&writer, path, false, &err) == OK, &err);
    CHECK(writer_commit(writer, &err) == OK, &err);
    check_opens(path);
}

/* ---- the independent reader ---- */

static bool have_python(void)
{
    static int known = -1;

    if (known < 0) known = system("python3 -c '' >/dev/null 2>&1") == 0;
    if (!known) printf("python3 is not installed: the independent reader was not run ");
    return known;
}

/* Run the independent reader; its output and messages into `output`, returns whether it exited with 0. */
static bool spec_reader(char *output, uint64_t room, const char *arguments, const char *path)
{
    char command[1024];
    FILE *pipe;
    uint64_t count;

    snprintf(
        command, sizeof command, "python3 %s %s %s 2>&1", testing_source("spec_reader.py"), path, arguments);
    pipe = popen(command, "r");
    REQUIRE(pipe != NULL, NULL);
    count = fread(output, 1, room - 1, pipe);
    output[count] = 0;
    return pclose(pipe) == 0;
}

static void test_spec_reader_agrees(void)
{
    static char output[64 * 1024];
    const char *path = testing_path("agree.nbl");
    struct container *container = NULL;
    struct error err = {0};

    if (!have_python()) return;
    write_model(path, false);
    CU_ASSERT(spec_reader(output, sizeof output, "", path));
    CU_ASSERT(strstr(output, "tensor tiles tiles of 3 bits, group 16, asymmetric [5, 32] 208 bytes") != NULL);
    CU_ASSERT(strstr(output, "document config.json 3 bytes") != NULL);
    CU_ASSERT(strstr(output, "alias tied -> dense") != NULL);
    REQUIRE(container_open(&container, path, &err) == OK && container_map(container, &err) == OK, &err);
    for (unsigned i = TILES; i <= ASYMMETRIC; i++) {
        const struct tensor *tensor = container_tensor(container, i);
        struct tiles_layout layout = layout_of(tensor);
        char arguments[64];
        float *values = memory_new(tensor->elements, sizeof *values, NULL);
        REQUIRE(values != NULL, NULL);
        tiles_decode(&layout, values, layout.cols, tensor->data, 0, layout.rows);
        snprintf(arguments, sizeof arguments, "--decode %s", tensor->name);
        CU_ASSERT(spec_reader(output, sizeof output, arguments, path));
        CU_ASSERT(memcmp(output, values, tensor->elements * sizeof *values) == 0);
        memory_free(values);
    }
    container_close(container);
}

/* ---- one broken file per rule ---- */

static uint8_t *image; /* the whole file, with room for what edits append */
static uint64_t image_bytes;

enum { ROOM = 256, HEADER_AT = 0, RECORDS_AT = 128, DATA_AT = 65536 };

static void load_image(void)
{
    const char *path = testing_path("image.nbl");
    char *bytes;

    if (file_kind(path) == FILE_ABSENT) write_model(path, false);
    bytes = testing_read(path, &image_bytes);
    free(image);
    image = calloc(1, image_bytes + ROOM);
    REQUIRE(image != NULL, NULL);
    memcpy(image, bytes, image_bytes);
    memory_free(bytes);
}

static uint64_t record_at(unsigned index)
{
    return RECORDS_AT + 128 * (uint64_t)index;
}

/* Make the checksums right again, as whoever forges a file would; those of tensors, or only the header's. */
static void fix_checksums(bool tensors)
{
    uint64_t table_bytes = bytes_get_u64(image + 40), metadata = bytes_get_u64(image + 64);
    uint64_t metadata_bytes = bytes_get_u64(image + 72);
    uint32_t crc;

    for (unsigned i = 0; i < TENSORS && tensors; i++) {
        uint8_t *record = image + record_at(i);
        crc = file_crc32(0, image + bytes_get_u64(record + 88), bytes_get_u64(record + 96));
        bytes_put(record + 104, crc, 4);
    }
    if (table_bytes > image_bytes || metadata > image_bytes || metadata_bytes > image_bytes - metadata)
        return;
    crc = file_crc32(0, image, 124);
    crc = file_crc32(crc, image + 128, table_bytes);
    crc = file_crc32(crc, image + metadata, metadata_bytes);
    bytes_put(image + 124, crc, 4);
}

enum place { IN_HEADER, IN_RECORD, IN_NAMES, IN_TENSOR, IN_METADATA };

/* Replace bytes at a place: then opening (`opens` false) or nbl_verify (true) must find the rule broken. */
static const struct edit {
    const char *rule, *name;
    enum place place;
    unsigned index; /* of the tensor */
    uint64_t at;
    const char *bytes;
    uint64_t count;
    bool opens;
    enum status expected;
    const char *says;
} edits[] = {
#define E(bytes) bytes, sizeof(bytes) - 1
    {"N2", "signature", IN_HEADER, 0, 4, E("\n\x1A\n\0"), false, ERR_FORMAT,
        "signature at byte 0 is damaged"},
    {"N3", "order-mark", IN_HEADER, 0, 12, E("\x0D\x0C\x0B\x0B"), false, ERR_FORMAT,
        "byte-order mark 0x0b0b0c0d"},
    {"N3", "order-swapped", IN_HEADER, 0, 8, E("\0\0\0\1\x0A\x0B\x0C\x0D"), false, ERR_UNSUPPORTED,
        "big-endian"},
    {"N2", "signature-swapped", IN_HEADER, 0, 0, E("\n\x1A\n\rLBN\x89"), false, ERR_UNSUPPORTED,
        "big-endian"},
    {"N4", "version", IN_HEADER, 0, 8, E("\2"), false, ERR_UNSUPPORTED, "version 2"},
    {"N5", "file-bytes", IN_HEADER, 0, 18, E("\7"), false, ERR_FORMAT, "the header says"},
    {"N6", "table-offset", IN_HEADER, 0, 32, E("\x81"), false, ERR_FORMAT, "table offset 129"},
    {"N7", "too-many-tensors", IN_HEADER, 0, 24, E("\x0B"), false, ERR_FORMAT, "11 tensors do not fit"},
    {"N7", "count-2-63", IN_HEADER, 0, 31, E("\x80"), false, ERR_FORMAT, "tensors do not fit"},
    {"N7", "too-few-tensors", IN_HEADER, 0, 24, E("\1"), false, ERR_FORMAT, "bytes of names for 1 tensors"},
    {"N8", "data-offset", IN_HEADER, 0, 50, E("\2"), false, ERR_FORMAT, "data offset"},
    {"N9", "data-bytes", IN_HEADER, 0, 63, E("\x80"), false, ERR_FORMAT, "metadata offset"},
    {"N9", "metadata-offset", IN_HEADER, 0, 71, E("\x80"), false, ERR_FORMAT, "metadata offset"},
    {"N10", "metadata-bytes", IN_HEADER, 0, 79, E("\x80"), false, ERR_FORMAT, "does not end with the file"},
    {"N11", "header-reserved", IN_HEADER, 0, 123, E("\1"), false, ERR_FORMAT, "reserved bytes at byte 80"},
    {"N13", "padding-of-table", IN_HEADER, 0, 65535, E("\1"), true, ERR_CHECK, "padding at byte 65535"},
    {"N14", "name-offset", IN_RECORD, 1, 0, E("\4"), false, ERR_FORMAT, "tensor 1: its name is at 4"},
    {"N14", "name-bytes", IN_RECORD, VALUES, 8, E("\7"), false, ERR_FORMAT, "tensor 9: its name is at"},
    {"N14", "name-unused", IN_RECORD, VALUES, 8, E("\5"), false, ERR_FORMAT,
        "1 bytes of the table belong to no name"},
    {"N15", "name-empty", IN_RECORD, 0, 8, E("\0"), false, ERR_FORMAT, "name is empty"},
    {"N15", "name-zero", IN_NAMES, 0, 1, E("\0"), false, ERR_FORMAT, "U+0000"},
    {"N15", "name-utf8", IN_NAMES, 0, 1, E("\xFF"), false, ERR_FORMAT, "not UTF-8"},
    {"N16", "name-twice", IN_NAMES, 0, 0, E("tiles"), false, ERR_FORMAT, "duplicate tensor tiles"},
    {"N17", "type", IN_RECORD, 0, 12, E("\x0A"), false, ERR_FORMAT, "type 10 is unknown"},
    {"N18", "storage", IN_RECORD, 0, 14, E("\4"), false, ERR_FORMAT, "storage 4 is unknown"},
    {"N38", "no-block", IN_RECORD, 0, 14, E("\2"), false, ERR_FORMAT, "block type 0 is unknown"},
    {"N38", "block", IN_RECORD, BLOCKS, 82, E("\1"), false, ERR_FORMAT, "block type 1 is unknown"},
    {"N38", "block-bytes", IN_RECORD, BLOCKS, 82, E("\2"), false, ERR_FORMAT, "136 bytes in the table"},
    {"N38", "block-weights", IN_RECORD, BLOCKS, 82, E("\x0C"), false, ERR_FORMAT, "rows of 64 do not divide"},
    {"N38", "block-bits", IN_RECORD, BLOCKS, 80, E("\4"), false, ERR_FORMAT, "block storage with a quant"},
    {"N38", "block-dtype", IN_RECORD, BLOCKS, 12, E("\1"), false, ERR_FORMAT, "block storage of type F16"},
    {"N19", "rank-9", IN_RECORD, 0, 15, E("\x09"), false, ERR_FORMAT, "rank 9"},
    {"N19", "dimension-unused", IN_RECORD, 0, 32, E("\1"), false, ERR_FORMAT, "dimensions beyond rank 2"},
    {"N20", "elements", IN_RECORD, 0, 23, E("\x80"), false, ERR_FORMAT, "2^63 elements"},
    {"N20", "hidden-by-zero", IN_RECORD, 4, 31, E("\x80"), false, ERR_FORMAT, "2^63 elements"},
    {"N21", "dense-bits", IN_RECORD, 0, 80, E("\4"), false, ERR_FORMAT,
        "dense storage with a quantization scheme"},
    {"N21", "dense-group", IN_RECORD, 0, 84, E("\4"), false, ERR_FORMAT,
        "dense storage with a quantization scheme"},
    {"N21", "dense-flags", IN_RECORD, 0, 81, E("\1"), false, ERR_FORMAT,
        "dense storage with a quantization scheme"},
    {"N21", "dense-bytes", IN_RECORD, 0, 96, E("\x3D"), false, ERR_FORMAT, "61 bytes in the table"},
    {"N22", "tiles-type", IN_RECORD, 1, 12, E("\0"), false, ERR_FORMAT, "scales of type F32"},
    {"N22", "tiles-rank", IN_RECORD, 1, 15, E("\3\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\1"), false, ERR_FORMAT,
        "rank 3"},
    {"N22", "tiles-empty", IN_RECORD, 1, 16, E("\0"), false, ERR_FORMAT, "0 x 32"},
    {"N22", "tiles-bits", IN_RECORD, 1, 80, E("\7"), false, ERR_FORMAT, "7 bits per weight"},
    {"N22", "tiles-flags", IN_RECORD, 1, 81, E("\3"), false, ERR_FORMAT, "flags 0x03"},
    {"N22", "tiles-group", IN_RECORD, 1, 84, E("\x08"), false, ERR_FORMAT, "groups of 8"},
    {"N22", "tiles-group-0", IN_RECORD, 1, 84, E("\0"), false, ERR_FORMAT, "groups of 0"},
    {"N22", "tiles-bytes", IN_RECORD, 1, 96, E("\xC0"), false, ERR_FORMAT, "192 bytes in the table"},
    {"N23", "block-82", IN_RECORD, 0, 82, E("\1"), false, ERR_FORMAT, "block type 1 without block storage"},
    {"N23", "mask-83", IN_RECORD, 0, 83, E("\1"), false, ERR_FORMAT, "mask kind 1 without sparse storage"},
    {"N23", "reserved-127", IN_RECORD, 0, 127, E("\1"), false, ERR_FORMAT, "reserved bytes of the record"},
    {"N24", "offset-hole", IN_RECORD, 1, 88, E("\x80"), false, ERR_FORMAT, "they belong at byte 65600"},
    {"N24", "offset-overlap", IN_RECORD, 1, 88, E("\x00"), false, ERR_FORMAT, "they belong at byte 65600"},
    {"N24", "offset-unaligned", IN_RECORD, 1, 88, E("\x3C"), false, ERR_FORMAT, "they belong at byte 65600"},
    {"N26", "padding-of-data", IN_TENSOR, 0, 60, E("\1"), true, ERR_CHECK, "padding at byte 65596"},
    {"N27", "data", IN_TENSOR, 0, 0, E("\xFF"), true, ERR_CHECK, "tensor dense: its bytes are damaged"},
    {"N28", "one-document-more", IN_METADATA, 0, 0, E("\3"), false, ERR_FORMAT, "metadata: "},
    {"N28", "one-alias-less", IN_METADATA, 0, 4, E("\1"), false, ERR_FORMAT, "bytes belong to nothing"},
    {"N28", "document-longer", IN_METADATA, 0, 12, E("\0\0\0\1"), false, ERR_FORMAT,
        "document config.json: metadata"},
    {"N28", "name-longer", IN_METADATA, 0, 8, E("\xFF\xFF\xFF\xFF"), false, ERR_FORMAT,
        "4294967295 bytes needed"},
    {"N29", "documents", IN_METADATA, 0, 0, E("\1\4"), false, ERR_FORMAT, "1025 documents"},
    {"N29", "aliases", IN_METADATA, 0, 4, E("\1\0\1"), false, ERR_FORMAT, "65537 aliases"},
    {"N29", "document-bytes", IN_METADATA, 0, 12, E("\1\0\0\4"), false, ERR_FORMAT, "the limit is 67108864"},
    {"N30", "document-slash", IN_METADATA, 0, 26, E("/"), false, ERR_FORMAT, "cannot be the name of a file"},
    {"N30", "document-control", IN_METADATA, 0, 26, E("\n"), false, ERR_FORMAT,
        "cannot be the name of a file"},
    {"N30", "document-twice", IN_METADATA, 0, 46, E("config.json"), false, ERR_FORMAT,
        "duplicate document config.json"},
    {"N31", "alias-empty", IN_METADATA, 0, 73, E("\0"), false, ERR_FORMAT, "name is empty"},
    {"N31", "alias-of-tensor", IN_METADATA, 0, 69, E("none"), false, ERR_FORMAT,
        "alias none: the name is in use"},
    {"N31", "alias-twice", IN_METADATA, 0, 85, E("tied"), false, ERR_FORMAT,
        "alias tied: the name is in use"},
    {"N32", "alias-target", IN_METADATA, 0, 61, E("\x0A"), false, ERR_FORMAT,
        "alias tied: stands for tensor 10 of 10"},
    {"N33", "gap", IN_TENSOR, 1, 96, E("\1"), true, ERR_CHECK, "tensor tiles: the gap at byte 96"},
    {"N33", "second-gap", IN_TENSOR, 1, 191, E("\1"), true, ERR_CHECK, "tensor tiles: the gap at byte 191"},
    {"N34", "scale-infinite", IN_TENSOR, 1, 128, E("\x00\x7C"), true, ERR_CHECK,
        "scale at byte 128 is 0x7c00, must be finite"},
    {"N34", "scale-nan", IN_TENSOR, 2, 256, E("\x01\xFE"), true, ERR_CHECK,
        "tensor symmetric: the scale at byte 256"},
    {"N35", "zero-point", IN_TENSOR, 1, 192, E("\x08"), true, ERR_CHECK,
        "zero-point at byte 192 is 8, must not be above 7"},
    {"N36", "scale-past-the-end", IN_TENSOR, 1, 138, E("\1"), true, ERR_CHECK, "0 in a row past the end"},
    {"N36", "zero-past-the-end", IN_TENSOR, 1, 197, E("\1"), true, ERR_CHECK, "is 1, must not be above 0"},
    {"N36", "code-past-the-end", IN_TENSOR, 1, 20, E("\1"), true, ERR_CHECK,
        "row 5 column 0 is padding and has code 1"},
    {"N37", "column-past-the-end", IN_TENSOR, 2, 128 + 64, E("\0"), true, ERR_CHECK,
        "row 0 column 56 is padding"},
    {"N39", "mask-kind", IN_RECORD, BITMAP, 83, E("\3"), false, ERR_FORMAT, "mask kind 3 is unknown"},
    {"N39", "sparse-bits", IN_RECORD, BITMAP, 80, E("\3"), false, ERR_FORMAT, "3 bits per sparse weight"},
    {"N39", "sparse-zeros", IN_RECORD, BITMAP, 81, E("\1"), false, ERR_FORMAT, "with zero-points"},
    {"N39", "sparse-dtype", IN_RECORD, BITMAP, 12, E("\2"), false, ERR_FORMAT, "scales of type BF16"},
    {"N39", "sparse-rows", IN_RECORD, BITMAP, 16, E("\xFF"), false, ERR_FORMAT, "its shape needs"},
    {"N39", "pairs-rows", IN_RECORD, PAIRS, 16, E("\x0F"), false, ERR_FORMAT, "bytes in the table"},
    {"N39", "values-dtype", IN_RECORD, VALUES, 12, E("\0"), false, ERR_FORMAT,
        "type F32, must be F16 or BF16"},
    {"N39", "values-group", IN_RECORD, VALUES, 84, E("\x20"), false, ERR_FORMAT, "sparse values with groups"},
    {"N40", "sparse-first", IN_TENSOR, BITMAP, 128, E("\1"), true, ERR_CHECK, "offsets from 1 to"},
    {"N40", "sparse-offset", IN_TENSOR, BITMAP, 132, E("\xFF"), true, ERR_CHECK,
        "codes of tile 0 from 0 to 255"},
    {"N40", "values-more", IN_TENSOR, VALUES, 0, E("\xFF\xFF\xFF\xFF"), true, ERR_CHECK,
        "tile 0, block 0: its codes lie beyond"},
    {"N41", "pattern", IN_TENSOR, PAIRS, 0, E("\x3F"), true, ERR_CHECK, "a pattern of 2:4 is above 35"},
    {"N42", "column-stored", IN_TENSOR, BITMAP, 56, E("\x80"), true, ERR_CHECK,
        "tile 0, block 1: a weight past the end is stored"},
    {"N42", "row-stored", IN_TENSOR, PAIRS, 148, E("\1"), true, ERR_CHECK,
        "tile 0, block 0: a weight past the end is stored"},
    {"N43", "sparse-gap", IN_TENSOR, BITMAP, 140, E("\1"), true, ERR_CHECK,
        "tensor bitmap: the gap at byte 140"},
    {"N43", "sparse-slack", IN_TENSOR, PAIRS, 447, E("\1"), true, ERR_CHECK,
        "tensor pairs: the gap at byte 447"},
    {"N44", "sparse-scale", IN_TENSOR, BITMAP, 192, E("\x00\x7C"), true, ERR_CHECK,
        "tensor bitmap: the scale at byte 192 is 0x7c00"},
    {"N44", "value-infinite", IN_TENSOR, VALUES, 128, E("\x00\x7C"), true, ERR_CHECK,
        "a value is not finite"},
#undef E
};

static uint64_t place_of(const struct edit *edit)
{
    switch (edit->place) {
    case IN_HEADER:
        return edit->at;
    case IN_RECORD:
        return record_at(edit->index) + edit->at;
    case IN_NAMES:
        return record_at(TENSORS) + edit->at;
    case IN_TENSOR:
        return bytes_get_u64(image + record_at(edit->index) + 88) + edit->at;
    case IN_METADATA:
        return bytes_get_u64(image + 64) + edit->at;
    }
    return 0;
}

struct faults {
    char text[1024]; /* the last one */
    uint64_t count;
};

static void note_fault(void *context, const char *text)
{
    struct faults *faults = context;

    snprintf(faults->text, sizeof faults->text, "%s", text);
    faults->count++;
    CU_ASSERT(strchr(text, '\n') == NULL);
}

/* What .nbl files in the corpus leave out, and tests/fuzz/fuzz_nbl.c puts back: the padding after the table.
 */
static void keep_in_corpus(const char *name)
{
    uint64_t table_end = 128 + bytes_get_u64(image + 40), data_at = bytes_get_u64(image + 48);
    bool regular = table_end <= DATA_AT && data_at == DATA_AT;
    uint8_t *compact = malloc(image_bytes);

    REQUIRE(compact != NULL, NULL);
    if (regular) {
        memcpy(compact, image, table_end);
        memcpy(compact + table_end, image + DATA_AT, image_bytes - DATA_AT);
        corpus_keep("nbl", name, compact, image_bytes - DATA_AT + table_end);
    }
    free(compact);
}

/* The image, as file `name`, breaks `rule`. */
static void check_broken(
    const char *rule, const char *name, bool opens, enum status expected, const char *says)
{
    static char output[4096];
    const char *path = testing_path("%s-%s.nbl", rule, name);
    struct container *container = NULL;
    struct nbl_verification found;
    struct faults faults = {{0}, 0};
    struct error err = {0};
    enum status status;
    char number[8], kept[64];

    testing_write(path, image, image_bytes);
    snprintf(kept, sizeof kept, "%s-%s", rule, name);
    keep_in_corpus(kept);
    status = container_open(&container, path, &err);
    CHECK(opens ? status == OK : status == expected, &err);
    container_close(container);
    if (opens) {
        CHECK(nbl_verify(&found, path, note_fault, &faults, &err) == expected, &err);
        CU_ASSERT(found.faults == 1 && faults.count == 1);
        CU_ASSERT_STRING_EQUAL(faults.text, err.text);
    }
    CHECK(strstr(err.text, path) != NULL, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    if (!have_python()) return;
    snprintf(number, sizeof number, "%s ", rule);
    CU_ASSERT_FALSE(spec_reader(output, sizeof output, "", path));
    if (!strstr(output, number)) printf("\n    %s: %s: %s", rule, name, output);
    CU_ASSERT(strstr(output, number) != NULL);
}

static void test_every_rule(void)
{
    load_image();
    keep_in_corpus("good");
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        const struct edit *edit = &edits[i];
        uint64_t at;
        load_image();
        at = place_of(edit);
        REQUIRE(at + edit->count <= image_bytes, NULL);
        CU_ASSERT(memcmp(image + at, edit->bytes, edit->count) != 0);
        memcpy(image + at, edit->bytes, edit->count);
        fix_checksums(edit->place == IN_TENSOR && strcmp(edit->rule, "N27") != 0);
        check_broken(edit->rule, edit->name, edit->opens, edit->expected, edit->says);
    }
}

/* Rules that take more than one edit. */
static void test_more_rules(void)
{
    load_image();
    bytes_put(image + 124, bytes_get_u32(image + 124) ^ 1, 4);
    check_broken("N12", "checksum", false, ERR_FORMAT, "header, table or metadata are damaged");

    load_image(); /* 64 bytes of data that no tensor accounts for */
    uint64_t metadata = bytes_get_u64(image + 64);
    memmove(image + metadata + 64, image + metadata, image_bytes - metadata);
    memset(image + metadata, 0, 64);
    image_bytes += 64;
    bytes_put(image + 16, image_bytes, 8);
    bytes_put(image + 56, bytes_get_u64(image + 56) + 64, 8);
    bytes_put(image + 64, metadata + 64, 8);
    fix_checksums(false);
    check_broken("N25", "data-beyond", false, ERR_FORMAT, "the last tensor ends at byte");

    load_image(); /* a byte that belongs to no item */
    image_bytes++;
    bytes_put(image + 16, image_bytes, 8);
    bytes_put(image + 72, bytes_get_u64(image + 72) + 1, 8);
    fix_checksums(false);
    check_broken("N28", "trailing-byte", false, ERR_FORMAT, "1 bytes belong to nothing");

    load_image(); /* metadata too short even for the counts */
    image_bytes = bytes_get_u64(image + 64) + 7;
    bytes_put(image + 16, image_bytes, 8);
    bytes_put(image + 72, 7, 8);
    fix_checksums(false);
    check_broken("N28", "no-counts", false, ERR_FORMAT, "8 bytes needed at byte 0, it has 7");
}

/* Limits that only a large file can exceed; a sparse one will do. */
static void test_limits(void)
{
    const char *path = testing_path("limit.nbl");
    struct container *container = NULL;
    struct error err = {0};
    const uint64_t many = 1000001, data_at = (128 + 128 * many + 65535) / 65536 * 65536;
    const uint64_t long_metadata = (UINT64_C(256) << 20) + 1;

    load_image(); /* N7 */
    bytes_put(image + 16, data_at + 8, 8);
    bytes_put(image + 24, many, 8);
    bytes_put(image + 40, 128 * many, 8);
    bytes_put(image + 48, data_at, 8);
    bytes_put(image + 56, 0, 8);
    bytes_put(image + 64, data_at, 8);
    bytes_put(image + 72, 8, 8);
    testing_write(path, image, 128);
    REQUIRE(truncate(path, (off_t)data_at + 8) == 0, NULL);
    CHECK(container_open(&container, path, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "1000001 tensors, the limit is 1000000") != NULL, &err);

    load_image(); /* N10 */
    bytes_put(image + 16, bytes_get_u64(image + 64) + long_metadata, 8);
    bytes_put(image + 72, long_metadata, 8);
    testing_write(path, image, 128);
    REQUIRE(truncate(path, (off_t)bytes_get_u64(image + 16)) == 0, NULL);
    CHECK(container_open(&container, path, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "metadata of 268435457 bytes, the limit is 268435456") != NULL, &err);
}

/* M11: a tensor of more than 2^32 elements, behind it another; a sparse file, so it costs no disk. */
static void test_beyond_4_gib(void)
{
    const char *path = testing_path("large.nbl");
    const uint64_t large = (UINT64_C(5) << 30) + 1, end = DATA_AT + (large + 63) / 64 * 64 + 64;
    struct container *container = NULL;
    struct error err = {0};
    uint8_t *record;
    char byte = 0;

    load_image(); /* two U8 tensors named "de" and "ns" */
    for (unsigned i = 0; i < 2; i++) {
        record = memset(image + record_at(i), 0, 128);
        bytes_put(record, 2 * i, 8);
        bytes_put(record + 8, 2, 4);
        bytes_put(record + 12, DTYPE_U8, 2);
        bytes_put(record + 15, 1, 1);
        bytes_put(record + 16, i == 0 ? large : 1, 8);
        bytes_put(record + 88, i == 0 ? DATA_AT : end - 64, 8);
        bytes_put(record + 96, i == 0 ? large : 1, 8);
    }
    memcpy(image + record_at(2), "dens", 4);
    bytes_put(image + 16, end + 8, 8);
    bytes_put(image + 24, 2, 8);
    bytes_put(image + 40, 2 * 128 + 4, 8);
    bytes_put(image + 56, end - DATA_AT, 8);
    bytes_put(image + 64, end, 8);
    bytes_put(image + 72, 8, 8);
    bytes_put(image + 124,
        file_crc32(file_crc32(file_crc32(0, image, 124), image + 128, 2 * 128 + 4), "\0\0\0\0\0\0\0", 8), 4);
    testing_write(path, image, 128 + 2 * 128 + 4);
    REQUIRE(truncate(path, (off_t)end + 8) == 0, NULL);
    int descriptor = open(path, O_RDWR);
    REQUIRE(pwrite(descriptor, "A", 1, (off_t)(DATA_AT + large - 1)) == 1 &&
                pwrite(descriptor, "B", 1, (off_t)end - 64) == 1,
        NULL);
    close(descriptor);

    REQUIRE(container_open(&container, path, &err) == OK, &err);
    CU_ASSERT_EQUAL(container_find(container, "de")->elements, large);
    CHECK(container_read(container, container_find(container, "de"), large - 1, &byte, 1, &err) == OK, &err);
    CU_ASSERT_EQUAL(byte, 'A');
    REQUIRE(container_map(container, &err) == OK, &err);
    CU_ASSERT_EQUAL(((const char *)container_find(container, "de")->data)[large - 1], 'A');
    CU_ASSERT_EQUAL(((const char *)container_find(container, "ns")->data)[0], 'B');
    container_close(container);
    unlink(path);
}

/* ---- damage everywhere ---- */

/* Flip one bit of a file in place. */
static void flip(int descriptor, uint64_t at, unsigned bit)
{
    uint8_t byte = (uint8_t)(image[at] ^ (1u << bit));

    REQUIRE(pwrite(descriptor, &byte, 1, (off_t)at) == 1, NULL);
}

static void restore(int descriptor, uint64_t at)
{
    REQUIRE(pwrite(descriptor, image + at, 1, (off_t)at) == 1, NULL);
}

/* Open and, if that works, verify: what a careful user does. */
static enum status open_and_verify(const char *path, struct error *err)
{
    struct nbl_verification found;

    err->text[0] = 0;
    return nbl_verify(&found, path, NULL, NULL, err);
}

/* M01: every single-bit flip of header, table and metadata is an error on opening. */
static void test_every_bit_of_the_frame(void)
{
    const char *path = testing_path("flipped.nbl");
    uint64_t table_end, metadata;
    int descriptor;

    load_image();
    testing_write(path, image, image_bytes);
    descriptor = open(path, O_RDWR);
    table_end = 128 + bytes_get_u64(image + 40);
    metadata = bytes_get_u64(image + 64);
    for (uint64_t at = 0; at < image_bytes; at = at + 1 == table_end ? metadata : at + 1) {
        for (unsigned bit = 0; bit < 8; bit++) {
            struct container *container = NULL;
            struct error err = {0};
            flip(descriptor, at, bit);
            enum status status = container_open(&container, path, &err);
            CHECK(status == ERR_FORMAT || status == ERR_UNSUPPORTED, &err);
            container_close(container);
        }
        restore(descriptor, at);
    }
    close(descriptor);
    check_opens(path);
}

/* M03: every flipped byte of the data is found by nbl_verify, which names the tensor or the padding. */
static void test_every_byte_of_the_data(void)
{
    const char *path = testing_path("flipped-data.nbl");
    uint64_t metadata;
    int descriptor;

    load_image();
    testing_write(path, image, image_bytes);
    descriptor = open(path, O_RDWR);
    metadata = bytes_get_u64(image + 64);
    for (uint64_t at = DATA_AT; at < metadata; at++) {
        const char *owner = "padding";
        struct error err = {0};
        for (unsigned i = 0; i < TENSORS; i++) {
            uint64_t begin = bytes_get_u64(image + record_at(i) + 88);
            if (at >= begin && at < begin + bytes_get_u64(image + record_at(i) + 96)) owner = model[i].name;
        }
        flip(descriptor, at, at % 8);
        CHECK(open_and_verify(path, &err) == ERR_CHECK, &err);
        CHECK(strstr(err.text, owner) != NULL, &err);
        restore(descriptor, at);
    }
    close(descriptor);
    check_opens(path);
}

/* Truncation at every length is an error on opening. */
static void test_every_truncation(void)
{
    const char *path = testing_path("truncated.nbl");

    load_image();
    testing_write(path, image, image_bytes);
    for (uint64_t count = image_bytes; count-- > 0;) {
        struct container *container = NULL;
        struct error err = {0};
        REQUIRE(truncate(path, (off_t)count) == 0, NULL);
        CHECK(container_open(&container, path, &err) == ERR_FORMAT, &err);
        container_close(container);
    }
}

/* The same flips with checksums that fit, as a forger makes them: never a crash, and what opens can be mapped
 * and verified. */
static void test_forged_flips(void)
{
    const char *path = testing_path("forged.nbl");
    uint64_t table_end, metadata;
    int descriptor;

    load_image();
    testing_write(path, image, image_bytes);
    descriptor = open(path, O_RDWR);
    table_end = 128 + bytes_get_u64(image + 40);
    metadata = bytes_get_u64(image + 64);
    for (uint64_t at = 0; at < image_bytes; at = at + 1 == table_end ? metadata : at + 1) {
        for (unsigned bit = 0; bit < 8; bit++) {
            struct container *container = NULL;
            struct error err = {0};
            image[at] ^= (uint8_t)(1u << bit);
            fix_checksums(false);
            REQUIRE(pwrite(descriptor, image, table_end, 0) == (ssize_t)table_end, NULL);
            REQUIRE(pwrite(descriptor, image + metadata, image_bytes - metadata, (off_t)metadata) > 0, NULL);
            image[at] ^= (uint8_t)(1u << bit);
            if (container_open(&container, path, &err) == OK)
                CHECK(container_map(container, &err) == OK, &err);
            container_close(container);
            open_and_verify(path, &err);
        }
    }
    close(descriptor);
}

/* ---- the writer's errors ---- */

static struct writer *new_writer(void)
{
    struct writer *writer = NULL;
    struct error err = {0};

    REQUIRE(nbl_writer_create(&writer, testing_path("refused.nbl"), true, &err) == OK, &err);
    return writer;
}

static void check_add_refused(struct writer *writer, struct tensor tensor, const char *says)
{
    struct error err = {0};
    uint64_t index;

    CHECK(writer_add(writer, &tensor, &index, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
}

static void test_writer_refuses(void)
{
    struct writer *writer = new_writer();
    struct error err = {0};
    uint64_t index;
    char long_name[514];

    REQUIRE(writer_add(writer, &model[DENSE], &index, &err) == OK, &err);
    check_add_refused(writer, model[DENSE], "name dense is in use already");
    check_add_refused(writer, (struct tensor){.name = ""}, "empty");
    memset(long_name, 'n', 513);
    long_name[513] = 0;
    check_add_refused(writer, (struct tensor){.name = long_name}, "has 513 bytes");
    check_add_refused(writer, (struct tensor){.name = "x", .rank = 9}, "rank 9");
    check_add_refused(
        writer, (struct tensor){.name = "x", .rank = 1, .shape = {UINT64_C(1) << 62}}, "2^63 bytes");
    check_add_refused(writer, (struct tensor){.name = "x", .scheme = {4, 32, false}}, "dense storage");
    check_add_refused(writer,
        (struct tensor){.name = "x",
            .storage = STORAGE_TILES,
            .dtype = DTYPE_F16,
            .rank = 2,
            .shape = {8, 32},
            .scheme = {7, 32, false}},
        "tensor x: 7 bits");
    CHECK(writer_alias(writer, "dense", "dense", &err) == ERR_FORMAT, &err);
    CHECK(writer_document(writer, "../x", "", 0, &err) == ERR_FORMAT, &err);
    CHECK(writer_document(writer, "x", "", 0, &err) == OK, &err);
    CHECK(writer_document(writer, "x", "", 0, &err) == ERR_FORMAT, &err);
    CHECK(writer_commit(writer, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, "tensor dense: its checksum was never stated") != NULL, &err);

    writer = new_writer();
    CHECK(writer_alias(writer, "a", "missing", &err) == OK, &err);
    CHECK(writer_begin(writer, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "alias a: its target missing is no tensor") != NULL, &err);
    writer_abandon(writer);

    writer = new_writer();
    REQUIRE(writer_add(writer, &model[DENSE], &index, &err) == OK, &err);
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    CHECK(writer_add(writer, &model[ONE], &index, &err) == ERR_USAGE, &err);
    CHECK(writer_write(writer, 0, 59, "xx", 2, &err) == ERR_USAGE, &err);
    CHECK(writer_alias(writer, "a", "missing", &err) == ERR_FORMAT, &err);
    writer_abandon(writer);
    CU_ASSERT_EQUAL(file_kind(testing_path("refused.nbl")), FILE_ABSENT);
}

static void test_verify_of_other_files(void)
{
    const char *path = testing_path("other.safetensors");
    struct nbl_verification found;
    struct error err = {0};

    testing_write(path, "\2\0\0\0\0\0\0\0{}", 10);
    CHECK(nbl_verify(&found, path, NULL, NULL, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "is a safetensors file, not .nbl") != NULL, &err);
    CHECK(nbl_verify(&found, testing_path("absent"), NULL, NULL, &err) == ERR_IO, &err);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"round trip", test_round_trip},
        {"write order", test_write_order},
        {"no tensors", test_no_tensors},
        {"the independent reader agrees", test_spec_reader_agrees},
        {"every rule", test_every_rule},
        {"more rules", test_more_rules},
        {"limits", test_limits},
        {"beyond 4 GiB", test_beyond_4_gib},
        {"every bit of header, table and metadata", test_every_bit_of_the_frame},
        {"every byte of the data", test_every_byte_of_the_data},
        {"every truncation", test_every_truncation},
        {"forged flips", test_forged_flips},
        {"the writer refuses", test_writer_refuses},
        {"verify of other files", test_verify_of_other_files},
    };
    int result = TESTING_RUN("nbl", cases);

    free(image);
    return result;
}
