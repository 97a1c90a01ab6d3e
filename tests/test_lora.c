/* Adapters merged while converting, against PEFT (tests/golden/lora, made by scripts/make-golden-lora.py), and what is refused. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "convert/convert.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

/* ---- helpers ---- */

static enum status convert(const char *input, const char *output, const char *const *adapters, uint64_t count,
    unsigned threads, struct error *err)
{
    struct convert_result result;
    struct convert_options options = convert_defaults();
    options.input = input;
    options.output = output;
    options.force = true;
    options.common.quiet = true;
    options.common.threads = threads;
    options.lora = (struct option_list){.values = (const char **)adapters, .count = count};
    enum status status = convert_run(&result, &options, err);
    convert_release(&result);
    return status;
}

static struct container *open_mapped(const char *path)
{
    struct error err = {0};
    struct container *container = NULL;
    REQUIRE(container_open(&container, path, &err) == OK, &err);
    REQUIRE(container_map(container, &err) == OK, &err);
    return container;
}

static const char *llama(void)
{
    return testing_source("golden/logits/llama");
}

static const char *adapter_file(const char *name, const char *file)
{
    char relative[128];
    snprintf(relative, sizeof relative, "golden/lora/%s%s%s", name, *file ? "/" : "", file);
    return testing_source(relative);
}

/* The largest |a - b| of two tensors, relative to 1; infinite if they are not alike. */
static double difference(const struct tensor *a, const struct tensor *b)
{
    double most = 0;
    if (!a || !b || a->elements != b->elements || a->dtype != DTYPE_F32 || b->dtype != DTYPE_F32)
        return INFINITY;
    for (uint64_t i = 0; i < a->elements; i++)
        most = fmax(most, fabs((double)((const float *)a->data)[i] - (double)((const float *)b->data)[i]));
    return most;
}

/* ---- what is merged ---- */

/* Every tensor of the output is PEFT's where PEFT changed it, else the model's own. */
static void check_merged(const char *output, const char *name)
{
    struct container *got = open_mapped(output), *base = open_mapped(llama()),
                     *merged = open_mapped(adapter_file(name, "merged.safetensors"));
    uint64_t changed = 0;
    for (uint64_t i = 0; i < container_count(base); i++) {
        const struct tensor *before = container_tensor(base, i);
        const struct tensor *after = container_find(got, before->name),
                            *expected = container_find(merged, before->name);
        if (expected) {
            CU_ASSERT(difference(after, expected) < 2e-7);
            CU_ASSERT(difference(after, before) > 1e-3);
            changed++;
        } else {
            CU_ASSERT(difference(after, before) == 0);
        }
    }
    CU_ASSERT_EQUAL(changed, container_count(merged));
    container_close(got);
    container_close(base);
    container_close(merged);
}

static void as_peft_merges(void)
{
    static const char *const names[] = {"plain", "stabilized", "saved"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct error err = {0};
        const char *output = testing_path("%s.nbl", names[i]), *adapter = adapter_file(names[i], "");
        CHECK(convert(llama(), output, &adapter, 1, 1, &err) == OK, &err);
        check_merged(output, names[i]);
    }
}

/* Half an adapter twice is the adapter; the same bytes for any number of threads. */
static void scales(void)
{
    struct error err = {0};
    char half[512];
    snprintf(half, sizeof half, "%s:0.5", adapter_file("plain", ""));
    const char *const halves[] = {half, half};
    const char *one = testing_path("one.nbl"), *three = testing_path("three.nbl");
    CHECK(convert(llama(), one, halves, 2, 1, &err) == OK, &err);
    CHECK(convert(llama(), three, halves, 2, 3, &err) == OK, &err);
    check_merged(one, "plain");
    CU_ASSERT_TRUE(testing_same_files(one, three));
    struct container *container = open_mapped(one);
    char *text = NULL;
    uint64_t bytes;
    REQUIRE(container_document(container, "provenance.json", &text, &bytes, &err) == OK && text, &err);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "\"lora\": \"plain scale 0.5 crc32 "));
    memory_free(text);
    container_close(container);
}

/* ---- what is refused ---- */

/* A copy of the plain adapter with `from` replaced by `to` in its configuration. */
static const char *edited_adapter(const char *name, const char *from, const char *to)
{
    uint64_t bytes, tensor_bytes;
    char *config = testing_read(adapter_file("plain", "adapter_config.json"), &bytes);
    char *tensors = testing_read(adapter_file("plain", "adapter_model.safetensors"), &tensor_bytes);
    char *at = from ? strstr(config, from) : NULL, edited[4096];
    REQUIRE(!from || at, NULL);
    snprintf(edited, sizeof edited, "%.*s%s%s", from ? (int)(at - config) : (int)bytes, config,
        from ? to : "", from ? at + strlen(from) : "");
    REQUIRE(mkdir(testing_path("%s", name), 0777) == 0, NULL);
    testing_write(testing_path("%s/adapter_config.json", name), edited, strlen(edited));
    testing_write(testing_path("%s/adapter_model.safetensors", name), tensors, tensor_bytes);
    memory_free(config);
    memory_free(tensors);
    return testing_path("%s", name);
}

static void check_refused(const char *input, const char *adapter, enum status expected, const char *says)
{
    struct error err = {0};
    const char *output = testing_path("refused.nbl");
    CHECK(convert(input, output, &adapter, 1, 1, &err) == expected, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    CU_ASSERT_EQUAL(file_kind(output), FILE_ABSENT);
}

static void refusals(void)
{
    static const struct {
        const char *name, *from, *to;
        enum status expected;
        const char *says;
    } edits[] = {
        {"dora", "\"use_dora\": false", "\"use_dora\": true", ERR_UNSUPPORTED, "use_dora is not supported"},
        {"fan", "\"fan_in_fan_out\": false", "\"fan_in_fan_out\": true", ERR_UNSUPPORTED, "fan_in_fan_out"},
        {"kind", "\"LORA\"", "\"IA3\"", ERR_UNSUPPORTED, "peft_type IA3; only LORA is merged"},
        {"alpha", "\"lora_alpha\": 6", "\"lora_alpha\": \"6\"", ERR_FORMAT, "lora_alpha"},
        {"pattern", "\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q_.*\": 3}", ERR_UNSUPPORTED, "'q_.*'"},
        {"pattern-text", "\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q_proj\": []}", ERR_FORMAT,
            "'q_proj' is no number"},
        {"tokens", "\"trainable_token_indices\": null", "\"trainable_token_indices\": [1]", ERR_UNSUPPORTED,
            "trainable_token_indices"},
        {"json", "{", "[", ERR_FORMAT, "adapter_config.json"},
    };
    char spec[512];
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++)
        check_refused(llama(), edited_adapter(edits[i].name, edits[i].from, edits[i].to), edits[i].expected,
            edits[i].says);
    snprintf(spec, sizeof spec, "%s:half", adapter_file("plain", ""));
    check_refused(llama(), spec, ERR_USAGE, "'half' is no number");
    check_refused(llama(), testing_path("nowhere"), ERR_FORMAT, "is no folder with adapter_config.json");
    /* Another model: other shapes, or no such module. */
    check_refused(tiny_model_folder("other", (struct tiny_model){.hidden = 96}), adapter_file("plain", ""),
        ERR_FORMAT, "their shapes make no product of 96 x 96");
    check_refused(tiny_model_folder("shallow", (struct tiny_model){.hidden = 32, .ffn = 64, .layers = 1}),
        adapter_file("plain", ""), ERR_FORMAT, "the model has no such module");
}

static void half_an_adapter(void)
{
    static const char head[] = "{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\":{"
                               "\"dtype\":\"F32\",\"shape\":[1,1],"
                               "\"data_offsets\":[0,4]}}";
    uint8_t file[8 + sizeof head - 1 + 4] = {sizeof head - 1};
    const char *folder = edited_adapter("half", NULL, NULL);
    memcpy(file + 8, head, sizeof head - 1);
    testing_write(testing_path("half/adapter_model.safetensors"), file, sizeof file);
    check_refused(llama(), folder, ERR_FORMAT,
        "there is no base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
}

/* Every allocation of a merge may fail: an error, no file, nothing leaked (the sanitizer's part). */
static void out_of_memory(void)
{
    const char *adapter = adapter_file("plain", ""), *output = testing_path("memory.nbl");
    enum status status = ERR_MEMORY;
    uint64_t nth;

    for (nth = 1; status != OK && nth < 5000; nth++) {
        struct error err = {0};
        memory_fail_at(nth, 0);
        status = convert(llama(), output, &adapter, 1, 1, &err);
        memory_fail_at(0, 0);
        CHECK(status == OK || (status == ERR_MEMORY && file_kind(output) == FILE_ABSENT), &err);
    }
    CU_ASSERT(status == OK && nth > 100);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"as PEFT merges", as_peft_merges},
        {"scales", scales},
        {"refusals", refusals},
        {"half an adapter", half_an_adapter},
        {"out of memory", out_of_memory},
    };
    return TESTING_RUN("lora", cases);
}
