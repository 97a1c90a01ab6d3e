/* Moving tensors between containers: copies, casts, packing, unpacking, checksums on the way, provenance, and
 * the same bytes for every number of workers. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/nbl.h"
#include "formats/provenance.h"
#include "formats/transfer.h"
#include "tensor/grid.h"
#include "tensor/kernels/kernels.h"
#include "tensor/tiles.h"
#include "tests/support/sparse_sample.h"
#include "tests/support/testing.h"

/* ---- sources ---- */

/* A tensor to write, as a safetensors file would have it. */
struct source {
    const char *name;
    enum dtype dtype;
    uint64_t rows, cols; /* rank 2 */
    const void *data;
};

static void write_source(const char *path, const struct source *sources, uint64_t count)
{
    char *header = calloc(1, 64 + 160 * count), *at = header;
    uint64_t total = 0, header_bytes;
    FILE *file = fopen(path, "wb");
    uint8_t length[8];

    REQUIRE(header != NULL && file != NULL, NULL);
    at += sprintf(at, "{\"__metadata__\":{\"tied\":\"a\"}");
    for (uint64_t i = 0; i < count; i++) {
        uint64_t bytes = sources[i].rows * sources[i].cols * dtype_info(sources[i].dtype)->bytes;
        at += sprintf(at,
            ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRIu64 ",%" PRIu64 "],\"data_offsets\":[%" PRIu64
            ",%" PRIu64 "]}",
            sources[i].name, dtype_info(sources[i].dtype)->name, sources[i].rows, sources[i].cols, total,
            total + bytes);
        total += bytes;
    }
    at += sprintf(at, "}");
    header_bytes = (uint64_t)(at - header);
    bytes_put(length, header_bytes, 8);
    REQUIRE(fwrite(length, 1, 8, file) == 8 && fwrite(header, 1, header_bytes, file) == header_bytes, NULL);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t bytes = sources[i].rows * sources[i].cols * dtype_info(sources[i].dtype)->bytes;
        REQUIRE(fwrite(sources[i].data, 1, bytes, file) == bytes, NULL);
    }
    REQUIRE(fclose(file) == 0, NULL);
    free(header);
}

/* Normal numbers in any floating type; random bytes in any other. */
static void *random_data(enum dtype dtype, uint64_t count, uint64_t seed)
{
    const struct dtype_info *info = dtype_info(dtype);
    char *data = calloc(count + 1, info->bytes);

    REQUIRE(data != NULL, NULL);
    for (uint64_t i = 0; i < count; i++) {
        float value = testing_normal(&seed);
        uint64_t bits = testing_random(&seed);
        if (info->is_float)
            info->encode(data + i * info->bytes, &value, 1);
        else
            memcpy(data + i * info->bytes, &bits, info->bytes);
    }
    return data;
}

static struct container *open_good(const char *path)
{
    struct container *container = NULL;
    struct error err = {0};

    REQUIRE(container_open(&container, path, &err) == OK, &err);
    return container;
}

/* ---- one transfer ---- */

/* Round to nearest, as the quantizer's simplest method does. */
static enum status encode(const struct tensor *target, void *context, uint8_t *codes, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err)
{
    struct tiles_layout layout;
    uint64_t row, col, tile_rows = row_count < TILE_ROWS ? row_count : TILE_ROWS;
    enum status status = tiles_layout(&layout, target->shape[0], target->shape[1], target->scheme, err);
    uint16_t *tile_scales = (uint16_t *)(void *)(scratch + (tile_rows * layout.cols + 1) / 2 * 2);
    uint8_t *tile_zeros = zeros ? (uint8_t *)(tile_scales + tile_rows * layout.groups) : NULL;

    (void)context;
    CU_ASSERT_EQUAL(row_begin % TILE_ROWS, 0);
    for (uint64_t first = 0; first < row_count && !status; first += TILE_ROWS) {
        uint64_t count = row_count - first < TILE_ROWS ? row_count - first : TILE_ROWS,
                 tile = first / TILE_ROWS;
        status = grid_quantize_rows(scratch, tile_scales, tile_zeros, rows + first * layout.cols, count,
            layout.cols, target->scheme, GRID_MINMAX, NULL, &row, &col, err);
        if (status)
            return fail(err, status, "row %" PRIu64 " column %" PRIu64 " is not finite",
                row_begin + first + row, col);
        tiles_pack(&layout, codes + tile * layout.tile_code_bytes, scales + tile * layout.groups * TILE_ROWS,
            zeros ? zeros + tile * layout.groups * TILE_ROWS : NULL, scratch, tile_scales, tile_zeros, count);
    }
    return status;
}

/* Move items from a container to a new file; checks that source_crcs are the CRC-32 of every source tensor.
 */
static enum status transfer(struct container *container, const char *path, const struct transfer_item *items,
    uint64_t count, unsigned workers, struct error *err)
{
    uint64_t sources = container_count(container);
    uint32_t *crcs = calloc(sources + 1, sizeof *crcs);
    struct writer *writer = NULL;
    struct pool *pool = NULL;
    enum status status;

    REQUIRE(crcs && pool_create(&pool, workers, err) == OK, err);
    REQUIRE(nbl_writer_create(&writer, path, true, err) == OK, err);
    status = transfer_run(container, writer, items, count, crcs, pool, NULL, "moving", err);
    for (uint64_t i = 0; i < sources && !status; i++) {
        const struct tensor *tensor = container_tensor(container, i);
        void *data = memory_new(tensor->bytes, 1, err);
        REQUIRE(data && container_read(container, tensor, 0, data, tensor->bytes, err) == OK, err);
        CU_ASSERT_EQUAL(crcs[i], file_crc32(0, data, tensor->bytes));
        memory_free(data);
    }
    if (!status)
        status = writer_commit(writer, err);
    else
        writer_abandon(writer);
    pool_free(pool);
    free(crcs);
    return status;
}

/* The same, must work, and the result must verify; returns it open and mapped. */
static struct container *transfer_good(
    struct container *container, const struct transfer_item *items, uint64_t count, unsigned workers)
{
    const char *path = testing_path("out.nbl");
    struct nbl_verification found;
    struct container *result;
    struct error err = {0};

    REQUIRE(transfer(container, path, items, count, workers, &err) == OK, &err);
    CHECK(nbl_verify(&found, path, NULL, NULL, &err) == OK, &err);
    result = open_good(path);
    REQUIRE(container_map(result, &err) == OK, &err);
    return result;
}

static void check_refused(
    struct container *container, struct transfer_item item, enum status expected, const char *says)
{
    const char *path = testing_path("refused.nbl");
    struct error err = {0};

    CHECK(transfer(container, path, &item, 1, 2, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CHECK(!strchr(err.text, '\n'), &err);
    CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
}

static struct transfer_item copy_item(const struct tensor *source)
{
    return (struct transfer_item){.source = source, .target = *source};
}

static struct transfer_item cast_item(const struct tensor *source, enum dtype dtype)
{
    struct transfer_item item = copy_item(source);

    item.target.storage = STORAGE_DENSE;
    item.target.mask = MASK_NONE;
    item.target.scheme = (struct scheme){0};
    item.target.dtype = dtype;
    return item;
}

static struct transfer_item pack_item(const struct tensor *source, struct scheme scheme)
{
    struct transfer_item item = copy_item(source);

    item.target.storage = STORAGE_TILES;
    item.target.mask = MASK_NONE;
    item.target.dtype = DTYPE_F16;
    item.target.scheme = scheme;
    item.encode = encode;
    return item;
}

/* Q8_0: the scale, then the codes. */
static enum status encode_q8(const struct tensor *target, void *context, uint8_t *codes, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err)
{
    uint64_t blocks = row_count * target->shape[1] / 32;

    (void)row_begin;
    (void)err;
    CU_ASSERT(!context && !scales && !zeros && !scratch);
    for (uint64_t block = 0; block < blocks; block++, codes += 34, rows += 32) {
        float most = 0;
        for (int i = 0; i < 32; i++)
            most = fmaxf(most, fabsf(rows[i]));
        uint16_t half = dtype_f32_to_f16(most / 127);
        float step = dtype_f16_to_f32(half);
        bytes_put(codes, half, 2);
        for (int i = 0; i < 32; i++)
            codes[2 + i] = (uint8_t)(int8_t)(step > 0 ? fmaxf(-127, fminf(127, rintf(rows[i] / step))) : 0);
    }
    return OK;
}

static struct transfer_item block_item(const struct tensor *source, enum block_type block)
{
    struct transfer_item item = copy_item(source);

    item.target.storage = STORAGE_BLOCKS;
    item.target.mask = MASK_NONE;
    item.target.dtype = DTYPE_F32;
    item.target.scheme = (struct scheme){0};
    item.target.block = block;
    item.encode = encode_q8;
    return item;
}

/* A writer that wants the rows of every tensor interleaved in heads, and else leaves all to a .nbl writer. */
struct headed {
    struct writer base;
    struct writer *inner;
};

static struct writer *inner_of(struct writer *writer)
{
    return ((struct headed *)writer)->inner;
}

static enum status headed_add(
    struct writer *writer, const struct tensor *tensor, uint64_t *index, struct error *err)
{
    return writer_add(inner_of(writer), tensor, index, err);
}

static enum status headed_begin(struct writer *writer, struct error *err)
{
    return writer_begin(inner_of(writer), err);
}

static enum status headed_write(struct writer *writer, uint64_t index, uint64_t offset, const void *bytes,
    uint64_t count, struct error *err)
{
    return writer_write(inner_of(writer), index, offset, bytes, count, err);
}

static void headed_checksum(struct writer *writer, uint64_t index, uint32_t crc)
{
    writer_checksum(inner_of(writer), index, crc);
}

enum { HEAD = 6 };

static uint64_t headed_head(const struct writer *writer, uint64_t index)
{
    (void)writer;
    (void)index;
    return HEAD;
}

/* ---- cases ---- */

/* Every type survives a copy; what no item names is still read for its checksum (transfer checks that). */
static void test_copy(void)
{
    const char *path = testing_path("types.safetensors");
    struct source sources[DTYPE_COUNT];
    struct transfer_item items[DTYPE_COUNT];
    char names[DTYPE_COUNT][2];
    struct container *container, *result;

    for (int i = 0; i < DTYPE_COUNT; i++) {
        uint64_t rows = i == 3 ? 0 : 3, cols = i == 0 ? 400001 : 5; /* one larger than a chunk, one empty */
        names[i][0] = (char)('a' + i);
        names[i][1] = 0;
        sources[i] =
            (struct source){names[i], (enum dtype)i, rows, cols, random_data((enum dtype)i, rows * cols, 7)};
    }
    write_source(path, sources, DTYPE_COUNT);
    container = open_good(path);
    for (uint64_t i = 0; i < DTYPE_COUNT; i++)
        items[i] = copy_item(container_tensor(container, DTYPE_COUNT - 1 - i)); /* items decide the order */
    result = transfer_good(container, items + 1, DTYPE_COUNT - 1, 2);
    CU_ASSERT_EQUAL(container_count(result), DTYPE_COUNT - 1);
    for (uint64_t i = 1; i < DTYPE_COUNT; i++) {
        const struct tensor *tensor = container_tensor(result, i - 1), *source = items[i].source;
        CU_ASSERT_STRING_EQUAL(tensor->name, source->name);
        REQUIRE(tensor->bytes == source->bytes, NULL);
        CU_ASSERT(memcmp(tensor->data, sources[DTYPE_COUNT - 1 - i].data, tensor->bytes) == 0);
    }
    container_close(result);
    result = transfer_good(container, NULL, 0, 3);
    CU_ASSERT_EQUAL(container_count(result), 0);
    container_close(result);
    container_close(container);
    for (int i = 0; i < DTYPE_COUNT; i++)
        free((void *)(uintptr_t)sources[i].data);
}

/* Every floating type to every other equals the reference conversion of the type table. */
static void test_cast(void)
{
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F64};
    enum { ROWS = 3, COLS = 100003, COUNT = ROWS * COLS };
    const char *path = testing_path("floats.safetensors");
    float *floats = calloc(COUNT, sizeof *floats);
    uint8_t *expected = calloc(COUNT, 8);

    for (int from = 0; from < 4; from++) {
        struct source source = {"a", types[from], ROWS, COLS, random_data(types[from], COUNT, 11)};
        write_source(path, &source, 1);
        struct container *container = open_good(path);
        for (int to = 0; to < 4; to++) {
            struct transfer_item item = cast_item(container_tensor(container, 0), types[to]);
            struct container *result = transfer_good(container, &item, 1, 2);
            const struct tensor *tensor = container_tensor(result, 0);
            CU_ASSERT_EQUAL(tensor->dtype, types[to]);
            dtype_info(types[from])->decode(floats, source.data, COUNT);
            dtype_info(types[to])->encode(expected, floats, COUNT);
            if (from == to) memcpy(expected, source.data, tensor->bytes);
            CU_ASSERT(memcmp(tensor->data, expected, tensor->bytes) == 0);
            container_close(result);
        }
        container_close(container);
        free((void *)(uintptr_t)source.data);
    }
    free(floats);
    free(expected);
}

/* A finite value that would become infinite is refused and found; infinities and NaN of the source pass. */
static void test_overflow(void)
{
    const char *path = testing_path("large.safetensors");
    float halves[4] = {65519, INFINITY, NAN, -65519}, brains[2] = {3.3895e38f, -INFINITY};
    double doubles[4] = {1, INFINITY, 3.4e38, -1e300};
    float over_half[3] = {1, -65520, 2};
    struct source sources[] = {{"a", DTYPE_F32, 1, 4, halves}, {"b", DTYPE_F32, 1, 2, brains},
        {"c", DTYPE_F64, 1, 4, doubles}, {"d", DTYPE_F32, 1, 3, over_half}, {"e", DTYPE_F64, 1, 3, doubles}};
    struct transfer_item items[3];
    struct container *container, *result;
    uint16_t half[4];

    write_source(path, sources, 5);
    container = open_good(path);
    items[0] = cast_item(container_find(container, "a"), DTYPE_F16);
    items[1] = cast_item(container_find(container, "b"), DTYPE_BF16);
    items[2] = cast_item(container_find(container, "e"), DTYPE_F32);
    result = transfer_good(container, items, 3, 1);
    memcpy(half, container_tensor(result, 0)->data, sizeof half);
    CU_ASSERT(half[0] == 0x7BFF && half[1] == 0x7C00 && (half[2] & 0x7FFF) > 0x7C00 && half[3] == 0xFBFF);
    container_close(result);
    check_refused(container, cast_item(container_find(container, "b"), DTYPE_F16), ERR_NUMERIC,
        "tensor b: element 0 is 3.38");
    check_refused(container, cast_item(container_find(container, "c"), DTYPE_F32), ERR_NUMERIC,
        "tensor c: element 3 is -1e+300, too large for F32");
    check_refused(container, cast_item(container_find(container, "d"), DTYPE_F16), ERR_NUMERIC,
        "tensor d: element 1 is -65520, too large for F16");
    container_close(container);
}

/* Pack, compare with packing the tensor at once, unpack, compare with the decoder; odd shapes, both schemes.
 */
static void test_pack_and_unpack(void)
{
    static const struct {
        uint64_t rows, cols;
        struct scheme scheme;
        enum dtype from, to;
    } shapes[] = {
        {1, 1, {4, 1, false}, DTYPE_F32, DTYPE_F32}, {11, 40, {5, 40, true}, DTYPE_F16, DTYPE_F32},
        {3000, 128, {3, 32, true}, DTYPE_BF16, DTYPE_BF16}, /* several chunks, the last one not whole tiles */
        {1003, 1024, {4, 128, false}, DTYPE_F64, DTYPE_F16},
        {9, 70000, {2, 16, true}, DTYPE_F32, DTYPE_F64}, /* rows longer than a chunk */
    };
    const char *path = testing_path("matrix.safetensors");

    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        uint64_t rows = shapes[i].rows, cols = shapes[i].cols, count = rows * cols;
        struct source source = {"a", shapes[i].from, rows, cols, random_data(shapes[i].from, count, i)};
        float *floats = calloc(count, sizeof *floats);
        uint8_t *expected = calloc(count, 8), *whole, *scratch = calloc(8 + count, 8);
        struct tiles_layout layout;
        write_source(path, &source, 1);
        struct container *container = open_good(path), *packed, *unpacked;
        struct transfer_item item = pack_item(container_tensor(container, 0), shapes[i].scheme);

        packed = transfer_good(container, &item, 1, 2);
        const struct tensor *tensor = container_tensor(packed, 0);
        REQUIRE(tiles_layout(&layout, rows, cols, shapes[i].scheme, NULL) == OK, NULL);
        dtype_info(shapes[i].from)->decode(floats, source.data, count);
        whole = calloc(1, layout.bytes);
        encode(&item.target, NULL, whole, (uint16_t *)(void *)(whole + layout.scales_offset),
            layout.asymmetric ? whole + layout.zeros_offset : NULL, floats, 0, rows, scratch, NULL);
        REQUIRE(tensor->bytes == layout.bytes, NULL);
        CU_ASSERT(memcmp(tensor->data, whole, layout.bytes) == 0);

        item = cast_item(tensor, shapes[i].to);
        unpacked = transfer_good(packed, &item, 1, 2);
        tiles_decode(&layout, floats, cols, tensor->data, 0, rows);
        dtype_info(shapes[i].to)->encode(expected, floats, count);
        CU_ASSERT(
            memcmp(container_tensor(unpacked, 0)->data, expected, container_tensor(unpacked, 0)->bytes) == 0);
        container_close(unpacked);
        container_close(packed);
        container_close(container);
        free((void *)(uintptr_t)source.data);
        free(floats);
        free(expected);
        free(whole);
        free(scratch);
    }
}

/* The file is the same for every number of workers. */
static void test_workers(void)
{
    static const unsigned workers[] = {1, 2, 3, 7};
    const char *path = testing_path("many.safetensors"), *out = testing_path("workers.nbl");
    struct source sources[40];
    struct transfer_item items[40];
    char names[40][8], *first = NULL;
    struct container *container;
    uint64_t first_count = 0;

    for (uint64_t i = 0; i < 40; i++) {
        uint64_t rows = i == 0 ? 2000 : 1 + i % 9;
        snprintf(names[i], sizeof names[i], "t%" PRIu64, i);
        sources[i] = (struct source){names[i], DTYPE_F16, rows, 256, random_data(DTYPE_F16, rows * 256, i)};
    }
    write_source(path, sources, 40);
    container = open_good(path);
    for (uint64_t i = 0; i < 40; i++) {
        const struct tensor *tensor = container_tensor(container, i);
        items[i] = i % 3 == 0   ? pack_item(tensor, (struct scheme){4, 32, i % 2})
                   : i % 3 == 1 ? cast_item(tensor, DTYPE_BF16)
                                : copy_item(tensor);
    }
    for (size_t i = 0; i < sizeof workers / sizeof *workers; i++) {
        struct error err = {0};
        uint64_t count;
        CHECK(transfer(container, out, items, 39, workers[i], &err) == OK, &err);
        char *bytes = testing_read(out, &count);
        if (!first) {
            first = bytes;
            first_count = count;
            continue;
        }
        CU_ASSERT(count == first_count && memcmp(bytes, first, count) == 0);
        memory_free(bytes);
    }
    memory_free(first);
    container_close(container);
    for (int i = 0; i < 40; i++)
        free((void *)(uintptr_t)sources[i].data);
}

static void test_impossible(void)
{
    const char *path = testing_path("some.safetensors");
    float data[64] = {0};
    struct source sources[] = {
        {"a", DTYPE_F32, 4, 16, data}, {"i", DTYPE_I32, 4, 16, data}, {"z", DTYPE_F32, 0, 16, data}};
    struct container *container, *packed;
    struct transfer_item item;

    write_source(path, sources, 3);
    container = open_good(path);
    const struct tensor *a = container_find(container, "a");
    check_refused(container, cast_item(container_find(container, "i"), DTYPE_F32), ERR_UNSUPPORTED,
        "tensor i: I32 [4, 16] cannot become F32 [4, 16]");
    check_refused(container, cast_item(a, DTYPE_I32), ERR_UNSUPPORTED,
        "tensor a: F32 [4, 16] cannot become I32 [4, 16]");
    item = copy_item(a);
    item.target.shape[0] = 5;
    check_refused(container, item, ERR_UNSUPPORTED, "F32 [4, 16] cannot become F32 [5, 16]");
    item = pack_item(a, (struct scheme){4, 16, false});
    item.encode = NULL;
    check_refused(container, item, ERR_UNSUPPORTED, "F32 [4, 16] cannot become F16 tiles [4, 16]");
    check_refused(container, pack_item(a, (struct scheme){7, 16, false}), ERR_FORMAT, "tensor a: 7 bits");
    check_refused(container, pack_item(container_find(container, "z"), (struct scheme){4, 16, false}),
        ERR_FORMAT, "tensor z");
    item = pack_item(a, (struct scheme){4, 16, false});
    packed = transfer_good(container, &item, 1, 1);
    item = pack_item(container_tensor(packed, 0), (struct scheme){3, 16, false});
    item.encode = NULL;
    check_refused(packed, item, ERR_UNSUPPORTED, "F16 tiles [4, 16] cannot become F16 tiles [4, 16]");
    item = block_item(container_tensor(packed, 0), BLOCK_Q8_0);
    check_refused(packed, item, ERR_FORMAT, "rows of 16 do not divide into Q8_0 blocks of 32");
    item = block_item(a, BLOCK_Q8_0);
    item.target.shape[0] = 2;
    item.target.shape[1] = 32;
    item.encode = NULL;
    check_refused(container, item, ERR_UNSUPPORTED, "F32 [4, 16] cannot become Q8_0 [2, 32]");
    item = block_item(container_tensor(packed, 0), BLOCK_Q8_0);
    item.target.shape[0] = 2;
    item.target.shape[1] = 32;
    check_refused(packed, item, ERR_UNSUPPORTED, "F16 tiles [4, 16] cannot become Q8_0 [2, 32]");
    item = copy_item(container_tensor(packed, 0));
    item.target.shape[0] = 2;
    item.target.shape[1] = 32;
    check_refused(packed, item, ERR_UNSUPPORTED, "F16 tiles [4, 16] cannot become F16 tiles [2, 32]");
    item = pack_item(a, (struct scheme){4, 16, false});
    CU_ASSERT_EQUAL(transfer_target_bytes(&item.target), container_tensor(packed, 0)->bytes);
    item.target.scheme.bits = 7;
    CU_ASSERT_EQUAL(transfer_target_bytes(&item.target), 0);
    container_close(packed);
    container_close(container);
}

/* The rows of a tensor as floats, in a buffer of the caller's. */
static float *decode_all(struct container *container, const struct tensor *tensor)
{
    struct transfer_item item = cast_item(tensor, DTYPE_F32);
    item.target.block = BLOCK_NONE;
    struct container *result = transfer_good(container, &item, 1, 2);
    float *out = malloc(tensor->elements * sizeof *out);

    REQUIRE(out != NULL, NULL);
    memcpy(out, container_tensor(result, 0)->data, tensor->elements * sizeof *out);
    container_close(result);
    return out;
}

/* Encoded blocks are those of the encoder, whatever the source was, and the file is the same for any number of workers. */
static void check_encoded(struct container *container, const struct tensor *source)
{
    struct transfer_item item = block_item(source, BLOCK_Q8_0);
    float *rows = decode_all(container, source);
    uint8_t *expected = malloc(source->elements / 32 * 34);

    REQUIRE(expected != NULL, NULL);
    encode_q8(&item.target, NULL, expected, NULL, NULL, rows, 0, source->shape[0], NULL, NULL);
    for (unsigned workers = 1; workers < 8; workers += 2) {
        struct container *result = transfer_good(container, &item, 1, workers);
        const struct tensor *tensor = container_tensor(result, 0);
        REQUIRE(tensor->storage == STORAGE_BLOCKS && tensor->bytes == source->elements / 32 * 34, NULL);
        CU_ASSERT(memcmp(tensor->data, expected, tensor->bytes) == 0);
        container_close(result);
    }
    free(expected);
    free(rows);
}

/* Dense, tiles and blocks into blocks; blocks into tiles. Rows fill several chunks, the last one in part. */
static void test_blocks(void)
{
    const char *path = testing_path("rows.safetensors");
    struct source source = {"a", DTYPE_BF16, 4099, 192, random_data(DTYPE_BF16, 4099 * 192, 23)};
    struct transfer_item item;
    struct container *container, *tiles, *blocks, *again;

    write_source(path, &source, 1);
    container = open_good(path);
    check_encoded(container, container_tensor(container, 0));
    item = pack_item(container_tensor(container, 0), (struct scheme){4, 32, true});
    tiles = transfer_good(container, &item, 1, 2);
    check_encoded(tiles, container_tensor(tiles, 0));
    item = block_item(container_tensor(container, 0), BLOCK_Q8_0);
    blocks = transfer_good(container, &item, 1, 2);
    float *rows = decode_all(blocks, container_tensor(blocks, 0));
    item = pack_item(container_tensor(blocks, 0), (struct scheme){8, 32, false});
    item.target.block = BLOCK_NONE;
    again = transfer_good(blocks, &item, 1, 3);
    float *values = decode_all(again, container_tensor(again, 0));
    double error = 0, power = 0;
    for (uint64_t i = 0; i < 4099 * 192; i++) {
        error += (rows[i] - values[i]) * (rows[i] - values[i]);
        power += rows[i] * rows[i];
    }
    CU_ASSERT(error > 0 && error < 1e-4 * power); /* 8 bits each time */
    free(values);
    free(rows);
    container_close(again);
    container_close(blocks);
    container_close(tiles);
    container_close(container);
    free((void *)(uintptr_t)source.data);
}

/* What a transfer makes of a tensor has these values, for any number of workers. */
static void check_values(
    struct container *container, const struct transfer_item *item, const float *expected, uint64_t count)
{
    for (unsigned workers = 1; workers < 8; workers += 3) {
        struct container *result = transfer_good(container, item, 1, workers);
        const struct tensor *tensor = container_tensor(result, 0);
        CU_ASSERT(tensor->storage == item->target.storage && tensor->mask == item->target.mask);
        float *values = decode_all(result, tensor);
        CU_ASSERT(memcmp(values, expected, count * sizeof *values) == 0);
        free(values);
        container_close(result);
    }
}

/* A sparse tensor to all that it can become. */
static void check_sparse(const char *dense, enum mask mask)
{
    const char *path = testing_path("sparse.nbl");
    struct error err = {0};
    sparse_sample_model(dense, path, mask, 50);
    struct container *container = open_good(path);
    REQUIRE(container_map(container, &err) == OK, &err);
    const struct tensor *tensor = container_tensor(container, 0);
    const uint64_t count = tensor->elements;
    float *expected = calloc(count, sizeof *expected);
    REQUIRE(expected && tensor->storage == STORAGE_SPARSE && tensor->mask == mask, NULL);
    REQUIRE(sparse_rows(tensor, expected, 0, tensor->shape[0], &err) == OK, &err);
    uint64_t zeros = 0;
    for (uint64_t i = 0; i < count; i++)
        zeros += expected[i] == 0;
    CU_ASSERT(zeros >= count / 2);
    struct transfer_item item = cast_item(tensor, DTYPE_F32);
    check_values(container, &item, expected, count);
    item = copy_item(tensor);
    check_values(container, &item, expected, count);
    if (tensor->scheme.bits) {
        item = pack_item(tensor, tensor->scheme);
        item.encode = NULL;
        check_values(container, &item, expected, count);
        item = block_item(tensor, BLOCK_Q4_0);
        item.encode = NULL;
        check_values(container, &item, expected, count);
        item.target.block = BLOCK_Q5_0;
        check_refused(container, item, ERR_UNSUPPORTED, "sparse");
    } else {
        item = cast_item(tensor, tensor->dtype);
        check_values(container, &item, expected, count);
    }
    item = block_item(tensor, BLOCK_Q8_0);
    struct container *blocks = transfer_good(container, &item, 1, 3);
    check_encoded(container, tensor);
    container_close(blocks);
    free(expected);
    container_close(container);
}

/* Sparse codes and values; rows fill several chunks and the last tile in part. */
static void test_sparse(void)
{
    const char *path = testing_path("rows.safetensors"), *packed = testing_path("packed.nbl");
    struct source source = {"a", DTYPE_BF16, 2059, 192, random_data(DTYPE_BF16, 2059 * 192, 29)};
    struct transfer_item item;
    struct container *container;
    struct error err = {0};

    write_source(path, &source, 1);
    container = open_good(path);
    item = pack_item(container_tensor(container, 0), (struct scheme){4, 32, false});
    REQUIRE(transfer(container, packed, &item, 1, 2, &err) == OK, &err);
    for (unsigned mask = MASK_BITMAP; mask <= MASK_2_4; mask++) {
        check_sparse(packed, (enum mask)mask);
        check_sparse(path, (enum mask)mask);
    }
    item = copy_item(container_tensor(container, 0));
    item.target.storage = STORAGE_SPARSE;
    item.target.mask = MASK_2_4;
    check_refused(container, item, ERR_UNSUPPORTED, "cannot become BF16 sparse");
    container_close(container);
    free((void *)(uintptr_t)source.data);
}

static struct container *transfer_headed(
    struct container *container, const struct transfer_item *item, unsigned workers)
{
    static const struct writer_kind kind = {.name = "headed",
        .add = headed_add,
        .begin = headed_begin,
        .write = headed_write,
        .checksum = headed_checksum,
        .head = headed_head};
    const char *path = testing_path("headed.nbl");
    struct headed writer = {.base.kind = &kind};
    struct pool *pool = NULL;
    struct error err = {0};
    uint32_t crc;

    REQUIRE(pool_create(&pool, workers, &err) == OK, &err);
    REQUIRE(nbl_writer_create(&writer.inner, path, true, &err) == OK, &err);
    CHECK(transfer_run(container, &writer.base, item, 1, &crc, pool, NULL, "moving", &err) == OK, &err);
    REQUIRE(writer_commit(writer.inner, &err) == OK, &err);
    pool_free(pool);
    struct container *result = open_good(path);
    REQUIRE(container_map(result, &err) == OK, &err);
    return result;
}

/* Interleaved on the way: row i of a head is that of its first half, then of its second, by turns, also in blocks. */
static void test_heads(void)
{
    enum { ROWS = HEAD * 700, COLS = 96 };
    const char *path = testing_path("heads.safetensors");
    struct source source = {"a", DTYPE_F32, ROWS, COLS, random_data(DTYPE_F32, ROWS * COLS, 29)};
    struct container *container, *tiles;

    write_source(path, &source, 1);
    container = open_good(path);
    struct transfer_item item = pack_item(container_tensor(container, 0), (struct scheme){5, 32, false});
    tiles = transfer_good(container, &item, 1, 2);
    struct container *from[] = {container, tiles};
    for (int i = 0; i < 2; i++) {
        item = block_item(container_tensor(from[i], 0), BLOCK_Q8_0);
        struct container *plain = transfer_good(from[i], &item, 1, 2);
        struct container *turned = transfer_headed(from[i], &item, 3);
        const char *in = container_tensor(plain, 0)->data, *out = container_tensor(turned, 0)->data;
        const uint64_t row = COLS / 32 * 34;
        bool right = true;
        for (uint64_t r = 0; r < ROWS; r++) {
            uint64_t at = r % HEAD, half = r - at + at % 2 * (HEAD / 2) + at / 2;
            right = right && memcmp(out + r * row, in + half * row, row) == 0;
        }
        CU_ASSERT(right);
        container_close(turned);
        container_close(plain);
    }
    container_close(tiles);
    container_close(container);
    free((void *)(uintptr_t)source.data);
}

/* What the encoder refuses is refused with the tensor's name, whatever worker met it. */
static void test_encoder_error(void)
{
    const char *path = testing_path("nan.safetensors");
    float *data = random_data(DTYPE_F32, 3000 * 128, 5);
    struct source source = {"a", DTYPE_F32, 3000, 128, data};
    struct container *container;

    data[2999 * 128 + 7] = NAN;
    data[2500 * 128 + 3] = INFINITY;
    write_source(path, &source, 1);
    container = open_good(path);
    check_refused(container, pack_item(container_tensor(container, 0), (struct scheme){4, 32, false}),
        ERR_NUMERIC, "tensor a: row 2500 column 3 is not finite");
    container_close(container);
    free(data);
}

/* A damaged .nbl source is found while it is read, whatever becomes of the tensor. */
static void test_damaged_source(void)
{
    const char *path = testing_path("fine.safetensors"), *damaged = testing_path("damaged.nbl");
    float *data = random_data(DTYPE_F32, 64 * 32, 5);
    struct source sources[] = {{"a", DTYPE_F32, 64, 32, data}, {"b", DTYPE_F32, 64, 32, data}};
    struct container *container;
    struct transfer_item items[2];
    struct error err = {0};
    uint64_t count;
    char *bytes;

    write_source(path, sources, 2);
    container = open_good(path);
    items[0] = copy_item(container_find(container, "a"));
    items[1] = pack_item(container_find(container, "b"), (struct scheme){4, 32, true});
    REQUIRE(transfer(container, damaged, items, 2, 2, &err) == OK, &err);
    container_close(container);
    bytes = testing_read(damaged, &count);
    bytes[65536 + 100] ^= 1; /* in a */
    testing_write(damaged, bytes, count);
    container = open_good(damaged);
    check_refused(
        container, copy_item(container_find(container, "a")), ERR_FORMAT, "tensor a: its bytes are damaged");
    check_refused(
        container, cast_item(container_find(container, "a"), DTYPE_F16), ERR_FORMAT, "tensor a: its bytes");
    check_refused(
        container, copy_item(container_find(container, "b")), ERR_FORMAT, "tensor a: its bytes are damaged");
    container_close(container);
    bytes[65536 + 100] ^= 1;
    bytes[65536 + 64 * 32 * 4 + 100] ^= 1; /* in the codes of b */
    testing_write(damaged, bytes, count);
    container = open_good(damaged);
    check_refused(
        container, cast_item(container_find(container, "b"), DTYPE_F32), ERR_FORMAT, "tensor b: its bytes");
    container_close(container);
    memory_free(bytes);
    free(data);
}

/* ---- two containers ---- */

/* A folder with dense a, b and c, and a .nbl file with b in tiles. */
struct pair {
    struct container *folder, *layer;
    const struct tensor *tiles;
    char layer_path[512];
    void *data[3];
};

static struct pair make_pair(void)
{
    const char *folder = testing_folder(), *path = testing_path("model.safetensors");
    struct pair pair = {0};
    struct transfer_item item;
    struct error err = {0};

    for (uint64_t i = 0; i < 3; i++)
        pair.data[i] = random_data(DTYPE_F32, 64 * 32, i + 1);
    struct source sources[] = {{"a", DTYPE_F32, 64, 32, pair.data[0]}, {"b", DTYPE_F32, 64, 32, pair.data[1]},
        {"c", DTYPE_F32, 64, 32, pair.data[2]}};
    write_source(path, sources, 3);
    pair.folder = open_good(folder);
    snprintf(pair.layer_path, sizeof pair.layer_path, "%s/layer.nbl", folder);
    item = pack_item(container_find(pair.folder, "b"), (struct scheme){4, 32, true});
    REQUIRE(transfer(pair.folder, pair.layer_path, &item, 1, 2, &err) == OK, &err);
    pair.layer = open_good(pair.layer_path);
    pair.tiles = container_find(pair.layer, "b");
    return pair;
}

static void free_pair(struct pair *pair)
{
    container_close(pair->layer);
    container_close(pair->folder);
    for (int i = 0; i < 3; i++)
        free(pair->data[i]);
}

static struct transfer_item item_from(struct container *from, struct transfer_item item)
{
    item.from = from;
    return item;
}

/* Tiles of another container between dense tensors of the main one: the same file as when all comes from one. That the
 * main container's b is read although its name is taken is checked by transfer. */
static void test_two_containers(void)
{
    const char *mixed = testing_path("mixed.nbl"), *single = testing_path("single.nbl");
    struct pair pair = make_pair();
    struct transfer_item items[3];
    struct error err = {0};

    items[0] = cast_item(container_find(pair.folder, "a"), DTYPE_F16);
    items[1] = pack_item(container_find(pair.folder, "b"), (struct scheme){4, 32, true});
    items[2] = item_from(pair.folder, copy_item(container_find(pair.folder, "c")));
    CHECK(transfer(pair.folder, single, items, 3, 2, &err) == OK, &err);
    items[1] = item_from(pair.layer, copy_item(pair.tiles));
    CHECK(transfer(pair.folder, mixed, items, 3, 2, &err) == OK, &err);
    CU_ASSERT_TRUE(testing_same_files(mixed, single));
    CHECK(transfer(pair.folder, mixed, items, 3, 1, &err) == OK, &err);
    CU_ASSERT_TRUE(testing_same_files(mixed, single));

    items[1] = item_from(pair.layer, cast_item(pair.tiles, DTYPE_F32)); /* unpacked from the other */
    items[0] = items[1];
    items[0].target.name = "d"; /* twice from the other, nothing named of the main one */
    container_close(transfer_good(pair.folder, items, 2, 2));
    free_pair(&pair);
}

/* The other container's bytes must agree with what it records, the error names its file; the main one's too. */
static void test_damage_in_second_container(void)
{
    struct pair pair = make_pair();
    struct transfer_item items[2];
    uint64_t count;
    char *bytes = testing_read(pair.layer_path, &count);

    bytes[65536 + 100] ^= 1;
    testing_write(pair.layer_path, bytes, count);
    items[0] = item_from(pair.layer, copy_item(pair.tiles));
    items[1] = item_from(pair.layer, cast_item(pair.tiles, DTYPE_F16));
    for (int i = 0; i < 2; i++)
        check_refused(pair.folder, items[i], ERR_FORMAT, "layer.nbl: tensor b: its bytes are damaged");
    check_refused(pair.layer, item_from(pair.folder, copy_item(container_find(pair.folder, "b"))), ERR_FORMAT,
        "layer.nbl: tensor b: its bytes are damaged"); /* read for its checksum alone */
    bytes[65536 + 100] ^= 1;
    testing_write(pair.layer_path, bytes, count);
    container_close(transfer_good(pair.folder, items, 1, 2));
    memory_free(bytes);
    free_pair(&pair);
}

/* Rows that do not fit in memory are refused by name; a copy goes by bytes and has no such limit. */
static void test_long_rows(void)
{
    const char *path = testing_path("long.safetensors");
    static const char header[] =
        "{\"a\":{\"dtype\":\"F16\",\"shape\":[1,8388609],\"data_offsets\":[0,16777218]}}";
    char bytes[8 + sizeof header - 1];
    struct container *container;
    struct transfer_item item;

    bytes_put((uint8_t *)bytes, sizeof header - 1, 8);
    memcpy(bytes + 8, header, sizeof header - 1);
    testing_write(path, bytes, sizeof bytes);
    REQUIRE(truncate(path, sizeof bytes + 16777218) == 0, NULL);
    container = open_good(path);
    check_refused(container, pack_item(container_tensor(container, 0), (struct scheme){4, 8388609, false}),
        ERR_MEMORY, "tensor a: rows of 8388609 columns are too long");
    item = copy_item(container_tensor(container, 0));
    container_close(transfer_good(container, &item, 1, 2));
    container_close(container);
}

/* ---- provenance ---- */

static void attach_and_commit(
    struct container *container, const char *path, const char *tool, struct error *err)
{
    static const char *const options[][2] = {{"bits", "4"}, {"method", "rtn"}};
    struct transfer_item item = copy_item(container_tensor(container, 0));
    struct writer *writer = NULL;
    struct pool *pool = NULL;
    uint32_t crc;

    REQUIRE(pool_create(&pool, 1, err) == OK, err);
    REQUIRE(nbl_writer_create(&writer, path, true, err) == OK, err);
    REQUIRE(transfer_run(container, writer, &item, 1, &crc, pool, NULL, "", err) == OK, err);
    REQUIRE(provenance_attach(writer, container, tool, options, 2, &crc, err) == OK, err);
    REQUIRE(writer_commit(writer, err) == OK, err);
    pool_free(pool);
}

static void test_provenance(void)
{
    const char *folder = testing_folder();
    char path[512], first[512], second[512], expected[1024], *text, *whole;
    struct source source = {"a", DTYPE_U8, 1, 4, "\1\2\3\4"};
    struct json_document *document = NULL;
    struct container *container;
    struct error err = {0};
    uint64_t count;

    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    snprintf(first, sizeof first, "%s/first.nbl", folder);
    snprintf(second, sizeof second, "%s/second.nbl", folder);
    write_source(path, &source, 1);
    whole = testing_read(path, &count);
    snprintf(expected, sizeof expected,
        "{\n  \"tool\": \"one\",\n  \"version\": \"" NIBBLE_VERSION "\",\n  \"options\": {\n"
        "    \"bits\": \"4\",\n    \"method\": \"rtn\"\n  },\n  \"sources\": [\n    {\n      \"file\": "
        "\"model.safetensors\",\n"
        "      \"bytes\": %" PRIu64 ",\n      \"crc32\": \"%08" PRIx32
        "\"\n    }\n  ],\n  \"history\": []\n}\n",
        count, file_crc32(0, whole, count));
    memory_free(whole);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    testing_write(path, "\xFF not even JSON", 15);

    container = open_good(folder);
    attach_and_commit(container, first, "one", &err);
    container_close(container);
    container = open_good(first);
    REQUIRE(container_document(container, "provenance.json", &text, &count, &err) == OK && text, &err);
    CU_ASSERT_STRING_EQUAL(text, expected);
    memory_free(text);
    REQUIRE(container_document(container, "tokenizer.json", &text, &count, &err) == OK && text, &err);
    CU_ASSERT(count == 15 && memcmp(text, "\xFF not even JSON", 15) == 0);
    memory_free(text);
    attach_and_commit(container, second, "two", &err);
    container_close(container);
    container = open_good(second);
    attach_and_commit(container, first, "three", &err);
    container_close(container);

    /* History is flat and newest first. */
    container = open_good(first);
    REQUIRE(container_document(container, "provenance.json", &text, &count, &err) == OK && text, &err);
    container_close(container);
    REQUIRE(json_parse(&document, "provenance", text, count, &err) == OK, &err);
    const struct json_value *root = json_root(document), *history = json_member(root, "history");
    CU_ASSERT(json_is_text(json_member(root, "tool"), "three"));
    REQUIRE(history && history->count == 2, NULL);
    CU_ASSERT(json_is_text(json_member(history->children, "tool"), "two"));
    CU_ASSERT(json_is_text(json_member(history->children->next, "tool"), "one"));
    CU_ASSERT_PTR_NULL(json_member(history->children, "history"));
    json_free(document);
    memory_free(text);
}

/* A provenance.json that is none stops the work instead of vanishing. */
static void test_bad_provenance(void)
{
    static const char *const bad[] = {"[]", "{\"history\":1}", "not JSON", "{\"a\\u0000\":1}",
        "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}"};
    const char *folder = testing_folder();
    char path[512];
    struct source source = {"a", DTYPE_U8, 1, 4, "\1\2\3\4"};
    uint32_t crc = 0;

    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    write_source(path, &source, 1);
    snprintf(path, sizeof path, "%s/provenance.json", folder);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct writer *writer = NULL;
        struct error err = {0};
        testing_write(path, bad[i], strlen(bad[i]));
        struct container *container = open_good(folder);
        REQUIRE(nbl_writer_create(&writer, testing_path("bad.nbl"), true, &err) == OK, &err);
        CHECK(provenance_attach(writer, container, "x", NULL, 0, &crc, &err) == ERR_FORMAT, &err);
        CHECK(strstr(err.text, "provenance.json") != NULL, &err);
        writer_abandon(writer);
        container_close(container);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"copy", test_copy},
        {"cast", test_cast},
        {"overflow", test_overflow},
        {"pack and unpack", test_pack_and_unpack},
        {"workers", test_workers},
        {"blocks", test_blocks},
        {"sparse tensors", test_sparse},
        {"heads", test_heads},
        {"impossible", test_impossible},
        {"encoder error", test_encoder_error},
        {"damaged source", test_damaged_source},
        {"two containers", test_two_containers},
        {"damage in the second container", test_damage_in_second_container},
        {"long rows", test_long_rows},
        {"provenance", test_provenance},
        {"bad provenance", test_bad_provenance},
    };
    struct error err = {0};

    REQUIRE(kernels_select(getenv("NIBBLE_KERNELS"), &err) == OK, &err);
    return TESTING_RUN("transfer", cases);
}
