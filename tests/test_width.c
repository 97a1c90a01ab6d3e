/* Which heads and channels stay, and the biases that make up for the others. */
#include "prune/width.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "prune/narrow.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { LAYERS = 2, GROUPS = 4, SIZE = 4, PER_GROUP = 2, FFN = 160 };

static struct pool *pool;

static const struct architecture llama = {.name = "LlamaForCausalLM"};
static struct model_config config = {.architecture = &llama,
    .layers = LAYERS,
    .hidden = 16,
    .heads = GROUPS * PER_GROUP,
    .kv_heads = GROUPS,
    .head_size = SIZE,
    .ffn = FFN};

/* Every channel alike but for a little. */
static void make_table(struct channel_table *out)
{
    uint64_t seed = 4;

    *out = (struct channel_table){memory_new(LAYERS, sizeof *out->layers, NULL), LAYERS};
    for (int i = 0; i < LAYERS * CHANNEL_PARTS; i++) {
        struct channels *channels = &out->layers[i / CHANNEL_PARTS][i % CHANNEL_PARTS];
        channels->count = i % CHANNEL_PARTS == CHANNELS_HEADS ? GROUPS * PER_GROUP * SIZE : FFN;
        double **arrays[] = {&channels->mean, &channels->absolute, &channels->square, &channels->weight};
        for (int k = 0; k < 4; k++)
            *arrays[k] = memory_new(channels->count, sizeof(double), NULL);
        for (uint64_t c = 0; c < channels->count; c++) {
            channels->absolute[c] = 1 + 0.01 * (double)(testing_random(&seed) % 100);
            channels->square[c] = 2 + 0.01 * (double)(testing_random(&seed) % 100);
            channels->weight[c] = 1;
        }
    }
}

static struct width_options options_of(enum prune_score score, double sparsity, bool uniform)
{
    return (struct width_options){
        .score = score, .sparsity = sparsity, .heads = true, .ffn = true, .uniform = uniform};
}

/* What varies little goes first, whatever its size: heads of group 2 in layer 1, and 32 channels of layer 0. */
static void little_variance_goes(void)
{
    struct channel_table table;
    struct width width;
    struct error err = {0};

    make_table(&table);
    struct channels *heads = &table.layers[1][CHANNELS_HEADS], *ffn = &table.layers[0][CHANNELS_FFN];
    for (uint64_t i = 0; i < PER_GROUP * SIZE; i++)
        heads->mean[2 * PER_GROUP * SIZE + i] = sqrt(heads->square[2 * PER_GROUP * SIZE + i]);
    for (uint64_t i = 0; i < 32; i++)
        ffn->mean[5 * i] = sqrt(ffn->square[5 * i]);
    const double gone = (double)(width_group_weights(&config) + 32 * width_channel_weights(&config));
    const double all =
        LAYERS * (double)(GROUPS * width_group_weights(&config) + FFN * width_channel_weights(&config));
    const struct width_options options = options_of(SCORE_FLAP, gone / all, false);
    CHECK(width_choose(&width, &table, &config, &options, &err) == OK, &err);
    CU_ASSERT(width.layers[0].group_count == GROUPS && width.layers[0].channel_count == FFN - 32);
    CU_ASSERT(width.layers[1].group_count == GROUPS - 1 && width.layers[1].channel_count == FFN);
    CU_ASSERT(
        width.layers[1].groups[0] == 0 && width.layers[1].groups[1] == 1 && width.layers[1].groups[2] == 3);
    for (uint32_t i = 0; i < width.layers[0].channel_count; i++)
        CU_ASSERT(width.layers[0].channels[i] % 5 != 0);
    width_free(&width);
    channels_free(&table);
}

/* Low beside its like is not little: of layer 0 half the channels carry a quarter, of layer 1 one channel carries nearly all. */
static void little_is_a_share(void)
{
    const struct width_options options = {
        .score = SCORE_FLAP, .sparsity = 32.0 / (LAYERS * FFN), .ffn = true, .uniform = false};
    struct channel_table table;
    struct width width;
    struct error err = {0};

    make_table(&table);
    for (uint64_t i = 0; i < FFN; i++) {
        table.layers[0][CHANNELS_FFN].square[i] = i % 2 ? 1 : 3;
        table.layers[1][CHANNELS_FFN].square[i] = i == 7 ? 1e4 : 0.01;
    }
    CHECK(width_choose(&width, &table, &config, &options, &err) == OK, &err);
    CU_ASSERT(width.layers[0].channel_count == FFN && width.layers[1].channel_count == FFN - 32);
    width_free(&width);
    channels_free(&table);
}

static void least_stays(void)
{
    struct channel_table table;
    struct width width;
    struct error err = {0};

    make_table(&table);
    for (int uniform = 0; uniform < 2; uniform++) {
        for (int score = SCORE_FLAP; score <= SCORE_ACTIVATION; score++) {
            const struct width_options options = options_of((enum prune_score)score, 0.9999, uniform);
            CHECK(width_choose(&width, &table, &config, &options, &err) == OK, &err);
            for (int i = 0; i < LAYERS; i++)
                CU_ASSERT(width.layers[i].group_count == 1 && width.layers[i].channel_count == 32);
            width_free(&width);
        }
    }
    const struct width_options little = options_of(SCORE_FLAP, 0.001, false);
    CU_ASSERT(width_choose(&width, &table, &config, &little, NULL) == ERR_USAGE);
    width_free(&width);
    channels_free(&table);
}

/* Uniform: as many everywhere, multiples of 32, as near to the share as that allows; a width that is no multiple becomes one. */
static void uniform_widths(void)
{
    static const uint32_t widths[] = {160, 150, 33, 20};
    struct error err = {0};

    for (unsigned w = 0; w < sizeof widths / sizeof *widths; w++) {
        struct channel_table table;
        struct width width;
        make_table(&table);
        config.ffn = widths[w];
        for (int i = 0; i < LAYERS; i++)
            table.layers[i][CHANNELS_FFN].count = widths[w];
        const struct width_options options = options_of(SCORE_FLAP, 0.4, true);
        CHECK(width_choose(&width, &table, &config, &options, &err) == OK, &err);
        for (int i = 0; i < LAYERS; i++) {
            CU_ASSERT(width.layers[i].group_count == width.layers[0].group_count);
            CU_ASSERT(width.layers[i].channel_count == width.layers[0].channel_count);
            CU_ASSERT(width.layers[i].channel_count % 32 == 0 || width.layers[i].channel_count == widths[w]);
        }
        CU_ASSERT(width.layers[0].group_count == 2);
        width_free(&width);
        config.ffn = FFN;
        channels_free(&table);
    }
}

/* ---- on a model ---- */

/* Means of inputs, by hand from the walk's own taps, are what the biases are made of. */
static void biases_of_means(void)
{
    struct checkpoint input;
    struct calibration calibration = {.samples = 3, .length = 24};
    struct channel_table table, again;
    struct width width = {0};
    struct error err = {0};
    uint64_t seed = 9;

    testing_folder();
    REQUIRE(checkpoint_open(&input, tiny_model_folder("model", (struct tiny_model){0}), &err) == OK, &err);
    calibration.tokens = memory_new(72, sizeof(uint32_t), NULL);
    calibration.lengths = memory_new(3, sizeof(uint32_t), NULL);
    for (int i = 0; i < 72; i++)
        calibration.tokens[i] = (uint32_t)(testing_random(&seed) % 269);
    for (int i = 0; i < 3; i++)
        calibration.lengths[i] = 24;
    calibration.tokens_used = 72;
    REQUIRE(channels_observe(&table, &input, &calibration, ".", 0, pool, NULL, &err) == OK, &err);
    struct pool *one = NULL;
    REQUIRE(pool_create(&one, 1, &err) == OK, &err);
    REQUIRE(channels_observe(&again, &input, &calibration, ".", 0, one, NULL, &err) == OK, &err);
    for (int i = 0; i < 4; i++) {
        const struct channels *a = &table.layers[i / 2][i % 2], *b = &again.layers[i / 2][i % 2];
        CU_ASSERT(memcmp(a->mean, b->mean, a->count * sizeof(double)) == 0);
        CU_ASSERT(memcmp(a->square, b->square, a->count * sizeof(double)) == 0);
        for (uint64_t c = 0; c < a->count; c++)
            CU_ASSERT(a->square[c] >= a->mean[c] * a->mean[c] && a->absolute[c] >= fabs(a->mean[c]) &&
                      a->weight[c] > 0);
    }
    const struct width_options options = options_of(SCORE_FLAP, 0.4, false);
    REQUIRE(width_choose(&width, &table, &input.config, &options, &err) == OK, &err);
    REQUIRE(narrow_means(&input, &width, &table, &err) == OK, &err);
    REQUIRE(container_map(input.container, &err) == OK, &err);
    for (int i = 0; i < 2; i++) {
        const struct width_layer *left = &width.layers[i];
        const struct channels *channels = &table.layers[i][CHANNELS_FFN];
        const float *down = input.tensors.layer[i][ROLE_DOWN]->data;
        CU_ASSERT((left->bias[CHANNELS_FFN] != NULL) == (left->channel_count < 96));
        for (uint64_t row = 0; left->bias[CHANNELS_FFN] && row < 64; row++) {
            double sum = 0;
            for (uint64_t c = 0, k = 0; c < 96; c++) {
                const bool stays = k < left->channel_count && left->channels[k] == c;
                k += stays;
                if (!stays) sum += (double)down[row * 96 + c] * channels->mean[c];
            }
            CU_ASSERT_DOUBLE_EQUAL(left->bias[CHANNELS_FFN][row], sum, 1e-6);
        }
    }
    pool_free(one);
    width_free(&width);
    channels_free(&table);
    channels_free(&again);
    calibration_free(&calibration);
    checkpoint_close(&input);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"what varies little goes", little_variance_goes},
        {"what carries little goes", little_is_a_share},
        {"something stays", least_stays},
        {"uniform widths", uniform_widths},
        {"biases are the means of what went", biases_of_means},
    };
    struct error err = {0};

    REQUIRE(pool_create(&pool, 3, &err) == OK, &err);
    int result = TESTING_RUN("width", cases);
    pool_free(pool);
    return result;
}
