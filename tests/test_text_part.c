/* Models of text and images: the text part is the model of text that it was made of, what belongs to images is dropped by name, everything
 * else refused. */
#include "model/text_part.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "model/checkpoint.h"
#include "tests/support/testing.h"

#define GOLDEN "golden/logits/gemma3-short"

/* A folder with this config.json; weights NULL: none. Returns its path. */
static const char *folder_of(const char *name, const char *config, const void *weights, uint64_t bytes)
{
    const char *folder = testing_path("%s", name);

    REQUIRE(mkdir(folder, 0777) == 0, NULL);
    testing_write(testing_path("%s/config.json", name), config, strlen(config));
    if (weights) testing_write(testing_path("%s/model.safetensors", name), weights, bytes);
    return folder;
}

/* The golden weights with `prefix` before every name that begins with "model.", and one tensor more. Owner: the caller. */
static char *renamed_weights(const char *prefix, const char *extra, uint64_t *bytes)
{
    uint64_t count, header, used = 8;
    char *file = testing_read(testing_source(GOLDEN "/model.safetensors"), &count);

    memcpy(&header, file, 8);
    char *out = memory_new(count + header * strlen(prefix) + 256, 1, NULL), *at = file + 8;
    REQUIRE(out != NULL, NULL);
    out[used++] = *at++; /* the brace */
    used += (uint64_t)sprintf(out + used,
        "\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]},", extra,
        count - 8 - header, count - 4 - header);
    while (at < file + 8 + header) {
        if (strncmp(at, "\"model.", 7) == 0) {
            used += (uint64_t)sprintf(out + used, "\"%s", prefix);
            at += 7;
        } else {
            out[used++] = *at++;
        }
    }
    while (used % 8)
        out[used++] = ' ';
    const uint64_t new_header = used - 8;
    memcpy(out, &new_header, 8);
    memcpy(out + used, at, count - 8 - header);
    *bytes = used + count - 8 - header + 4;
    memory_free(file);
    return out;
}

/* The golden configuration as text_config, with something beside it. Owner: the caller. */
static char *nested_config(const char *beside)
{
    uint64_t count;
    char *config = testing_read(testing_source(GOLDEN "/config.json"), &count);
    char *out = memory_new(count + strlen(beside) + 256, 1, NULL);

    REQUIRE(out != NULL, NULL);
    sprintf(out,
        "{\"architectures\": [\"Gemma3ForConditionalGeneration\"], \"model_type\": \"gemma3\", %s"
        "\"vision_config\": {}, \"text_config\": %.*s}",
        beside, (int)count, config);
    memory_free(config);
    return out;
}

static const char *make(const char *name, const char *prefix, const char *extra, const char *beside)
{
    uint64_t bytes;
    char *weights = renamed_weights(prefix, extra, &bytes), *config = nested_config(beside);
    const char *folder = folder_of(name, config, weights, bytes);

    memory_free(config);
    memory_free(weights);
    return folder;
}

static void check_same(const char *folder)
{
    struct checkpoint golden, part;
    struct error err = {0};

    REQUIRE(checkpoint_open(&golden, testing_source(GOLDEN), &err) == OK, &err);
    REQUIRE(checkpoint_open(&part, folder, &err) == OK, &err);
    REQUIRE(container_map(golden.container, &err) == OK && container_map(part.container, &err) == OK, &err);
    CU_ASSERT_TRUE(memcmp(&golden.config, &part.config, sizeof golden.config) == 0);
    CU_ASSERT_EQUAL(container_count(part.container), container_count(golden.container) + 1);
    CU_ASSERT_EQUAL(part.dropped_count, golden.dropped_count + 1);
    for (uint64_t i = 0; i < container_count(golden.container); i++) {
        const struct tensor *one = container_tensor(golden.container, i);
        const struct tensor *other = container_find(part.container, one->name);
        CU_ASSERT_TRUE(
            other && other->bytes == one->bytes && memcmp(other->data, one->data, one->bytes) == 0);
    }
    checkpoint_close(&golden);
    checkpoint_close(&part);
}

/* Names as published, and as transformers has them in memory. */
static void text_parts(void)
{
    struct checkpoint part;
    struct error err = {0};

    check_same(make("published", "language_model.model.", "vision_tower.vision_model.x", ""));
    check_same(make("newer", "model.language_model.", "model.multi_modal_projector.x", ""));
    REQUIRE(checkpoint_open(&part,
                make("stops", "language_model.model.", "vision_tower.x", "\"eos_token_id\": [2, 5, 7], "),
                &err) == OK,
        &err);
    CU_ASSERT_TRUE(part.config.stop_count == 3 && part.config.stops[2] == 7); /* the whole knows better */
    checkpoint_close(&part);
}

static void check_refused(const char *folder, const char *says)
{
    struct checkpoint checkpoint;
    struct error err = {0};

    CHECK(checkpoint_open(&checkpoint, folder, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, says) != NULL, &err);
    checkpoint_close(&checkpoint);
}

static void refusals(void)
{
    uint64_t bytes;
    char *weights = renamed_weights("language_model.model.", "vision_tower.x", &bytes);

    check_refused(make("audio", "language_model.model.", "audio_tower.x", ""),
        "tensor audio_tower.x is not part of this Gemma3ForCausalLM");
    check_refused(make("twice", "language_model.model.", "model.norm.weight", ""), "duplicate tensor");
    check_refused(
        folder_of("none", "{\"architectures\": [\"Gemma3ForConditionalGeneration\"]}", weights, bytes),
        "Gemma3ForConditionalGeneration without text_config");
    memory_free(weights);
}

/* What published configurations leave to the class. */
static void defaults(void)
{
    uint64_t bytes;
    char *weights = renamed_weights("language_model.model.", "vision_tower.x", &bytes);
    const char *folder = folder_of("bare",
        "{\"architectures\": [\"Gemma3ForConditionalGeneration\"], \"text_config\": {\"hidden_size\": 2560, "
        "\"num_hidden_layers\": 34, \"intermediate_size\": 10240, \"model_type\": \"gemma3_text\", "
        "\"sliding_window\": 1024, \"rope_scaling\": {\"factor\": 8.0, \"rope_type\": \"linear\"}}}",
        weights, bytes);
    struct container *container = NULL;
    struct model_config config;
    struct error err = {0};
    bool found;

    REQUIRE(container_open(&container, folder, &err) == OK, &err);
    CHECK(text_part_see(container, &err) == OK, &err);
    CHECK(checkpoint_read_config(&config, &found, container, &err) == OK && found, &err);
    CU_ASSERT_TRUE(config.hidden == 2560 && config.layers == 34 && config.ffn == 10240);
    CU_ASSERT_TRUE(config.vocabulary == 262208 && config.heads == 8 && config.kv_heads == 4);
    CU_ASSERT_TRUE(config.head_size == 256 && config.context == 131072 && config.norm_epsilon == 1e-6);
    CU_ASSERT_TRUE(config.window == 1024 && config.rope.factor == 8 && config.rope.theta == 1e6);
    CU_ASSERT_TRUE(config_slides(&config, 0) && !config_slides(&config, 5));
    container_close(container);
    memory_free(weights);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"text parts", text_parts},
        {"refusals", refusals},
        {"defaults", defaults},
    };

    return TESTING_RUN("text_part", cases);
}
