/* Packed Hugging Face checkpoints: folders that other tools packed must be seen with the very weights those tools see, whatever
 * range is read; and whatever does not fit together is refused by name. */
#include "formats/packed/packed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "formats/container.h"
#include "formats/bytes.h"
#include "model/forward.h"
#include "tensor/tiles.h"
#include "tests/support/testing.h"

static struct pool *pool;

/* ---- the golden folders ---- */

/* What is in tests/golden/packed, and how it must be seen. */
static const struct golden {
    const char *name, *layout, *why; /* why: of a matrix that is DENSE; NULL: TILES */
    struct scheme scheme;
    const char *zeros; /* --gptq-zeros that says the same as the folder; NULL: not GPTQ */
} goldens[] = {
    {"gptq-4", "gptq", NULL, {4, 16, false}, "v1"},
    {"gptq-4-asym", "gptq", NULL, {4, 16, true}, "v1"},
    {"gptq-3-old", "gptq", NULL, {3, 32, false}, "v1"},
    {"gptq-8-v2", "gptq-v2", NULL, {8, 32, true}, "v2"},
    {"gptq-2-v2-old", "gptq-v2", NULL, {2, 16, false}, "v2"},
    {"gptq-4-order", "gptq", "act-order", {0}, "v1"},
    {"awq", "awq", NULL, {4, 16, true}, NULL},
    {"compressed-4", "compressed-tensors", NULL, {4, 16, false}, NULL},
    {"compressed-8-asym", "compressed-tensors", NULL, {8, 32, true}, NULL},
    {"compressed-3-asym", "compressed-tensors", NULL, {3, 16, true}, NULL},
    {"mlx-4-6", "mlx", "biases that are no whole zero-points", {0}, NULL},
    {"mlx-3-5", "mlx", "biases that are no whole zero-points", {0}, NULL},
};
enum { GOLDENS = sizeof goldens / sizeof *goldens };

static const char *golden_path(const char *name)
{
    char relative[96];

    snprintf(relative, sizeof relative, "golden/packed/%s", name);
    return testing_source(relative);
}

static struct json_document *expected_of(const char *folder)
{
    struct json_document *document = NULL;
    struct error err;
    char path[512], *text;
    uint64_t bytes;

    snprintf(path, sizeof path, "%s/expected.json", folder);
    text = testing_read(path, &bytes);
    REQUIRE(json_parse(&document, path, text, bytes, &err) == OK, &err);
    memory_free(text);
    return document;
}

/* A tensor's weights as floats (memory_free). */
static float *weights_of(const struct tensor *tensor)
{
    float *out = memory_new(tensor->elements, sizeof *out, NULL);
    struct tiles_layout layout;

    REQUIRE(out != NULL, NULL);
    if (tensor->storage == STORAGE_TILES) {
        REQUIRE(tiles_layout(&layout, tensor->shape[0], tensor->shape[1], tensor->scheme, NULL) == OK, NULL);
        tiles_decode(&layout, out, layout.cols, tensor->data, 0, layout.rows);
    } else {
        dtype_info(tensor->dtype)->decode(out, tensor->data, tensor->elements);
    }
    return out;
}

/* Every matrix of a golden folder against the CRC-32 of the weights that others decode. */
static void check_weights(
    struct container *container, const struct golden *golden, const struct json_value *crcs)
{
    uint64_t matrices = 0;

    for (const struct json_value *crc = crcs->children; crc; crc = crc->next, matrices++) {
        const struct tensor *tensor = container_find(container, crc->key.bytes);
        const char *why = NULL, *layout;
        REQUIRE(tensor != NULL, NULL);
        layout = container_packed(container, tensor, &why);
        CU_ASSERT(layout && strcmp(layout, golden->layout) == 0);
        CU_ASSERT((why == NULL) == (golden->why == NULL) && (!why || strcmp(why, golden->why) == 0));
        CU_ASSERT(tensor->storage == (golden->why ? STORAGE_DENSE : STORAGE_TILES));
        CU_ASSERT(tensor->scheme.bits == golden->scheme.bits &&
                  tensor->scheme.asymmetric == golden->scheme.asymmetric);
        float *weights = weights_of(tensor);
        CU_ASSERT(file_crc32(0, weights, tensor->elements * sizeof *weights) == crc->u64);
        memory_free(weights);
    }
    CU_ASSERT(matrices == 7);
}

static void same_weights(void)
{
    for (int i = 0; i < GOLDENS; i++) {
        struct json_document *expected = expected_of(golden_path(goldens[i].name));
        struct container *container;
        struct error err;

        REQUIRE(container_open(&container, golden_path(goldens[i].name), &err) == OK, &err);
        REQUIRE(container_map(container, &err) == OK, &err);
        check_weights(container, &goldens[i], json_member(json_root(expected), "crc32"));
        container_close(container);
        json_free(expected);
    }
}

/* The logits of transformers' model with the weights that others decode. It computes in another order of additions. */
static void same_logits(void)
{
    for (int i = 0; i < GOLDENS; i++) {
        struct json_document *expected = expected_of(golden_path(goldens[i].name));
        const struct json_value *logit = json_member(json_root(expected), "logits");
        const struct json_value *token = json_member(json_root(expected), "tokens");
        uint32_t tokens[8], count = 0;
        struct session *session = NULL;
        struct model *model = NULL;
        float hidden[8 * 32], logits[40];
        struct error err;

        for (token = token->children; token; token = token->next)
            tokens[count++] = (uint32_t)token->u64;
        REQUIRE(model_open(&model, golden_path(goldens[i].name), pool, &err) == OK, &err);
        REQUIRE(session_create(&session, model, 1, count, &err) == OK, &err);
        REQUIRE(session_step(session, hidden, tokens, count, &err) == OK, &err);
        REQUIRE(model_logits(model, logits, hidden + (count - 1) * 32, 1, &err) == OK, &err);
        count = 0;
        for (logit = logit->children; logit; logit = logit->next, count++)
            CU_ASSERT(fabs(logits[count] - logit->number) < 2e-5);
        CU_ASSERT(count == 40);
        session_free(session);
        model_close(model);
        json_free(expected);
    }
}

/* Any range that is read holds the bytes of the map. */
static void any_range(void)
{
    uint64_t state = 5;

    for (int i = 0; i < GOLDENS; i++) {
        struct container *container;
        struct error err;

        REQUIRE(container_open(&container, golden_path(goldens[i].name), &err) == OK, &err);
        REQUIRE(container_map(container, &err) == OK, &err);
        for (int j = 0; j < 300; j++) {
            const struct tensor *tensor =
                container_tensor(container, testing_random(&state) % container_count(container));
            const uint64_t offset = testing_random(&state) % (tensor->bytes + 1);
            const uint64_t count = testing_random(&state) % (tensor->bytes - offset + 1);
            uint8_t *bytes = memory_new(count, 1, NULL);
            CHECK(container_read(container, tensor, offset, bytes, count, &err) == OK, &err);
            CU_ASSERT(memcmp(bytes, (const uint8_t *)tensor->data + offset, count) == 0);
            memory_free(bytes);
        }
        container_close(container);
    }
}

/* The words of the source, not those of the matrices seen, are in the checksum of provenance. */
static void sources(void)
{
    struct json_writer json = {0};
    struct container *container;
    char *text, expected[32], *file;
    uint64_t bytes, file_bytes;
    struct error err;

    REQUIRE(container_open(&container, golden_path("awq"), &err) == OK, &err);
    uint32_t *crcs = memory_new(container_count(container), sizeof *crcs, &err);
    REQUIRE(container_map(container, &err) == OK, &err);
    for (uint64_t i = 0; i < container_count(container); i++)
        crcs[i] = file_crc32(0, container_tensor(container, i)->data, container_tensor(container, i)->bytes);
    REQUIRE(container_write_sources(container, crcs, &json, &err) == OK, &err);
    REQUIRE(json_writer_take(&json, &text, &bytes, &err) == OK, &err);
    file = testing_read(testing_source("golden/packed/awq/model.safetensors"), &file_bytes);
    snprintf(expected, sizeof expected, "\"%08x\"", file_crc32(0, file, file_bytes));
    CU_ASSERT(strstr(text, expected) != NULL);
    memory_free(file);
    memory_free(text);
    memory_free(crcs);
    container_close(container);
}

/* ---- bits ---- */

/* Three-bit codes straddle words as AutoGPTQ's tables say: 10 and 21 of 32. */
static void straddling(void)
{
    uint8_t codes[32] = {[10] = 5, [21] = 6}, back[32];
    uint32_t words[3] = {0};

    packed_put(words, 1, codes, 1, 32, 3, false);
    CU_ASSERT(words[0] == 0x40000000u && words[1] == 0x00000001u && words[2] == 3); /* 5 = 101, 6 = 110 */
    packed_get(back, 1, words, 1, 0, 32, 3, false);
    CU_ASSERT(memcmp(codes, back, sizeof codes) == 0);
}

static void there_and_back(void)
{
    static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
    uint64_t state = 7;

    for (int i = 0; i < 6; i++) {
        for (uint64_t count = 1; count < 70; count++) {
            const uint64_t step = 1 + testing_random(&state) % 3, word_step = 1 + testing_random(&state) % 3;
            uint8_t codes[70 * 3] = {0}, back[70 * 3] = {0};
            uint32_t words[70 * 3] = {0};
            for (uint64_t at = 0; at < count; at++)
                codes[at * step] = (uint8_t)(testing_random(&state) & ((1u << widths[i]) - 1));
            packed_put(words, word_step, codes, step, count, widths[i], false);
            packed_get(back, step, words, word_step, 0, count, widths[i], false);
            CU_ASSERT(memcmp(codes, back, sizeof codes) == 0);
            for (uint64_t at = packed_words(count, widths[i]) * word_step; at < 210; at++)
                CU_ASSERT(words[at] == 0);
        }
    }
}

/* AWQ's order, from its own table: nibble i holds column 0 2 4 6 1 3 5 7 [i]. */
static void awq_order(void)
{
    const uint8_t codes[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    uint32_t word = 0;

    packed_put(&word, 1, codes, 1, 8, 4, true);
    CU_ASSERT(word == 0x75316420u);
}

/* ---- refusals ---- */

/* A copy of a golden folder whose files are changed: in the configuration or the header (text for text of the same length where it
 * is the header), or in the bytes of a tensor. */
struct change {
    const char *golden;
    const char *config_from, *config_to;
    const char *header_from, *header_to;
    const char *tensor; /* its bytes from `at` become `bytes` */
    uint64_t at, count;
    uint8_t bytes[4];
    const char *zeros;  /* --gptq-zeros */
    enum status status; /* OK: opens */
    const char *text;
};

static char *replaced(char *text, uint64_t *bytes, const char *from, const char *to)
{
    char *at = strstr(text, from), *out = memory_new(*bytes + strlen(to) + 1, 1, NULL);
    const uint64_t head = (uint64_t)(at - text), rest = head + strlen(from);

    REQUIRE(at != NULL && out != NULL, NULL);
    memcpy(out, text, head);
    memcpy(out + head, to, strlen(to));
    memcpy(out + head + strlen(to), text + rest, *bytes - rest);
    *bytes += strlen(to) - strlen(from);
    memory_free(text);
    return out;
}

/* Where a tensor of a safetensors file lies. */
static uint64_t place_of(const char *file, const char *tensor)
{
    char key[96];
    const uint64_t header = bytes_get_u64((const uint8_t *)file);

    snprintf(key, sizeof key, "\"%s\":", tensor);
    const char *at = strstr(file + 8, key);
    REQUIRE(at != NULL, NULL);
    at = strstr(at, "data_offsets\":[");
    REQUIRE(at != NULL, NULL);
    return 8 + header + strtoull(at + strlen("data_offsets\":["), NULL, 10);
}

static const char *changed_folder(const struct change *change)
{
    const char *from = golden_path(change->golden), *folder = testing_folder();
    char path[600], *text;
    uint64_t bytes;

    snprintf(path, sizeof path, "%s/config.json", from);
    text = testing_read(path, &bytes);
    if (change->config_from) text = replaced(text, &bytes, change->config_from, change->config_to);
    testing_write(testing_path("config.json"), text, bytes);
    memory_free(text);
    snprintf(path, sizeof path, "%s/model.safetensors", from);
    text = testing_read(path, &bytes);
    if (change->header_from) {
        char *at = strstr(text + 8, change->header_from);
        REQUIRE(at && strlen(change->header_from) == strlen(change->header_to), NULL);
        memcpy(at, change->header_to, strlen(change->header_to));
    }
    if (change->tensor)
        memcpy(text + place_of(text, change->tensor) + change->at, change->bytes, change->count);
    testing_write(testing_path("model.safetensors"), text, bytes);
    memory_free(text);
    return folder;
}

#define L0 "model.layers.0."

static const struct change changes[] = {
    {.golden = "gptq-4", .status = OK},
    {.golden = "gptq-4",
        .config_from = "\"bits\": 4",
        .config_to = "\"bits\": 8",
        .status = ERR_FORMAT,
        .text = "do not agree"},
    {.golden = "gptq-4",
        .config_from = "\"bits\": 4",
        .config_to = "\"bits\": 5",
        .status = ERR_UNSUPPORTED,
        .text = "5 bits are not what gptq stores"},
    {.golden = "gptq-4",
        .config_from = "\"bits\": 4, ",
        .config_to = "",
        .status = ERR_FORMAT,
        .text = "bits is missing"},
    {.golden = "gptq-4",
        .config_from = "\"group_size\": 16",
        .config_to = "\"group_size\": 32",
        .status = ERR_FORMAT,
        .text = "do not agree"},
    {.golden = "gptq-4",
        .config_from = "\"group_size\": 16",
        .config_to = "\"group_size\": 0",
        .status = ERR_FORMAT,
        .text = "neither -1 nor"},
    {.golden = "gptq-4",
        .config_from = "_format\": \"gptq\"",
        .config_to = "_format\": \"marlin\"",
        .status = ERR_UNSUPPORTED,
        .text = "'marlin' is not known"},
    /* What says the version. */
    {.golden = "gptq-4",
        .config_from = "_format\": \"gptq\"",
        .config_to = "_format\": \"gptq_v2\"",
        .status = ERR_FORMAT,
        .text = "those of the other version; nibble-convert --gptq-zeros"},
    {.golden = "gptq-4",
        .config_from = "_format\": \"gptq\"",
        .config_to = "_format\": \"gptq_v2\"",
        .zeros = "v1",
        .status = OK},
    {.golden = "gptq-4-asym",
        .config_from = ", \"checkpoint_format\": \"gptq\"",
        .config_to = "",
        .status = ERR_FORMAT,
        .text = "--gptq-zeros v1"},
    {.golden = "gptq-4-asym",
        .config_from = ", \"checkpoint_format\": \"gptq\"",
        .config_to = "",
        .zeros = "v1",
        .status = OK},
    /* A stored 15 of v1. */
    {.golden = "gptq-4-asym",
        .tensor = L0 "mlp.up_proj.qzeros",
        .at = 2,
        .count = 1,
        .bytes = {0xF3},
        .status = ERR_FORMAT,
        .text = "holds the zero-point 15"},
    {.golden = "gptq-8-v2",
        .config_from = "gptq_v2",
        .config_to = "gptq",
        .tensor = L0 "mlp.up_proj.qzeros",
        .at = 2,
        .count = 1,
        .bytes = {0xFF},
        .status = ERR_FORMAT,
        .text = "holds the zero-point 255"},
    {.golden = "gptq-4",
        .tensor = L0 "mlp.up_proj.scales",
        .count = 2,
        .bytes = {0x00, 0x7C},
        .status = ERR_FORMAT,
        .text = "row 0, group 0 is not finite"},
    {.golden = "gptq-4",
        .tensor = L0 "mlp.up_proj.g_idx",
        .count = 4,
        .bytes = {2, 0, 0, 0},
        .status = ERR_FORMAT,
        .text = "column 0 is in group 2, there are 2"},
    {.golden = "gptq-4",
        .tensor = L0 "mlp.up_proj.g_idx",
        .count = 4,
        .bytes = {255, 255, 255, 255},
        .status = ERR_FORMAT,
        .text = "column 0 is in group -1"},
    {.golden = "gptq-4",
        .header_from = L0 "mlp.up_proj.scales",
        .header_to = L0 "mlp.up_proj.skales",
        .status = ERR_FORMAT,
        .text = "mlp.up_proj.scales is missing"},
    {.golden = "gptq-4",
        .header_from = L0 "mlp.up_proj.g_idx\":{\"dtype\":\"I32\"",
        .header_to = L0 "mlp.up_proj.g_idx\":{\"dtype\":\"F32\"",
        .status = ERR_FORMAT,
        .text = "must be I32"},
    {.golden = "awq",
        .config_from = "gemm",
        .config_to = "gemv",
        .status = ERR_UNSUPPORTED,
        .text = "version 'gemv' is not known"},
    {.golden = "awq",
        .config_from = "\"bits\": 4",
        .config_to = "\"bits\": 8",
        .status = ERR_UNSUPPORTED,
        .text = "8 bits are not what awq stores"},
    {.golden = "compressed-4",
        .tensor = L0 "mlp.up_proj.weight_shape",
        .count = 1,
        .bytes = {63},
        .status = ERR_FORMAT,
        .text = "says [63, 32]"},
    {.golden = "compressed-4",
        .tensor = L0 "mlp.up_proj.weight_shape",
        .at = 8,
        .count = 1,
        .bytes = {47},
        .status = ERR_FORMAT,
        .text = "do not agree"},
    {.golden = "compressed-4",
        .tensor = L0 "mlp.up_proj.weight_shape",
        .at = 15,
        .count = 1,
        .bytes = {128},
        .status = ERR_FORMAT,
        .text = "says [64, -"},
    {.golden = "compressed-4",
        .config_from = "\"input_activations\": null",
        .config_to = "\"input_activations\": {\"num_bits\": 8}",
        .status = ERR_UNSUPPORTED,
        .text = "input_activations"},
    {.golden = "compressed-4",
        .config_from = "\"symmetric\": true",
        .config_to = "\"symmetric\": false",
        .status = ERR_FORMAT,
        .text = "do not agree"},
    {.golden = "compressed-4",
        .config_from = "pack-quantized",
        .config_to = "nvfp4-pack-quantized",
        .status = ERR_UNSUPPORTED,
        .text = "format 'nvfp4-pack-quantized' is not known"},
    {.golden = "compressed-4",
        .config_from = "\"type\": \"int\"",
        .config_to = "\"type\": \"float\"",
        .status = ERR_UNSUPPORTED,
        .text = "type 'float'"},
    {.golden = "mlx-4-6",
        .config_from = "\"bits\": 4",
        .config_to = "\"mode\": \"mxfp4\", \"bits\": 4",
        .status = ERR_UNSUPPORTED,
        .text = "mode 'mxfp4'"},
    {.golden = "mlx-4-6",
        .tensor = L0 "mlp.up_proj.biases",
        .count = 2,
        .bytes = {0x00, 0x7E},
        .status = ERR_FORMAT,
        .text = "not finite"},
    /* Of no method that is read: the words stay what they are, and have no type that is known. */
    {.golden = "mlx-4-6",
        .config_from = "\"quantization\"",
        .config_to = "\"quantification\"",
        .status = ERR_UNSUPPORTED,
        .text = "type U32 is not supported"},
};

static void refusals(void)
{
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const struct change *change = &changes[i];
        const struct container_options options = {.gptq_zeros = change->zeros};
        struct container *container = NULL;
        struct error err = {0};
        const enum status status = container_open_with(&container, changed_folder(change), &options, &err);
        const bool right = status == change->status && (!change->text || strstr(err.text, change->text));

        if (!right) printf("\n  change %zu: status %d, '%s'\n", i, status, err.text);
        CU_ASSERT(right);
        container_close(container);
    }
}

/* Scales beyond half precision, and groups that tiles have not, are values. */
static void seen_as_values(void)
{
    static const struct change wide = {.golden = "compressed-4",
        .tensor = L0 "mlp.up_proj.weight_scale",
        .count = 2,
        .bytes = {0x80, 0x7F - 1}}; /* a brain float of 2^125 */
    struct container *container = NULL;
    const char *why = NULL;
    struct error err;

    REQUIRE(container_open(&container, changed_folder(&wide), &err) == OK, &err);
    const struct tensor *tensor = container_find(container, L0 "mlp.up_proj.weight");
    CU_ASSERT(tensor->storage == STORAGE_DENSE && tensor->dtype == DTYPE_F32);
    CU_ASSERT(container_packed(container, tensor, &why) &&
              strcmp(why, "scales that half precision does not hold") == 0);
    tensor = container_find(container, L0 "mlp.gate_proj.weight");
    CU_ASSERT(tensor->storage == STORAGE_TILES);
    container_close(container);
}

/* quantize_config.json beside a config.json that says nothing is AutoGPTQ's. */
static void config_beside(void)
{
    static const struct change plain = {
        .golden = "gptq-4", .config_from = "\"quantization_config\"", .config_to = "\"was\""};
    static const char text[] = "{\"bits\": 4, \"group_size\": 16, \"desc_act\": false, \"sym\": true}";
    const char *folder = changed_folder(&plain), *why;
    struct container *container = NULL;
    struct error err;

    testing_write(testing_path("quantize_config.json"), text, strlen(text));
    REQUIRE(container_open(&container, folder, &err) == OK, &err);
    const struct tensor *tensor = container_find(container, L0 "mlp.up_proj.weight");
    CU_ASSERT(tensor && strcmp(container_packed(container, tensor, &why), "gptq") == 0);
    container_close(container);
}

/* Each allocation of opening and reading may fail. */
static void out_of_memory(void)
{
    static const char *const names[] = {"gptq-4-order", "mlx-4-6", "compressed-3-asym"};

    for (int i = 0; i < 3; i++) {
        enum status status = ERR_MEMORY;
        for (uint64_t nth = 1; status != OK && nth < 5000; nth++) {
            struct container *container = NULL;
            memory_fail_at(nth, 0);
            status = container_open(&container, golden_path(names[i]), NULL);
            if (!status) status = container_map(container, NULL);
            memory_fail_at(0, 0);
            CU_ASSERT(status == OK || status == ERR_MEMORY);
            container_close(container);
        }
        CU_ASSERT(status == OK);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"three bits straddle words", straddling},
        {"codes there and back", there_and_back},
        {"the order of AWQ", awq_order},
        {"the weights that others see", same_weights},
        {"the logits of transformers", same_logits},
        {"any range of bytes", any_range},
        {"checksums of the source", sources},
        {"what does not fit is refused", refusals},
        {"what tiles cannot say is seen as values", seen_as_values},
        {"quantize_config.json", config_beside},
        {"out of memory", out_of_memory},
    };
    struct error err;

    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    const int result = TESTING_RUN("packed", cases);
    pool_free(pool);
    return result;
}
