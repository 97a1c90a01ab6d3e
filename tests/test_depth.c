/* Which layers go. */
#include "prune/depth.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/sleb.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { LAYERS = 5, SAMPLES = 3, LENGTH = 40 };

static struct pool *pool;

static void lists(void)
{
    static const char *const bad[] = {
        "", ",", "1,", "1-", "-1", "3-2", "a", "1 2", "8", "0-7", "1,1", "0-2,2", "0-99999999999"};
    struct depth depth;

    CU_ASSERT(depth_parse(&depth, "3,5,0-1", 8, NULL) == OK);
    CU_ASSERT(depth.dropped == 4 && depth.gone[0] && depth.gone[1] && depth.gone[3] && depth.gone[5] &&
              !depth.gone[2]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT(depth_parse(&depth, bad[i], 8, NULL) == ERR_USAGE);
}

static void counts(void)
{
    static const struct {
        double sparsity;
        uint32_t layers, count;
    } rows[] = {{0.2, 32, 6}, {0.25, 32, 8}, {0.01, 32, 1}, {0.999, 4, 3}, {0.5, 3, 2}};
    uint32_t count;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CU_ASSERT(depth_count(&count, rows[i].sparsity, rows[i].layers, NULL) == OK);
        CU_ASSERT_EQUAL(count, rows[i].count);
    }
    CU_ASSERT(depth_count(&count, 0.5, 1, NULL) == ERR_USAGE);
}

/* ---- a model two layers of which add next to nothing ---- */

static const uint32_t idle[] = {1, 2};

struct subject {
    struct model *model;
    struct calibration calibration;
    struct tensor quiet[2][2];
};

static void open_subject(struct subject *out)
{
    struct calibration *calibration = &out->calibration;
    struct error err = {0};
    uint64_t seed = 11;

    testing_folder();
    *out = (struct subject){.calibration = {.samples = SAMPLES, .length = LENGTH}};
    REQUIRE(model_open(&out->model, tiny_model_folder("model", (struct tiny_model){.layers = LAYERS}), pool,
                &err) == OK,
        &err);
    for (int i = 0; i < 2; i++) {
        for (int part = 0; part < 2; part++) {
            const struct tensor **at = &out->model->tensors.layer[idle[i]][part ? ROLE_DOWN : ROLE_O];
            float *values = memory_new((*at)->elements, sizeof *values, NULL);
            for (uint64_t k = 0; k < (*at)->elements; k++)
                values[k] = 1e-3f * ((const float *)(*at)->data)[k];
            out->quiet[i][part] = **at;
            out->quiet[i][part].data = values;
            *at = &out->quiet[i][part];
        }
    }
    calibration->tokens = memory_new(SAMPLES * LENGTH, sizeof(uint32_t), NULL);
    calibration->lengths = memory_new(SAMPLES, sizeof(uint32_t), NULL);
    for (uint32_t i = 0; i < SAMPLES; i++) {
        calibration->lengths[i] = LENGTH - 7 * i;
        calibration->tokens_used += calibration->lengths[i];
        for (uint32_t k = 0; k < calibration->lengths[i]; k++)
            calibration->tokens[i * LENGTH + k] =
                (uint32_t)(testing_random(&seed) % out->model->config.vocabulary);
    }
}

static void close_subject(struct subject *subject)
{
    for (int i = 0; i < 4; i++)
        memory_free((void *)(uintptr_t)subject->quiet[i / 2][i % 2].data);
    memory_free(subject->calibration.tokens);
    memory_free(subject->calibration.lengths);
    model_close(subject->model);
}

static void idle_layers_go(void)
{
    static const enum prune_score scores[] = {SCORE_INFLUENCE, SCORE_ANGULAR};
    struct subject subject;
    struct depth depth;
    struct error err = {0};

    open_subject(&subject);
    for (int i = 0; i < 2; i++) {
        CHECK(depth_by_stream(&depth, subject.model, &subject.calibration, scores[i], 2, &err) == OK, &err);
        CU_ASSERT(depth.dropped == 2 && depth.gone[1] && depth.gone[2]);
        CU_ASSERT(depth.score[1] >= 0 && depth.score[1] < 1e-3 && depth.score[0] > 1e-3);
    }
    close_subject(&subject);
}

/* - log p by hand, in one piece. */
static double perplexity_without(const struct subject *subject, uint32_t layer)
{
    const struct calibration *text = &subject->calibration;
    struct model part = *subject->model;
    struct session *session = NULL;
    const uint64_t vocabulary = part.config.vocabulary, hidden = part.config.hidden;
    float *states = memory_new(LENGTH, hidden * sizeof *states, NULL);
    float *logits = memory_new(LENGTH, vocabulary * sizeof *logits, NULL);
    double sum = 0;

    part.tensors.layer = memory_new(LAYERS, sizeof *part.tensors.layer, NULL);
    for (uint32_t i = 0, k = 0; i < LAYERS; i++) {
        if (i != layer)
            memcpy(part.tensors.layer[k++], subject->model->tensors.layer[i], sizeof *part.tensors.layer);
    }
    part.config.layers = LAYERS - 1;
    REQUIRE(session_create(&session, &part, 1, LENGTH, NULL) == OK, NULL);
    for (uint64_t s = 0; s < SAMPLES; s++) {
        const uint32_t *tokens = text->tokens + s * LENGTH;
        session_reset(session);
        REQUIRE(session_step(session, states, tokens, text->lengths[s], NULL) == OK, NULL);
        REQUIRE(model_logits(&part, logits, states, text->lengths[s], NULL) == OK, NULL);
        for (uint32_t i = 0; i + 1 < text->lengths[s]; i++) {
            double total = 0;
            for (uint64_t v = 0; v < vocabulary; v++)
                total += exp((double)logits[i * vocabulary + v]);
            sum += log(total) - (double)logits[i * vocabulary + tokens[i + 1]];
        }
    }
    session_free(session);
    memory_free(part.tensors.layer);
    memory_free(states);
    memory_free(logits);
    return exp(sum / (double)(text->tokens_used - SAMPLES));
}

static void sleb_takes_the_best(void)
{
    struct subject subject;
    struct depth depth;
    struct error err = {0};
    uint32_t best = 0;
    double least = INFINITY;

    open_subject(&subject);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const double perplexity = perplexity_without(&subject, layer);
        if (perplexity < least) best = layer;
        if (perplexity < least) least = perplexity;
    }
    CHECK(sleb_choose(&depth, subject.model, &subject.calibration, 1, NULL, &err) == OK, &err);
    CU_ASSERT(depth.dropped == 1 && depth.gone[best]);
    CU_ASSERT_DOUBLE_EQUAL(depth.score[best], least, 1e-5 * least);
    CHECK(sleb_choose(&depth, subject.model, &subject.calibration, 3, NULL, &err) == OK, &err);
    CU_ASSERT(depth.dropped == 3 && depth.gone[best]);
    CU_ASSERT_EQUAL(sleb_passes(LAYERS, 3), 5 + 4 + 3);
    close_subject(&subject);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"lists of layers", lists},
        {"how many layers a share is", counts},
        {"layers that do little go", idle_layers_go},
        {"sleb takes the layer whose loss costs least", sleb_takes_the_best},
    };
    struct error err = {0};

    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    int result = TESTING_RUN("depth", cases);
    pool_free(pool);
    return result;
}
