/* Slices of a model, and the model they make again. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "convert/convert.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

/* ---- helpers ---- */

static enum status convert_slices(const char *input, const char *output, const char *layers,
    const char *const *join, uint64_t count, struct error *err)
{
    struct convert_result result;
    struct convert_options options = convert_defaults();
    options.input = input;
    options.output = output;
    options.layers = layers;
    options.common.quiet = true;
    options.join = (struct option_list){.values = (const char **)join, .count = count};
    enum status status = convert_run(&result, &options, err);
    convert_release(&result);
    return status;
}

/* The slice `layers` of a model, as a file of the test's folder. */
static const char *slice_of(const char *model, const char *name, const char *layers)
{
    struct error err = {0};
    const char *path = testing_path("%s-%s.nbl", name, layers);
    CHECK(convert_slices(model, path, layers, NULL, 0, &err) == OK, &err);
    return path;
}

static bool has_tensor(const char *path, const char *name)
{
    struct error err = {0};
    struct container *container = NULL;
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    bool has = container_find(container, name) != NULL;
    container_close(container);
    return has;
}

static void check_same_tensors(const char *path_a, const char *path_b)
{
    struct error err = {0};
    struct container *a = NULL, *b = NULL;
    REQUIRE(container_open(&a, path_a, &err) == OK && container_map(a, &err) == OK, &err);
    REQUIRE(container_open(&b, path_b, &err) == OK && container_map(b, &err) == OK, &err);
    CU_ASSERT_EQUAL(container_count(a), container_count(b));
    CU_ASSERT_EQUAL(container_alias_count(a), container_alias_count(b));
    for (uint64_t i = 0; i < container_count(a); i++) {
        const struct tensor *left = container_tensor(a, i), *right = container_find(b, left->name);
        CU_ASSERT(right && left->bytes == right->bytes && memcmp(left->data, right->data, left->bytes) == 0);
    }
    container_close(a);
    container_close(b);
}

/* ---- what works ---- */

static void joined_is_the_whole(void)
{
    static const struct {
        const char *name;
        bool tied, under_head;
    } models[] = {{"untied", false, false}, {"tied", true, false}, {"under-head", true, true}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct error err = {0};
        const char *name = models[i].name;
        const char *model = tiny_model_folder(name,
            (struct tiny_model){.layers = 4, .tied = models[i].tied, .under_head = models[i].under_head});
        const char *first = slice_of(model, name, "0-1"), *second = slice_of(model, name, "2"),
                   *third = slice_of(model, name, "3");
        const char *whole = testing_path("%s-whole.nbl", name), *joined = testing_path("%s-joined.nbl", name);
        const char *const others[] = {first, third};
        CHECK(convert_slices(model, whole, NULL, NULL, 0, &err) == OK, &err);
        CHECK(convert_slices(second, joined, NULL, others, 2, &err) == OK, &err); /* in any order */
        check_same_tensors(whole, joined);
        CU_ASSERT_TRUE(has_tensor(first, "model.embed_tokens.weight"));
        CU_ASSERT_FALSE(has_tensor(second, "model.embed_tokens.weight"));
        CU_ASSERT_EQUAL(has_tensor(third, "model.embed_tokens.weight"), models[i].tied);
        CU_ASSERT_FALSE(has_tensor(first, "model.norm.weight"));
        CU_ASSERT_TRUE(has_tensor(third, "model.norm.weight"));
        CU_ASSERT_TRUE(has_tensor(second, "model.layers.2.mlp.up_proj.weight"));
        CU_ASSERT_FALSE(has_tensor(second, "model.layers.1.mlp.up_proj.weight"));
    }
}

/* A slice of a joined model: what is joined is no slice any more. */
static void a_slice_again(void)
{
    struct error err = {0};
    const char *model = tiny_model_folder("again", (struct tiny_model){.layers = 2});
    const char *first = slice_of(model, "again", "0"), *second = slice_of(model, "again", "1");
    const char *joined = testing_path("again-joined.nbl");
    CHECK(convert_slices(first, joined, NULL, &second, 1, &err) == OK, &err);
    check_same_tensors(slice_of(joined, "again-joined", "1"), second);
}

/* ---- what does not ---- */

/* Every allocation of a join may fail: an error, no file, nothing leaked (the sanitizer's part). */
static void out_of_memory(void)
{
    const char *model = tiny_model_folder("memory", (struct tiny_model){.layers = 2});
    const char *first = slice_of(model, "memory", "0"), *second = slice_of(model, "memory", "1");
    const char *joined = testing_path("memory-joined.nbl");
    enum status status = ERR_MEMORY;
    uint64_t nth;

    for (nth = 1; status != OK && nth < 5000; nth++) {
        struct error err = {0};
        memory_fail_at(nth, 0);
        status = convert_slices(first, joined, NULL, &second, 1, &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || (status == ERR_MEMORY && file_kind(joined) == FILE_ABSENT), &err);
    }
    CU_ASSERT(status == OK && nth > 100);
}

static void check_refused(
    const char *input, const char *layers, const char *join, enum status expected, const char *says)
{
    struct error err = {0};
    const char *output = testing_path("refused.nbl");
    CHECK(convert_slices(input, output, layers, &join, join != NULL, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CU_ASSERT_EQUAL(file_kind(output), FILE_ABSENT);
}

static void refusals(void)
{
    struct error err = {0};
    const char *model = tiny_model_folder("one", (struct tiny_model){.layers = 3});
    const char *other = tiny_model_folder("two", (struct tiny_model){.layers = 3, .seed = 7, .tied = true});
    const char *deeper = tiny_model_folder("deeper", (struct tiny_model){.layers = 4});
    const char *first = slice_of(model, "one", "0-1"), *whole = testing_path("one-whole.nbl");
    CHECK(convert_slices(model, whole, NULL, NULL, 0, &err) == OK, &err);

    static const char *const ranges[] = {"", "-", "1-", "-1", "a", "0-1-2", "2-1", "0-3", "4294967296", " 1"};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        check_refused(model, ranges[i], NULL, ERR_USAGE, "--layers");
    check_refused(first, NULL, NULL, ERR_UNSUPPORTED, "is a slice, layers 0 to 1 of 3");
    check_refused(
        first, NULL, slice_of(model, "one", "1-2"), ERR_FORMAT, "layer 1 is in another slice already");
    check_refused(
        first, NULL, slice_of(deeper, "deeper", "2-3"), ERR_FORMAT, "of 4 layers, the first one of 3");
    check_refused(first, NULL, slice_of(other, "two", "2"), ERR_FORMAT, "config.json differs");
    check_refused(first, NULL, whole, ERR_FORMAT, "is no slice");
    check_refused(whole, NULL, first, ERR_FORMAT, "is no slice");
    check_refused(slice_of(model, "one", "0"), NULL, slice_of(model, "one", "2"), ERR_FORMAT,
        "layer 1 of 3 is in no slice");
    /* Of another model with the same configuration: nothing tells but the tensors that both have. */
    check_refused(slice_of(tiny_model_folder("tied-a", (struct tiny_model){.tied = true}), "tied-a", "0"),
        NULL,
        slice_of(tiny_model_folder("tied-b", (struct tiny_model){.tied = true, .seed = 9}), "tied-b", "1"),
        ERR_FORMAT, "tensor model.embed_tokens.weight is another than that of");
}

/* slice.json is input like any other. */
static void documents(void)
{
    static const char *const texts[] = {"[]", "{", "{\"first\": 1, \"last\": 0, \"layers\": 3}",
        "{\"first\": 0, \"last\": 3, \"layers\": 3}", "{\"first\": -1, \"last\": 0, \"layers\": 3}", "{}",
        "{\"first\": 0, \"last\": 0, \"layers\": 99999999999}"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct error err = {0};
        struct writer *writer = NULL;
        struct container *container = NULL;
        struct slice slice;
        bool found;
        const char *path = testing_path("document-%d.nbl", (int)i);
        REQUIRE(nbl_writer_create(&writer, path, true, &err) == OK, &err);
        REQUIRE(writer_document(writer, SLICE_DOCUMENT, texts[i], strlen(texts[i]), &err) == OK, &err);
        REQUIRE(writer_commit(writer, &err) == OK, &err);
        REQUIRE(container_open(&container, path, &err) == OK, &err);
        CHECK(slice_read(&slice, &found, container, &err) == ERR_FORMAT, &err);
        CHECK(strstr(err.text, SLICE_DOCUMENT) != NULL, &err);
        container_close(container);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"joined is the whole", joined_is_the_whole},
        {"a slice again", a_slice_again},
        {"refusals", refusals},
        {"documents", documents},
        {"out of memory", out_of_memory},
    };
    return TESTING_RUN("slice", cases);
}
