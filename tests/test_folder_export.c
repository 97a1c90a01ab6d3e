/* Folders of architectures that keep several matrices in one, or stored column by column: the very tensors that they were read from, whatever
 * lay between, and what cannot be one matrix refused. */
#include "model/folder_export.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "convert/convert.h"
#include "quantize/quantize.h"
#include "tests/support/testing.h"

static const char *golden(const char *name)
{
    char relative[256];

    snprintf(relative, sizeof relative, "golden/logits/%s", name);
    return testing_source(relative);
}

static enum status convert_with(
    const char *input, const char *output, struct convert_options options, struct error *err)
{
    struct convert_result result;
    enum status status;

    options.input = input;
    options.output = output;
    options.type = "keep";
    options.common.quiet = true;
    if (!options.common.threads) options.common.threads = 2;
    status = convert_run(&result, &options, err);
    convert_release(&result);
    return status;
}

static void convert(const char *input, const char *output, const char *format)
{
    struct error err = {0};

    CHECK(convert_with(input, output, (struct convert_options){.format = format}, &err) == OK, &err);
}

/* Two folders as they are stored, before anybody takes matrices apart. A name may lack `prefix` in the first. */
static void check_same_stored(const char *path_a, const char *path_b, const char *prefix)
{
    struct container *a = NULL, *b = NULL;
    struct error err = {0};

    REQUIRE(container_open(&a, path_a, &err) == OK && container_map(a, &err) == OK, &err);
    REQUIRE(container_open(&b, path_b, &err) == OK && container_map(b, &err) == OK, &err);
    CU_ASSERT_EQUAL(container_count(a), container_count(b));
    for (uint64_t i = 0; i < container_count(a); i++) {
        const struct tensor *one = container_tensor(a, i);
        char name[128];
        snprintf(name, sizeof name, "%s%s", prefix, one->name);
        const struct tensor *other = container_find(b, name);
        CU_ASSERT_TRUE_FATAL(other != NULL);
        CU_ASSERT_TRUE(one->rank == other->rank && one->dtype == other->dtype &&
                       memcmp(one->shape, other->shape, sizeof one->shape) == 0 &&
                       memcmp(one->data, other->data, one->bytes) == 0);
    }
    container_close(a);
    container_close(b);
}

/* A copy, one through .nbl, where matrices lie apart, in shards with seven threads, and one through GGUF. */
static void same_tensors(void)
{
    static const struct {
        const char *name, *prefix;
        bool gguf;
    } models[] = {{"phi3", "", true}, {"phi3-short", "", true}, {"neox", "", true},
        {"neox-serial", "", false}, {"gpt2", "", true}, {"gpt2-bare", "transformer.", false}};

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *name = models[i].name, *apart = testing_path("%s.nbl", name);
        const char *copy = testing_path("%s-copy", name), *again = testing_path("%s-again", name);
        struct error err = {0};
        convert(golden(name), copy, "safetensors");
        check_same_stored(golden(name), copy, models[i].prefix);
        convert(golden(name), apart, NULL);
        CHECK(convert_with(apart, again,
                  (struct convert_options){
                      .format = "safetensors", .split_size = 8000, .common = {.threads = 7}},
                  &err) == OK,
            &err);
        check_same_stored(copy, again, "");
        if (!models[i].gguf) continue;
        convert(golden(name), testing_path("%s.gguf", name), NULL);
        convert(testing_path("%s.gguf", name), testing_path("%s-from", name), "safetensors");
        check_same_stored(copy, testing_path("%s-from", name), "");
    }
}

static enum status quantize(
    const char *input, const char *output, const char *format, bool asymmetric, struct error *err)
{
    struct quantize_options options = settings_defaults();
    struct quantize_result result;

    options.input = input;
    options.output = output;
    options.format = format;
    options.group = "32";
    options.asymmetric = asymmetric;
    options.force = true;
    options.common.quiet = true;
    options.common.threads = 3;
    const enum status status = quantize_run(&result, &options, err);
    quantize_release(&result);
    return status;
}

/* The same codes, scales and zero-points, and every range of a matrix as the whole. */
static void check_same_matrices(const char *path_a, const char *path_b)
{
    struct checkpoint a, b;
    struct error err = {0};
    uint64_t random = 1;
    static uint8_t part[4096];

    REQUIRE(checkpoint_open(&a, path_a, &err) == OK && container_map(a.container, &err) == OK, &err);
    REQUIRE(checkpoint_open(&b, path_b, &err) == OK && container_map(b.container, &err) == OK, &err);
    CU_ASSERT_EQUAL(container_count(a.container), container_count(b.container));
    for (uint64_t i = 0; i < container_count(a.container); i++) {
        const struct tensor *one = container_tensor(a.container, i);
        const struct tensor *other = container_find(b.container, one->name);
        CU_ASSERT_TRUE_FATAL(other != NULL);
        CU_ASSERT_TRUE(one->storage == other->storage && one->bytes == other->bytes &&
                       memcmp(one->data, other->data, one->bytes) == 0);
        for (int k = 0; k < 10; k++) {
            const uint64_t at = testing_random(&random) % other->bytes, left = other->bytes - at;
            const uint64_t bytes = testing_random(&random) % (left < sizeof part ? left + 1 : sizeof part);
            REQUIRE(container_read(b.container, other, at, part, bytes, &err) == OK, &err);
            CU_ASSERT_TRUE(memcmp(part, (const uint8_t *)other->data + at, bytes) == 0);
        }
    }
    checkpoint_close(&a);
    checkpoint_close(&b);
}

/* Quantized matrices are joined, too, and taken apart again: what an .nbl file holds. */
static void packed(void)
{
    static const char *const models[] = {"phi3", "neox"};
    static const char *const formats[] = {"gptq", "gptq-v2", "awq", "compressed-tensors", "mlx"};
    struct error err = {0};

    for (size_t i = 0; i < 2 * sizeof models / sizeof *models; i++) {
        const char *name = models[i / 2], *nbl = testing_path("packed.nbl");
        CHECK(quantize(golden(name), nbl, NULL, i % 2, &err) == OK, &err);
        for (size_t k = 0; k < sizeof formats / sizeof *formats; k++) {
            const char *folder = testing_path("%s-%s-%d", name, formats[k], (int)(i % 2));
            CHECK(quantize(golden(name), folder, formats[k], i % 2, &err) == OK, &err);
            if (i % 2 && k + 1 == sizeof formats / sizeof *formats) continue; /* mlx: zero-points as biases */
            check_same_matrices(nbl, folder);
        }
    }
}

/* GPT-2's matrices are of columns, which no packed format is. */
static void refusals(void)
{
    struct quantize_options options = settings_defaults();
    struct quantize_result result;
    struct error err = {0};

    options.input = golden("gpt2");
    options.output = testing_path("gpt2-gptq");
    options.format = "gptq";
    options.group = "row";
    options.common.quiet = true;
    options.common.threads = 1;
    CHECK(quantize_run(&result, &options, &err) == ERR_UNSUPPORTED, &err);
    CHECK(strstr(err.text, "GPT2LMHeadModel stores its matrices column by column") != NULL, &err);
    CU_ASSERT_EQUAL(file_kind(options.output), FILE_ABSENT);
    quantize_release(&result);
    const char *wider[] = {"k_proj=bits:8"};
    options.input = golden("phi3");
    options.output = testing_path("phi3-mixed");
    options.override = (struct option_list){.values = wider, .count = 1};
    CHECK(quantize_run(&result, &options, &err) == ERR_USAGE, &err);
    CHECK(strstr(err.text, "would have another type than") != NULL, &err);
    quantize_release(&result);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"the same tensors", same_tensors},
        {"packed", packed},
        {"refusals", refusals},
    };

    return TESTING_RUN("folder_export", cases);
}
