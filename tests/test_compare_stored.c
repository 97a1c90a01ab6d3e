/* Comparison against a stored base: the same as against the model itself, within the bound that base_logits.h states; with the
 * k likeliest tokens only, a lower bound that rises to the true divergence. Models are tiny and random. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/judge/compare.h"
#include "runtime-check/judge/divergence.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { VOCABULARY = 269, TEXT_BYTES = 900 };

/* ---- rows of the k likeliest ---- */

static double naive_log_sum(const float *x, uint64_t n)
{
    double top = (double)x[0], sum = 0;
    for (uint64_t i = 1; i < n; i++)
        top = fmax(top, (double)x[i]);
    for (uint64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - top);
    return top + log(sum);
}

/* Score a pair of rows with the k first tokens of the base in any order: the partition into classes is what counts. */
static void score_top(
    struct divergence_row *out, const float *a, const float *b, uint64_t n, uint64_t k, uint32_t target)
{
    static uint32_t ids[64];
    static float log_probs[64], candidate[64];
    const double log_sum = naive_log_sum(a, n);
    double rest = 0;
    for (uint32_t i = 0; i < n; i++) {
        ids[i] = i;
        log_probs[i] = (float)((double)a[i] - log_sum);
        if (i >= k) rest += exp((double)a[i] - log_sum);
    }
    const struct divergence_top base = {
        .ids = ids,
        .log_probs = log_probs,
        .k = k,
        .log_rest = log(rest),
        .base_log_prob = (double)a[target] - log_sum,
    };
    memcpy(candidate, b, n * sizeof *candidate);
    divergence_row_top(out, &base, candidate, n, target);
}

static void top_row_against_naive(void)
{
    uint64_t random = 9;
    for (int round = 0; round < 200; round++) {
        enum { N = 40 };
        float a[N], b[N];
        const float scale = powf(10, (float)(round % 4) - 1); /* 0.1 .. 100: the rest may vanish */
        const uint64_t k = 1 + (uint64_t)round % N;
        const uint32_t target = (uint32_t)(testing_random(&random) % N);
        for (int i = 0; i < N; i++) {
            a[i] = scale * testing_normal(&random);
            b[i] = a[i] + 0.3f * scale * testing_normal(&random);
        }
        const double a_log = naive_log_sum(a, N), b_log = naive_log_sum(b, N);
        double p_rest = 0, q_rest = 0, expected = 0;
        for (uint64_t i = 0; i < N; i++) {
            const double log_p = (double)a[i] - a_log, log_q = (double)b[i] - b_log;
            if (i < k) expected += exp(log_p) * (log_p - log_q);
            p_rest += i < k ? 0 : exp(log_p);
            q_rest += i < k ? 0 : exp(log_q);
        }
        if (p_rest > 0) expected += p_rest * (log(p_rest) - log(fmax(q_rest, exp(-87))));
        struct divergence_row row;
        score_top(&row, a, b, N, k, target);
        CU_ASSERT_DOUBLE_EQUAL(row.kld, expected, 1e-6 + 1e-6 * expected);
        CU_ASSERT_DOUBLE_EQUAL(row.nll, b_log - (double)b[target], 1e-6 + 1e-6 * row.nll);
        CU_ASSERT_DOUBLE_EQUAL(row.base_nll, a_log - (double)a[target], 1e-9);
        CU_ASSERT_DOUBLE_EQUAL(row.probability_change, exp(-row.nll) - exp(-row.base_nll), 1e-12);
    }
}

/* p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2); only the first is known: 1/2 ln 2 + 1/2 ln (2/3). */
static void top_row_by_hand(void)
{
    const float a[3] = {0, -0.6931472f, -0.6931472f}, b[3] = {-0.6931472f, -0.6931472f, 0};
    struct divergence_row row;
    score_top(&row, a, b, 3, 1, 2);
    CU_ASSERT_DOUBLE_EQUAL(row.kld, 0.5 * log(2) + 0.5 * log(2.0 / 3), 1e-7);
    CU_ASSERT_DOUBLE_EQUAL(row.probability_change, 0.25, 1e-7);
    CU_ASSERT_FALSE(row.same_top);
    score_top(&row, a, a, 3, 1, 2);
    CU_ASSERT(row.kld <= 1e-7 && row.same_top);
    const float bad[3] = {0, NAN, 0};
    score_top(&row, a, bad, 3, 1, 0);
    CU_ASSERT_FALSE(isfinite(row.kld));
}

/* ---- models ---- */

struct three {
    struct pool *pool;
    struct model *models[3];
    char text[TEXT_BYTES];
};

static struct model *open_tiny(struct pool *pool, const char *name, struct tiny_model options)
{
    struct error err = {0};
    struct model *model = NULL;
    REQUIRE(!model_open(&model, tiny_model_folder(name, options), pool, &err), &err);
    return model;
}

static void open_three(struct three *three, unsigned threads)
{
    struct error err = {0};
    uint64_t random = 4;
    testing_folder();
    REQUIRE(!pool_create(&three->pool, threads, &err), &err);
    three->models[0] = open_tiny(three->pool, "base", (struct tiny_model){.seed = 1});
    three->models[1] = open_tiny(three->pool, "other", (struct tiny_model){.seed = 2});
    three->models[2] = open_tiny(three->pool, "wide", (struct tiny_model){.hidden = 128, .layers = 1});
    for (int i = 0; i < TEXT_BYTES; i++)
        three->text[i] = (char)('A' + testing_random(&random) % 26);
}

static void close_three(struct three *three)
{
    for (int i = 0; i < 3; i++)
        model_close(three->models[i]);
    pool_free(three->pool);
}

static struct compare_options options_for(enum perplexity_protocol protocol, uint64_t context)
{
    return (struct compare_options){.text = {.protocol = protocol, .context = context}, .force = true};
}

/* Compare `count` of the models from the second on with the first, and save it. */
static void save(struct three *three, struct comparison *out, uint64_t count, const char *path,
    uint64_t top_k, struct compare_options options)
{
    struct error err = {0};
    const struct compare_base base = {.model = three->models[0]};
    options.save_base = path;
    options.save_top_k = top_k;
    CHECK(
        !compare_models(out, &base, three->models + 1, count, three->text, TEXT_BYTES, &options, NULL, &err),
        &err);
}

/* Compare all three models with a file. */
static void against_stored(struct three *three, struct comparison *out, const char *path)
{
    struct error err = {0};
    struct compare_base base = {0};
    const struct compare_options options = {.save_base = NULL};
    REQUIRE(!base_logits_open(&base.stored, path, three->pool, &err), &err);
    CHECK(!compare_models(out, &base, three->models, 3, NULL, 0, &options, NULL, &err), &err);
    base_logits_close(base.stored);
}

static void check_near(const struct estimate *found, const struct estimate *expected, double within)
{
    CU_ASSERT_DOUBLE_EQUAL(found->value, expected->value, within * (1 + fabs(expected->value)));
    CU_ASSERT_DOUBLE_EQUAL(found->error, expected->error, within * (1 + fabs(expected->error)));
}

/* Predicted: perplexities and the share of equal likeliest tokens to rounding; divergences within s^2 / 8 + s / 2 times
 * their root mean square's worth, far below 1e-4 for rows that span a few nats; a model against itself below 1e-6. */
static void check_against_model(const struct comparison *stored, const struct comparison *model)
{
    CU_ASSERT_EQUAL(stored->tokens_scored, model->tokens_scored);
    CU_ASSERT_EQUAL(stored->windows, model->windows);
    CU_ASSERT_EQUAL(stored->context, model->context);
    CU_ASSERT_EQUAL(stored->by_block, model->by_block);
    CU_ASSERT_EQUAL(stored->model_bytes, model->model_bytes);
    CU_ASSERT(stored->same_top.value == model->same_top.value);
    CU_ASSERT(stored->same_top.error == model->same_top.error);
    check_near(&stored->perplexity, &model->perplexity, 0);
    check_near(&stored->base_perplexity, &model->base_perplexity, 2e-7);
    check_near(&stored->log_ratio, &model->log_ratio, 2e-7);
    check_near(&stored->probability_rms, &model->probability_rms, 2e-7);
    check_near(&stored->kld, &model->kld, 1e-5);
    check_near(&stored->kld_median, &model->kld_median, 1e-4);
    CU_ASSERT_DOUBLE_EQUAL(stored->kld_max, model->kld_max, 1e-4);
}

/* Both protocols, a batch and a rest, windows larger than a chunk of logits. */
static void whole_against_model(void)
{
    static const uint64_t contexts[] = {24, 300};
    struct three three;
    open_three(&three, 2);
    for (int protocol = 0; protocol < 2; protocol++) {
        for (int i = 0; i < 2; i++) {
            struct comparison model[2], stored[3];
            const struct compare_options options =
                options_for(protocol ? PERPLEXITY_LLAMA_CPP : PERPLEXITY_GPTQ, contexts[i]);
            save(&three, model, 2, testing_path("base.nbb"), 0, options);
            against_stored(&three, stored, testing_path("base.nbb"));
            check_against_model(&stored[1], &model[0]);
            check_against_model(&stored[2], &model[1]);
            printf("  KLD of the base itself %.1e, of another %.6f, from the model %.6f\n",
                stored[0].kld.value, stored[1].kld.value, model[0].kld.value);
            CU_ASSERT(stored[0].kld.value < 1e-7 && stored[0].kld_max < 1e-6);
            CU_ASSERT(stored[0].same_top.value == 1 && fabs(stored[0].log_ratio.value) < 1e-7);
            CU_ASSERT_EQUAL(stored[0].base_top_k, 0);
        }
    }
    close_three(&three);
}

/* A base alone costs one pass and gives the same file, and the same perplexity. */
static void base_alone(void)
{
    struct three three;
    struct comparison both[2], alone;
    const struct compare_options options = options_for(PERPLEXITY_GPTQ, 24);
    open_three(&three, 2);
    save(&three, both, 2, testing_path("both.nbb"), 0, options);
    save(&three, &alone, 0, testing_path("alone.nbb"), 0, options);
    CU_ASSERT(testing_same_files(testing_path("both.nbb"), testing_path("alone.nbb")));
    CU_ASSERT(alone.base_perplexity.value == both[0].base_perplexity.value);
    CU_ASSERT(alone.base_perplexity.error == both[0].base_perplexity.error);
    CU_ASSERT(alone.tokens_scored == both[0].tokens_scored && alone.windows == both[0].windows);
    CU_ASSERT(alone.by_block == both[0].by_block && alone.context == 24);
    close_three(&three);
}

static void top_k_rises(void)
{
    static const uint64_t ks[] = {1, 2, 8, 32, 128, VOCABULARY};
    struct three three;
    struct comparison exact[2], stored[3];
    double before = 0;
    const struct compare_options options = options_for(PERPLEXITY_GPTQ, 64);
    open_three(&three, 2);
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        save(&three, exact, 2, testing_path("top.nbb"), ks[i], options);
        against_stored(&three, stored, testing_path("top.nbb"));
        const double kld = stored[1].kld.value;
        CU_ASSERT_EQUAL(stored[1].base_top_k, ks[i]);
        CU_ASSERT(kld >= before - 1e-7 && kld <= exact[0].kld.value + 1e-7);
        CU_ASSERT(ks[i] == VOCABULARY || kld < 0.99 * exact[0].kld.value);
        CU_ASSERT(stored[1].same_top.value == exact[0].same_top.value);
        check_near(&stored[1].perplexity, &exact[0].perplexity, 1e-7);
        check_near(&stored[1].base_perplexity, &exact[0].base_perplexity, 2e-7);
        check_near(&stored[1].log_ratio, &exact[0].log_ratio, 2e-7);
        CU_ASSERT(stored[0].kld_max < 1e-6 && stored[0].same_top.value == 1);
        before = kld;
    }
    CU_ASSERT_DOUBLE_EQUAL(before, exact[0].kld.value, 1e-6);
    close_three(&three);
}

/* Saving changes no result; neither files nor results depend on threads. */
static void same_for_any_threads(void)
{
    struct comparison first[2], first_stored[6], out[2], stored[3];
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct three three;
        struct error err = {0};
        const struct compare_options options = options_for(PERPLEXITY_GPTQ, 24);
        open_three(&three, threads);
        const struct compare_base base = {.model = three.models[0]};
        CHECK(!compare_models(out, &base, three.models + 1, 2, three.text, TEXT_BYTES, &options, NULL, &err),
            &err);
        out[0].seconds = out[1].seconds = 0;
        if (threads == 1) memcpy(first, out, sizeof out);
        CU_ASSERT(memcmp(first, out, sizeof out) == 0);
        for (int kind = 0; kind < 2; kind++) {
            save(&three, out, 2, testing_path("%d.nbb", kind), kind ? 9 : 0, options);
            out[0].seconds = out[1].seconds = 0;
            CU_ASSERT(memcmp(first, out, sizeof out) == 0);
            against_stored(&three, stored, testing_path("%d.nbb", kind));
            for (int i = 0; i < 3; i++)
                stored[i].seconds = 0;
            if (threads == 1) memcpy(first_stored + 3 * kind, stored, sizeof stored);
            CU_ASSERT(memcmp(first_stored + 3 * kind, stored, sizeof stored) == 0);
        }
        close_three(&three);
    }
}

/* The errors of layers come with a comparison, of the same sessions; a model is at no distance from itself. */
static void layers_too(void)
{
    struct three three;
    struct error err = {0};
    struct comparison with[2], without[2];
    struct compare_options options = options_for(PERPLEXITY_GPTQ, 24);
    open_three(&three, 2);
    const struct compare_base base = {.model = three.models[0]};
    CHECK(
        !compare_models(without, &base, three.models, 2, three.text, TEXT_BYTES, &options, NULL, &err), &err);
    options.layers = true;
    CHECK(!compare_models(with, &base, three.models, 2, three.text, TEXT_BYTES, &options, NULL, &err), &err);
    for (int i = 0; i < 2; i++) {
        CU_ASSERT(with[i].kld.value == without[i].kld.value && with[i].layers == 2);
        CU_ASSERT_PTR_NULL(without[i].layer_errors);
        for (uint32_t layer = 0; layer < with[i].layers; layer++)
            CU_ASSERT(i ? with[i].layer_errors[layer] > 0.01 : with[i].layer_errors[layer] == 0);
        memory_free(with[i].layer_errors);
    }
    close_three(&three);
}

static void check_refused(struct three *three, const struct compare_base *base, uint64_t count,
    const char *text, const struct compare_options *options, const char *part)
{
    struct error err = {0};
    struct comparison out[3];
    CU_ASSERT_EQUAL(
        compare_models(out, base, three->models, count, text, text ? strlen(text) : 0, options, NULL, &err),
        ERR_USAGE);
    CHECK(strstr(err.text, part) != NULL, &err);
}

static void refusals(void)
{
    struct three three;
    struct error err = {0};
    struct comparison out[2];
    struct compare_base base = {0};
    struct compare_options options = options_for(PERPLEXITY_GPTQ, 24);
    open_three(&three, 1);
    save(&three, out, 2, testing_path("base.nbb"), 0, options);
    REQUIRE(!base_logits_open(&base.stored, testing_path("base.nbb"), three.pool, &err), &err);
    check_refused(&three, &base, 0, NULL, &options, "no model to compare");
    check_refused(&three, &base, 1, "another text", &options, "leave the text out or give that one");
    CHECK(!compare_models(out, &base, three.models, 1, three.text, TEXT_BYTES, &options, NULL, &err), &err);
    options.layers = true;
    check_refused(&three, &base, 1, NULL, &options, "need the base model");
    options.layers = false;
    options.save_base = testing_path("again.nbb");
    check_refused(&three, &base, 1, NULL, &options, "only the predictions of a model");
    options.save_base = NULL;
    struct model *larger = open_tiny(three.pool, "larger", (struct tiny_model){.vocabulary = 300});
    CU_ASSERT_EQUAL(compare_models(out, &base, &larger, 1, NULL, 0, &options, NULL, &err), ERR_USAGE);
    CHECK(strstr(err.text, "base.nbb has a vocabulary of 269, ") && strstr(err.text, "larger one of 300"),
        &err);
    model_close(larger);
    base_logits_close(base.stored);
    const struct compare_base model = {.model = three.models[0]};
    check_refused(&three, &model, 1, NULL, &options, "no text");
    check_refused(&three, &model, 0, three.text, &options, "no model to compare");
    options.layers = true; /* the third model has other layers */
    check_refused(&three, &model, 3, three.text, &options, "wide has other layers than");
    options.layers = false;
    options.save_base = testing_path("base.nbb");
    options.force = false;
    check_refused(&three, &model, 1, three.text, &options, "exists; --force replaces it");
    close_three(&three);
}

/* A candidate whose logits are not finite leaves no file behind. */
static void not_finite(void)
{
    struct three three;
    struct error err = {0};
    struct comparison out;
    struct compare_options options = options_for(PERPLEXITY_GPTQ, 24);
    open_three(&three, 2);
    struct model *poisoned = open_tiny(three.pool, "poisoned",
        (struct tiny_model){.poison = "lm_head.weight", .poison_at = 70, .poison_value = 3e38f});
    const struct compare_base base = {.model = three.models[0]}, bad = {.model = poisoned};
    options.save_base = testing_path("left.nbb");
    CU_ASSERT_EQUAL(
        compare_models(&out, &base, &poisoned, 1, three.text, TEXT_BYTES, &options, NULL, &err), ERR_NUMERIC);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "poisoned"));
    CU_ASSERT_EQUAL(file_kind(options.save_base), FILE_ABSENT);
    CU_ASSERT_EQUAL(
        compare_models(&out, &bad, NULL, 0, three.text, TEXT_BYTES, &options, NULL, &err), ERR_NUMERIC);
    CU_ASSERT_EQUAL(file_kind(options.save_base), FILE_ABSENT);
    model_close(poisoned);
    close_three(&three);
}

/* Every allocation may fail, and nothing leaks. */
static void without_memory(void)
{
    struct three three;
    struct comparison out[3];
    struct compare_options options = options_for(PERPLEXITY_GPTQ, 300);
    open_three(&three, 1);
    const struct compare_base base = {.model = three.models[0]};
    enum status status = ERR_MEMORY;
    options.save_base = testing_path("m.nbb");
    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 1000; nth++) {
        memory_fail_at(nth, 0);
        status =
            compare_models(out, &base, three.models + 1, 1, three.text, TEXT_BYTES, &options, NULL, NULL);
        memory_fail_at(0, 0);
    }
    CU_ASSERT_EQUAL(status, OK);
    options.save_base = NULL;
    status = ERR_MEMORY;
    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 1000; nth++) {
        struct compare_base stored = {0};
        REQUIRE(!base_logits_open(&stored.stored, testing_path("m.nbb"), three.pool, NULL), NULL);
        memory_fail_at(nth, 0);
        status = compare_models(out, &stored, three.models, 2, NULL, 0, &options, NULL, NULL);
        memory_fail_at(0, 0);
        base_logits_close(stored.stored);
    }
    CU_ASSERT_EQUAL(status, OK);
    close_three(&three);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"a row of the likeliest by hand", top_row_by_hand},
        {"rows of the likeliest against naive ones", top_row_against_naive},
        {"a stored base and the model", whole_against_model},
        {"a base alone", base_alone},
        {"the k likeliest: a lower bound that rises", top_k_rises},
        {"the same for any number of threads", same_for_any_threads},
        {"errors of layers too", layers_too},
        {"refusals", refusals},
        {"logits that are not finite", not_finite},
        {"without memory", without_memory},
    };
    testing_kernel_set();
    return TESTING_RUN("compare_stored", cases);
}
