/* What a walk shows of experts, against the router and the experts computed here from what the whole stage shows: which
 * tokens, in which order, what they become; in both streams, with padding, with replaced weights, from files. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/walk.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

#define BOUND 1e-5

static struct pool *pool;

/* ---- what is walked ---- */

struct subject {
    struct checkpoint checkpoint;
    struct calibration calibration;
    struct walk *walk;
    struct walk_layer layer;
    struct tensor changed[EXPERT_ROLES];                   /* expert 0, made up by a case */
    const struct tensor *(*changed_experts)[EXPERT_ROLES]; /* [experts] */
};

static void open_subject(struct subject *subject, const char *path, uint64_t samples, uint64_t length,
    const struct walk_options *options)
{
    struct calibration *calibration = &subject->calibration;
    struct checkpoint *checkpoint = &subject->checkpoint;
    struct error err = {0};
    uint64_t seed = 3;

    *subject = (struct subject){.calibration = {.samples = samples, .length = length}};
    REQUIRE(checkpoint_open(checkpoint, path, &err) == OK, &err);
    REQUIRE(container_map(checkpoint->container, &err) == OK, &err);
    calibration->tokens = memory_new(samples * length, sizeof(uint32_t), &err);
    calibration->lengths = memory_new(samples, sizeof(uint32_t), &err);
    subject->changed_experts = memory_new(checkpoint->config.experts, sizeof *subject->changed_experts, &err);
    REQUIRE(calibration->tokens && calibration->lengths && subject->changed_experts, &err);
    for (uint64_t i = 0; i < samples; i++) {
        calibration->lengths[i] = (uint32_t)(1 + testing_random(&seed) % length);
        calibration->tokens_used += calibration->lengths[i];
        for (uint64_t j = 0; j < calibration->lengths[i]; j++)
            calibration->tokens[i * length + j] =
                (uint32_t)(testing_random(&seed) % checkpoint->config.vocabulary);
    }
    REQUIRE(walk_create(&subject->walk, checkpoint, calibration, options, pool, &err) == OK, &err);
    memcpy(subject->layer.original, checkpoint->tensors.layer[0], sizeof subject->layer.original);
    memcpy(subject->layer.current, checkpoint->tensors.layer[0], sizeof subject->layer.current);
    subject->layer.original_experts = subject->layer.current_experts = checkpoint->tensors.experts;
}

static void close_subject(struct subject *subject)
{
    for (int i = 0; i < EXPERT_ROLES; i++)
        memory_free((void *)(uintptr_t)subject->changed[i].data);
    memory_free(subject->changed_experts);
    walk_free(subject->walk);
    memory_free(subject->calibration.tokens);
    memory_free(subject->calibration.lengths);
    checkpoint_close(&subject->checkpoint);
}

static const char *golden(const char *name)
{
    testing_folder();
    return testing_source(name);
}

static const struct walk_options one_stream = {.in_memory = true};
static const struct walk_options two_streams = {.original = true, .in_memory = true};

/* ---- what is seen ---- */

struct seen {
    float *x, *original;
    uint64_t tokens, cols, calls;
};

static void append(float **rows, uint64_t tokens, const float *more, uint64_t count, uint64_t cols)
{
    if (!more) return;
    *rows = realloc(*rows, (tokens + count) * cols * sizeof **rows);
    REQUIRE(*rows != NULL, NULL);
    memcpy(*rows + tokens * cols, more, count * cols * sizeof **rows);
}

static enum status look(void *context, const struct walk_inputs *inputs, struct error *err)
{
    struct seen *seen = context;

    (void)err;
    CU_ASSERT_TRUE(inputs->tokens > 0 && inputs->tokens <= 2048);
    CU_ASSERT_PTR_NULL(inputs->residual);
    append(&seen->x, seen->tokens, inputs->x, inputs->tokens, inputs->cols);
    append(&seen->original, seen->tokens, inputs->original, inputs->tokens, inputs->cols);
    seen->tokens += inputs->tokens;
    seen->cols = inputs->cols;
    seen->calls++;
    return OK;
}

static void forget(struct seen *seen)
{
    free(seen->x);
    free(seen->original);
    *seen = (struct seen){0};
}

static struct seen look_at(struct subject *subject, enum stage stage, bool only_current)
{
    struct seen seen = {0};
    struct error err = {0};

    REQUIRE(walk_to(subject->walk, stage, &subject->layer, only_current, look, &seen, &err) == OK, &err);
    return seen;
}

static struct seen look_at_expert(
    struct subject *subject, enum stage stage, uint32_t expert, bool only_current)
{
    struct seen seen = {0};
    struct error err = {0};

    REQUIRE(walk_expert(subject->walk, stage, expert, &subject->layer, only_current, look, &seen, &err) == OK,
        &err);
    return seen;
}

/* To WALK_GATE_UP; all that it shows. */
static struct seen go(struct subject *subject, bool only_current)
{
    struct error err = {0};

    for (enum stage stage = WALK_QKV; stage < WALK_GATE_UP; stage++)
        REQUIRE(walk_to(subject->walk, stage, &subject->layer, only_current, NULL, NULL, &err) == OK, &err);
    return look_at(subject, WALK_GATE_UP, only_current);
}

/* ---- by definition ---- */

static double element(const struct tensor *tensor, uint64_t index)
{
    return (double)((const float *)tensor->data)[index];
}

static double dot(const struct tensor *weight, uint64_t row, const float *x)
{
    double sum = 0;

    for (uint64_t i = 0; i < weight->shape[1]; i++)
        sum += element(weight, row * weight->shape[1] + i) * x[i];
    return sum;
}

/* True if an expert is among those that the router likes best. */
static bool is_chosen(const struct subject *subject, const float *x, uint32_t expert)
{
    const struct tensor *router = subject->layer.current[ROLE_ROUTER];
    const double score = dot(router, expert, x);
    uint32_t better = 0;

    for (uint32_t i = 0; i < subject->checkpoint.config.experts; i++)
        better += i != expert && dot(router, i, x) > score;
    return better < subject->checkpoint.config.experts_per_token;
}

/* What down sees of an expert, one channel: silu(gate x) * up x. */
static double inner(const struct tensor *const *expert, uint64_t row, const float *x)
{
    const double gate = dot(expert[0], row, x);

    return gate / (1 + exp(-gate)) * dot(expert[1], row, x);
}

static void check_inner(
    const struct tensor *const *expert, const float *inputs, const float *shown, uint64_t cols)
{
    double most = 0, difference = 0;

    for (uint64_t i = 0; i < cols; i++) {
        const double expected = inner(expert, i, inputs);

        most = fmax(most, fabs(expected));
        difference = fmax(difference, fabs(expected - shown[i]));
    }
    CU_ASSERT_TRUE(difference <= BOUND * most);
}

/* One expert, on all that the stage shows: the rows it sees, and what becomes of them. */
static uint64_t check_expert(struct subject *subject, const struct seen *all, uint32_t expert)
{
    struct seen in = look_at_expert(subject, WALK_GATE_UP, expert, false);
    struct seen out = look_at_expert(subject, WALK_DOWN, expert, false);
    const uint64_t hidden = all->cols, ffn = subject->checkpoint.config.expert_ffn;
    uint64_t count = 0;

    for (uint64_t i = 0; i < all->tokens; i++) {
        const float *row = all->x + i * hidden;

        if (!is_chosen(subject, row, expert)) continue;
        CU_ASSERT_TRUE_FATAL(count < in.tokens && count < out.tokens);
        CU_ASSERT_TRUE(memcmp(in.x + count * hidden, row, hidden * sizeof *row) == 0);
        check_inner(subject->layer.current_experts[expert], row, out.x + count * ffn, ffn);
        if (all->original) {
            const float *original = all->original + i * hidden;

            CU_ASSERT_TRUE(memcmp(in.original + count * hidden, original, hidden * sizeof *row) == 0);
            check_inner(subject->layer.original_experts[expert], original, out.original + count * ffn, ffn);
        }
        count++;
    }
    CU_ASSERT_EQUAL(in.tokens, count);
    CU_ASSERT_EQUAL(out.tokens, count);
    CU_ASSERT_TRUE(count == 0 || (in.cols == hidden && out.cols == ffn));
    forget(&in);
    forget(&out);
    return count;
}

static void check_experts(struct subject *subject, const struct seen *all)
{
    const struct model_config *config = &subject->checkpoint.config;
    uint64_t sum = 0;

    for (uint32_t expert = 0; expert < config->experts; expert++)
        sum += check_expert(subject, all, expert);
    CU_ASSERT_EQUAL(all->tokens, subject->calibration.tokens_used);
    CU_ASSERT_EQUAL(sum, all->tokens * config->experts_per_token);
}

static void test_shown(void)
{
    static const char *const names[] = {"mixtral", "qwen2-moe", "qwen3-moe"};

    for (int i = 0; i < 6; i++) {
        char path[64];
        struct subject subject;

        snprintf(path, sizeof path, "golden/logits/%s", names[i % 3]);
        open_subject(&subject, golden(path), 9, 40, i < 3 ? &one_stream : &two_streams);
        struct seen all = go(&subject, false);
        CU_ASSERT_EQUAL(all.original != NULL, i >= 3);
        check_experts(&subject, &all);
        forget(&all);
        close_subject(&subject);
    }
}

/* Expert 0's matrix, scaled, in the current stream only. */
static void change(struct subject *subject, int which, float factor)
{
    const struct tensor *original = subject->layer.original_experts[0][which];
    float *values = memory_new(original->elements, sizeof *values, NULL);

    REQUIRE(values != NULL, NULL);
    for (uint64_t i = 0; i < original->elements; i++)
        values[i] = factor * (float)element(original, i);
    subject->changed[which] = *original;
    subject->changed[which].data = values;
    memcpy(subject->changed_experts, subject->layer.original_experts,
        subject->checkpoint.config.experts * sizeof *subject->changed_experts);
    for (int i = 0; i < EXPERT_ROLES; i++)
        if (subject->changed[i].data) subject->changed_experts[0][i] = &subject->changed[i];
    subject->layer.current_experts = subject->changed_experts;
}

/* Between gate and up, and down, an expert changes; so do its outputs, and nobody else's inputs. */
static void test_replaced(void)
{
    struct subject subject;
    struct error err = {0};

    open_subject(&subject, golden("golden/logits/qwen2-moe"), 9, 40, &two_streams);
    struct seen all = go(&subject, false);
    change(&subject, 0, 0.5f);
    check_experts(&subject, &all);
    struct seen shared = look_at(&subject, WALK_DOWN, false);
    CU_ASSERT_EQUAL(shared.cols, subject.checkpoint.config.ffn);
    CU_ASSERT_TRUE(shared.tokens == all.tokens && shared.original);
    CU_ASSERT_TRUE(memcmp(shared.x, shared.original, shared.tokens * shared.cols * sizeof(float)) == 0);
    change(&subject, 2, 2.0f);
    check_experts(&subject, &all); /* looking changes nothing */
    CHECK(walk_finish(subject.walk, &subject.layer, &err) == OK, &err);
    struct seen next = look_at(&subject, WALK_QKV, false);
    CU_ASSERT_FALSE(memcmp(next.x, next.original, next.tokens * next.cols * sizeof(float)) == 0);
    forget(&all);
    forget(&shared);
    forget(&next);
    close_subject(&subject);
}

/* Streams that differ: tokens are those that the current stream sends, in both. */
static void test_streams_apart(void)
{
    struct subject subject;
    struct error err = {0};

    open_subject(&subject, golden("golden/logits/mixtral"), 9, 40, &two_streams);
    struct seen all = go(&subject, false);
    change(&subject, 2, 30);
    forget(&all);
    CHECK(walk_to(subject.walk, WALK_DOWN, &subject.layer, false, NULL, NULL, &err) == OK, &err);
    CHECK(walk_finish(subject.walk, &subject.layer, &err) == OK, &err);
    memcpy(subject.layer.current, subject.checkpoint.tensors.layer[1], sizeof subject.layer.current);
    memcpy(subject.layer.original, subject.checkpoint.tensors.layer[1], sizeof subject.layer.original);
    subject.layer.index = 1;
    subject.layer.original_experts = subject.layer.current_experts =
        subject.checkpoint.tensors.experts + subject.checkpoint.config.experts;
    all = go(&subject, false);
    CU_ASSERT_FALSE(memcmp(all.x, all.original, all.tokens * all.cols * sizeof(float)) == 0);
    check_experts(&subject, &all);
    struct seen alone = look_at_expert(&subject, WALK_DOWN, 1, true);
    CU_ASSERT_PTR_NULL(alone.original);
    forget(&alone);
    forget(&all);
    close_subject(&subject);
}

/* An expert that nobody is sent to shows nothing; no inputs at WALK_DOWN without a shared one. */
static void test_unused(void)
{
    struct subject subject;

    testing_folder();
    open_subject(&subject,
        tiny_model_folder("unused", (struct tiny_model){.experts = 6, .unused_expert = true, .seed = 2}), 70,
        60, &one_stream);
    struct seen all = go(&subject, false), down = look_at(&subject, WALK_DOWN, false);
    CU_ASSERT_EQUAL(down.calls, 0);
    check_experts(&subject, &all);
    struct seen unused = look_at_expert(&subject, WALK_GATE_UP, 5, false);
    CU_ASSERT_EQUAL(unused.calls, 0);
    forget(&all);
    close_subject(&subject);
}

/* All tokens to two experts: more than are shown at once, over several blocks; from a file as from memory. */
static void test_many(void)
{
    const char *path;
    struct subject subject;

    testing_folder();
    path = tiny_model_folder("many", (struct tiny_model){.experts = 2, .seed = 3});
    for (int file = 0; file < 2; file++) {
        const struct walk_options options = {
            .original = true, .in_memory = !file, .folder = testing_path(".")};

        open_subject(&subject, path, 120, 60, &options);
        struct seen all = go(&subject, false), one = look_at_expert(&subject, WALK_GATE_UP, 1, false);
        CU_ASSERT_EQUAL(one.tokens, subject.calibration.tokens_used);
        CU_ASSERT_EQUAL(one.calls, (one.tokens + 2039) / 2040); /* 34 whole samples are a block */
        CU_ASSERT_TRUE(memcmp(one.x, all.x, all.tokens * all.cols * sizeof *all.x) == 0);
        forget(&all);
        forget(&one);
        close_subject(&subject);
    }
}

static enum status refuse(void *context, const struct walk_inputs *inputs, struct error *err)
{
    (void)context, (void)inputs;
    return fail(err, ERR_NUMERIC, "not this one");
}

/* An error of the tap is passed on, and the walk stays where it was. */
static void test_refusing_tap(void)
{
    struct subject subject;
    struct error err = {0};

    open_subject(&subject, golden("golden/logits/qwen3-moe"), 9, 40, &two_streams);
    struct seen all = go(&subject, false);
    CU_ASSERT_EQUAL(
        walk_expert(subject.walk, WALK_DOWN, 0, &subject.layer, false, refuse, NULL, &err), ERR_NUMERIC);
    CU_ASSERT_STRING_EQUAL(err.text, "not this one");
    check_experts(&subject, &all);
    forget(&all);
    close_subject(&subject);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"shown", test_shown},
        {"replaced", test_replaced},
        {"streams apart", test_streams_apart},
        {"unused", test_unused},
        {"many", test_many},
        {"refusing tap", test_refusing_tap},
    };
    struct error err = {0};
    int failed;

    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    failed = TESTING_RUN("walk_experts", cases);
    pool_free(pool);
    return failed;
}
