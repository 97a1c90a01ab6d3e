/* Statistics of a comparison against those of numpy, in double precision (tests/golden/comparison, scripts/make-golden.py): of
 * rows of logits as they are written there, and of two tiny models against what transformers makes of them. */
#include "runtime-check/judge/divergence.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "formats/container.h"
#include "runtime-check/judge/perplexity.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

/* ---- what is expected ---- */

static struct json_document *read_json(const char *name)
{
    struct error err = {0};
    struct json_document *document = NULL;
    uint64_t bytes;
    char *text = testing_read(testing_source(name), &bytes);
    REQUIRE(!json_parse(&document, name, text, bytes, &err), &err);
    memory_free(text);
    return document;
}

/* A number that must be there. */
static double number(const struct json_value *object, const char *name)
{
    struct error err = {0};
    double value = NAN;
    CHECK(!json_get_number(object, "expected", name, -1e300, 1e300, &value, &err), &err);
    if (isnan(value)) printf("\n%s is missing\n", name);
    CU_ASSERT_FALSE(isnan(value));
    return value;
}

static void check_number(double found, double expected, double tolerance, const char *name)
{
    const bool near = fabs(found - expected) <= tolerance * (1 + fabs(expected));
    CU_ASSERT_TRUE(near);
    if (!near) printf("\n%s: found %.9g, expected %.9g\n", name, found, expected);
}

static void check_estimate(
    const struct estimate *found, const struct json_value *expected, const char *name, double tolerance)
{
    const struct json_value *object = json_member(expected, name);
    check_number(found->value, number(object, "value"), tolerance, name);
    check_number(found->error, number(object, "error"), tolerance, name);
}

/* The error by another bootstrap: both are good to `noise` of themselves, four times which is allowed. */
static void check_percentile(
    const struct estimate *found, const struct json_value *expected, const char *name, double tolerance)
{
    const struct json_value *object = json_member(expected, name);
    const double error = number(object, "error"), noise = number(object, "noise");
    check_number(found->value, number(object, "value"), tolerance, name);
    CU_ASSERT_DOUBLE_EQUAL(found->error, error, 4 * noise * error + tolerance);
    CU_ASSERT_EQUAL(found->error == 0, error == 0);
}

static void check_curve(const struct comparison *found, const struct json_value *expected, double tolerance)
{
    const struct json_value *curve = json_member(expected, "kld_curve");
    const struct json_value *value = curve ? curve->children : NULL;
    CU_ASSERT_EQUAL_FATAL(curve ? curve->count : 0, COMPARE_CURVE);
    for (int i = 0; i < COMPARE_CURVE; i++, value = value->next)
        check_number(found->kld_curve[i], value->number, tolerance, "kld_curve");
}

/* tolerance: t means |found - expected| <= t (1 + |expected|). */
static void check_statistics(
    const struct comparison *found, const struct json_value *expected, double tolerance)
{
    CU_ASSERT_EQUAL(found->tokens_scored, (uint64_t)number(expected, "tokens_scored"));
    CU_ASSERT_EQUAL(found->by_block, json_member(expected, "by_window")->boolean);
    check_estimate(&found->perplexity, expected, "perplexity", tolerance);
    check_estimate(&found->base_perplexity, expected, "base_perplexity", tolerance);
    check_estimate(&found->log_ratio, expected, "log_ratio", tolerance);
    check_estimate(&found->kld, expected, "kld", tolerance);
    check_estimate(&found->probability_rms, expected, "probability_rms", tolerance);
    check_estimate(&found->same_top, expected, "same_top", 1e-12);
    check_number(found->same_top_effective, number(expected, "same_top_effective"), 1e-9, "effective");
    check_percentile(&found->kld_median, expected, "kld_median", tolerance);
    check_percentile(&found->kld_p90, expected, "kld_p90", tolerance);
    check_percentile(&found->kld_p95, expected, "kld_p95", tolerance);
    check_percentile(&found->kld_p99, expected, "kld_p99", tolerance);
    check_percentile(&found->kld_p999, expected, "kld_p999", tolerance);
    check_number(found->kld_max, number(expected, "kld_max"), tolerance, "kld_max");
    check_curve(found, expected, tolerance);
}

/* ---- rows ---- */

struct rows {
    struct container *container;
    const float *base, *candidate; /* [windows][per_window][vocabulary] */
    const int64_t *target;         /* [windows][per_window] */
    uint64_t windows, per_window, vocabulary;
};

static void open_rows(struct rows *rows)
{
    struct error err = {0};
    const char *path = testing_source("golden/comparison/rows.safetensors");
    REQUIRE(!container_open(&rows->container, path, &err), &err);
    REQUIRE(!container_map(rows->container, &err), &err);
    const struct tensor *base = container_find(rows->container, "base");
    const struct tensor *candidate = container_find(rows->container, "candidate");
    const struct tensor *target = container_find(rows->container, "target");
    REQUIRE(base && candidate && target && base->rank == 3 && candidate->elements == base->elements, NULL);
    rows->windows = base->shape[0];
    rows->per_window = base->shape[1];
    rows->vocabulary = base->shape[2];
    REQUIRE(target->elements == rows->windows * rows->per_window, NULL);
    rows->base = base->data;
    rows->candidate = candidate->data;
    rows->target = target->data;
}

/* The first `windows` windows of `candidate` against `base`. */
static void summarize(struct comparison *out, const struct rows *rows, const float *base,
    const float *candidate, uint64_t windows)
{
    struct error err = {0};
    const uint64_t count = windows * rows->per_window;
    struct divergence divergence = {.capacity = count, .per_window = rows->per_window};
    divergence.klds = memory_new(count, sizeof(float), &err);
    REQUIRE(divergence.klds, &err);
    for (uint64_t i = 0; i < count; i++) {
        struct divergence_row row;
        divergence_row(&row, base + i * rows->vocabulary, candidate + i * rows->vocabulary, rows->vocabulary,
            (uint32_t)rows->target[i]);
        divergence_add(&divergence, &row);
    }
    CHECK(!divergence_summarize(out, &divergence, &err), &err);
    memory_free(divergence.klds);
}

/* Exponentials are single precision: a row's divergence and nll are good to 5e-7 of themselves and 1, so any mean, standard
 * error or percentile of them is; a perplexity of its own size; the root mean square, whose values are below 1, as well. */
static void rows_against_numpy(void)
{
    static const char *const sets[] = {"all", "few"};
    struct rows rows = {0};
    struct json_document *expected = read_json("golden/comparison/rows.json");
    open_rows(&rows);
    for (int i = 0; i < 2; i++) {
        const struct json_value *set = json_member(json_root(expected), sets[i]);
        const uint64_t windows = (uint64_t)number(set, "windows");
        struct comparison found = {0};
        CU_ASSERT(windows <= rows.windows && (windows >= ESTIMATE_LEAST) == (i == 0));
        summarize(&found, &rows, rows.base, rows.candidate, windows);
        check_statistics(&found, set, 1e-6);
    }
    json_free(expected);
    container_close(rows.container);
}

/* Windows as samples: the made-up rows differ more between windows than within, which the errors must show. */
static void rows_of_windows(void)
{
    struct rows rows = {0};
    struct comparison by_window = {0}, by_token = {0};
    open_rows(&rows);
    summarize(&by_window, &rows, rows.base, rows.candidate, rows.windows);
    rows.per_window *= rows.windows; /* one window */
    summarize(&by_token, &rows, rows.base, rows.candidate, 1);
    CU_ASSERT(by_window.kld.value == by_token.kld.value && by_window.kld_p99.value == by_token.kld_p99.value);
    CU_ASSERT(by_window.by_block && !by_token.by_block);
    CU_ASSERT(by_window.kld.error > 1.5 * by_token.kld.error);
    CU_ASSERT(by_window.same_top_effective < by_token.same_top_effective);
    container_close(rows.container);
}

/* Equal rows: no distance, and no error of it, to the last bit. */
static void rows_against_themselves(void)
{
    struct rows rows = {0};
    struct comparison found = {0};
    open_rows(&rows);
    summarize(&found, &rows, rows.base, rows.base, rows.windows);
    const struct estimate *const zero[] = {&found.log_ratio, &found.kld, &found.kld_median, &found.kld_p90,
        &found.kld_p95, &found.kld_p99, &found.kld_p999, &found.probability_rms};
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
        CU_ASSERT(zero[i]->value == 0 && zero[i]->error == 0);
    for (int i = 0; i < COMPARE_CURVE; i++)
        CU_ASSERT(found.kld_curve[i] == 0);
    CU_ASSERT(found.kld_max == 0 && found.same_top.value == 1 && found.same_top.error == 0);
    CU_ASSERT(found.perplexity.value == found.base_perplexity.value);
    CU_ASSERT(found.perplexity.error == found.base_perplexity.error && found.perplexity.error > 0);
    container_close(rows.container);
}

/* ---- models ---- */

struct pair {
    struct pool *pool;
    struct model *base, *candidate;
    char *text;
    uint64_t text_bytes;
};

static void open_pair(struct pair *pair)
{
    struct error err = {0};
    REQUIRE(!pool_create(&pair->pool, 2, &err), &err);
    REQUIRE(!model_open(&pair->base, testing_source("golden/comparison/base"), pair->pool, &err), &err);
    REQUIRE(
        !model_open(&pair->candidate, testing_source("golden/comparison/candidate"), pair->pool, &err), &err);
    pair->text = testing_read(testing_source("golden/comparison/text.txt"), &pair->text_bytes);
}

static void close_pair(struct pair *pair)
{
    memory_free(pair->text);
    model_close(pair->base);
    model_close(pair->candidate);
    pool_free(pair->pool);
}

static void check_perplexity(
    const struct pair *pair, const struct perplexity_options *options, const struct json_value *expected)
{
    struct error err = {0};
    struct perplexity_result found;
    CHECK(!perplexity_measure(&found, pair->candidate, pair->text, pair->text_bytes, options, NULL, &err),
        &err);
    const struct json_value *windows = json_member(expected, "window_nll");
    CU_ASSERT_EQUAL_FATAL(windows ? windows->count : 0, found.windows);
    const struct json_value *value = windows->children;
    for (uint64_t i = 0; i < found.windows; i++, value = value->next)
        check_number(found.window_nll[i], value->number, 1e-5, "window_nll");
    check_estimate(&found.perplexity, expected, "perplexity", 1e-5);
    CU_ASSERT_EQUAL(found.by_block, json_member(expected, "by_window")->boolean);
    memory_free(found.window_nll);
}

/* Under both protocols. Two single-precision forward passes differ by about 1e-6 of the largest logit, some 20 here. */
static void models_against_transformers(void)
{
    static const char *const protocols[] = {"gptq", "llama.cpp"};
    struct pair pair = {0};
    struct json_document *expected = read_json("golden/comparison/models.json");
    open_pair(&pair);
    for (int i = 0; i < 2; i++) {
        const struct json_value *set = json_member(json_root(expected), protocols[i]);
        const struct compare_base base = {.model = pair.base};
        const struct compare_options options = {
            .text = {.protocol = i ? PERPLEXITY_LLAMA_CPP : PERPLEXITY_GPTQ, .context = 32}};
        struct comparison found = {0};
        struct error err = {0};
        CHECK(!compare_models(
                  &found, &base, &pair.candidate, 1, pair.text, pair.text_bytes, &options, NULL, &err),
            &err);
        CU_ASSERT_EQUAL(found.windows, (uint64_t)number(set, "windows"));
        check_statistics(&found, set, 2e-5);
        check_perplexity(&pair, &options.text, set);
    }
    json_free(expected);
    close_pair(&pair);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"rows against numpy", rows_against_numpy},
        {"windows as samples", rows_of_windows},
        {"rows against themselves", rows_against_themselves},
        {"two models against transformers", models_against_transformers},
    };
    testing_kernel_set();
    return TESTING_RUN("divergence", cases);
}
