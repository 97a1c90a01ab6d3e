/* See speculate.h. Before a cycle the target has seen all tokens but the last, the draft all but the last or the last two. */
#include "runtime-check/generate/speculate.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/generate/generate.h"
#include "runtime-check/generate/rejection.h"
#include "runtime-check/generate/speculate_tally.h"

enum {
    REPEATS_LEAST = 5, /* of each step that is timed for the table */
    REPEATS_MOST = 25
};
#define TABLE_SECONDS 1.0 /* enough once so long has been spent */

struct side {
    struct model *model;
    struct session *session;
};

struct speculating {
    const struct speculate_options *options;
    struct side target, draft;
    float *hidden;         /* [capacity][the wider hidden] */
    float *logits;         /* [rows][vocabulary] */
    double *p, *q;         /* [vocabulary], [lookahead][vocabulary] */
    uint32_t *ids, *alone; /* [capacity] prompt and what follows, by speculation and by the target alone */
    uint64_t count, alone_count; /* of them */
    uint64_t vocabulary, capacity, rows;
    uint32_t *padding; /* [padding_count] ids that stand for no text: never generated */
    uint64_t padding_count;
    uint64_t random;
    bool stopped;
    struct speculate_tally *tallies; /* [prompts] */
    uint64_t prompts;
};

/* ---- steps ---- */

/* Run tokens and leave the logits of the last `rows` in run->logits. */
static enum status advance(struct speculating *run, struct side *side, const uint32_t *ids, uint64_t length,
    uint64_t rows, struct error *err)
{
    enum status status = session_step(side->session, run->hidden, ids, length, err);
    if (!status && rows)
        status = model_logits(
            side->model, run->logits, run->hidden + (length - rows) * side->model->config.hidden, rows, err);
    if (status) return fail_within(err, status, "%s", container_path(side->model->container));
    for (uint64_t row = 0; row < rows; row++) {
        for (uint64_t i = 0; i < run->padding_count; i++)
            run->logits[row * run->vocabulary + run->padding[i]] = -INFINITY;
    }
    return OK;
}

/* The probabilities of one row of run->logits. */
static enum status probabilities(
    const struct speculating *run, double *out, uint64_t row, const struct side *side, struct error *err)
{
    const float *logits = run->logits + row * run->vocabulary;
    if (rejection_probabilities(out, logits, run->vocabulary, run->options->temperature)) return OK;
    return fail(err, ERR_NUMERIC, "%s: the logits are not finite", container_path(side->model->container));
}

static bool is_stop(const struct speculating *run, uint32_t id)
{
    return !run->options->ignore_eos && sampling_is_stop(&run->target.model->config, id);
}

/* The prompt through the target, and its first token, which both ways have in common but for chance. */
static enum status begin(struct speculating *run, uint32_t *ids, uint64_t *count, const uint32_t *prompt,
    uint64_t length, struct error *err)
{
    session_reset(run->target.session);
    memcpy(ids, prompt, length * sizeof *ids);
    enum status status = advance(run, &run->target, ids, length, 1, err);
    if (!status) status = probabilities(run, run->p, 0, &run->target, err);
    if (status) return status;
    ids[length] = rejection_draw(run->p, run->vocabulary, &run->random);
    *count = length + 1;
    run->stopped = is_stop(run, ids[length]);
    return OK;
}

/* ---- the target alone ---- */

static enum status run_alone(struct speculating *run, const uint32_t *prompt, uint64_t length,
    struct speculate_tally *tally, struct error *err)
{
    const uint64_t enough = length + 1 + run->options->tokens;
    enum status status = begin(run, run->alone, &run->alone_count, prompt, length, err);
    const double start = report_seconds();
    while (!status && !run->stopped && run->alone_count < enough) {
        status = advance(run, &run->target, run->alone + run->alone_count - 1, 1, 1, err);
        if (!status) status = probabilities(run, run->p, 0, &run->target, err);
        if (status) break;
        const uint32_t id = rejection_draw(run->p, run->vocabulary, &run->random);
        run->alone[run->alone_count++] = id;
        run->stopped = is_stop(run, id);
    }
    tally->seconds_alone += report_seconds() - start;
    tally->tokens_alone += (double)(run->alone_count - length - 1);
    return status;
}

/* ---- by speculation ---- */

/* Draft tokens ids[count ..], with their probabilities in q. */
static enum status draft_tokens(struct speculating *run, struct error *err)
{
    struct side *draft = &run->draft;
    enum status status = OK;
    for (uint64_t i = 0; i < run->options->lookahead && !status; i++) {
        const uint64_t seen = session_length(draft->session), known = run->count + i;
        double *q = run->q + i * run->vocabulary;
        status = advance(run, draft, run->ids + seen, known - seen, 1, err);
        if (!status) status = probabilities(run, q, 0, draft, err);
        if (!status) run->ids[known] = rejection_draw(q, run->vocabulary, &run->random);
    }
    return status;
}

/* Look at all drafted tokens at once; *fresh: how many tokens have come to stay, the last one by the target. */
static enum status verify_tokens(
    struct speculating *run, struct speculate_tally *tally, uint64_t *fresh, struct error *err)
{
    const uint64_t lookahead = run->options->lookahead;
    uint32_t *drafted = run->ids + run->count;
    uint64_t i = 0;
    bool accepted = true;
    enum status status = advance(run, &run->target, drafted - 1, lookahead + 1, lookahead + 1, err);
    for (; i < lookahead && accepted && !status; i++) {
        status = probabilities(run, run->p, i, &run->target, err);
        if (status) break;
        accepted =
            rejection_judge(&drafted[i], run->p, run->q + i * run->vocabulary, run->vocabulary, &run->random);
        tally->judged[i]++;
        tally->accepted[i] += accepted;
    }
    *fresh = i;
    if (status || !accepted) return status;
    *fresh = lookahead + 1;
    if ((status = probabilities(run, run->p, lookahead, &run->target, err))) return status;
    drafted[lookahead] = rejection_draw(run->p, run->vocabulary, &run->random);
    return OK;
}

/* Take over the fresh tokens, up to one that ends the text. */
static void keep_tokens(struct speculating *run, uint64_t fresh)
{
    for (uint64_t i = 0; i < fresh && !run->stopped; i++)
        run->stopped = is_stop(run, run->ids[run->count++]);
    session_truncate(run->target.session, run->count - 1);
    session_truncate(run->draft.session, run->count - 1);
}

static enum status run_cycle(struct speculating *run, struct speculate_tally *tally, struct error *err)
{
    const double start = report_seconds();
    uint64_t fresh = 0;
    enum status status = draft_tokens(run, err);
    const double drafted = report_seconds();
    if (!status) status = verify_tokens(run, tally, &fresh, err);
    if (!status) keep_tokens(run, fresh);
    tally->seconds_draft += drafted - start;
    tally->seconds_verify += report_seconds() - drafted;
    tally->cycles++;
    return status;
}

static enum status run_speculation(struct speculating *run, const uint32_t *prompt, uint64_t length,
    struct speculate_tally *tally, struct error *err)
{
    const uint64_t enough = length + 1 + run->options->tokens;
    enum status status = begin(run, run->ids, &run->count, prompt, length, err);
    session_reset(run->draft.session);
    if (!status) status = advance(run, &run->draft, prompt, length, 0, err);
    while (!status && !run->stopped && run->count < enough)
        status = run_cycle(run, tally, err);
    tally->tokens += (double)(run->count - length - 1);
    return status;
}

/* ---- both beside each other ---- */

/* At temperature 0 both must be the same text; where they part, the two tokens must be a tie but for rounding. */
static enum status compare_texts(struct speculating *run, struct speculate_result *out, struct error *err)
{
    const uint64_t shared = run->count < run->alone_count ? run->count : run->alone_count;
    uint64_t at = 0;
    while (at < shared && run->ids[at] == run->alone[at])
        at++;
    if (at == shared || run->options->temperature > 0) return OK;
    session_reset(run->target.session);
    const enum status status = advance(run, &run->target, run->ids, at, 1, err);
    if (status) return status;
    const double gap = fabs((double)run->logits[run->ids[at]] - (double)run->logits[run->alone[at]]);
    out->different++;
    out->different_gap = fmax(out->different_gap, gap);
    return OK;
}

static void tell(const struct speculating *run, uint64_t prompt, uint64_t length)
{
    const struct speculate_options *options = run->options;
    if (!options->listen) return;
    options->listen(options->listen_context, prompt, true, run->alone + length, run->alone_count - length);
    options->listen(options->listen_context, prompt, false, run->ids + length, run->count - length);
}

/* Different prompts draw from unrelated streams; so do both ways of the same prompt. */
static uint64_t stream(const struct speculating *run, uint64_t prompt, uint64_t way)
{
    uint64_t state = run->options->seed;
    const double a = sampling_uniform(&state);
    state = 2 * prompt + way;
    const double b = sampling_uniform(&state);
    return (uint64_t)(a * 0x1p53) ^ (uint64_t)(b * 0x1p53) << 11;
}

static enum status run_prompts(struct speculating *run, struct speculate_result *out,
    const struct prompts *prompts, const struct report *report, struct error *err)
{
    struct progress *progress =
        progress_start(report, "speculating", 2 * prompts->count * run->options->tokens, PROGRESS_TOKENS);
    enum status status = OK;
    for (uint64_t i = 0; i < prompts->count && !status; i++) {
        const uint64_t first = i ? prompts->ends[i - 1] : 0, length = prompts->ends[i] - first;
        struct speculate_tally *tally = &run->tallies[i];
        run->random = stream(run, i, 0);
        status = run_alone(run, prompts->ids + first, length, tally, err);
        progress_add(progress, run->options->tokens);
        run->random = stream(run, i, 1);
        if (!status) status = run_speculation(run, prompts->ids + first, length, tally, err);
        progress_add(progress, run->options->tokens);
        if (!status) tell(run, i, length);
        if (!status) status = compare_texts(run, out, err);
        out->prompt_tokens += length;
    }
    progress_end(progress);
    return status;
}

/* ---- what other lookaheads would be worth ---- */

/* The time of one step of `length` tokens, which is then forgotten. */
static enum status time_step(
    struct speculating *run, struct side *side, uint64_t length, double *seconds, struct error *err)
{
    const uint64_t before = session_length(side->session);
    const double start = report_seconds();
    const enum status status = advance(run, side, run->ids, length, length, err);
    *seconds = report_seconds() - start;
    session_truncate(side->session, before);
    return status;
}

/* Least times of steps: [0] one token of the draft, [m] m tokens of the target. They take turns, so that what slows the machine
 * down for a while slows all of them; what disturbs a step only ever makes it longer. */
static enum status time_steps(struct speculating *run, double *least, struct error *err)
{
    const double start = report_seconds();
    double seconds;
    enum status status = time_step(run, &run->draft, 1, &seconds, err);
    if (!status) status = time_step(run, &run->target, SPECULATE_TABLE + 1, &seconds, err);
    for (uint64_t m = 0; m < SPECULATE_TABLE + 2; m++)
        least[m] = INFINITY;
    for (int repeat = 0; repeat < REPEATS_MOST && !status; repeat++) {
        if (repeat >= REPEATS_LEAST && report_seconds() - start > TABLE_SECONDS) break;
        for (uint64_t m = 0; m < SPECULATE_TABLE + 2 && !status; m++) {
            status = time_step(run, m ? &run->target : &run->draft, m ? m : 1, &seconds, err);
            least[m] = fmin(least[m], seconds);
        }
    }
    return status;
}

static enum status fill_table(struct speculating *run, struct speculate_result *out, struct error *err)
{
    double least[SPECULATE_TABLE + 2];
    const enum status status = time_steps(run, least, err);
    if (status) return status;
    double highest = 1;
    out->table_draft_cost = speculate_tally_ratio(least[0], least[1]);
    for (uint64_t i = 0; i < SPECULATE_TABLE; i++) {
        struct speculate_choice *choice = &out->choices[i];
        const double drafting = (double)(i + 1) * out->table_draft_cost;
        choice->expected = rejection_expected(out->acceptance.value, i + 1);
        choice->verify_cost = speculate_tally_ratio(least[i + 2], least[1]);
        choice->implied = choice->expected / (drafting + 1);
        choice->at_cost = speculate_tally_ratio(choice->expected, drafting + choice->verify_cost);
        choice->by_bytes = choice->expected / ((double)(i + 1) * out->byte_ratio + 1);
        if (choice->at_cost <= highest) continue;
        highest = choice->at_cost;
        out->best = i + 1;
    }
    return OK;
}

/* ---- the whole ---- */

/* Vocabularies are often padded beyond the tokenizer's tokens. */
static enum status list_padding(struct speculating *run, struct error *err)
{
    const struct model *model = run->target.model;
    uint64_t bytes;
    if (!model->tokenizer) return OK;
    if (!(run->padding = memory_new(run->vocabulary, sizeof *run->padding, err))) return ERR_MEMORY;
    for (uint32_t id = 0; id < run->vocabulary; id++) {
        if (!tokenizer_token(model->tokenizer, id, &bytes)) run->padding[run->padding_count++] = id;
    }
    return OK;
}

static enum status allocate(struct speculating *run, const struct prompts *prompts, struct error *err)
{
    const struct speculate_options *options = run->options;
    const uint64_t a = run->target.model->config.hidden, b = run->draft.model->config.hidden;
    run->rows = 1 + (options->lookahead > SPECULATE_TABLE ? options->lookahead : SPECULATE_TABLE);
    run->capacity = prompts->longest + options->tokens + options->lookahead + run->rows + 1;
    run->prompts = prompts->count;
    if (!(run->hidden = memory_new(run->capacity, (a > b ? a : b) * sizeof *run->hidden, err)) ||
        !(run->logits = memory_new(run->rows, run->vocabulary * sizeof *run->logits, err)) ||
        !(run->p = memory_new(run->vocabulary, sizeof *run->p, err)) ||
        !(run->q = memory_new(options->lookahead, run->vocabulary * sizeof *run->q, err)) ||
        !(run->ids = memory_new(run->capacity, sizeof *run->ids, err)) ||
        !(run->alone = memory_new(run->capacity, sizeof *run->alone, err)) ||
        !(run->tallies = memory_new(run->prompts, sizeof *run->tallies, err))) {
        return ERR_MEMORY;
    }
    enum status status = list_padding(run, err);
    if (!status) status = session_create(&run->target.session, run->target.model, 1, run->capacity, err);
    return status ? status : session_create(&run->draft.session, run->draft.model, 1, run->capacity, err);
}

static void release(struct speculating *run)
{
    session_free(run->target.session);
    session_free(run->draft.session);
    memory_free(run->hidden);
    memory_free(run->logits);
    memory_free(run->p);
    memory_free(run->q);
    memory_free(run->ids);
    memory_free(run->alone);
    memory_free(run->padding);
    memory_free(run->tallies);
}

static enum status check_request(const struct speculating *run, uint64_t prompts, struct error *err)
{
    const struct model_config *a = &run->target.model->config, *b = &run->draft.model->config;
    const uint64_t lookahead = run->options->lookahead;
    if (!prompts) return fail(err, ERR_USAGE, "there is no prompt to continue");
    if (!lookahead || lookahead > SPECULATE_LOOKAHEAD)
        return fail(err, ERR_USAGE, "a lookahead of %" PRIu64 " is not within 1 .. %d", lookahead,
            SPECULATE_LOOKAHEAD);
    if (a->vocabulary == b->vocabulary) return OK;
    return fail(err, ERR_USAGE,
        "the target has a vocabulary of %" PRIu32 ", the draft one of %" PRIu32
        ": a draft must speak the same tokens",
        a->vocabulary, b->vocabulary);
}

enum status speculate_measure(struct speculate_result *out, struct model *target, struct model *draft,
    const struct prompts *prompts, const struct speculate_options *options, const struct report *report,
    struct error *err)
{
    struct speculating run = {.options = options,
        .target.model = target,
        .draft.model = draft,
        .vocabulary = target->config.vocabulary};
    const double start = report_seconds();
    *out = (struct speculate_result){0};
    enum status status = check_request(&run, prompts->count, err);
    if (!status) status = allocate(&run, prompts, err);
    if (!status) status = run_prompts(&run, out, prompts, report, err);
    if (!status) speculate_tally_summarize(out, run.tallies, run.prompts, target, draft, options->lookahead);
    if (!status) status = fill_table(&run, out, err);
    release(&run);
    out->seconds = report_seconds() - start;
    return status;
}
