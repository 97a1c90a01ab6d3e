/* How much goes is chosen by bisection: times come from a function here, never from a clock. */
#include "prune/goal.h"

#include <stdio.h>
#include <string.h>

#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { LAYERS = 12 };

/* What the seam gives and sees. */
static struct {
    double base, per_layer; /* milliseconds */
    uint32_t seen[LAYERS];  /* [count] layers of the candidates in turn */
    unsigned count;
    enum status status;
} timed;

static enum status time_of(double *out, struct checkpoint *input, struct pool *pool, struct error *err)
{
    (void)pool;
    REQUIRE(timed.count < LAYERS, NULL);
    timed.seen[timed.count++] = input->config.layers;
    *out = timed.base + timed.per_layer * input->config.layers;
    checkpoint_close(input);
    return timed.status ? fail(err, timed.status, "not measured") : OK;
}

struct fixture {
    struct prune_options options;
    struct prune_result result;
    struct checkpoint input;
    struct report report;
    struct pool *pool;
    struct prune_job job;
};

static void open_fixture(struct fixture *fixture, double milliseconds)
{
    struct error err = {0};
    *fixture = (struct fixture){.report = {.quiet = true}};
    memset(&timed, 0, sizeof timed);
    timed.per_layer = 2;
    timed.base = 1;
    testing_folder();
    fixture->options = prune_settings_defaults();
    fixture->options.input = tiny_model_folder("model", (struct tiny_model){.layers = LAYERS});
    fixture->options.output = testing_path("out.nbl");
    fixture->options.target_latency = milliseconds;
    REQUIRE(pool_create(&fixture->pool, 1, &err) == OK, &err);
    REQUIRE(checkpoint_open(&fixture->input, fixture->options.input, &err) == OK, &err);
    fixture->job = (struct prune_job){.result = &fixture->result,
        .options = &fixture->options,
        .input = &fixture->input,
        .pool = fixture->pool,
        .report = &fixture->report};
}

static void close_fixture(struct fixture *fixture)
{
    CU_ASSERT_EQUAL(fixture->input.config.layers, LAYERS); /* candidates are opened anew */
    checkpoint_close(&fixture->input);
    pool_free(fixture->pool);
    prune_settings_options_free(&fixture->options);
}

/* The first layers go, all but one at most; below half of one, none. */
static enum status make_layers(struct structure *out, void *context, double sparsity, struct error *err)
{
    (void)context;
    out->depth.layers = LAYERS;
    out->depth.dropped = (uint32_t)(sparsity * LAYERS + 0.5);
    if (out->depth.dropped == LAYERS) out->depth.dropped--;
    for (uint32_t layer = 0; layer < out->depth.dropped; layer++)
        out->depth.gone[layer] = true;
    return out->depth.dropped ? OK : fail(err, ERR_USAGE, "nothing would go");
}

static enum status choose(double *sparsity, struct fixture *fixture, uint32_t steps, struct error *err)
{
    return goal_sparsity(sparsity, &fixture->job, steps, make_layers, NULL, err);
}

/* Of n layers a token takes 2 n + 1 ms: as many go as must, for every target, in as many tries as bisection needs. */
static void least_that_does(void)
{
    for (uint32_t dropped = 1; dropped < LAYERS; dropped++) {
        for (int above = 0; above < 2; above++) {
            struct fixture fixture;
            struct error err = {0};
            double sparsity;
            open_fixture(&fixture, 1 + 2 * (LAYERS - dropped) + (above ? 1.5 : 0));
            CHECK(choose(&sparsity, &fixture, LAYERS, &err) == OK, &err);
            CU_ASSERT_EQUAL(sparsity, (double)dropped / LAYERS);
            CU_ASSERT(timed.seen[0] == 1 && timed.count <= 6); /* the most, 4 halvings of 11, none at all */
            close_fixture(&fixture);
        }
    }
}

/* Finer steps than layers: the least of those at which the same go. */
static void finer_steps(void)
{
    struct fixture fixture;
    struct error err = {0};
    double sparsity;
    open_fixture(&fixture, 17); /* 8 layers */
    CHECK(choose(&sparsity, &fixture, 120, &err) == OK, &err);
    CU_ASSERT_EQUAL(sparsity, 35. / 120); /* 3.5 layers are 4 */
    close_fixture(&fixture);
}

static void out_of_reach(void)
{
    struct fixture fixture;
    struct error err = {0};
    double sparsity;
    open_fixture(&fixture, 2.9);
    CU_ASSERT_EQUAL(choose(&sparsity, &fixture, LAYERS, &err), ERR_USAGE);
    CU_ASSERT_STRING_EQUAL(
        err.text, "--target-latency: out of reach; with the most that can go a token takes 3 ms");
    CU_ASSERT_EQUAL(timed.count, 1);
    close_fixture(&fixture);
}

/* Where the least step is less than a layer, and where it is one. */
static void nothing_has_to_go(void)
{
    static const uint32_t steps[] = {120, LAYERS};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct fixture fixture;
        struct error err = {0};
        double sparsity;
        open_fixture(&fixture, 25);
        CU_ASSERT_EQUAL(choose(&sparsity, &fixture, steps[i], &err), ERR_USAGE);
        CU_ASSERT_STRING_EQUAL(err.text, "the model keeps to --target-latency as it is; nothing has to go");
        CU_ASSERT_EQUAL(timed.seen[timed.count - 1], LAYERS);
        close_fixture(&fixture);
    }
}

/* Both targets are kept to, whichever asks for more; without a latency nothing is timed. */
static void with_size(void)
{
    struct fixture fixture;
    struct error err = {0};
    double by_size, by_both;
    open_fixture(&fixture, 0);
    fixture.options.target_size = 1000000;
    CHECK(choose(&by_size, &fixture, LAYERS, &err) == OK, &err);
    CU_ASSERT(timed.count == 0 && by_size > 1. / LAYERS && by_size < 10. / LAYERS);
    fixture.options.target_latency = 23; /* all layers but one: size asks for more */
    CHECK(choose(&by_both, &fixture, LAYERS, &err) == OK, &err);
    CU_ASSERT_EQUAL(by_both, by_size);
    timed.count = 0;
    fixture.options.target_latency = 3; /* one layer */
    CHECK(choose(&by_both, &fixture, LAYERS, &err) == OK, &err);
    CU_ASSERT_EQUAL(by_both, 11. / LAYERS);
    timed.count = 0;
    fixture.options.target_size = 1000;
    CU_ASSERT_EQUAL(choose(&by_both, &fixture, LAYERS, &err), ERR_USAGE);
    CU_ASSERT(strncmp(err.text, "--target-size: out of reach; ", 29) == 0);
    close_fixture(&fixture);
}

static void failing(void)
{
    struct fixture fixture;
    struct error err = {0};
    double sparsity;
    open_fixture(&fixture, 10);
    timed.status = ERR_MEMORY;
    CU_ASSERT_EQUAL(choose(&sparsity, &fixture, LAYERS, &err), ERR_MEMORY);
    CU_ASSERT_STRING_EQUAL(err.text, "not measured");
    CU_ASSERT_EQUAL(timed.count, 1);
    close_fixture(&fixture);
}

int main(void)
{
    static const struct test_case cases[] = {{"the least that does", least_that_does},
        {"finer steps", finer_steps}, {"out of reach", out_of_reach},
        {"nothing has to go", nothing_has_to_go}, {"with a size", with_size}, {"failing", failing}};
    goal_measure = time_of;
    return TESTING_RUN("goal", cases);
}
