/* Speculative decoding with tiny models: at temperature 0 the text of the target alone whatever the draft, counts that fit together,
 * prompts, refusals, threads, failing memory. What the rule does is in test_rejection.c. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/generate/generate.h"
#include "runtime-check/generate/rejection.h"
#include "runtime-check/generate/speculate.h"
#include "tests/support/kernel_set.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { TOKENS = 40, PROMPTS = 9 };

/* A target; drafts that are itself, nearly itself, and somebody else. */
enum { SELF, NEAR, OTHER, DRAFTS };

struct four {
    struct pool *pool;
    struct model *target, *drafts[DRAFTS];
    struct prompts prompts;
};

static struct model *open_tiny(struct pool *pool, const char *name, struct tiny_model options)
{
    struct error err = {0};
    struct model *model = NULL;
    REQUIRE(!model_open(&model, tiny_model_folder(name, options), pool, &err), &err);
    return model;
}

static const char prompt_lines[] =
    "one\ntwo three\r\n\nand four\nA\nB\nC\n\n\nD with more\nE, and so on\nthe last";

static void open_four(struct four *four, unsigned threads)
{
    struct error err = {0};
    *four = (struct four){0};
    testing_folder();
    REQUIRE(!pool_create(&four->pool, threads, &err), &err);
    four->target = open_tiny(four->pool, "target", (struct tiny_model){.seed = 1});
    four->drafts[SELF] = four->target;
    four->drafts[NEAR] = open_tiny(four->pool, "near", (struct tiny_model){.seed = 1, .dtype = "BF16"});
    four->drafts[OTHER] = open_tiny(
        four->pool, "other", (struct tiny_model){.seed = 2, .hidden = 128, .layers = 1, .kv_heads = 4});
    REQUIRE(
        !prompts_lines(&four->prompts, four->target, prompt_lines, strlen(prompt_lines), false, &err), &err);
    REQUIRE(four->prompts.count == PROMPTS, NULL);
}

static void close_four(struct four *four)
{
    prompts_free(&four->prompts);
    model_close(four->target);
    model_close(four->drafts[NEAR]);
    model_close(four->drafts[OTHER]);
    pool_free(four->pool);
}

/* What was generated, [0] by speculation and [1] by the target alone. */
struct heard {
    uint32_t ids[2][PROMPTS][TOKENS + SPECULATE_LOOKAHEAD + 2];
    uint64_t counts[2][PROMPTS];
};

static void hear(void *context, uint64_t prompt, bool alone, const uint32_t *ids, uint64_t count)
{
    struct heard *heard = context;
    heard->counts[alone][prompt] = count;
    memcpy(heard->ids[alone][prompt], ids, count * sizeof *ids);
}

static void run(struct speculate_result *out, struct heard *heard, struct four *four, int draft,
    struct speculate_options options)
{
    struct error err = {0};
    memset(heard, 0, sizeof *heard);
    options.tokens = TOKENS;
    options.listen = hear;
    options.listen_context = heard;
    CHECK(!speculate_measure(out, four->target, four->drafts[draft], &four->prompts, &options, NULL, &err),
        &err);
}

/* Numbers that follow from others, and texts that are as long as asked for. */
static void check_counts(const struct speculate_result *out, const struct heard *heard, uint64_t lookahead)
{
    uint64_t sum = 0, alone = 0;
    for (int i = 0; i < PROMPTS; i++) {
        sum += heard->counts[0][i] - 1; /* the first comes with the prompt */
        alone += heard->counts[1][i] - 1;
        CU_ASSERT(heard->counts[1][i] == TOKENS + 1);
        CU_ASSERT(heard->counts[0][i] >= TOKENS + 1 && heard->counts[0][i] <= TOKENS + 1 + lookahead);
    }
    CU_ASSERT(out->tokens == sum && out->tokens_alone == alone && out->prompts == PROMPTS);
    CU_ASSERT(out->accepted + out->cycles == out->tokens && out->drafted == out->cycles * lookahead);
    CU_ASSERT_DOUBLE_EQUAL(out->tokens_per_cycle, (double)out->tokens / (double)out->cycles, 1e-9);
    CU_ASSERT(out->draft_cost > 0 && out->verify_cost > 0 && out->speedup.value > 0);
    CU_ASSERT_DOUBLE_EQUAL(out->speedup.value * out->tokens_per_second_alone, out->tokens_per_second,
        1e-6 * out->tokens_per_second);
    const double drafting = (double)lookahead * out->draft_cost;
    const double of_a = rejection_expected(out->acceptance.value, lookahead);
    CU_ASSERT_DOUBLE_EQUAL(out->implied, of_a / (drafting + 1), 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(out->at_cost, of_a / (drafting + out->verify_cost), 1e-9);
    CU_ASSERT_DOUBLE_EQUAL(out->by_bytes, of_a / ((double)lookahead * out->byte_ratio + 1), 1e-9);
    for (uint64_t i = 0; i < SPECULATE_TABLE; i++) {
        CU_ASSERT(out->choices[i].expected == rejection_expected(out->acceptance.value, i + 1));
        CU_ASSERT(out->best == 0 || out->choices[out->best - 1].at_cost >= out->choices[i].at_cost);
    }
}

/* Any draft, any lookahead: what the target alone writes, which is also what `generate` writes. */
static void the_target_s_text(void)
{
    static struct heard heard;
    struct four four;
    struct speculate_result out;
    open_four(&four, 2);
    double acceptance[DRAFTS] = {0};
    for (int draft = 0; draft < DRAFTS; draft++) {
        for (uint64_t lookahead = 1; lookahead <= 7; lookahead += 3) {
            run(&out, &heard, &four, draft,
                (struct speculate_options){.lookahead = lookahead, .ignore_eos = true});
            CU_ASSERT(out.different == 0 && out.different_gap == 0);
            for (int i = 0; i < PROMPTS; i++)
                CU_ASSERT(memcmp(heard.ids[0][i], heard.ids[1][i], (TOKENS + 1) * sizeof(uint32_t)) == 0);
            check_counts(&out, &heard, lookahead);
            acceptance[draft] = out.acceptance.value;
            if (draft == NEAR) CU_ASSERT(out.byte_ratio == 0.5); /* BF16 for F32 */
        }
    }
    CU_ASSERT(acceptance[SELF] == 1);
    CU_ASSERT(acceptance[NEAR] > 0.5 && acceptance[NEAR] < 1); /* both ways of a cycle's end happen */
    CU_ASSERT(acceptance[OTHER] < 0.2);
    struct error err = {0};
    struct generate_result generated;
    uint32_t *ids = NULL;
    const struct generate_options options = {
        .tokens = TOKENS + 1, .sampling = {.top_p = 1}, .ignore_eos = true};
    CHECK(!generate_text(&generated, &ids, four.target, "one", 3, &options, NULL, NULL, &err), &err);
    CU_ASSERT(memcmp(ids, heard.ids[0][0], (TOKENS + 1) * sizeof *ids) == 0);
    memory_free(ids);
    close_four(&four);
}

/* A draft that is the target: everything is accepted, but for rounding also where chance decides. */
static void a_draft_that_is_the_target(void)
{
    static struct heard heard;
    struct four four;
    struct speculate_result out;
    open_four(&four, 2);
    run(&out, &heard, &four, SELF, (struct speculate_options){.lookahead = 4, .ignore_eos = true});
    CU_ASSERT(out.acceptance.value == 1 && out.acceptance.error == 0 && out.tokens_per_cycle == 5);
    CU_ASSERT(out.byte_ratio == 1 && out.by_bytes == 1);
    CU_ASSERT(out.positions[3].value == 1 && out.choices[3].expected == 5 && out.implied > 0);
    run(&out, &heard, &four, SELF,
        (struct speculate_options){.lookahead = 4, .temperature = 1, .seed = 3, .ignore_eos = true});
    CU_ASSERT(out.acceptance.value > 0.99);
    check_counts(&out, &heard, 4);
    run(&out, &heard, &four, OTHER,
        (struct speculate_options){.lookahead = 4, .temperature = 1, .seed = 3, .ignore_eos = true});
    CU_ASSERT(out.acceptance.value > 0.05 && out.acceptance.value < 0.95 && out.acceptance.error > 0);
    check_counts(&out, &heard, 4);
    close_four(&four);
}

/* An end-of-sequence token ends the text, also in the middle of a cycle. Any token can be declared one. */
static void stopping(void)
{
    static struct heard heard, whole;
    struct four four;
    struct speculate_result out;
    open_four(&four, 1);
    run(&out, &whole, &four, NEAR, (struct speculate_options){.lookahead = 4, .ignore_eos = true});
    const uint32_t stop = whole.ids[1][0][7];
    four.target->config.stops[0] = stop;
    four.target->config.stop_count = 1;
    run(&out, &heard, &four, NEAR, (struct speculate_options){.lookahead = 4});
    CU_ASSERT_EQUAL(out.different, 0);
    for (int i = 0; i < PROMPTS; i++) {
        uint64_t end = 0;
        while (end < TOKENS + 1 && whole.ids[1][i][end] != stop)
            end++;
        if (end == TOKENS + 1) continue; /* it never came */
        CU_ASSERT(heard.counts[0][i] == end + 1 && heard.counts[1][i] == end + 1);
        CU_ASSERT(memcmp(heard.ids[0][i], whole.ids[1][i], (end + 1) * sizeof stop) == 0);
    }
    CU_ASSERT(heard.counts[0][0] <= 8);
    close_four(&four);
}

static void same_for_any_threads(void)
{
    static struct heard first, heard;
    struct speculate_result out;
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct four four;
        open_four(&four, threads);
        run(&out, threads == 1 ? &first : &heard, &four, NEAR,
            (struct speculate_options){.lookahead = 3, .temperature = 0.7, .seed = 5, .ignore_eos = true});
        if (threads > 1) CU_ASSERT(memcmp(&first, &heard, sizeof heard) == 0);
        if (threads == 3) {
            run(&out, &heard, &four, NEAR,
                (struct speculate_options){
                    .lookahead = 3, .temperature = 0.7, .seed = 6, .ignore_eos = true});
            CU_ASSERT(memcmp(&first, &heard, sizeof heard) != 0);
        }
        close_four(&four);
    }
}

/* ---- chance ---- */

enum { SAMPLES = 1500, GROUPS = 16 };
#define HOT 0.25 /* flat enough to vary, steep enough that two random models differ much */

/* How often the second token fell into each group of ids, [0] by speculation and [1] by the target alone. */
struct tallies {
    uint64_t counts[2][GROUPS];
};

static void count_second(void *context, uint64_t prompt, bool alone, const uint32_t *ids, uint64_t count)
{
    struct tallies *tallies = context;
    (void)prompt;
    if (count > 1) tallies->counts[alone][ids[1] % GROUPS]++;
}

static void last_probabilities(double *out, struct model *model, const uint32_t *ids, uint64_t length)
{
    static float hidden[16 * 128], logits[269];
    struct error err = {0};
    struct session *session = NULL;
    REQUIRE(!session_create(&session, model, 1, length, &err), &err);
    REQUIRE(!session_step(session, hidden, ids, length, &err), &err);
    REQUIRE(!model_logits(model, logits, hidden + (length - 1) * model->config.hidden, 1, &err), &err);
    for (uint32_t id = 259; id < 269; id++)
        logits[id] = -INFINITY; /* no tokens of the tokenizer */
    REQUIRE(rejection_probabilities(out, logits, 269, HOT), NULL);
    session_free(session);
}

/* Probability of each group for the token that `second` puts after the prompt and a token of the target. */
static void marginal(
    double *groups, struct model *target, struct model *second, const uint32_t *ids, uint64_t length)
{
    static double first[269], then[269];
    uint32_t longer[16];
    memcpy(longer, ids, length * sizeof *ids);
    memset(groups, 0, GROUPS * sizeof *groups);
    last_probabilities(first, target, ids, length);
    for (uint32_t id = 0; id < 259; id++) {
        longer[length] = id;
        last_probabilities(then, second, longer, length + 1);
        for (uint32_t next = 0; next < 269; next++)
            groups[next % GROUPS] += first[id] * then[next];
    }
}

static double chi_square(const uint64_t *counts, const double *groups)
{
    double sum = 0;
    for (int i = 0; i < GROUPS; i++) {
        const double expected = SAMPLES * groups[i], difference = (double)counts[i] - expected;
        sum += difference * difference / expected;
    }
    return sum;
}

/* With a draft of quite another opinion, what is generated is distributed as the target; the bound is that of test_rejection.c, and the
 * draft's own distribution is far beyond it. */
static void the_target_s_distribution(void)
{
    struct four four;
    struct error err = {0};
    struct speculate_result out;
    struct prompts repeated = {0};
    struct tallies tallies = {0};
    double of_target[GROUPS], of_draft[GROUPS];
    const double bound = GROUPS - 1 + 2 * sqrt((GROUPS - 1) * 16) + 2 * 16;
    const struct speculate_options options = {.tokens = 1,
        .lookahead = 2,
        .temperature = HOT,
        .seed = 1,
        .ignore_eos = true,
        .listen = count_second,
        .listen_context = &tallies};
    open_four(&four, 1);
    for (int i = 0; i < SAMPLES; i++)
        REQUIRE(!prompts_add(&repeated, four.target, "one", 3, &err), &err);
    CHECK(!speculate_measure(&out, four.target, four.drafts[OTHER], &repeated, &options, NULL, &err), &err);
    marginal(of_target, four.target, four.target, repeated.ids, repeated.longest);
    marginal(of_draft, four.target, four.drafts[OTHER], repeated.ids, repeated.longest);
    for (int way = 0; way < 2; way++) {
        CU_ASSERT(chi_square(tallies.counts[way], of_target) < bound);
        CU_ASSERT(chi_square(tallies.counts[way], of_draft) > 2 * bound);
    }
    CU_ASSERT(out.acceptance.value > 0.01 && out.acceptance.value < 0.9);
    prompts_free(&repeated);
    close_four(&four);
}

/* ---- prompts and the rest ---- */

/* The tiny tokenizer adds nothing: a token per byte. */
static void prompts(void)
{
    struct four four;
    struct error err = {0};
    struct prompts found = {0};
    open_four(&four, 1);
    CU_ASSERT_EQUAL(four.prompts.ends[0], 3);
    CU_ASSERT_EQUAL(four.prompts.ends[1] - four.prompts.ends[0], 9); /* no carriage return */
    CU_ASSERT_EQUAL(four.prompts.longest, 12);
    CU_ASSERT_EQUAL(prompts_lines(&found, four.target, "\n\r\n", 3, false, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(prompts_add(&found, four.target, "", 0, &err), ERR_USAGE);
    CHECK(!speculate_prompts_windows(&found, four.target, "abcdefghij", 10, 3, 3, &err), &err);
    static const uint32_t expected[] = {100, 101, 102, 103, 104, 105, 106, 107, 108};
    CU_ASSERT(found.count == 3 && found.longest == 3 && found.ends[2] == 9);
    CU_ASSERT(memcmp(found.ids, expected, sizeof expected) == 0);
    CU_ASSERT_EQUAL(speculate_prompts_windows(&found, four.target, "abcdefgh", 8, 3, 3, &err), ERR_USAGE);
    CU_ASSERT_EQUAL(speculate_prompts_likeliest(&found, four.target, 4, &err), ERR_USAGE);
    prompts_free(&found);
    struct tokenizer *tokenizer = four.target->tokenizer;
    four.target->tokenizer = NULL;
    CU_ASSERT_EQUAL(speculate_prompts_likeliest(&found, four.target, 4, &err), ERR_UNSUPPORTED);
    CU_ASSERT_EQUAL(prompts_add(&found, four.target, "a", 1, &err), ERR_UNSUPPORTED);
    four.target->tokenizer = tokenizer;
    close_four(&four);
}

/* The shipped one puts BOS in front. */
static void prompts_with_bos(void)
{
    struct error err = {0};
    struct pool *pool = NULL;
    struct model *model = NULL;
    struct prompts found = {0};
    uint32_t bos;
    REQUIRE(!pool_create(&pool, 1, &err), &err);
    REQUIRE(!model_open(&model, testing_source("../models/folio-4M"), pool, &err), &err);
    REQUIRE(tokenizer_prefix(model->tokenizer, &bos), NULL);
    CHECK(!prompts_add(&found, model, "", 0, &err), &err);
    CHECK(!speculate_prompts_windows(&found, model, prompt_lines, strlen(prompt_lines), 3, 4, &err), &err);
    CHECK(!speculate_prompts_likeliest(&found, model, 4, &err), &err);
    CU_ASSERT(found.count == 8 && found.ends[0] == 1 && found.ends[3] == 13 && found.ends[7] == 21);
    for (uint64_t i = 0; i < found.count; i++)
        CU_ASSERT_EQUAL(found.ids[i ? found.ends[i - 1] : 0], bos);
    CU_ASSERT(found.ids[14] != found.ids[16] && found.ids[16] != found.ids[18]);
    prompts_free(&found);
    model_close(model);
    pool_free(pool);
}

static void refusals(void)
{
    struct four four;
    struct error err = {0};
    struct speculate_result out;
    const struct prompts none = {0};
    struct speculate_options options = {.tokens = 4, .lookahead = 2};
    open_four(&four, 1);
    struct model *larger = open_tiny(four.pool, "larger", (struct tiny_model){.vocabulary = 300});
    struct model *poisoned = open_tiny(four.pool, "poisoned",
        (struct tiny_model){.poison = "lm_head.weight", .poison_at = 70, .poison_value = 3e38f});
    CU_ASSERT_EQUAL(
        speculate_measure(&out, four.target, larger, &four.prompts, &options, NULL, &err), ERR_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "vocabulary of 269, the draft one of 300"));
    CU_ASSERT_EQUAL(
        speculate_measure(&out, four.target, poisoned, &four.prompts, &options, NULL, &err), ERR_NUMERIC);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "poisoned"));
    CU_ASSERT_EQUAL(
        speculate_measure(&out, four.target, four.target, &none, &options, NULL, &err), ERR_USAGE);
    options.lookahead = SPECULATE_LOOKAHEAD + 1;
    CU_ASSERT_EQUAL(
        speculate_measure(&out, four.target, four.target, &four.prompts, &options, NULL, &err), ERR_USAGE);
    model_close(larger);
    model_close(poisoned);
    close_four(&four);
}

/* Every allocation may fail, and nothing leaks. */
static void without_memory(void)
{
    struct four four;
    enum status status = ERR_MEMORY;
    const struct speculate_options options = {.tokens = 3, .lookahead = 2};
    open_four(&four, 1);
    for (uint64_t nth = 1; status == ERR_MEMORY && nth < 500; nth++) {
        struct error err = {0};
        struct speculate_result out;
        memory_fail_at(nth, 0);
        status =
            speculate_measure(&out, four.target, four.drafts[OTHER], &four.prompts, &options, NULL, &err);
        CU_ASSERT(status == OK || status == ERR_MEMORY);
    }
    memory_fail_at(0, 0);
    CU_ASSERT_EQUAL(status, OK);
    close_four(&four);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"the target's text at temperature 0", the_target_s_text},
        {"a draft that is the target", a_draft_that_is_the_target},
        {"stopping", stopping},
        {"the same for any number of threads", same_for_any_threads},
        {"the target's distribution where chance decides", the_target_s_distribution},
        {"prompts", prompts},
        {"prompts with BOS", prompts_with_bos},
        {"refusals", refusals},
        {"without memory", without_memory},
    };
    testing_kernel_set();
    return TESTING_RUN("speculate", cases);
}
