/* verify, inspect and record: a sound file passes, every kind of damage is named, differences are measured right, and a
 * recorded evaluation changes nothing else. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/transfer.h"
#include "runtime-check/inspect/inspect.h"
#include "runtime-check/inspect/record.h"
#include "runtime-check/inspect/verify.h"
#include "tests/support/testing.h"

#define MODEL "../models/folio-4M"

static struct pool *pool;

/* Copy the shipped model into a .nbl file, matrices cast to `dtype`. */
static void write_nbl(const char *path, enum dtype dtype)
{
    struct error err = {0};
    struct container *container = NULL;
    struct writer *writer = NULL;
    REQUIRE(!container_open(&container, testing_source(MODEL), &err), &err);
    const uint64_t count = container_count(container);
    struct transfer_item *items = memory_new(count, sizeof *items, &err);
    uint32_t *crcs = memory_new(count, sizeof *crcs, &err);
    char *config = NULL;
    uint64_t bytes = 0;
    REQUIRE(items && crcs, &err);
    for (uint64_t i = 0; i < count; i++) {
        items[i].source = container_tensor(container, i);
        items[i].target = *items[i].source;
        if (items[i].target.rank == 2) items[i].target.dtype = dtype;
    }
    REQUIRE(!nbl_writer_create(&writer, path, true, &err), &err);
    REQUIRE(!transfer_run(container, writer, items, count, crcs, pool, NULL, "copy", &err), &err);
    REQUIRE(!container_document(container, "config.json", &config, &bytes, &err), &err);
    REQUIRE(!writer_document(writer, "config.json", config, bytes, &err), &err);
    REQUIRE(!writer_commit(writer, &err), &err);
    memory_free(config);
    memory_free(items);
    memory_free(crcs);
    container_close(container);
}

static char last_fault[1024];

static void keep_fault(void *context, const char *text)
{
    (void)context;
    snprintf(last_fault, sizeof last_fault, "%s", text);
}

static enum status verify(const char *path, struct verify_result *result, struct error *err)
{
    last_fault[0] = 0;
    return verify_container(result, path, pool, NULL, keep_fault, NULL, err);
}

static void sound_files(void)
{
    struct verify_result result;
    struct error err = {0};
    const char *path = testing_path("sound.nbl");
    write_nbl(path, DTYPE_BF16);
    CHECK(verify(path, &result, &err) == OK, &err);
    CU_ASSERT_EQUAL(result.faults, 0);
    CU_ASSERT(result.tensors > 10);
    CHECK(verify(testing_source(MODEL), &result, &err) == OK, &err);
}

/* One byte of one tensor's data: the checksum notices, and the tensor is named. */
static void flipped_data(void)
{
    struct verify_result result;
    struct error err = {0};
    struct container *container = NULL;
    const char *path = testing_path("flipped.nbl");
    uint64_t bytes;
    write_nbl(path, DTYPE_BF16);
    REQUIRE(!container_open(&container, path, &err), &err);
    REQUIRE(!container_map(container, &err), &err);
    const struct tensor *victim = container_tensor(container, 3);
    const struct tensor *first = container_tensor(container, 0);
    const uint64_t gap = (uint64_t)((const uint8_t *)victim->data - (const uint8_t *)first->data);
    char *content = testing_read(path, &bytes);
    content[65536 + gap + victim->bytes / 2] ^= 4; /* the data section of a small file begins at 64 KiB */
    char *name = memory_text(victim->name, strlen(victim->name), &err);
    container_close(container);
    testing_write(path, content, bytes);
    CU_ASSERT_EQUAL(verify(path, &result, &err), ERR_CHECK);
    CU_ASSERT_EQUAL(result.faults, 1);
    CU_ASSERT_PTR_NOT_NULL(strstr(last_fault, name));
    memory_free(name);
    memory_free(content);
}

/* A legal tensor without elements may claim any number of rows: nothing must count them. The bytes of one long row are
 * walked in pieces. */
static void odd_shapes(void)
{
    static const char *const headers[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1152921504606846976,0],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"F16\",\"shape\":[0,1152921504606846976],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1000001],\"data_offsets\":[0,4000004]}}",
        "{\"a\":{\"dtype\":\"I8\",\"shape\":[3,1,5],\"data_offsets\":[0,15]}}",
    };
    static const uint64_t data_bytes[] = {0, 0, 4, 4000004, 15};
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        struct verify_result result;
        struct error err = {0};
        struct container *container = NULL;
        struct verify_difference *found = NULL;
        const uint64_t length = strlen(headers[i]);
        uint8_t *file = memory_new(8 + length + data_bytes[i], 1, &err);
        const char *path = testing_path("odd-%zu.safetensors", i);
        REQUIRE(file != NULL, &err);
        memcpy(file, &length, 8);
        memcpy(file + 8, headers[i], length);
        testing_write(path, file, 8 + length + data_bytes[i]);
        CHECK(verify(path, &result, &err) == OK, &err);
        REQUIRE(!container_open(&container, path, &err), &err);
        CHECK(!verify_against(&found, container, container, pool, NULL, &err), &err);
        CU_ASSERT(found && !found[0].missing && found[0].largest == 0);
        memory_free(found);
        container_close(container);
        memory_free(file);
    }
}

static void not_finite(void)
{
    struct verify_result result;
    struct error err = {0};
    const char *header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}";
    const float values[4] = {1, 2, NAN, 4};
    uint8_t file[256] = {0};
    const uint64_t length = strlen(header);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    memcpy(file + 8 + length, values, sizeof values);
    const char *path = testing_path("nan.safetensors");
    testing_write(path, file, 8 + length + sizeof values);
    CU_ASSERT_EQUAL(verify(path, &result, &err), ERR_CHECK);
    CU_ASSERT_STRING_EQUAL(last_fault, "tensor a: element 2 is not finite");
}

static void differences(void)
{
    struct error err = {0};
    struct container *original = NULL, *same = NULL, *cast = NULL;
    struct verify_difference *found = NULL;
    write_nbl(testing_path("same.nbl"), DTYPE_BF16);
    write_nbl(testing_path("f16.nbl"), DTYPE_F16);
    REQUIRE(!container_open(&original, testing_source(MODEL), &err), &err);
    REQUIRE(!container_open(&same, testing_path("same.nbl"), &err), &err);
    REQUIRE(!container_open(&cast, testing_path("f16.nbl"), &err), &err);
    CHECK(!verify_against(&found, same, original, pool, NULL, &err), &err);
    for (uint64_t i = 0; i < container_count(same); i++) {
        CU_ASSERT(!found[i].missing && found[i].relative_rms == 0 && found[i].largest == 0);
    }
    memory_free(found);
    CHECK(!verify_against(&found, cast, original, pool, NULL, &err), &err);
    for (uint64_t i = 0; i < container_count(cast); i++)
        CU_ASSERT(found[i].relative_rms < 1e-4);
    memory_free(found);
    container_close(original);
    container_close(same);
    container_close(cast);
}

static void recorded(void)
{
    struct error err = {0};
    struct container *before = NULL, *after = NULL;
    struct verify_difference *found = NULL;
    struct verify_result result;
    const struct perplexity_result measured = {.perplexity = {12.5, 0.25}, .context = 256};
    const char *path = testing_path("recorded.nbl");
    char *text = NULL;
    uint64_t bytes = 0;
    write_nbl(testing_path("before.nbl"), DTYPE_BF16);
    write_nbl(path, DTYPE_BF16);
    for (int twice = 0; twice < 2; twice++) {
        CHECK(!record_perplexity(path, &measured, PERPLEXITY_GPTQ, "some/folder/text.txt", pool, NULL, &err),
            &err);
    }
    CHECK(verify(path, &result, &err) == OK, &err);
    REQUIRE(!container_open(&before, testing_path("before.nbl"), &err), &err);
    REQUIRE(!container_open(&after, path, &err), &err);
    CHECK(!container_document(after, "evaluation.json", &text, &bytes, &err), &err);
    CU_ASSERT(text && strstr(text, "\"perplexity\": 12.5") && strstr(text, "\"text\": \"text.txt\""));
    CHECK(!verify_against(&found, after, before, pool, NULL, &err), &err);
    for (uint64_t i = 0; i < container_count(after); i++)
        CU_ASSERT(!found[i].missing && found[i].largest == 0);
    memory_free(found);
    memory_free(text);
    container_close(before);
    container_close(after);
    CU_ASSERT_EQUAL(
        record_perplexity(testing_source(MODEL), &measured, PERPLEXITY_GPTQ, "t", pool, NULL, &err),
        ERR_USAGE);
}

static void descriptions(void)
{
    char out[200];
    struct tensor tensor = {.storage = STORAGE_TILES, .dtype = DTYPE_F16, .rank = 2, .shape = {64, 172}};
    tensor.scheme = (struct scheme){.bits = 4, .group = 172};
    CU_ASSERT_STRING_EQUAL(inspect_scheme(out, &tensor), "4 bits, whole row");
    tensor.scheme = (struct scheme){.bits = 3, .group = 32, .asymmetric = true};
    CU_ASSERT_STRING_EQUAL(inspect_scheme(out, &tensor), "3 bits, group 32, zero-points");
    CU_ASSERT_STRING_EQUAL(inspect_shape(out, &tensor), "[64, 172]");
    tensor.rank = 0;
    CU_ASSERT_STRING_EQUAL(inspect_shape(out, &tensor), "[]");
}

/* A GGUF file of one tensor, two rows of two Q8_0 blocks; the last scale as asked for. */
static void write_gguf(const char *path, uint16_t last_scale)
{
    static const uint8_t head[] = {'G', 'G', 'U', 'F', 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 'w', 2, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 8};
    enum { DATA_AT = 96, BLOCK = 34 };
    uint8_t file[DATA_AT + 4 * BLOCK] = {0};
    memcpy(file, head, sizeof head);
    for (int block = 0; block < 4; block++) {
        const uint16_t scale = block == 3 ? last_scale : 0x3C00; /* 1 */
        memcpy(file + DATA_AT + block * BLOCK, &scale, sizeof scale);
        for (int i = 0; i < 32; i++)
            file[DATA_AT + block * BLOCK + 2 + i] = (uint8_t)(i + 1);
    }
    testing_write(path, file, sizeof file);
}

static void blocks(void)
{
    struct verify_result result;
    struct error err = {0};
    const char *path = testing_path("blocks.gguf");
    write_gguf(path, 0x3C00);
    CHECK(!verify(path, &result, &err), &err);
    CU_ASSERT_EQUAL(result.tensors, 1);
    write_gguf(path, 0x7E00); /* NaN */
    CU_ASSERT_EQUAL(verify(path, &result, &err), ERR_CHECK);
    CU_ASSERT_STRING_EQUAL(last_fault, "tensor w: element 96 is not finite");
}

int main(void)
{
    static const struct test_case cases[] = {
        {"sound files pass", sound_files},
        {"a flipped data bit is named", flipped_data},
        {"odd shapes", odd_shapes},
        {"blocks of a GGUF file", blocks},
        {"a weight that is not finite is named", not_finite},
        {"differences are measured", differences},
        {"a recorded evaluation changes nothing else", recorded},
        {"descriptions", descriptions},
    };
    struct error err = {0};
    REQUIRE(!pool_create(&pool, 2, &err), &err);
    const int failed = TESTING_RUN("verify", cases);
    pool_free(pool);
    return failed;
}
