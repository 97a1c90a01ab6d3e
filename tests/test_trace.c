/* Errors of layer outputs: against naive ones from everything the observer shows, errors of single layers against models in which
 * only that layer was exchanged, fewer rows kept than run, several batches, blocks and threads. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/judge/trace.h"
#include "tests/support/testing.h"
#include "tests/support/tiny_model.h"

enum { LAYERS = 3, HIDDEN = 32, SLOTS = LAYERS + 1 };

struct two {
    struct pool *pool;
    struct model *base, *other;
};

static struct model *open_tiny(struct pool *pool, const char *name, struct tiny_model options)
{
    struct error err = {0};
    struct model *model = NULL;
    options.hidden = options.hidden ? options.hidden : HIDDEN;
    options.layers = options.layers ? options.layers : LAYERS;
    REQUIRE(!model_open(&model, tiny_model_folder(name, options), pool, &err), &err);
    return model;
}

/* The other model is the base in half the bits, so that errors are small. */
static void open_two(struct two *two, unsigned threads)
{
    struct error err = {0};
    testing_folder();
    REQUIRE(!pool_create(&two->pool, threads, &err), &err);
    two->base = open_tiny(two->pool, "base", (struct tiny_model){.seed = 1});
    two->other = open_tiny(two->pool, "other", (struct tiny_model){.seed = 1, .dtype = "BF16"});
}

static void close_two(struct two *two)
{
    model_close(two->base);
    model_close(two->other);
    pool_free(two->pool);
}

/* ---- naive ---- */

/* Everything that is shown of one step: [SLOTS][tokens][HIDDEN]. */
struct shown {
    float *x;
    uint64_t tokens, calls;
};

static enum status show(
    void *context, uint32_t layer, uint64_t first_token, float *x, uint64_t tokens, struct error *err)
{
    struct shown *shown = context;
    const uint64_t slot = layer == SESSION_EMBEDDING ? 0 : (uint64_t)layer + 1;
    (void)err;
    shown->calls++;
    memcpy(shown->x + (slot * shown->tokens + first_token) * HIDDEN, x, tokens * HIDDEN * sizeof *x);
    return OK;
}

/* The tokens [sequences][length] of one step. */
struct run {
    uint64_t sequences, length;
    const uint32_t *tokens;
};

static void run_shown(struct shown *shown, struct model *model, const struct run *run)
{
    struct error err = {0};
    struct session *session = NULL;
    shown->tokens = run->sequences * run->length;
    shown->x = memory_new(SLOTS * shown->tokens, HIDDEN * sizeof(float), &err);
    float *hidden = memory_new(shown->tokens, HIDDEN * sizeof(float), &err);
    REQUIRE(shown->x && hidden, &err);
    REQUIRE(!session_create(&session, model, run->sequences, run->length, &err), &err);
    session_observe(session, show, shown);
    REQUIRE(!session_step(session, hidden, run->tokens, run->length, &err), &err);
    session_free(session);
    memory_free(hidden);
}

static const float *at(const struct shown *shown, uint64_t slot, uint64_t token)
{
    return shown->x + (slot * shown->tokens + token) * HIDDEN;
}

/* sqrt(mean of |a - b|^2 / |a - before|^2) over the first `tokens`; before may be NULL for 0. */
static double naive(
    const struct shown *a, const struct shown *b, uint64_t slot, uint64_t tokens, bool of_change)
{
    double sum = 0;
    for (uint64_t t = 0; t < tokens; t++) {
        double errors = 0, whole = 0;
        for (int c = 0; c < HIDDEN; c++) {
            const double before = of_change && slot ? (double)at(a, slot - 1, t)[c] : 0;
            const double value = (double)at(a, slot, t)[c], difference = value - (double)at(b, slot, t)[c];
            errors += difference * difference;
            whole += (value - before) * (value - before);
        }
        sum += errors / whole;
    }
    return sqrt(sum / (double)tokens);
}

/* ---- traced ---- */

enum watched { BASE, FOLLOWED, ALONE };

static void run_watched(
    struct trace *trace, enum watched watched, uint64_t index, struct model *model, const struct run *run)
{
    struct error err = {0};
    struct session *session = NULL;
    float *hidden = memory_new(run->sequences * run->length, HIDDEN * sizeof(float), &err);
    REQUIRE(hidden != NULL, &err);
    REQUIRE(!session_create(&session, model, run->sequences, run->length, &err), &err);
    if (watched == BASE)
        trace_watch_base(trace, session);
    else if (watched == FOLLOWED)
        trace_watch(trace, index, session);
    else
        trace_watch_alone(trace, index, session);
    REQUIRE(!session_step(session, hidden, run->tokens, run->length, &err), &err);
    session_free(session);
    memory_free(hidden);
}

static struct trace *new_trace(const struct two *two, uint64_t candidates, uint64_t tokens)
{
    struct error err = {0};
    struct trace *trace = NULL;
    REQUIRE(!trace_create(&trace, two->base, candidates, tokens, &err), &err);
    return trace;
}

static uint32_t *random_tokens(uint64_t count, uint64_t seed)
{
    struct error err = {0};
    uint32_t *tokens = memory_new(count, sizeof *tokens, &err);
    REQUIRE(tokens != NULL, &err);
    for (uint64_t i = 0; i < count; i++)
        tokens[i] = (uint32_t)(testing_random(&seed) % 260);
    return tokens;
}

static uint32_t layer_of(uint64_t slot)
{
    return slot ? (uint32_t)(slot - 1) : SESSION_EMBEDDING;
}

#define NEAR(found, expected) CU_ASSERT_DOUBLE_EQUAL(found, expected, 1e-12 + 1e-9 * fabs(expected))

/* ---- cases ---- */

/* All rows, half of them, one. */
static void against_naive(void)
{
    struct two two;
    open_two(&two, 2);
    uint32_t *tokens = random_tokens(66, 5);
    const struct run run = {3, 22, tokens};
    struct shown a = {0}, b = {0};
    run_shown(&a, two.base, &run);
    run_shown(&b, two.other, &run);
    CU_ASSERT_EQUAL(a.calls, SLOTS);
    for (uint64_t kept = 66; kept; kept = kept == 66 ? 35 : kept == 35 ? 1 : 0) {
        struct trace *trace = new_trace(&two, 1, kept);
        CU_ASSERT(trace_error(trace, 0, 0) == 0 && trace_tokens(trace, 0) == 0);
        run_watched(trace, BASE, 0, two.base, &run);
        run_watched(trace, FOLLOWED, 0, two.other, &run);
        CU_ASSERT_EQUAL(trace_tokens(trace, 0), kept);
        CU_ASSERT_EQUAL(trace_tokens_alone(trace, 0), 0);
        for (uint64_t slot = 0; slot < SLOTS; slot++) {
            const double expected = naive(&a, &b, slot, kept, false);
            CU_ASSERT(expected > 1e-5 && expected < 0.1);
            NEAR(trace_error(trace, 0, layer_of(slot)), expected);
        }
        trace_free(trace);
    }
    memory_free(tokens);
    memory_free(a.x);
    memory_free(b.x);
    close_two(&two);
}

/* The base with one part of the other model: what is before it is exact, so its output is what trace_watch_alone means. */
static void run_exchanged(struct shown *shown, const struct two *two, uint64_t slot, const struct run *run)
{
    struct error err = {0};
    struct model mixed = *two->base;
    mixed.tensors.layer = memory_new(LAYERS, sizeof *mixed.tensors.layer, &err);
    REQUIRE(mixed.tensors.layer != NULL, &err);
    memcpy(mixed.tensors.layer, two->base->tensors.layer, LAYERS * sizeof *mixed.tensors.layer);
    if (slot)
        memcpy(
            mixed.tensors.layer[slot - 1], two->other->tensors.layer[slot - 1], sizeof *mixed.tensors.layer);
    else
        mixed.tensors.once[ROLE_EMBEDDING] = two->other->tensors.once[ROLE_EMBEDDING];
    run_shown(shown, &mixed, run);
    memory_free(mixed.tensors.layer);
}

static void alone_against_exchanged_layers(void)
{
    struct two two;
    open_two(&two, 2);
    uint32_t *tokens = random_tokens(40, 6);
    const struct run run = {2, 20, tokens};
    struct shown a = {0};
    run_shown(&a, two.base, &run);
    for (uint64_t kept = 40; kept; kept = kept == 40 ? 27 : 0) { /* 27: cut inside the second sequence */
        struct trace *trace = new_trace(&two, 1, kept);
        run_watched(trace, BASE, 0, two.base, &run);
        run_watched(trace, ALONE, 0, two.other, &run);
        CU_ASSERT(trace_tokens_alone(trace, 0) == kept && trace_tokens(trace, 0) == 0);
        for (uint64_t slot = 0; slot < SLOTS; slot++) {
            struct shown b = {0};
            run_exchanged(&b, &two, slot, &run);
            NEAR(trace_own(trace, 0, layer_of(slot)), naive(&a, &b, slot, kept, false));
            NEAR(trace_share(trace, 0, layer_of(slot)), naive(&a, &b, slot, kept, true));
            CU_ASSERT(trace_share(trace, 0, layer_of(slot)) >= trace_own(trace, 0, layer_of(slot)));
            memory_free(b.x);
        }
        trace_free(trace);
    }
    memory_free(tokens);
    memory_free(a.x);
    close_two(&two);
}

static void a_model_and_itself(void)
{
    struct two two;
    open_two(&two, 2);
    uint32_t *tokens = random_tokens(64, 7);
    const struct run run = {2, 32, tokens};
    struct trace *trace = new_trace(&two, 2, 64);
    run_watched(trace, BASE, 0, two.base, &run);
    run_watched(trace, FOLLOWED, 0, two.other, &run);
    run_watched(trace, FOLLOWED, 1, two.base, &run);
    run_watched(trace, ALONE, 1, two.base, &run);
    for (uint64_t slot = 0; slot < SLOTS; slot++) {
        const uint32_t layer = layer_of(slot);
        CU_ASSERT(trace_error(trace, 0, layer) > 0 && trace_own(trace, 0, layer) == 0);
        CU_ASSERT(trace_error(trace, 1, layer) == 0 && trace_own(trace, 1, layer) == 0);
        CU_ASSERT(trace_share(trace, 1, layer) == 0);
    }
    CU_ASSERT(trace_tokens(trace, 1) == 64 && trace_tokens_alone(trace, 1) == 64);
    trace_free(trace);
    close_two(&two);
    memory_free(tokens);
}

/* Two sequences of 1100 tokens go through the layers one after the other, and 2100 tokens are kept. */
static void several_blocks(void)
{
    struct two two;
    open_two(&two, 2);
    uint32_t *tokens = random_tokens(2200, 8);
    const struct run run = {2, 1100, tokens};
    struct shown a = {0}, b = {0};
    run_shown(&a, two.base, &run);
    run_shown(&b, two.other, &run);
    CU_ASSERT_EQUAL(a.calls, 2 * SLOTS);
    struct trace *trace = new_trace(&two, 1, 2100);
    run_watched(trace, BASE, 0, two.base, &run);
    run_watched(trace, FOLLOWED, 0, two.other, &run);
    CU_ASSERT_EQUAL(trace_tokens(trace, 0), 2100);
    for (uint64_t slot = 0; slot < SLOTS; slot++)
        NEAR(trace_error(trace, 0, layer_of(slot)), naive(&a, &b, slot, 2100, false));
    trace_free(trace);
    memory_free(a.x);
    memory_free(b.x);
    memory_free(tokens);
    close_two(&two);
}

/* Batches add up, also smaller ones; the bits do not depend on threads. */
static void batches_and_threads(void)
{
    double first[3 * SLOTS];
    for (unsigned threads = 1; threads <= 3; threads++) {
        struct two two;
        open_two(&two, threads);
        uint32_t *tokens = random_tokens(96, 9);
        const struct run runs[] = {{2, 32, tokens}, {1, 32, tokens + 64}};
        struct trace *trace = new_trace(&two, 1, 64);
        double squares[SLOTS] = {0}, found[3 * SLOTS];
        for (int batch = 0; batch < 2; batch++) {
            struct shown a = {0}, b = {0};
            run_shown(&a, two.base, &runs[batch]);
            run_shown(&b, two.other, &runs[batch]);
            run_watched(trace, BASE, 0, two.base, &runs[batch]);
            run_watched(trace, ALONE, 0, two.other, &runs[batch]);
            run_watched(trace, FOLLOWED, 0, two.other, &runs[batch]);
            for (uint64_t slot = 0; slot < SLOTS; slot++)
                squares[slot] += (double)a.tokens * pow(naive(&a, &b, slot, a.tokens, false), 2);
            memory_free(a.x);
            memory_free(b.x);
        }
        CU_ASSERT_EQUAL(trace_tokens(trace, 0), 96);
        for (uint64_t slot = 0; slot < SLOTS; slot++) {
            NEAR(trace_error(trace, 0, layer_of(slot)), sqrt(squares[slot] / 96));
            found[3 * slot] = trace_error(trace, 0, layer_of(slot));
            found[3 * slot + 1] = trace_own(trace, 0, layer_of(slot));
            found[3 * slot + 2] = trace_share(trace, 0, layer_of(slot));
        }
        if (threads == 1) memcpy(first, found, sizeof first);
        CU_ASSERT(memcmp(first, found, sizeof first) == 0);
        trace_free(trace);
        memory_free(tokens);
        close_two(&two);
    }
}

static void what_can_be_traced(void)
{
    struct two two;
    open_two(&two, 1);
    struct model *deep = open_tiny(two.pool, "deep", (struct tiny_model){.layers = LAYERS + 1});
    struct model *wide = open_tiny(two.pool, "wide", (struct tiny_model){.hidden = 2 * HIDDEN});
    struct model *ffn = open_tiny(two.pool, "ffn", (struct tiny_model){.ffn = 128});
    CU_ASSERT(trace_matches(two.base, two.other) && trace_matches(two.base, ffn));
    CU_ASSERT_FALSE(trace_matches(two.base, deep));
    CU_ASSERT_FALSE(trace_matches(two.base, wide));
    model_close(deep);
    model_close(wide);
    model_close(ffn);
    close_two(&two);
}

static void without_memory(void)
{
    struct two two;
    enum status status = ERR_MEMORY;
    uint64_t nth = 1;
    open_two(&two, 1);
    for (; status == ERR_MEMORY && nth < 100; nth++) {
        struct error err = {0};
        struct trace *trace = NULL;
        memory_fail_at(nth, 0);
        status = trace_create(&trace, two.base, 2, 64, &err);
        CU_ASSERT((status == OK) == (trace != NULL));
        trace_free(trace);
    }
    memory_fail_at(0, 0);
    CU_ASSERT(status == OK && nth == 8); /* six allocations, then success */
    trace_free(NULL);
    close_two(&two);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"errors against naive ones", against_naive},
        {"single layers against models with one layer exchanged", alone_against_exchanged_layers},
        {"a model and itself", a_model_and_itself},
        {"several blocks in a step", several_blocks},
        {"several batches, any number of threads", batches_and_threads},
        {"what can be traced", what_can_be_traced},
        {"without memory", without_memory},
    };
    return TESTING_RUN("trace", cases);
}
