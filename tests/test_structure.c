/* A model seen without some of its layers, heads and channels gives the logits of the whole one in which their weights are zeros. */
#include "prune/structure.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/transfer.h"
#include "model/config_rewrite.h"
#include "prune/narrow.h"
#include "tests/support/testing.h"

enum { TOKENS = 12 };

static struct pool *pool;

/* Every way of the architectures to store and run a layer. */
static const char *const models[] = {"llama", "llama-bias", "llama-headdim", "llama-tied", "mistral", "qwen2",
    "qwen2-sliding", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "stablelm", "neox", "gpt2"};
enum { MODELS = sizeof models / sizeof *models };

static const char *folder_of(const char *name)
{
    char path[96];

    snprintf(path, sizeof path, "golden/logits/%s", name);
    return testing_source(path);
}

static float *logits_of(struct model *model)
{
    const uint64_t vocabulary = model->config.vocabulary;
    float *hidden = memory_new(TOKENS, model->config.hidden * sizeof *hidden, NULL);
    float *logits = memory_new(TOKENS, vocabulary * sizeof *logits, NULL);
    struct session *session = NULL;
    struct error err = {0};
    uint32_t tokens[TOKENS];

    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = (7 * i + 3) % model->config.vocabulary;
    REQUIRE(session_create(&session, model, 1, TOKENS, &err) == OK, &err);
    REQUIRE(session_step(session, hidden, tokens, TOKENS - 1, &err) == OK, &err); /* and with a cache */
    REQUIRE(session_step(
                session, hidden + (TOKENS - 1) * model->config.hidden, tokens + TOKENS - 1, 1, &err) == OK,
        &err);
    REQUIRE(model_logits(model, logits, hidden, TOKENS, &err) == OK, &err);
    session_free(session);
    memory_free(hidden);
    return logits;
}

static void expect_close(const float *a, const float *b, uint64_t count, const char *name)
{
    double worst = 0, scale = 0;

    for (uint64_t i = 0; i < count; i++) {
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
        scale = fmax(scale, fabs((double)a[i]));
    }
    if (!(worst <= 2e-5 * scale)) printf("%s: %g of %g\n", name, worst, scale);
    CU_ASSERT(worst <= 2e-5 * scale && scale > 0);
}

/* The model of a checkpoint that is seen without what `structure` says. */
static struct model *pruned(const char *name, const struct structure *structure)
{
    struct checkpoint input;
    struct model *model = NULL;
    struct error err = {0};

    REQUIRE(checkpoint_open(&input, folder_of(name), &err) == OK, &err);
    REQUIRE(structure_apply(&input, structure, true, &err) == OK, &err);
    REQUIRE(model_of_checkpoint(&model, &input, pool, &err) == OK, &err);
    return model;
}

/* ---- layers ---- */

static void without_layers(void)
{
    for (unsigned m = 0; m < MODELS; m++) {
        struct structure structure = {0};
        struct model *whole = NULL, part;
        struct error err = {0};
        REQUIRE(model_open(&whole, folder_of(models[m]), pool, &err) == OK, &err);
        const uint32_t layers = whole->config.layers;
        structure.depth.layers = layers;
        structure.depth.gone[layers - 2] = true;
        structure.depth.dropped = 1;
        part = *whole;
        uint32_t kept[CONFIG_LAYER_LIMIT];
        const uint32_t count = depth_kept(kept, &structure.depth);
        part.tensors.layer = memory_new(count, sizeof *part.tensors.layer, NULL);
        for (uint32_t i = 0; i < count; i++)
            memcpy(part.tensors.layer[i], whole->tensors.layer[kept[i]], sizeof *part.tensors.layer);
        config_keep_layers(&part.config, kept, count);
        struct model *seen = pruned(models[m], &structure);
        CU_ASSERT(memcmp(&seen->config, &part.config, sizeof part.config) == 0); /* config.json says it all */
        float *a = logits_of(&part), *b = logits_of(seen);
        expect_close(a, b, TOKENS * (uint64_t)part.config.vocabulary, models[m]);
        memory_free(a);
        memory_free(b);
        memory_free(part.tensors.layer);
        model_close(seen);
        model_close(whole);
    }
}

/* ---- heads and channels ---- */

/* Layers keep different numbers of groups and channels. */
static void make_width(struct structure *structure, const struct model_config *config, bool heads)
{
    struct width *width = &structure->width;

    width->count = config->layers;
    width->layers = memory_new(config->layers, sizeof *width->layers, NULL);
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        struct width_layer *left = &width->layers[layer];
        left->groups = memory_new(config->kv_heads, sizeof *left->groups, NULL);
        left->channels = memory_new(config->ffn, sizeof *left->channels, NULL);
        for (uint32_t i = 0; i < config->kv_heads; i++) {
            if (!heads || config->kv_heads == 1 || i != layer % config->kv_heads || layer == 1)
                left->groups[left->group_count++] = i;
        }
        for (uint32_t i = 0; i < config->ffn; i++) {
            if (i % 3 != layer % 3 || i < 4 * layer) left->channels[left->channel_count++] = i;
        }
    }
}

/* The matrix with zeros in the columns that go; floats, memory_free. */
static struct tensor masked(
    const struct tensor *matrix, const uint64_t *list, uint64_t listed, uint64_t width)
{
    struct tensor out = *matrix;
    float *values = memory_new(matrix->elements, sizeof *values, NULL);
    bool *stays = memory_new(matrix->shape[1], 1, NULL);

    dtype_info(matrix->dtype)->decode(values, matrix->data, matrix->elements);
    for (uint64_t i = 0; i < listed * width; i++)
        stays[list[i / width] * width + i % width] = true;
    for (uint64_t i = 0; i < matrix->elements; i++)
        values[i] = stays[i % matrix->shape[1]] ? values[i] : 0;
    out.dtype = DTYPE_F32;
    out.bytes = out.elements * sizeof *values;
    out.data = values;
    memory_free(stays);
    return out;
}

/* Biases beside, of some numbers. */
static void make_biases(struct structure *structure, const struct model_config *config)
{
    uint64_t seed = 5;

    structure->biases = true;
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        for (int part = 0; part < CHANNEL_PARTS; part++) {
            float *bias = memory_new(config->hidden, sizeof *bias, NULL);
            for (uint32_t i = 0; i < config->hidden; i++)
                bias[i] = 0.01f * testing_normal(&seed);
            structure->width.layers[layer].bias[part] = bias;
        }
    }
}

static void compare_masked(const char *name, bool biases)
{
    struct structure structure = {0};
    struct model *whole = NULL;
    struct error err = {0};
    struct tensor dense[16][4];

    REQUIRE(model_open(&whole, folder_of(name), pool, &err) == OK, &err);
    const struct model_config *config = &whole->config;
    const bool heads = config->architecture->qk_norm != QK_NORM_PROJECTION;
    const uint64_t size = (uint64_t)config->heads / config->kv_heads * config->head_size;
    structure.depth.layers = config->layers;
    make_width(&structure, config, heads);
    if (biases) make_biases(&structure, config);
    struct model *seen = pruned(name, &structure);
    CU_ASSERT(seen->config.varied);
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        const struct width_layer *left = &structure.width.layers[layer];
        const struct tensor **tensors = whole->tensors.layer[layer];
        dense[layer][0] = masked(tensors[ROLE_O], left->groups, left->group_count, size);
        dense[layer][1] = masked(tensors[ROLE_DOWN], left->channels, left->channel_count, 1);
        tensors[ROLE_O] = &dense[layer][0];
        tensors[ROLE_DOWN] = &dense[layer][1];
        for (int part = 0; part < CHANNEL_PARTS && biases; part++) {
            dense[layer][2 + part] = (struct tensor){.name = "bias",
                .dtype = DTYPE_F32,
                .rank = 1,
                .shape = {config->hidden},
                .elements = config->hidden,
                .bytes = config->hidden * sizeof(float),
                .data = left->bias[part]};
            tensors[part ? ROLE_DOWN_BIAS : ROLE_O_BIAS] = &dense[layer][2 + part];
        }
    }
    float *a = logits_of(whole), *b = logits_of(seen);
    expect_close(a, b, TOKENS * (uint64_t)config->vocabulary, name);
    memory_free(a);
    memory_free(b);
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        memory_free((void *)(uintptr_t)dense[layer][0].data);
        memory_free((void *)(uintptr_t)dense[layer][1].data);
    }
    structure_free(&structure);
    model_close(seen);
    model_close(whole);
}

static void narrower(void)
{
    for (unsigned m = 0; m < MODELS; m++)
        compare_masked(models[m], false);
}

static void with_biases(void)
{
    for (unsigned m = 0; m < MODELS; m++)
        compare_masked(models[m], true);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"fewer layers: config.json and logits", without_layers},
        {"narrower layers are masked ones", narrower},
        {"and with biases", with_biases},
    };
    struct error err = {0};

    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    int result = TESTING_RUN("structure", cases);
    pool_free(pool);
    return result;
}
