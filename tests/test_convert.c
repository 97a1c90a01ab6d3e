/* nibble-convert as a library: what is copied, what is cast, what is refused, and what is never touched. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "convert/convert.h"
#include "formats/transfer.h"
#include "tensor/grid.h"
#include "tensor/kernels/kernels.h"
#include "tensor/tiles.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define UP_PROJ "model.layers.1.mlp.up_proj.weight"

/* ---- helpers ---- */

static enum status convert_with(
    const char *input, const char *output, struct convert_options options, struct error *err)
{
    struct convert_result result;
    options.input = input;
    options.output = output;
    options.common.quiet = true;
    if (!options.type) options.type = "keep";
    enum status status = convert_run(&result, &options, err);
    convert_release(&result);
    return status;
}

static enum status convert(const char *input, const char *output, const char *type, struct error *err)
{
    return convert_with(input, output, (struct convert_options){.type = type}, err);
}

static struct container *open_mapped(const char *path)
{
    struct error err = {0};
    struct container *container = NULL;
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    REQUIRE(container_map(container, &err) == OK, &err);
    return container;
}

static bool same_tensor(const struct tensor *a, const struct tensor *b)
{
    return a && b && a->dtype == b->dtype && a->storage == b->storage && a->rank == b->rank &&
           a->bytes == b->bytes && memcmp(a->shape, b->shape, sizeof a->shape) == 0 &&
           memcmp(a->data, b->data, a->bytes) == 0;
}

/* Every tensor of one model is, bit for bit, in the other, and the other way round. */
static void check_same_tensors(const char *path_a, const char *path_b)
{
    struct container *a = open_mapped(path_a), *b = open_mapped(path_b);
    CU_ASSERT_EQUAL(container_count(a), container_count(b));
    for (uint64_t i = 0; i < container_count(a); i++) {
        const struct tensor *tensor = container_tensor(a, i);
        struct error name = {.code = ERR_CHECK};
        snprintf(name.text, sizeof name.text, "%s", tensor->name);
        CHECK(same_tensor(tensor, container_find(b, tensor->name)), &name);
    }
    container_close(a);
    container_close(b);
}

/* ---- what goes through ---- */

static void test_keep_copies_every_bit(void)
{
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    for (size_t i = 0; i < 3; i++) {
        struct error err = {0};
        const char *folder = tiny_model_folder(dtypes[i], (struct tiny_model){.dtype = dtypes[i], .seed = i});
        const char *first = testing_path("%s.nbl", dtypes[i]),
                   *second = testing_path("%s-again.nbl", dtypes[i]);
        CHECK(convert(folder, first, "keep", &err) == OK, &err);
        check_same_tensors(folder, first);
        CHECK(convert(first, second, "keep", &err) == OK, &err);
        check_same_tensors(folder, second);
    }
}

static void test_a_single_file_works_like_its_folder(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("single", (struct tiny_model){0});
    const char *from_folder = testing_path("single-a.nbl"), *from_file = testing_path("single-b.nbl");
    CHECK(convert(folder, from_folder, "keep", &err) == OK, &err);
    CHECK(convert(testing_path("single/model.safetensors"), from_file, "keep", &err) == OK, &err);
    CU_ASSERT_TRUE(testing_same_files(from_folder, from_file));
}

static void test_shards_give_the_same_tensors(void)
{
    struct error err = {0};
    const char *whole = tiny_model_folder("whole", (struct tiny_model){0});
    const char *sharded = tiny_model_folder("sharded", (struct tiny_model){.shards = 3}),
               *out = testing_path("sharded.nbl");
    CHECK(convert(sharded, out, "keep", &err) == OK, &err);
    check_same_tensors(whole, out);
}

static void test_documents_come_along(void)
{
    static const char *const names[] = {"config.json", "tokenizer.json"};
    struct error err = {0};
    struct container *container = NULL;
    const char *folder = tiny_model_folder("documents", (struct tiny_model){0}),
               *out = testing_path("documents.nbl");
    CHECK(convert(folder, out, "keep", &err) == OK, &err);
    REQUIRE(container_open(&container, out, &err) == OK, &err);
    for (size_t i = 0; i < 2; i++) {
        uint64_t expected_count, found_count = 0;
        char *expected = testing_read(testing_path("documents/%s", names[i]), &expected_count), *found = NULL;
        CHECK(container_document(container, names[i], &found, &found_count, &err) == OK, &err);
        CU_ASSERT_EQUAL(found_count, expected_count);
        CU_ASSERT_TRUE(
            found && found_count == expected_count && memcmp(found, expected, expected_count) == 0);
        memory_free(found);
        memory_free(expected);
    }
    container_close(container);
}

/* Matrices are rounded to nearest, vectors keep their type. */
static void test_cast_touches_matrices_only(void)
{
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16};
    const char *folder = tiny_model_folder("cast", (struct tiny_model){0});
    struct container *source = open_mapped(folder);
    for (size_t t = 0; t < 2; t++) {
        struct error err = {0};
        const struct dtype_info *type = dtype_info(types[t]);
        const char *out = testing_path("cast-%s.nbl", type->option);
        CHECK(convert(folder, out, type->option, &err) == OK, &err);
        struct container *target = open_mapped(out);
        for (uint64_t i = 0; i < container_count(source); i++) {
            const struct tensor *from = container_tensor(source, i), *to = container_find(target, from->name);
            REQUIRE(to != NULL, NULL);
            CU_ASSERT_EQUAL(to->dtype, from->rank == 2 ? types[t] : DTYPE_F32);
            uint8_t *expected = memory_new(to->bytes, 1, &err);
            REQUIRE(expected != NULL, &err);
            dtype_info(to->dtype)->encode(expected, from->data, from->elements);
            CU_ASSERT_EQUAL(memcmp(expected, to->data, to->bytes), 0);
            memory_free(expected);
        }
        container_close(target);
    }
    container_close(source);
}

/* A tied matrix that is stored once is stored once again, and found under both names. */
static void test_aliases_come_along(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("alias", (struct tiny_model){.tied = true, .under_head = true});
    const char *out = testing_path("alias.nbl"), *again = testing_path("alias-again.nbl");
    CHECK(convert(folder, out, "keep", &err) == OK, &err);
    CHECK(convert(out, again, "f16", &err) == OK, &err);
    struct container *container = open_mapped(again);
    const struct tensor *head = container_find(container, "lm_head.weight");
    CU_ASSERT_PTR_NOT_NULL(head);
    CU_ASSERT_PTR_EQUAL(head, container_find(container, "model.embed_tokens.weight"));
    CU_ASSERT_EQUAL(container_alias_count(container), 1);
    container_close(container);
}

/* ---- quantized input ---- */

/* An encoder for making a quantized input; `context` is unused. */
static enum status encode_tiles(const struct tensor *target, void *context, uint8_t *codes, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err)
{
    struct tiles_layout layout;
    uint64_t row, col;
    (void)context, (void)row_begin, (void)scratch;
    REQUIRE(tiles_layout(&layout, target->shape[0], target->shape[1], target->scheme, err) == OK, err);
    for (uint64_t begin = 0; begin < row_count; begin += TILE_ROWS) {
        uint8_t tile[TILE_ROWS * 128];
        uint16_t tile_scales[TILE_ROWS * 8];
        uint64_t count = row_count - begin < TILE_ROWS ? row_count - begin : TILE_ROWS,
                 number = begin / TILE_ROWS;
        REQUIRE(layout.cols <= 128 && layout.groups <= 8 && !zeros, NULL);
        REQUIRE(grid_quantize_rows(tile, tile_scales, NULL, rows + begin * layout.cols, count, layout.cols,
                    target->scheme, GRID_MINMAX, NULL, &row, &col, err) == OK,
            err);
        tiles_pack(&layout, codes + number * layout.tile_code_bytes,
            scales + number * layout.groups * TILE_ROWS, NULL, tile, tile_scales, NULL, count);
    }
    return OK;
}

/* Write the model with every matrix in tiles. */
static void write_quantized(const char *folder, const char *out, struct scheme scheme)
{
    struct error err = {0};
    struct container *container = open_mapped(folder);
    struct writer *writer = NULL;
    struct pool *pool = NULL;
    uint64_t count = container_count(container), bytes = 0;
    struct transfer_item *items = memory_new(count, sizeof *items, &err);
    uint32_t *crcs = memory_new(count, sizeof *crcs, &err);
    char *config = NULL;
    REQUIRE(items && crcs, &err);
    for (uint64_t i = 0; i < count; i++) {
        const struct tensor *source = container_tensor(container, i);
        items[i] = (struct transfer_item){.source = source, .target = *source};
        if (source->rank != 2) continue;
        items[i].encode = encode_tiles;
        items[i].target.storage = STORAGE_TILES;
        items[i].target.dtype = DTYPE_F16;
        items[i].target.scheme = scheme;
    }
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    REQUIRE(nbl_writer_create(&writer, out, false, &err) == OK, &err);
    REQUIRE(transfer_run(container, writer, items, count, crcs, pool, NULL, "", &err) == OK, &err);
    REQUIRE(container_document(container, "config.json", &config, &bytes, &err) == OK, &err);
    REQUIRE(writer_document(writer, "config.json", config, bytes, &err) == OK, &err);
    REQUIRE(writer_commit(writer, &err) == OK, &err);
    memory_free(config);
    memory_free(crcs);
    memory_free(items);
    pool_free(pool);
    container_close(container);
}

static void test_quantized_is_copied_or_decoded(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("tiles", (struct tiny_model){0}),
               *quantized = testing_path("tiles.nbl");
    const char *copied = testing_path("tiles-copied.nbl"), *decoded = testing_path("tiles-decoded.nbl");
    write_quantized(folder, quantized, (struct scheme){.bits = 5, .group = 16});
    CHECK(convert(quantized, copied, "keep", &err) == OK, &err);
    check_same_tensors(quantized, copied);

    CHECK(convert(quantized, decoded, "f32", &err) == OK, &err);
    struct container *from = open_mapped(quantized), *to = open_mapped(decoded);
    const struct tensor *tiles = container_find(from, UP_PROJ), *dense = container_find(to, UP_PROJ);
    REQUIRE(tiles && dense, NULL);
    CU_ASSERT_EQUAL(dense->storage, STORAGE_DENSE);
    CU_ASSERT_EQUAL(dense->dtype, DTYPE_F32);
    struct tiles_layout layout;
    REQUIRE(tiles_layout(&layout, tiles->shape[0], tiles->shape[1], tiles->scheme, &err) == OK, &err);
    float *expected = memory_new(tiles->elements, sizeof *expected, &err);
    REQUIRE(expected != NULL, &err);
    tiles_decode(&layout, expected, layout.cols, tiles->data, 0, layout.rows);
    CU_ASSERT_EQUAL(memcmp(expected, dense->data, dense->bytes), 0);
    memory_free(expected);
    container_close(from);
    container_close(to);
}

/* Tiles that are blocks become those blocks, with the same values to the last bit. */
static void test_tiles_become_blocks(void)
{
    static const struct {
        struct scheme scheme;
        enum block_type block;
    } exact[] = {{{4, 32, false}, BLOCK_Q4_0}, {{5, 32, false}, BLOCK_Q5_0}, {{8, 32, false}, BLOCK_Q8_0}};
    const char *folder = tiny_model_folder("blocks", (struct tiny_model){.spaces = true});
    struct error err = {0};

    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        const char *tiles = testing_path("tiles-%d.nbl", (int)i),
                   *blocks = testing_path("blocks-%d.gguf", (int)i);
        const char *a = testing_path("a-%d.nbl", (int)i), *b = testing_path("b-%d.nbl", (int)i);
        write_quantized(folder, tiles, exact[i].scheme);
        CHECK(convert(tiles, blocks, "keep", &err) == OK, &err);
        CHECK(convert(tiles, a, "f32", &err) == OK, &err);
        CHECK(convert(blocks, b, "f32", &err) == OK, &err);
        check_same_tensors(a, b);
        struct container *container = open_mapped(blocks);
        CU_ASSERT_EQUAL(container_find(container, "blk.1.ffn_up.weight")->block, exact[i].block);
        container_close(container);
    }
    write_quantized(folder, testing_path("g16.nbl"), (struct scheme){5, 16, false});
    CHECK(convert(testing_path("g16.nbl"), testing_path("g16.gguf"), "keep", &err) == ERR_UNSUPPORTED, &err);
    CHECK(strstr(err.text, "symmetric 5-bit codes in groups of 16 are no block type of GGUF") != NULL, &err);
    CHECK(strstr(err.text, "--type f16") != NULL, &err);
    CU_ASSERT_EQUAL(file_kind(testing_path("g16.gguf")), FILE_ABSENT);
    CHECK(convert(testing_path("g16.nbl"), testing_path("g16.gguf"), "f16", &err) == OK, &err);
}

/* ---- what is refused ---- */

/* Convert must fail with this code, name `part`, and leave no file. */
static void check_refused(const char *folder, const char *type, enum status code, const char *part)
{
    struct error err = {0};
    const char *out = testing_path("refused.nbl");
    CU_ASSERT_EQUAL(convert(folder, out, type, &err), code);
    CHECK(strstr(err.text, part) != NULL, &err);
    CU_ASSERT_EQUAL(file_kind(out), FILE_ABSENT);
}

static void test_every_tensor_is_accounted_for(void)
{
    check_refused(
        tiny_model_folder("missing", (struct tiny_model){.omit = UP_PROJ}), "keep", ERR_FORMAT, UP_PROJ);
    check_refused(
        tiny_model_folder("extra", (struct tiny_model){.extra = "surprise"}), "keep", ERR_FORMAT, "surprise");
    check_refused(
        tiny_model_folder("rank3", (struct tiny_model){.rank3 = UP_PROJ}), "keep", ERR_FORMAT, UP_PROJ);
}

static void test_overflow_names_tensor_and_index(void)
{
    const char *folder = tiny_model_folder(
        "overflow", (struct tiny_model){.poison = UP_PROJ, .poison_at = 77, .poison_value = 1e6f});
    struct error err = {0};
    check_refused(folder, "f16", ERR_NUMERIC, UP_PROJ);
    CHECK(convert(folder, testing_path("overflow.nbl"), "bf16", &err) == OK, &err);
}

static void test_infinities_and_nan_are_copied(void)
{
    struct error err = {0};
    const char *folder =
        tiny_model_folder("nan", (struct tiny_model){.poison = UP_PROJ, .poison_at = 7, .poison_value = NAN});
    const char *out = testing_path("nan.nbl");
    CHECK(convert(folder, out, "keep", &err) == OK, &err);
    check_same_tensors(folder, out);
}

/* ---- outputs ---- */

static void test_existing_output_is_kept(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("exists", (struct tiny_model){0}),
               *out = testing_path("exists.nbl");
    const char *broken = tiny_model_folder("exists-broken", (struct tiny_model){.omit = UP_PROJ});
    uint64_t count;
    testing_write(out, "precious", 8);
    CU_ASSERT_EQUAL(convert(folder, out, "keep", &err), ERR_USAGE);
    CHECK(strstr(err.text, "--force") != NULL, &err);
    CU_ASSERT_EQUAL(convert_with(broken, out, (struct convert_options){.force = true}, &err), ERR_FORMAT);
    char *bytes = testing_read(out, &count);
    CU_ASSERT_TRUE(count == 8 && memcmp(bytes, "precious", 8) == 0);
    memory_free(bytes);
    CHECK(convert_with(folder, out, (struct convert_options){.force = true}, &err) == OK, &err);
    check_same_tensors(folder, out);
}

/* By path, by link, and as a file of the input folder. */
static void test_output_must_not_be_the_input(void)
{
    struct error err = {0};
    const char *folder = tiny_model_folder("self", (struct tiny_model){0}), *out = testing_path("self.nbl");
    const char *weights = testing_path("self/model.safetensors");
    const char *symbolic = testing_path("self-symbolic"), *hard = testing_path("self-hard");
    struct convert_options force = {.force = true};
    CHECK(convert(folder, out, "keep", &err) == OK, &err);
    REQUIRE(symlink(out, symbolic) == 0 && link(weights, hard) == 0, NULL);
    CU_ASSERT_EQUAL(convert_with(out, out, force, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(convert_with(out, symbolic, force, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(convert_with(symbolic, out, force, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(convert_with(weights, hard, force, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(convert_with(folder, weights, force, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(convert_with(folder, hard, force, &err), ERR_USAGE);
}

static void test_threads_do_not_show(void)
{
    static const uint64_t counts[] = {2, 3, 7};
    const char *folder = tiny_model_folder("threads", (struct tiny_model){.hidden = 256, .ffn = 512});
    const char *one = testing_path("threads-1.nbl");
    struct error err = {0};
    struct convert_options options = {.type = "f16", .common.threads = 1};
    CHECK(convert_with(folder, one, options, &err) == OK, &err);
    for (size_t i = 0; i < 3; i++) {
        const char *many = testing_path("threads-%d.nbl", (int)counts[i]);
        options.common.threads = counts[i];
        CHECK(convert_with(folder, many, options, &err) == OK, &err);
        CU_ASSERT_TRUE(testing_same_files(one, many));
    }
}

/* Let every allocation fail in turn: an error each time, no file, nothing leaked (the sanitizer's part). */
static void test_every_allocation_may_fail(void)
{
    const char *folder = tiny_model_folder(
        "memory", (struct tiny_model){.layers = 1, .hidden = 32, .ffn = 32, .vocabulary = 32});
    const char *out = testing_path("memory.nbl");
    for (uint64_t nth = 1;; nth++) {
        struct error err = {0};
        memory_fail_at(nth, 0);
        enum status status =
            convert_with(folder, out, (struct convert_options){.force = true, .common.threads = 1}, &err);
        bool failed = memory_failures() > 0;
        memory_fail_at(0, 0);
        if (!failed) {
            CHECK(status == OK, &err);
            break;
        }
        CHECK(status == ERR_MEMORY || status == OK, &err);
        CU_ASSERT_TRUE(status == OK || file_kind(out) == FILE_ABSENT);
        unlink(out);
    }
}

int main(void)
{
    struct error err = {0};
    static const struct test_case cases[] = {
        {"keep copies every bit", test_keep_copies_every_bit},
        {"a single file works like its folder", test_a_single_file_works_like_its_folder},
        {"shards give the same tensors", test_shards_give_the_same_tensors},
        {"documents come along", test_documents_come_along},
        {"a cast touches matrices only", test_cast_touches_matrices_only},
        {"aliases come along", test_aliases_come_along},
        {"quantized is copied or decoded", test_quantized_is_copied_or_decoded},
        {"tiles that are blocks of GGUF", test_tiles_become_blocks},
        {"every tensor is accounted for", test_every_tensor_is_accounted_for},
        {"overflow names tensor and index", test_overflow_names_tensor_and_index},
        {"infinities and NaN are copied", test_infinities_and_nan_are_copied},
        {"an existing output is kept", test_existing_output_is_kept},
        {"the output must not be the input", test_output_must_not_be_the_input},
        {"threads do not show", test_threads_do_not_show},
        {"every allocation may fail", test_every_allocation_may_fail},
    };
    REQUIRE(kernels_select(getenv("NIBBLE_KERNELS"), &err) == OK, &err);
    return TESTING_RUN("convert", cases);
}
