/* The GGUF writer: the very bytes that an independent writer makes, every rule on what is written, parts by their size; and parts read
 * again, with every way in which they may not belong together. */
#include "formats/gguf/gguf_writer.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "formats/gguf/gguf_types.h"
#include "formats/provenance.h"
#include "tests/fuzz/corpus.h"
#include "tests/support/gguf_file.h"
#include "tests/support/testing.h"

enum { VALUES = 64 };

static float values[VALUES];

static struct tensor matrix(const char *name, uint64_t rows, uint64_t cols)
{
    return (struct tensor){.name = name, .dtype = DTYPE_F32, .rank = 2, .shape = {rows, cols}};
}

static struct writer *writer_of(
    const char *path, struct gguf_writer_options options, struct metadata_builder *metadata)
{
    struct metadata_builder none = {0};
    struct writer *writer = NULL;
    struct error err = {0};

    if (!options.file_type) options.file_type = GGUF_TYPES_FILE_ANY;
    REQUIRE(gguf_writer_create(&writer, path, &options, metadata ? metadata : &none, &err) == OK, &err);
    return writer;
}

static void add(struct writer *writer, const struct tensor *tensor)
{
    struct error err = {0};
    uint64_t index;

    REQUIRE(writer_add(writer, tensor, &index, &err) == OK, &err);
}

static void write_all(struct writer *writer, uint64_t index, uint64_t bytes)
{
    struct error err = {0};

    REQUIRE(bytes <= sizeof values, NULL);
    REQUIRE(writer_write(writer, index, 0, values, bytes, &err) == OK, &err);
}

/* ---- the same bytes as an independent writer ---- */

static void put_pairs(struct metadata_builder *metadata, struct gguf_file *file)
{
    static const struct json_text texts[] = {{"a", 1}, {"", 0}, {"bc", 2}};
    static const char *const terminated[] = {"a", "", "bc"};
    static const int32_t integers[] = {-1, 7};
    static const float floats[] = {0.5f, -3};

    metadata_builder_text(metadata, "general.architecture", "llama");
    gguf_file_string(file, "general.architecture", "llama");
    metadata_builder_u32(metadata, "llama.block_count", 0xFFFFFFFE);
    gguf_file_u32(file, "llama.block_count", 0xFFFFFFFE);
    metadata_builder_f32(metadata, "llama.epsilon", 1e-5f);
    gguf_file_f32(file, "llama.epsilon", 1e-5f);
    metadata_builder_bool(metadata, "yes", true);
    gguf_file_bool(file, "yes", true);
    metadata_builder_strings(metadata, "texts", texts, 3);
    gguf_file_strings(file, "texts", terminated, 3);
    metadata_builder_i32s(metadata, "integers", integers, 2);
    gguf_file_i32s(file, "integers", integers, 2);
    metadata_builder_f32s(metadata, "floats", floats, 2);
    gguf_file_f32s(file, "floats", floats, 2);
}

static void same_bytes(void)
{
    struct metadata_builder metadata = {0};
    struct gguf_file file = {0};
    struct error err = {0};
    const char *ours = testing_path("ours.gguf"), *theirs = testing_path("theirs.gguf");
    struct tensor vector = {.name = "vector", .dtype = DTYPE_F32, .rank = 1, .shape = {3}};
    struct tensor dense = matrix("dense", 2, 5), half = dense,
                  blocks = {.name = "blocks",
                      .storage = STORAGE_BLOCKS,
                      .block = BLOCK_Q4_0,
                      .rank = 2,
                      .shape = {1, 32}};
    struct tensor last = matrix("last", 2, 4);

    put_pairs(&metadata, &file);
    half.name = "half";
    half.dtype = DTYPE_F16;
    struct writer *writer = writer_of(ours, (struct gguf_writer_options){0}, &metadata);
    const struct tensor *const tensors[] = {&dense, &half, &blocks, &vector, &last};
    const uint64_t bytes[] = {40, 20, 18, 12, 32}, rows[] = {2, 2, 1, 0, 2}, cols[] = {5, 5, 32, 3, 4};
    const uint32_t types[] = {0, 1, 2, 0, 0};
    gguf_file_u32(&file, "general.file_type", 2); /* most weights are Q4_0 */
    gguf_file_u32(&file, "general.quantization_version", 2);
    for (size_t i = 0; i < 5; i++) {
        add(writer, tensors[i]);
        gguf_file_tensor(&file, tensors[i]->name, rows[i], cols[i], types[i], values, bytes[i]);
    }
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    for (uint64_t i = 5; i-- > 0;)
        write_all(writer, i, bytes[i]);
    CU_ASSERT_PTR_NULL(writer_file(writer, 0));
    CU_ASSERT_EQUAL(writer_head(writer, 0), 0);
    CHECK(writer_commit(writer, &err) == OK, &err);
    gguf_file_store(&file, theirs);
    gguf_file_free(&file);
    CU_ASSERT_TRUE(testing_same_files(ours, theirs));
}

/* ---- rows of one matrix ---- */

/* "b" and "c" are rows 1 to 3 and row 0 of the matrix "joined" of 4 rows; "e" does not fit into it. Everything else has 0.5 added. */
static enum status join(
    void *context, struct gguf_place *place, const struct tensor *tensor, struct error *err)
{
    const char name = *tensor->name;

    (void)context, (void)err;
    place->shift = 0.5f;
    snprintf(place->name, sizeof place->name, "%s", tensor->name);
    if (name != 'b' && name != 'c' && name != 'e') return OK;
    *place = (struct gguf_place){.name = "joined", .rows = 4, .first_row = name == 'b' ? 1 : 0};
    return OK;
}

static const struct gguf_writer_options joining = {.naming = {.name = join}};

/* The parts need not follow one another, nor come in order. */
static void joined(void)
{
    const struct tensor tensors[] = {matrix("b", 3, 5), matrix("d", 2, 3), matrix("c", 1, 5)};
    const char *path = testing_path("joined.gguf");
    struct writer *writer = writer_of(path, joining, NULL);
    struct container *container = NULL;
    struct error err = {0};

    for (size_t i = 0; i < 3; i++) {
        add(writer, &tensors[i]);
        CU_ASSERT_EQUAL(writer_shift(writer, i), i == 1 ? 0.5f : 0);
    }
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    REQUIRE(writer_write(writer, 0, 0, values + 5, 60, &err) == OK, &err);
    REQUIRE(writer_write(writer, 1, 0, values, 24, &err) == OK, &err);
    REQUIRE(writer_write(writer, 2, 0, values, 20, &err) == OK, &err);
    CU_ASSERT_EQUAL(writer_write(writer, 2, 4, values, 20, NULL), ERR_USAGE);
    REQUIRE(writer_commit(writer, &err) == OK, &err);
    REQUIRE(container_open(&container, path, &err) == OK && container_map(container, &err) == OK, &err);
    CU_ASSERT_EQUAL(container_count(container), 2);
    const struct tensor *whole = container_find(container, "joined");
    CU_ASSERT_PTR_NOT_NULL_FATAL(whole);
    CU_ASSERT_TRUE(whole->shape[0] == 4 && whole->shape[1] == 5 && memcmp(whole->data, values, 80) == 0);
    CU_ASSERT_EQUAL(memcmp(container_find(container, "d")->data, values, 24), 0);
    container_close(container);
}

static void not_joined(void)
{
    struct tensor b = matrix("b", 3, 5), other = matrix("c", 1, 5), wide = matrix("c", 1, 6);
    struct tensor more = matrix("e", 2, 5);
    struct writer *writer = writer_of(testing_path("not-joined.gguf"), joining, NULL);
    struct error err = {0};
    uint64_t index;

    other.dtype = DTYPE_F16;
    add(writer, &b);
    CHECK(writer_add(writer, &other, &index, &err) == ERR_UNSUPPORTED, &err);
    CHECK(strstr(err.text, "tensor c: is F16, but other rows of joined are F32") != NULL, &err);
    CHECK(writer_add(writer, &wide, &index, &err) == ERR_FORMAT, &err);
    CHECK(writer_add(writer, &more, &index, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "does not fit into the 4 rows of joined") != NULL, &err);
    CHECK(writer_begin(writer, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, "tensor joined: 1 of its rows are missing") != NULL, &err);
    writer_abandon(writer);
}

/* ---- metadata being put together ---- */

static void check_builder_refuses(struct metadata_builder *builder, const char *says)
{
    struct error err = {0};

    CHECK(metadata_builder_status(builder, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    metadata_builder_u32(builder, "later", 1); /* does nothing */
    metadata_builder_free(builder);
}

static void builder(void)
{
    struct metadata_builder pairs = {0};
    uint32_t value = 0;
    static char key[65540];

    metadata_builder_u32(&pairs, "one", 1);
    metadata_builder_f32(&pairs, "two", 1);
    CU_ASSERT_TRUE(metadata_builder_find_u32(&pairs, "one", &value) && value == 1);
    CU_ASSERT_FALSE(metadata_builder_find_u32(&pairs, "two", &value));
    CU_ASSERT_FALSE(metadata_builder_find_u32(&pairs, "on", &value));
    metadata_builder_bool(&pairs, "one", true);
    check_builder_refuses(&pairs, "duplicate metadata key one");
    metadata_builder_u32(&pairs, "", 1);
    check_builder_refuses(&pairs, "has 0 bytes");
    memset(key, 'k', 65536);
    metadata_builder_u32(&pairs, key, 1);
    check_builder_refuses(&pairs, "has 65536 bytes");
}

/* Every kind of pair comes over; what is there already stays. */
static void carried(void)
{
    struct metadata_builder metadata = {0}, unused = {0};
    struct gguf_file file = {0};
    struct container *first = NULL, *second = NULL;
    struct error err = {0};
    const char *from = testing_path("from.gguf"), *to = testing_path("to.gguf");

    put_pairs(&unused, &file);
    metadata_builder_free(&unused);
    gguf_file_store(&file, from);
    gguf_file_free(&file);
    REQUIRE(container_open(&first, from, &err) == OK, &err);
    const struct metadata *source = container_metadata(first);
    metadata_builder_u32(&metadata, "llama.block_count", 3);
    for (uint64_t i = 0; i < source->count; i++)
        metadata_builder_carry(&metadata, &source->items[i]);
    struct writer *writer = writer_of(to, (struct gguf_writer_options){0}, &metadata);
    REQUIRE(writer_commit(writer, &err) == OK, &err); /* no tensors, no begin: still a file */
    REQUIRE(container_open(&second, to, &err) == OK, &err);
    uint64_t count = 0;
    CHECK(metadata_get_u64(container_metadata(second), "llama.block_count", 0, 9, &count, &err) == OK, &err);
    CU_ASSERT_EQUAL(count, 3);
    for (uint64_t i = 0; i < source->count; i++) {
        const struct metadata_item *a = &source->items[i],
                                   *b = metadata_find(container_metadata(second), a->key);
        CU_ASSERT_PTR_NOT_NULL_FATAL(b);
        CU_ASSERT_TRUE(a->type == b->type && a->count == b->count && a->element == b->element);
    }
    const struct metadata_item *texts = metadata_find(container_metadata(second), "texts");
    CU_ASSERT_TRUE(memcmp(texts->bytes, metadata_find(source, "texts")->bytes, 8 + 1 + 8 + 8 + 2) == 0);
    container_close(second);
    container_close(first);
}

/* ---- file types ---- */

static void file_types(void)
{
    uint32_t type = 99;

    CU_ASSERT_TRUE(gguf_types_file(&type, 12, GGUF_TYPES_FILE_ANY) && type == 15);
    CU_ASSERT_TRUE(gguf_types_file(&type, 12, 14) && type == 14);
    CU_ASSERT_TRUE(gguf_types_file(&type, 12, 2) && type == 15);
    CU_ASSERT_TRUE(gguf_types_file(&type, 0, GGUF_TYPES_FILE_ANY) && type == 0);
    CU_ASSERT_TRUE(gguf_types_file(&type, 30, GGUF_TYPES_FILE_ANY) && type == 32);
    CU_ASSERT_FALSE(gguf_types_file(&type, 26, GGUF_TYPES_FILE_ANY));
    for (int block = BLOCK_NONE + 1; block < BLOCK_COUNT; block++)
        CU_ASSERT_TRUE(gguf_types_file(&type, block_info((enum block_type)block)->id, GGUF_TYPES_FILE_ANY));
}

/* ---- what is refused ---- */

static void check_add(
    struct writer *writer, const struct tensor *tensor, enum status expected, const char *says)
{
    struct error err = {0};
    uint64_t index;

    CHECK(writer_add(writer, tensor, &index, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
}

static void refusals(void)
{
    static char long_name[65];
    const char *path = testing_path("refused.gguf");
    struct writer *writer = writer_of(path, (struct gguf_writer_options){0}, NULL);
    struct tensor tensor = matrix("twice", 1, 32), tiles = matrix("tiles", 8, 32), odd = tensor,
                  deep = tensor;
    struct error err = {0};

    add(writer, &tensor);
    check_add(writer, &tensor, ERR_FORMAT, "twice: the name is in use already");
    memset(long_name, 'n', 64);
    tensor.name = long_name;
    check_add(writer, &tensor, ERR_FORMAT, "at most 63 bytes");
    long_name[63] = 0;
    add(writer, &tensor);
    tensor.name = "";
    check_add(writer, &tensor, ERR_FORMAT, "");
    tiles.storage = STORAGE_TILES;
    tiles.dtype = DTYPE_F16;
    tiles.scheme = (struct scheme){4, 32, false};
    check_add(
        writer, &tiles, ERR_UNSUPPORTED, "tensor tiles: quantized in tiles, it has no type in GGUF files");
    odd.name = "odd";
    odd.dtype = DTYPE_U8;
    check_add(writer, &odd, ERR_UNSUPPORTED, "tensor odd: U8 has no type in GGUF files");
    deep.name = "deep";
    deep.rank = 5;
    check_add(writer, &deep, ERR_UNSUPPORTED, "rank 5");
    deep.rank = 0;
    check_add(writer, &deep, ERR_UNSUPPORTED, "rank 0");
    CHECK(writer_alias(writer, "alias", "twice", &err) == OK, &err);
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    deep = matrix("late", 1, 1);
    check_add(writer, &deep, ERR_USAGE, "the layout is fixed already");
    CHECK(writer_write(writer, 0, 100, values, 29, &err) == ERR_USAGE, &err);
    CHECK(writer_write(writer, 0, UINT64_MAX, values, 29, &err) == ERR_USAGE, &err);
    CHECK(writer_document(writer, "config.json", "{}", 2, &err) == OK, &err);
    CHECK(writer_document(writer, PROVENANCE_DOCUMENT, "{}", 2, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, "room for 0 was reserved") != NULL, &err);
    writer_abandon(writer);
    CU_ASSERT_EQUAL(file_kind(path), FILE_ABSENT);
}

static void existing_output(void)
{
    const char *path = testing_path("there.gguf");
    struct error err = {0};

    testing_write(path, "old", 3);
    struct writer *writer = writer_of(path, (struct gguf_writer_options){0}, NULL);
    CHECK(writer_commit(writer, &err) == ERR_USAGE, &err);
    CU_ASSERT_EQUAL(file_size(path), 3);
    writer = writer_of(path, (struct gguf_writer_options){.force = true}, NULL);
    CHECK(writer_commit(writer, &err) == OK, &err);
    CU_ASSERT_TRUE(file_size(path) > 24);
}

/* ---- provenance ---- */

static void provenance(void)
{
    const char *path = testing_path("provenance.gguf");
    struct writer *writer = writer_of(path, (struct gguf_writer_options){0}, NULL);
    struct container *container = NULL;
    struct error err = {0};
    const char *text = NULL;
    uint64_t bytes = 0;

    CHECK(writer_reserve(writer, PROVENANCE_DOCUMENT, 10, &err) == OK, &err);
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    CHECK(writer_document(writer, PROVENANCE_DOCUMENT, "12345678901", 11, &err) == ERR_USAGE, &err);
    CHECK(writer_document(writer, PROVENANCE_DOCUMENT, "{\"a\":1}", 7, &err) == OK, &err);
    REQUIRE(writer_commit(writer, &err) == OK, &err);
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    CHECK(
        metadata_get_string(container_metadata(container), GGUF_WRITER_PROVENANCE, &text, &bytes, &err) == OK,
        &err);
    CU_ASSERT_TRUE(bytes == 10 && memcmp(text, "{\"a\":1}   ", 10) == 0);
    container_close(container);
}

/* ---- parts ---- */

enum { TENSORS = 5 };

/* Tensors of 128, 128, 1024, 128 and 0 bytes. */
static void write_parts(const char *path, uint64_t limit, uint64_t *parts)
{
    static const uint64_t rows[TENSORS] = {1, 1, 8, 1, 0};
    struct metadata_builder metadata = {0};
    struct error err = {0};
    char name[16];

    metadata_builder_text(&metadata, "general.architecture", "none");
    struct writer *writer =
        writer_of(path, (struct gguf_writer_options){.force = true, .split_bytes = limit}, &metadata);
    for (uint64_t i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "t%d", (int)i);
        struct tensor tensor = matrix(name, rows[i], 32);
        add(writer, &tensor);
    }
    REQUIRE(writer_begin(writer, &err) == OK, &err);
    for (uint64_t i = 0; i < TENSORS; i++) {
        for (uint64_t row = 0; row < rows[i]; row++)
            REQUIRE(writer_write(writer, i, row * 128, values, 128, &err) == OK, &err);
    }
    for (*parts = 0; writer_file(writer, *parts); ++*parts) {
        char *expected = gguf_writer_part_path(path, *parts + 1, 0, &err);
        expected[strlen(expected) - strlen("00000.gguf")] = 0;
        CU_ASSERT_TRUE(strncmp(writer_file(writer, *parts), expected, strlen(expected)) == 0);
        memory_free(expected);
    }
    CHECK(writer_commit(writer, &err) == OK, &err);
}

static void check_whole(const char *path, uint64_t parts, uint64_t limit)
{
    struct container *container = NULL;
    struct error err = {0};
    char *first = gguf_writer_part_path(path, 1, parts, &err), name[16];

    REQUIRE(container_open(&container, first, &err) == OK, &err);
    REQUIRE(container_map(container, &err) == OK, &err);
    CU_ASSERT_EQUAL(container_count(container), TENSORS);
    CU_ASSERT_EQUAL(container_file_count(container), parts);
    for (int i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "t%d", i);
        const struct tensor *tensor = container_find(container, name);
        CU_ASSERT_PTR_NOT_NULL_FATAL(tensor);
        for (uint64_t row = 0; row < tensor->shape[0]; row++)
            CU_ASSERT_TRUE(memcmp((const char *)tensor->data + row * 128, values, 128) == 0);
    }
    for (uint64_t i = 0; i < parts; i++) {
        const struct container_file file = container_file(container, i);
        const bool alone = bytes_get_u64((const uint8_t *)file.map + 8) == 1;
        CU_ASSERT_TRUE(file.bytes <= limit || alone);
    }
    container_close(container);
    memory_free(first);
}

static void parts(void)
{
    static const struct {
        uint64_t limit, parts;
    } cases[] = {{1, 5}, {400, 4}, {600, 3}, {1000000, 1}};
    uint64_t count;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = testing_path("parts-%d.gguf", (int)i);
        write_parts(path, cases[i].limit, &count);
        CU_ASSERT_EQUAL(count, cases[i].parts);
        check_whole(path, count, cases[i].limit);
        write_parts(path, cases[i].limit, &count); /* over the old ones */
        check_whole(path, count, cases[i].limit);
    }
}

/* ---- parts that do not belong together ---- */

/* How a part differs from the sound one. */
struct odd_part {
    uint32_t number, count, tensors;   /* split.*; count 0: left out */
    bool no_number, no_tensors, twice; /* twice: has the other part's tensor */
    const char *name;                  /* instead of the right ending */
    bool absent, other;                /* other: no GGUF file */
};

static void store_part(const char *stem, uint32_t place, const struct odd_part *part)
{
    struct gguf_file file = {0};
    const char *path = part->name ? testing_path("%s%s", stem, part->name)
                                  : testing_path("%s-%05d-of-00002.gguf", stem, (int)place + 1);

    if (part->absent) return;
    if (!part->no_number) gguf_file_u32(&file, "split.no", part->number);
    if (part->count) gguf_file_u32(&file, "split.count", part->count);
    if (!part->no_tensors) gguf_file_u32(&file, "split.tensors.count", part->tensors);
    gguf_file_tensor(&file, place && !part->twice ? "b" : "a", 0, 8, 0, values, 32);
    gguf_file_store(&file, path);
    gguf_file_free(&file);
    if (part->other) testing_write(path, "GGUX, and some more that is no GGUF file", 40);
}

/* Both parts in one file of the corpus: the first one's bytes in four bytes, it, the second. */
static void keep(const char *stem, const struct odd_part odd[2])
{
    uint64_t first_bytes, second_bytes = 0;
    uint8_t both[4096];

    if (odd[0].name || odd[1].absent) return;
    char *first = testing_read(testing_path("%s-00001-of-00002.gguf", stem), &first_bytes);
    char *second = testing_read(testing_path("%s-00002-of-00002.gguf", stem), &second_bytes);
    for (int i = 0; i < 4; i++)
        both[i] = (uint8_t)(first_bytes >> 8 * i);
    REQUIRE(4 + first_bytes + second_bytes <= sizeof both, NULL);
    memcpy(both + 4, first, first_bytes);
    memcpy(both + 4 + first_bytes, second, second_bytes);
    corpus_keep("gguf_parts", stem, both, 4 + first_bytes + second_bytes);
    memory_free(second);
    memory_free(first);
}

static void check_parts(
    const char *stem, const struct odd_part odd[2], enum status expected, const char *says)
{
    struct container *container = NULL;
    struct error err = {0};

    store_part(stem, 0, &odd[0]);
    store_part(stem, 1, &odd[1]);
    keep(stem, odd);
    const char *first = testing_path("%s%s", stem, odd[0].name ? odd[0].name : "-00001-of-00002.gguf");
    CHECK(container_open(&container, first, &err) == expected, &err);
    if (expected) CHECK(strstr(err.text, says) != NULL && strstr(err.text, stem) != NULL, &err);
    container_close(container);
}

static void bad_parts(void)
{
    const struct odd_part a = {.count = 2, .tensors = 2}, b = {.number = 1, .count = 2, .tensors = 2};
    const struct {
        const char *stem;
        struct odd_part parts[2];
        const char *says;
    } cases[] = {
        {"missing", {a, {.absent = true}}, "missing-00002-of-00002.gguf: this part is missing"},
        {"number", {a, {.number = 0, .count = 2}}, "number-00002-of-00002.gguf: split.no: is 0, must be 1"},
        {"no-number", {a, {.no_number = true, .count = 2}}, "split.no is missing"},
        {"count", {a, {.number = 1, .count = 3}}, "split.count: is 3, the first part says 2"},
        {"no-count", {a, {.number = 1}}, "split.count is missing"},
        {"tensors", {{.count = 2, .tensors = 3}, b}, "split.tensors.count: is 3, the parts have 2 tensors"},
        {"no-tensors", {{.count = 2, .no_tensors = true}, b}, "split.tensors.count is missing"},
        {"twice", {a, {.number = 1, .count = 2, .twice = true}}, "duplicate tensor a"},
        {"not-first", {{.number = 1, .count = 2, .tensors = 2}, b},
            "open the first, whose name ends in -00001-of-00002.gguf"},
        {"first-unnumbered", {{.no_number = true, .count = 2}, b}, "split.no is missing"},
        {"many", {{.count = 3, .tensors = 2}, b}, "its name must end in -00001-of-00003.gguf"},
        {"too-many", {{.count = 65536, .tensors = 2}, b}, "split.count: is 65536, must be 0 to 65535"},
        {"renamed", {{.count = 2, .tensors = 2, .name = ".gguf"}, b},
            "its name must end in -00001-of-00002.gguf"},
        {"other", {a, {.other = true}}, "other-00002-of-00002.gguf: is no GGUF file"},
    };
    const struct odd_part sound[] = {a, b};

    check_parts("sound", sound, OK, "");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_parts(cases[i].stem, cases[i].parts, ERR_FORMAT, cases[i].says);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"the same bytes as an independent writer", same_bytes},
        {"rows of one matrix", joined},
        {"rows that are not of one matrix", not_joined},
        {"metadata", builder},
        {"pairs of another file", carried},
        {"file types", file_types},
        {"refusals", refusals},
        {"an output that is there", existing_output},
        {"provenance", provenance},
        {"parts", parts},
        {"parts that do not belong together", bad_parts},
    };
    uint64_t random = 1;

    for (size_t i = 0; i < VALUES; i++)
        values[i] = testing_normal(&random);
    return TESTING_RUN("gguf_writer", cases);
}
