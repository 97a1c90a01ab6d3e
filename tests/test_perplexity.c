/* Perplexity and generation: the arithmetic against hand-made values, the protocols' counts, failures that must be errors,
 * and the same result for any number of threads. The model is the one that ships. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/generate/generate.h"
#include "runtime-check/judge/perplexity.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"

#define MODEL "models/folio-4M"

static struct model *open_model(struct pool **pool, unsigned threads)
{
    struct model *model = NULL;
    struct error err = {0};
    REQUIRE(!pool_create(pool, threads, &err), &err);
    REQUIRE(!model_open(&model, testing_source("../" MODEL), *pool, &err), &err);
    return model;
}

static char *eval_text(uint64_t *bytes)
{
    return testing_read(testing_source("../" MODEL "/eval.txt"), bytes);
}

/* -log softmax by hand: four equal logits give ln 4; a lead of ln 3 over three others gives p = 1/2. */
static void nll_by_hand(void)
{
    static const struct {
        float logits[4];
        uint32_t target;
        double expected;
    } cases[] = {
        {{2, 2, 2, 2}, 3, 1.3862943611198906},
        {{0, 1.0986123f, 0, 0}, 1, 0.69314718},
        {{0, 1.0986123f, 0, 0}, 0, 1.79175947},
        {{-1e30f, 0, -1e30f, -1e30f}, 1, 0},
        {{NAN, 0, 1, 2}, 1, NAN},
        {{0, 0, 1, NAN}, 0, NAN},
        {{0, NAN, 1, 2}, 1, NAN},
        {{0, INFINITY, 1, 2}, 0, NAN},
        {{0, INFINITY, 1, 2}, 1, NAN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float row[4];
        memcpy(row, cases[i].logits, sizeof row);
        const double nll = perplexity_nll(row, 4, cases[i].target);
        const bool as_expected =
            isnan(cases[i].expected) ? !isfinite(nll) : fabs(nll - cases[i].expected) < 1e-6;
        CU_ASSERT(as_expected);
    }
}

/* Windows and scored positions as the two protocols define them, and a sane perplexity. */
static void protocols(void)
{
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 2);
    struct error err = {0};
    struct perplexity_result gptq, llama;
    uint64_t bytes;
    char *text = eval_text(&bytes);
    if (bytes > 20000) bytes = 20000;
    struct perplexity_options options = {.protocol = PERPLEXITY_GPTQ, .context = 128};
    CHECK(!perplexity_measure(&gptq, model, text, bytes, &options, NULL, &err), &err);
    options.protocol = PERPLEXITY_LLAMA_CPP;
    CHECK(!perplexity_measure(&llama, model, text, bytes, &options, NULL, &err), &err);
    CU_ASSERT_EQUAL(gptq.windows, gptq.tokens / 128);
    CU_ASSERT_EQUAL(gptq.tokens_scored, gptq.windows * 127);
    CU_ASSERT_EQUAL(llama.tokens_scored, llama.windows * 63);
    const double value = gptq.perplexity.value;
    CU_ASSERT(value > 2 && value < 200);
    CU_ASSERT(llama.perplexity.value < value); /* scored tokens all have at least half a window before them */
    CU_ASSERT_DOUBLE_EQUAL(value, exp(gptq.mean_nll), 1e-9 * value);
    CU_ASSERT_DOUBLE_EQUAL(
        gptq.bits_per_byte, gptq.mean_nll / log(2) * (double)(gptq.tokens - 1) / (double)bytes, 1e-9);
    memory_free(gptq.window_nll);
    memory_free(llama.window_nll);
    memory_free(text);
    model_close(model);
    pool_free(pool);
}

/* Windows cut off the end leave the others as they were: their means do not change, the mean is theirs, and its error is by
 * block (of one window each) from ESTIMATE_LEAST windows on. */
static void means_of_windows(void)
{
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 2);
    struct error err = {0};
    uint64_t bytes;
    char *text = eval_text(&bytes);
    double first[ESTIMATE_LEAST];
    for (uint64_t windows = ESTIMATE_LEAST; windows >= ESTIMATE_LEAST - 1; windows--) {
        struct perplexity_result result;
        struct moments means = {0};
        const struct perplexity_options options = {.context = 64, .max_windows = windows};
        CHECK(!perplexity_measure(&result, model, text, bytes, &options, NULL, &err), &err);
        REQUIRE(result.windows == windows && result.window_nll, &err);
        for (uint64_t i = 0; i < windows; i++) {
            moments_add(&means, result.window_nll[i]);
            if (windows == ESTIMATE_LEAST) first[i] = result.window_nll[i];
            CU_ASSERT_DOUBLE_EQUAL(
                result.window_nll[i], first[i], 1e-5); /* another batch rounds differently */
        }
        const double by_block = result.perplexity.value * moments_estimate(&means).error;
        CU_ASSERT_DOUBLE_EQUAL(result.mean_nll, means.mean, 1e-12);
        CU_ASSERT_EQUAL(result.by_block, windows == ESTIMATE_LEAST);
        CU_ASSERT(result.perplexity.error > 0);
        CU_ASSERT_EQUAL(fabs(result.perplexity.error / by_block - 1) < 1e-9, result.by_block);
        memory_free(result.window_nll);
    }
    memory_free(text);
    model_close(model);
    pool_free(pool);
}

static void same_for_any_threads(void)
{
    double first = 0;
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct pool *pool = NULL;
        struct model *model = open_model(&pool, threads);
        struct error err = {0};
        struct perplexity_result result;
        uint64_t bytes;
        char *text = eval_text(&bytes);
        const struct perplexity_options options = {
            .protocol = PERPLEXITY_GPTQ, .context = 100, .max_windows = 23};
        CHECK(!perplexity_measure(&result, model, text, bytes, &options, NULL, &err), &err);
        if (threads == 1) first = result.mean_nll;
        CU_ASSERT(result.mean_nll == first);
        memory_free(result.window_nll);
        memory_free(text);
        model_close(model);
        pool_free(pool);
    }
}

static void refusals(void)
{
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 1);
    struct error err = {0};
    struct perplexity_result result;
    struct perplexity_options options = {.protocol = PERPLEXITY_GPTQ, .context = 256};
    CU_ASSERT_EQUAL(perplexity_measure(&result, model, "short", 5, &options, NULL, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "less than one window of 256"));
    options.context = 3;
    CU_ASSERT_EQUAL(perplexity_measure(&result, model, "short", 5, &options, NULL, &err), ERR_USAGE);
    struct tokenizer *tokenizer = model->tokenizer;
    model->tokenizer = NULL;
    CU_ASSERT_EQUAL(perplexity_measure(&result, model, "short", 5, &options, NULL, &err), ERR_UNSUPPORTED);
    model->tokenizer = tokenizer;
    model_close(model);
    pool_free(pool);
}

/* A chi-square-free check of the sampler: the likeliest at temperature 0, shares within four standard errors otherwise,
 * and nothing outside top-k or top-p. */
static void picking(void)
{
    const float logits[4] = {0, logf(4), logf(3), logf(2)}; /* probabilities 0.1, 0.4, 0.3, 0.2 */
    const double expected[4] = {0.1, 0.4, 0.3, 0.2};
    struct sampling_options options = {.temperature = 0, .top_p = 1};
    uint64_t random = 1, counts[4] = {0};
    struct sampling_candidate scratch[4];
    CU_ASSERT_EQUAL(sampling_pick(logits, 4, &options, &random, scratch), 1);
    options.temperature = 1;
    enum { DRAWS = 40000 };
    for (int i = 0; i < DRAWS; i++)
        counts[sampling_pick(logits, 4, &options, &random, scratch)]++;
    for (int i = 0; i < 4; i++) {
        const double error = sqrt(expected[i] * (1 - expected[i]) / DRAWS);
        CU_ASSERT_DOUBLE_EQUAL((double)counts[i] / DRAWS, expected[i], 4 * error);
    }
    options.top_k = 2;
    for (int i = 0; i < 1000; i++) {
        const uint32_t id = sampling_pick(logits, 4, &options, &random, scratch);
        CU_ASSERT(id == 1 || id == 2);
    }
    options.top_k = 0;
    options.top_p = 0.35; /* the likeliest alone reaches it */
    for (int i = 0; i < 1000; i++)
        CU_ASSERT_EQUAL(sampling_pick(logits, 4, &options, &random, scratch), 1);
}

struct heard {
    char text[8192];
    uint64_t bytes;
};

static void hear(void *context, const char *text, uint64_t bytes)
{
    struct heard *heard = context;
    if (heard->bytes + bytes < sizeof heard->text) memcpy(heard->text + heard->bytes, text, bytes);
    heard->bytes += bytes;
}

/* The pieces emitted are together the decoded whole, the prompt comes first, and a seed repeats its text. */
static void generating(void)
{
    struct pool *pool = NULL;
    struct model *model = open_model(&pool, 2);
    struct error err = {0};
    struct heard first = {0}, second = {0};
    struct generate_result result;
    uint32_t *ids = NULL;
    const struct generate_options options = {
        .tokens = 40, .sampling = {.temperature = 0.9, .top_p = 0.95}, .seed = 11, .ignore_eos = true};
    const char *prompt = "It was a";
    CHECK(!generate_text(&result, &ids, model, prompt, strlen(prompt), &options, hear, &first, &err), &err);
    CU_ASSERT_EQUAL(result.new_tokens, 40);
    CU_ASSERT(memcmp(first.text, prompt, strlen(prompt)) == 0);
    CHECK(!generate_text(&result, NULL, model, prompt, strlen(prompt), &options, hear, &second, &err), &err);
    CU_ASSERT(first.bytes == second.bytes && memcmp(first.text, second.text, first.bytes) == 0);
    memory_free(ids);
    model_close(model);
    pool_free(pool);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"negative log-likelihood by hand", nll_by_hand},
        {"windows and scored positions of both protocols", protocols},
        {"means of windows", means_of_windows},
        {"the same for any number of threads", same_for_any_threads},
        {"refusals", refusals},
        {"picking a token", picking},
        {"generating text", generating},
    };
    testing_kernel_set();
    return TESTING_RUN("perplexity", cases);
}
