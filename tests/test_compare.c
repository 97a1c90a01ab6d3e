/* Comparison in lock step: a row's divergence and the statistics of many against naive ones, a model against itself, the same
 * result for any number of threads, and what must be refused. Models are tiny and random; real ones are in
 * test_shared_compare.c. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/judge/compare.h"
#include "runtime-check/judge/divergence.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { VOCABULARY = 5003 }; /* several pieces and a rest */

/* ---- one row ---- */

static double naive_log_sum(const float *x, uint64_t n)
{
    double top = (double)x[0], sum = 0;
    for (uint64_t i = 1; i < n; i++)
        top = (double)x[i] > top ? (double)x[i] : top;
    for (uint64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - top);
    return top + log(sum);
}

static double naive_kld(const float *a, const float *b, uint64_t n)
{
    const double a_log = naive_log_sum(a, n), b_log = naive_log_sum(b, n);
    double sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        const double log_p = (double)a[i] - a_log, log_q = (double)b[i] - b_log;
        sum += exp(log_p) * (log_p - log_q);
    }
    return sum;
}

static uint64_t naive_top(const float *x, uint64_t n)
{
    uint64_t top = 0;
    for (uint64_t i = 1; i < n; i++)
        top = x[i] > x[top] ? i : top;
    return top;
}

/* The divergence of one row, and what else is asked of it. */
static double kld_of(const float *base, const float *candidate, uint64_t vocabulary, uint32_t target,
    bool *same_top, double *change)
{
    struct divergence_row row;
    divergence_row(&row, base, candidate, vocabulary, target);
    *same_top = row.same_top;
    *change = row.probability_change;
    return row.kld;
}

static void check_row(const float *a, const float *b, uint64_t n, uint32_t target)
{
    const double expected = naive_kld(a, b, n);
    const double a_log = naive_log_sum(a, n), b_log = naive_log_sum(b, n);
    struct divergence_row row;
    bool same_top;
    double change;
    divergence_row(&row, a, b, n, target);
    CU_ASSERT_DOUBLE_EQUAL(row.kld, expected, 5e-7 + 5e-7 * expected);
    CU_ASSERT_DOUBLE_EQUAL(row.base_nll, a_log - (double)a[target], 5e-7 + 1e-12 * fabs(a_log));
    CU_ASSERT_DOUBLE_EQUAL(row.nll, b_log - (double)b[target], 5e-7 + 1e-12 * fabs(b_log));
    CU_ASSERT_DOUBLE_EQUAL(
        row.probability_change, exp((double)b[target] - b_log) - exp((double)a[target] - a_log), 5e-7);
    CU_ASSERT_EQUAL(row.same_top, naive_top(a, n) == naive_top(b, n));
    CU_ASSERT(kld_of(a, b, n, target, &same_top, &change) == row.kld);
    CU_ASSERT(same_top == row.same_top && change == row.probability_change);
}

/* Logits of all magnitudes, near one another and far apart, and every length of the last piece. */
static void rows_against_naive(void)
{
    static float a[VOCABULARY], b[VOCABULARY];
    uint64_t random = 1;
    for (int round = 0; round < 60; round++) {
        const float scale = powf(10, (float)(round % 6) - 1); /* 0.1 .. 1e4 */
        const float change = round % 2 ? 0.01f : 1;
        const uint64_t n = round < 20 ? (uint64_t)(1 + round) : (uint64_t)(VOCABULARY - round);
        const float offset = round % 3 ? 0 : 1e4f; /* a row moved as a whole is the same distribution */
        for (uint64_t i = 0; i < n; i++) {
            a[i] = scale * testing_normal(&random);
            b[i] = a[i] + scale * change * testing_normal(&random) + offset;
        }
        check_row(a, b, n, (uint32_t)(testing_random(&random) % n));
    }
}

/* p = (1/2, 1/2), q = (1/4, 3/4): KL = 1/2 ln 2 + 1/2 ln (2/3). */
static void row_by_hand(void)
{
    const float base[2] = {3, 3}, candidate[2] = {0, 1.0986123f};
    bool same_top;
    double change;
    CU_ASSERT_DOUBLE_EQUAL(
        kld_of(base, candidate, 2, 0, &same_top, &change), 0.5 * log(2) + 0.5 * log(2.0 / 3), 1e-7);
    CU_ASSERT_DOUBLE_EQUAL(change, -0.25, 1e-7);
    CU_ASSERT_FALSE(same_top); /* of equal logits the first is the top */
    CU_ASSERT(kld_of(base, base, 2, 1, &same_top, &change) == 0);
    CU_ASSERT(change == 0 && same_top);
}

/* Whichever row and place it stands in, a logit that is not finite shows. */
static void rows_not_finite(void)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t kind = 0; kind < 3; kind++) {
        for (uint64_t at = 0; at < 11; at++) {
            float a[11], b[11];
            bool same_top;
            double change;
            for (int i = 0; i < 11; i++)
                a[i] = b[i] = (float)i;
            a[at] = bad[kind];
            CU_ASSERT_FALSE(isfinite(kld_of(a, b, 11, 3, &same_top, &change)));
            CU_ASSERT_FALSE(isfinite(kld_of(b, a, 11, 3, &same_top, &change)));
            CU_ASSERT_FALSE(isfinite(kld_of(a, a, 11, 3, &same_top, &change)));
        }
    }
}

/* ---- statistics ---- */

enum { ROWS = 1001 };

static double mean_of(const double *x, uint64_t n)
{
    double sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

static double covariance(const double *x, const double *y, uint64_t n)
{
    const double x_mean = mean_of(x, n), y_mean = mean_of(y, n);
    double sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += (x[i] - x_mean) * (y[i] - y_mean);
    return sum / (double)(n - 1);
}

#define NEAR(found, expected) CU_ASSERT_DOUBLE_EQUAL(found, expected, 1e-9 * (1 + fabs(expected)))

/* Random rows, whose values are also kept one kind at a time. */
struct sample {
    double base[ROWS], nll[ROWS], kld[ROWS], square[ROWS], same[ROWS];
};

static void draw_rows(struct sample *sample, struct divergence *divergence)
{
    uint64_t random = 3;
    for (int i = 0; i < ROWS; i++) {
        struct divergence_row row = {.base_nll = fabs((double)testing_normal(&random)),
            .kld = (double)((i * 389) % ROWS) / 8, /* each of 0/8 .. 1000/8 once, exact in a float */
            .probability_change = (double)testing_normal(&random) / 9,
            .same_top = testing_random(&random) % 3 != 0};
        row.nll = row.base_nll + (double)testing_normal(&random) / 10;
        sample->base[i] = row.base_nll;
        sample->nll[i] = row.nll;
        sample->kld[i] = row.kld;
        sample->square[i] = row.probability_change * row.probability_change;
        sample->same[i] = row.same_top;
        divergence_add(divergence, &row);
    }
}

/* Replace what is in x by the means of windows, if there are enough of them. Returns how many values are left. */
static uint64_t means_of_windows(double *x, uint64_t per_window)
{
    const uint64_t windows = ROWS / per_window;
    if (windows < ESTIMATE_LEAST) return ROWS;
    for (uint64_t i = 0; i < windows; i++)
        x[i] = mean_of(x + i * per_window, per_window);
    return windows;
}

static void check_means(const struct comparison *out, const struct sample *s)
{
    NEAR(out->base_perplexity.value, exp(mean_of(s->base, ROWS)));
    NEAR(out->perplexity.value, exp(mean_of(s->nll, ROWS)));
    NEAR(out->log_ratio.value, log(out->perplexity.value / out->base_perplexity.value));
    NEAR(out->kld.value, mean_of(s->kld, ROWS));
    NEAR(out->probability_rms.value, sqrt(mean_of(s->square, ROWS)));
    NEAR(out->same_top.value, mean_of(s->same, ROWS));
}

/* Uses the sample up. */
static void check_errors(const struct comparison *out, struct sample *s, uint64_t per_window)
{
    const uint64_t n = means_of_windows(s->base, per_window);
    double *const rest[] = {s->nll, s->kld, s->square, s->same};
    for (int i = 0; i < 4; i++)
        means_of_windows(rest[i], per_window);
    const double base = covariance(s->base, s->base, n), candidate = covariance(s->nll, s->nll, n),
                 both = covariance(s->base, s->nll, n), count = (double)n;
    NEAR(out->base_perplexity.error, out->base_perplexity.value * sqrt(base / count));
    NEAR(out->perplexity.error, out->perplexity.value * sqrt(candidate / count));
    NEAR(out->log_ratio.error, sqrt((candidate + base - 2 * both) / count));
    NEAR(out->kld.error, sqrt(covariance(s->kld, s->kld, n) / count));
    NEAR(out->probability_rms.error,
        sqrt(covariance(s->square, s->square, n) / count) / (2 * out->probability_rms.value));
    NEAR(out->same_top.error, sqrt(covariance(s->same, s->same, n) / count));
}

/* Few windows, whose tokens count one by one, and many, which count as wholes. */
static void statistics_against_naive(void)
{
    static float klds[ROWS];
    static struct sample s;
    for (uint64_t per_window = 77; per_window <= 143; per_window += 143 - 77) {
        struct divergence divergence = {.klds = klds, .capacity = ROWS, .per_window = per_window};
        struct comparison out = {.windows = 6};
        struct error err = {0};
        draw_rows(&s, &divergence);
        CHECK(!divergence_summarize(&out, &divergence, &err), &err);
        CU_ASSERT_EQUAL(out.tokens_scored, ROWS);
        CU_ASSERT_EQUAL(out.windows, 6); /* the caller's */
        CU_ASSERT_EQUAL(out.by_block, per_window == 77);
        check_means(&out, &s);
        check_errors(&out, &s, per_window);
        NEAR(out.kld_median.value, 62.5);
        NEAR(out.kld_p90.value, 112.5);
        NEAR(out.kld_p95.value, 118.75);
        NEAR(out.kld_p99.value, 123.75);
        NEAR(out.kld_p999.value, 124.875);
        NEAR(out.kld_max, 125.0);
        CU_ASSERT_EQUAL(out.kld_median.error > 0, out.by_block);
        for (int i = 0; i < COMPARE_CURVE; i++)
            NEAR(out.kld_curve[i], 125 * (1 - pow(10, -(double)i / COMPARE_CURVE_PER_DECADE)));
    }
}

/* One row has no spread; of two, percentiles lie between. */
static void statistics_of_few(void)
{
    float klds[2];
    struct divergence divergence = {.klds = klds, .capacity = 2, .per_window = 2};
    struct divergence_row row = {.base_nll = 1, .nll = 2, .kld = 3, .same_top = true};
    struct comparison out;
    struct error err = {0};
    divergence_add(&divergence, &row);
    CHECK(!divergence_summarize(&out, &divergence, &err), &err);
    CU_ASSERT(out.kld.value == 3 && out.kld_median.value == 3 && out.kld_p999.value == 3 && out.kld_max == 3);
    CU_ASSERT(out.log_ratio.value == 1 && out.log_ratio.error == 0 && out.kld.error == 0 &&
              out.same_top.error == 0 && out.kld_median.error == 0 && !out.by_block);
    row.kld = 4;
    divergence_add(&divergence, &row);
    CHECK(!divergence_summarize(&out, &divergence, &err), &err);
    NEAR(out.kld_median.value, 3.5);
    NEAR(out.kld.error, 0.5);
    CU_ASSERT(out.kld_max == 4 && out.probability_rms.error == 0);
}

/* Finite logits may be further apart than a float reaches; a percentile is still a number. */
static void statistics_of_the_furthest(void)
{
    const float base[2] = {3e38f, -3e38f}, candidate[2] = {-3e38f, 3e38f};
    float kld;
    struct divergence divergence = {.klds = &kld, .capacity = 1, .per_window = 1};
    struct divergence_row row;
    struct comparison out;
    struct error err = {0};
    divergence_row(&row, base, candidate, 2, 0);
    NEAR(row.kld / ((double)base[0] * 4), 0.5);
    divergence_add(&divergence, &row);
    CHECK(!divergence_summarize(&out, &divergence, &err), &err);
    CU_ASSERT(isfinite(out.kld_max) && isfinite(out.kld_median.value));
}

/* ---- models ---- */

static const char text[] =
    "One two three four five. A text of which only the length matters, because nobody has taught these "
    "models "
    "anything: six seven eight nine ten, and so on until there are windows enough to be a batch and a rest. "
    "One two three four five. A text of which only the length matters, because nobody has taught these "
    "models "
    "anything: six seven eight nine ten, and so on until there are windows enough to be a batch and a rest. ";

struct three {
    struct pool *pool;
    struct model *models[3];
    struct compare_base base; /* the first of them */
};

static struct model *open_tiny(struct pool *pool, const char *name, struct tiny_model options)
{
    struct error err = {0};
    struct model *model = NULL;
    REQUIRE(!model_open(&model, tiny_model_folder(name, options), pool, &err), &err);
    return model;
}

/* Two models of different weights, and the first once more with another number of layers. */
static void open_three(struct three *three, unsigned threads)
{
    struct error err = {0};
    testing_folder();
    REQUIRE(!pool_create(&three->pool, threads, &err), &err);
    three->models[0] = open_tiny(three->pool, "base", (struct tiny_model){.seed = 1});
    three->models[1] = open_tiny(three->pool, "other", (struct tiny_model){.seed = 2});
    three->models[2] = open_tiny(three->pool, "wide", (struct tiny_model){.hidden = 128, .layers = 1});
    three->base = (struct compare_base){.model = three->models[0]};
}

static void close_three(struct three *three)
{
    for (int i = 0; i < 3; i++)
        model_close(three->models[i]);
    pool_free(three->pool);
}

/* Exactly none, in every statistic. */
static void check_no_distance(const struct comparison *out)
{
    const struct estimate *const zero[] = {&out->log_ratio, &out->kld, &out->kld_median, &out->kld_p90,
        &out->kld_p95, &out->kld_p99, &out->kld_p999, &out->probability_rms};
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
        CU_ASSERT(zero[i]->value == 0 && zero[i]->error == 0);
    for (int i = 0; i < COMPARE_CURVE; i++)
        CU_ASSERT(out->kld_curve[i] == 0);
    CU_ASSERT(out->kld_max == 0 && out->same_top.value == 1 && out->same_top.error == 0);
    CU_ASSERT(out->same_top_effective == (double)out->tokens_scored);
    CU_ASSERT(out->perplexity.value == out->base_perplexity.value &&
              out->perplexity.error == out->base_perplexity.error);
}

/* The same bits in all that was measured; times aside. */
static bool same_result(const struct comparison *a, const struct comparison *b)
{
    const size_t begin = offsetof(struct comparison, perplexity),
                 end = offsetof(struct comparison, layer_errors); /* doubles only */
    return a->tokens_scored == b->tokens_scored && a->windows == b->windows && a->context == b->context &&
           a->by_block == b->by_block &&
           memcmp((const char *)a + begin, (const char *)b + begin, end - begin) == 0;
}

/* With tokens as samples (6 windows) and with windows (24). A perplexity is the same number, to the bit, as measured alone. */
static void a_model_and_itself(void)
{
    struct three three;
    struct error err = {0};
    struct comparison out[2];
    struct perplexity_result alone;
    open_three(&three, 2);
    struct model *const candidates[] = {three.models[0], three.models[2]};
    for (uint64_t context = 16; context <= 64; context += 48) {
        const struct compare_options options = {
            .text = {.protocol = PERPLEXITY_GPTQ, .context = context}, .window_nll = true};
        CHECK(
            !compare_models(out, &three.base, candidates, 2, text, strlen(text), &options, NULL, &err), &err);
        check_no_distance(&out[0]);
        CU_ASSERT(out[1].kld.value > 0 && out[1].kld.error > 0 && out[1].same_top.value < 1 &&
                  out[1].base_perplexity.value == out->base_perplexity.value);
        CU_ASSERT_EQUAL(out->model_bytes, container_bytes(three.models[0]->container));
        CU_ASSERT_EQUAL(out->by_block, context == 16);
        for (int i = 0; i < 2; i++) {
            CHECK(!perplexity_measure(&alone, candidates[i], text, strlen(text), &options.text, NULL, &err),
                &err);
            const struct estimate *found = &out[i].perplexity, *expected = &alone.perplexity;
            CU_ASSERT(found->value == expected->value && found->error == expected->error);
            CU_ASSERT(memcmp(out[i].window_nll, alone.window_nll, alone.windows * sizeof(double)) == 0);
            CU_ASSERT(out[i].tokens_scored == alone.tokens_scored && out[i].windows == alone.windows);
            CU_ASSERT_EQUAL(out[i].by_block, alone.by_block);
            memory_free(alone.window_nll);
            memory_free(out[i].window_nll);
        }
    }
    close_three(&three);
}

/* Under both protocols, with a batch and a rest; candidates do not disturb one another. */
static void same_for_any_threads(void)
{
    struct comparison first[4], out[2], single;
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct three three;
        struct error err = {0};
        open_three(&three, threads);
        for (int protocol = 0; protocol < 2; protocol++) {
            const struct compare_options options = {
                .text = {.protocol = protocol ? PERPLEXITY_LLAMA_CPP : PERPLEXITY_GPTQ, .context = 24}};
            CHECK(!compare_models(
                      out, &three.base, three.models + 1, 2, text, strlen(text), &options, NULL, &err),
                &err);
            if (threads == 1) memcpy(first + 2 * protocol, out, sizeof out);
            CU_ASSERT(
                same_result(&first[2 * protocol], &out[0]) && same_result(&first[2 * protocol + 1], &out[1]));
            CHECK(!compare_models(
                      &single, &three.base, three.models + 2, 1, text, strlen(text), &options, NULL, &err),
                &err);
            CU_ASSERT(same_result(&single, &out[1]));
        }
        close_three(&three);
    }
    CU_ASSERT_EQUAL(first[0].tokens_scored, first[0].windows * 23);
    CU_ASSERT_EQUAL(first[2].tokens_scored, first[2].windows * 11);
}

static void refusals(void)
{
    struct three three;
    struct error err = {0};
    struct comparison out;
    struct compare_options options = {.text = {.protocol = PERPLEXITY_GPTQ, .context = 256}};
    open_three(&three, 1);
    struct model *base = three.models[0], *const *others = three.models + 1;
    CU_ASSERT_EQUAL(
        compare_models(&out, &three.base, others, 1, "short", 5, &options, NULL, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "less than one window of 256"));
    options.text.context = 64;
    CU_ASSERT_EQUAL(
        compare_models(&out, &three.base, others, 0, text, strlen(text), &options, NULL, &err), ERR_USAGE);
    struct model *larger = open_tiny(three.pool, "larger", (struct tiny_model){.vocabulary = 300});
    CU_ASSERT_EQUAL(
        compare_models(&out, &three.base, &larger, 1, text, strlen(text), &options, NULL, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "base has a vocabulary of 269, "));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "larger one of 300"));
    struct tokenizer *tokenizer = base->tokenizer;
    base->tokenizer = NULL;
    CU_ASSERT_EQUAL(compare_models(&out, &three.base, others, 1, text, strlen(text), &options, NULL, &err),
        ERR_UNSUPPORTED);
    base->tokenizer = tokenizer;
    model_close(larger);
    close_three(&three);
}

/* The shipped model's: it merges where the tiny ones take bytes. */
static struct tokenizer *foreign_tokenizer(void)
{
    struct error err = {0};
    struct tokenizer *tokenizer = NULL;
    uint64_t bytes;
    char *json = testing_read(testing_source("../models/folio-4M/tokenizer.json"), &bytes);
    REQUIRE(!tokenizer_create(&tokenizer, "tokenizer.json", json, bytes, &err), &err);
    memory_free(json);
    return tokenizer;
}

/* A tokenizer.json written differently may compare; one that cuts the text differently may not. */
static void other_tokenizers(void)
{
    struct three three;
    struct error err = {0};
    struct comparison out;
    const struct compare_options options = {.text = {.protocol = PERPLEXITY_GPTQ, .context = 64}};
    open_three(&three, 1);
    uint64_t bytes;
    const char *folder = tiny_model_folder("spaced", (struct tiny_model){.seed = 2});
    char *json = testing_read(testing_path("spaced/tokenizer.json"), &bytes);
    char *longer = memory_new(bytes + 2, 1, &err);
    struct model *spaced = NULL;
    REQUIRE(longer != NULL, &err);
    memcpy(longer, json, bytes);
    longer[bytes] = '\n';
    testing_write(testing_path("spaced/tokenizer.json"), longer, bytes + 1);
    REQUIRE(!model_open(&spaced, folder, three.pool, &err), &err);
    CHECK(!compare_models(&out, &three.base, &spaced, 1, text, strlen(text), &options, NULL, &err), &err);
    struct tokenizer *tokenizer = spaced->tokenizer;
    spaced->tokenizer = foreign_tokenizer();
    CU_ASSERT_EQUAL(
        compare_models(&out, &three.base, &spaced, 1, text, strlen(text), &options, NULL, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "different tokenizers"));
    tokenizer_free(spaced->tokenizer);
    spaced->tokenizer = NULL;
    CHECK(!compare_models(&out, &three.base, &spaced, 1, text, strlen(text), &options, NULL, &err), &err);
    spaced->tokenizer = tokenizer;
    model_close(spaced);
    memory_free(longer);
    memory_free(json);
    close_three(&three);
}

/* A weight that makes logits infinite is named, not averaged. */
static void not_finite(void)
{
    struct three three;
    struct error err = {0};
    struct comparison out;
    const struct compare_options options = {.text = {.protocol = PERPLEXITY_GPTQ, .context = 64}};
    open_three(&three, 2);
    struct model *poisoned = open_tiny(three.pool, "poisoned",
        (struct tiny_model){.poison = "lm_head.weight", .poison_at = 70, .poison_value = 3e38f});
    CU_ASSERT_EQUAL(compare_models(&out, &three.base, &poisoned, 1, text, strlen(text), &options, NULL, &err),
        ERR_NUMERIC);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "poisoned"));
    model_close(poisoned);
    close_three(&three);
}

/* Every allocation may fail, and nothing leaks. */
static void without_memory(void)
{
    struct three three;
    struct comparison out[2];
    const struct compare_options options = {.text = {.protocol = PERPLEXITY_GPTQ, .context = 64}};
    open_three(&three, 1);
    enum status status = ERR_MEMORY;
    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 1000; nth++) {
        struct error err = {0};
        memory_fail_at(nth, 0);
        status =
            compare_models(out, &three.base, three.models + 1, 2, text, strlen(text), &options, NULL, &err);
        CU_ASSERT(status == OK || status == ERR_MEMORY);
    }
    memory_fail_at(0, 0);
    CU_ASSERT_EQUAL(status, OK);
    close_three(&three);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"one row by hand", row_by_hand},
        {"rows against a naive divergence", rows_against_naive},
        {"rows that are not finite", rows_not_finite},
        {"statistics against naive ones", statistics_against_naive},
        {"statistics of few rows", statistics_of_few},
        {"statistics of the furthest rows", statistics_of_the_furthest},
        {"a model and itself", a_model_and_itself},
        {"the same for any number of threads", same_for_any_threads},
        {"refusals", refusals},
        {"other tokenizers", other_tokenizers},
        {"logits that are not finite", not_finite},
        {"without memory", without_memory},
    };
    testing_kernel_set();
    return TESTING_RUN("compare", cases);
}
