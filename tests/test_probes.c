/* Probes against two models run side by side: one weight differs, and the divergence of their predictions is what a probe of that
 * matrix says. */
#include "model/probes.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/forward.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { LAYERS = 3, SAMPLES = 3, LENGTH = 20 };

static struct pool *pool; /* of two workers, for all cases but the one about workers */

/* ---- two models, alike but for one weight ---- */

struct pair {
    const char *folder, *changed_folder;
    struct checkpoint original, changed;
    struct calibration calibration;
};

static void open_mapped(struct checkpoint *out, const char *path)
{
    struct error err = {0};

    REQUIRE(checkpoint_open(out, path, &err) == OK, &err);
    REQUIRE(container_map(out->container, &err) == OK, &err);
}

static void open_pair(struct pair *pair, const char *changed, struct tiny_model options)
{
    struct calibration *calibration = &pair->calibration;
    uint64_t seed = 3;

    testing_folder();
    options.layers = LAYERS;
    *pair = (struct pair){.calibration = {.samples = SAMPLES, .length = LENGTH}};
    pair->folder = tiny_model_folder("original", options);
    options.poison = changed;
    options.poison_at = 7;
    options.poison_value = 3;
    pair->changed_folder = tiny_model_folder("changed", options);
    open_mapped(&pair->original, pair->folder);
    open_mapped(&pair->changed, pair->changed_folder);
    calibration->tokens = memory_new(SAMPLES * LENGTH, sizeof(uint32_t), NULL);
    calibration->lengths = memory_new(SAMPLES, sizeof(uint32_t), NULL);
    REQUIRE(calibration->tokens && calibration->lengths, NULL);
    for (uint64_t i = 0; i < SAMPLES; i++) {
        calibration->lengths[i] = (uint32_t)(LENGTH - 5 * i);
        for (uint64_t j = 0; j < calibration->lengths[i]; j++)
            calibration->tokens[i * LENGTH + j] =
                (uint32_t)(testing_random(&seed) % pair->original.config.vocabulary);
    }
}

static void close_pair(struct pair *pair)
{
    memory_free(pair->calibration.tokens);
    memory_free(pair->calibration.lengths);
    checkpoint_close(&pair->original);
    checkpoint_close(&pair->changed);
}

/* ---- what probes say ---- */

static struct walk_layer layer_of(struct checkpoint *checkpoint, uint32_t index)
{
    struct walk_layer layer = {.index = index};

    memcpy(layer.original, checkpoint->tensors.layer[index], sizeof layer.original);
    memcpy(layer.current, checkpoint->tensors.layer[index], sizeof layer.current);
    return layer;
}

static enum status walk_layer(struct walk *walk, const struct walk_layer *layer, struct error *err)
{
    enum status status = OK;

    for (enum stage stage = WALK_QKV; stage < WALK_STAGES && !status; stage++)
        status = walk_to(walk, stage, layer, false, NULL, NULL, err);
    return status ? status : walk_finish(walk, layer, err);
}

/* Two probes per layer, one of the original's tensors, one of the changed model's. */
static enum status probe_all(double out[2 * LAYERS], struct pair *pair, struct probes_options options,
    struct pool *with, struct error *err)
{
    const struct walk_options walking = {.in_memory = true};
    struct walk *walk = NULL;
    struct probes *probes = NULL;
    enum status status = walk_create(&walk, &pair->original, &pair->calibration, &walking, with, err);

    options.capacity = 2 * LAYERS;
    if (!status) status = probes_create(&probes, &pair->original, &pair->calibration, &options, with, err);
    for (uint32_t i = 0; i < LAYERS && !status; i++) {
        struct walk_layer layer = layer_of(&pair->original, i), changed = layer_of(&pair->changed, i);
        status = probes_advance(probes, i, layer.original, err);
        if (!status) status = probes_add(probes, walk, i, layer.original, err);
        if (!status) status = probes_add(probes, walk, i, changed.original, err);
        if (!status) status = walk_layer(walk, &layer, err);
    }
    if (!status) status = probes_finish(probes, walk, out, err);
    probes_free(probes);
    walk_free(walk);
    return status;
}

/* ---- what the models say ---- */

static float *logits_of(struct model *model, const struct calibration *calibration, uint64_t sample)
{
    uint64_t length = calibration->lengths[sample], vocabulary = model->config.vocabulary;
    struct session *session = NULL;
    struct error err = {0};
    float *hidden = memory_new(length * model->config.hidden, sizeof *hidden, &err);
    float *logits = memory_new(length * vocabulary, sizeof *logits, &err);

    REQUIRE(hidden && logits, &err);
    REQUIRE(session_create(&session, model, 1, length, &err) == OK, &err);
    REQUIRE(session_step(session, hidden, calibration->tokens + sample * LENGTH, length, &err) == OK, &err);
    REQUIRE(model_logits(model, logits, hidden, length, &err) == OK, &err);
    session_free(session);
    memory_free(hidden);
    return logits;
}

static double divergence(const float *p, const float *q, uint64_t count)
{
    double p_sum = 0, q_sum = 0, out = 0;

    for (uint64_t i = 0; i < count; i++) {
        p_sum += exp((double)p[i]);
        q_sum += exp((double)q[i]);
    }
    for (uint64_t i = 0; i < count; i++)
        out += exp((double)p[i]) / p_sum * ((double)p[i] - (double)q[i] - log(p_sum / q_sum));
    return out;
}

/* The mean over all tokens. */
static double expected(const struct pair *pair)
{
    struct model *original = NULL, *changed = NULL;
    struct error err = {0};
    double sum = 0;
    uint64_t tokens = 0;

    REQUIRE(model_open(&original, pair->folder, pool, &err) == OK, &err);
    REQUIRE(model_open(&changed, pair->changed_folder, pool, &err) == OK, &err);
    for (uint64_t i = 0; i < SAMPLES; i++) {
        uint64_t vocabulary = original->config.vocabulary;
        float *p = logits_of(original, &pair->calibration, i), *q = logits_of(changed, &pair->calibration, i);
        for (uint64_t t = 0; t < pair->calibration.lengths[i]; t++)
            sum += divergence(p + t * vocabulary, q + t * vocabulary, vocabulary);
        tokens += pair->calibration.lengths[i];
        memory_free(p);
        memory_free(q);
    }
    model_close(original);
    model_close(changed);
    return sum / (double)tokens;
}

/* ---- cases ---- */

static const struct probes_options all_samples = {.samples = SAMPLES, .in_memory = true};

static void test_as_the_models_say(void)
{
    static const char *const names[] = {"model.layers.0.self_attn.k_proj.weight",
        "model.layers.1.self_attn.v_proj.weight", "model.layers.1.mlp.down_proj.weight",
        "model.layers.2.self_attn.o_proj.weight", "model.layers.2.mlp.gate_proj.weight"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct pair pair;
        struct error err = {0};
        double found[2 * LAYERS];
        uint32_t layer = (uint32_t)(names[i][13] - '0');

        open_pair(&pair, names[i], (struct tiny_model){.tied = i == 1, .under_head = i == 1});
        CHECK(probe_all(found, &pair, all_samples, pool, &err) == OK, &err);
        double wanted = expected(&pair);
        CU_ASSERT(wanted > 1e-5);
        for (uint32_t k = 0; k < 2 * LAYERS; k++)
            CU_ASSERT_DOUBLE_EQUAL(found[k], k == 2 * layer + 1 ? wanted : 0, 1e-7 + 1e-3 * wanted);
        close_pair(&pair);
    }
}

static void test_the_same_anywhere(void)
{
    struct pair pair;
    struct error err = {0};
    double found[2 * LAYERS], again[2 * LAYERS];
    struct probes_options in_file = all_samples;

    open_pair(&pair, "model.layers.1.mlp.up_proj.weight", (struct tiny_model){0});
    CHECK(probe_all(found, &pair, all_samples, pool, &err) == OK, &err);
    in_file.in_memory = false;
    in_file.folder = testing_folder();
    CHECK(probe_all(again, &pair, in_file, pool, &err) == OK, &err);
    CU_ASSERT_EQUAL(memcmp(found, again, sizeof found), 0);
    for (unsigned workers = 1; workers <= 3; workers++) {
        struct pool *other;
        REQUIRE(pool_create(&other, workers, &err) == OK, &err);
        CHECK(probe_all(again, &pair, all_samples, other, &err) == OK, &err);
        CU_ASSERT_EQUAL(memcmp(found, again, sizeof found), 0);
        pool_free(other);
    }
    close_pair(&pair);
}

static void test_a_sample_alone(void)
{
    struct pair pair;
    struct error err = {0};
    double found[2 * LAYERS], alone[2 * LAYERS];
    struct probes_options first = {.samples = 1, .in_memory = true};

    open_pair(&pair, "model.layers.0.self_attn.q_proj.weight", (struct tiny_model){0});
    CHECK(probe_all(found, &pair, first, pool, &err) == OK, &err);
    pair.calibration.samples = 1;
    CHECK(probe_all(alone, &pair, first, pool, &err) == OK, &err);
    CU_ASSERT_DOUBLE_EQUAL(found[1], alone[1], 1e-7 + 1e-3 * alone[1]);
    close_pair(&pair);
}

static void test_not_finite(void)
{
    struct pair pair;
    struct error err = {0};
    double found[2 * LAYERS];

    open_pair(&pair, "model.layers.1.self_attn.v_proj.weight", (struct tiny_model){.dtype = "F32"});
    struct tensor copy = *pair.changed.tensors.layer[1][ROLE_V];
    float *values = memory_new(copy.elements, sizeof *values, &err);
    REQUIRE(values != NULL, &err);
    values[0] = INFINITY;
    copy.data = values;
    pair.changed.tensors.layer[1][ROLE_V] = &copy;
    CU_ASSERT_EQUAL(probe_all(found, &pair, all_samples, pool, &err), ERR_NUMERIC);
    CHECK(strstr(err.text, "layer 1") != NULL, &err);
    memory_free(values);
    close_pair(&pair);
}

static void test_without_memory(void)
{
    struct pair pair;
    double found[2 * LAYERS];
    enum status status;

    open_pair(&pair, "model.layers.1.self_attn.v_proj.weight", (struct tiny_model){0});
    for (uint64_t nth = 1;; nth++) {
        memory_fail_at(nth, 0);
        status = probe_all(found, &pair, all_samples, pool, NULL);
        memory_fail_at(0, 0);
        if (status == OK) break;
        CU_ASSERT_EQUAL(status, ERR_MEMORY);
        if (status != ERR_MEMORY) break;
    }
    close_pair(&pair);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"as the models say", test_as_the_models_say},
        {"the same anywhere", test_the_same_anywhere},
        {"a sample alone", test_a_sample_alone},
        {"not finite", test_not_finite},
        {"without memory", test_without_memory},
    };
    int result;

    REQUIRE(pool_create(&pool, 2, NULL) == OK, NULL);
    result = TESTING_RUN("probes", cases);
    pool_free(pool);
    return result;
}
