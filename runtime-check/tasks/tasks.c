/* See tasks.h. Sequences run one after the other in one session; what the next one has in common with the one before stays
 * in the cache: a context serves all its choices, few-shot examples all items. Hidden states that predict scored tokens
 * are gathered over items, so that the output head works on many rows at once. */
#include "runtime-check/tasks/tasks.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/tasks/choice.h"
#include "runtime-check/judge/perplexity.h"

enum { LOGIT_FLOATS = 16 * 1024 * 1024, GATHER_ROWS = 1024 }; /* at most 64 MiB of logits at a time */

enum status tasks_plan(struct tasks_plan *out, const struct model *model, const struct task_file *file,
    uint64_t context, struct error *err)
{
    struct choice_tokens sequence = {0};
    enum status status = OK;
    *out = (struct tasks_plan){.context = context ? context : model->config.context};
    if (!model->tokenizer)
        return fail(err, ERR_UNSUPPORTED, "the model carries no tokenizer.json, so items cannot be scored");
    for (uint64_t i = 0; i < file->count && !status; i++) {
        const struct task_item *item = &file->items[i];
        for (uint32_t choice = 0; choice < item->choices && !status; choice++) {
            status = choice_tokenize(&sequence, model, file, item, choice, out->context, err);
            out->longest = sequence.count - 1 > out->longest ? sequence.count - 1 : out->longest;
            out->truncated += sequence.truncated;
            out->tokens += sequence.count - 1;
            out->scored += sequence.scored;
        }
    }
    choice_free(&sequence);
    return status;
}

/* A gathered row: which token it predicts, of which choice. */
struct row {
    uint64_t item, choice; /* choice counts through the file */
    uint32_t target;
};

struct run {
    struct model *model;
    const struct task_file *file;
    const struct tasks_plan *plan;
    struct session *session;
    uint32_t *held; /* [held_count] tokens in the session */
    uint64_t held_count;
    float *hidden;   /* [longest][hidden] of the held tokens */
    float *gathered; /* [rows of row_capacity][hidden] */
    struct row *rows;
    uint64_t row_count, row_capacity;
    float *logits; /* [row_capacity][vocabulary] */
    double *nll;   /* [row_capacity] */
    struct tasks_scores *out;
};

static enum status score_row(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct run *run = context;
    const uint64_t vocabulary = run->model->config.vocabulary;
    const struct row *row = &run->rows[index];
    (void)worker;
    run->nll[index] = perplexity_nll(run->logits + index * vocabulary, vocabulary, row->target);
    if (isfinite(run->nll[index])) return OK;
    return fail(
        err, ERR_NUMERIC, "line %" PRIu64 ": the logits are not finite", run->file->items[row->item].line);
}

/* Score the gathered rows. Sums grow in the order of rows, whoever computed them. */
static enum status flush_rows(struct run *run, struct error *err)
{
    if (run->row_count == 0) return OK;
    enum status status = model_logits(run->model, run->logits, run->gathered, run->row_count, err);
    if (!status) status = pool_run(run->model->pool, run->row_count, score_row, run, err);
    for (uint64_t i = 0; i < run->row_count && !status; i++)
        run->out->sums[run->rows[i].choice] -= run->nll[i];
    run->row_count = 0;
    return status;
}

static enum status gather(
    struct run *run, const struct choice_tokens *sequence, uint64_t item, uint64_t choice, struct error *err)
{
    const uint64_t hidden = run->model->config.hidden;
    for (uint64_t at = sequence->count - sequence->scored; at < sequence->count; at++) {
        if (run->row_count == run->row_capacity) {
            const enum status status = flush_rows(run, err);
            if (status) return status;
        }
        memcpy(
            run->gathered + run->row_count * hidden, run->hidden + (at - 1) * hidden, hidden * sizeof(float));
        run->rows[run->row_count++] = (struct row){item, choice, sequence->ids[at]};
    }
    return OK;
}

/* Run all tokens but the last; those the session holds already are left alone. */
static enum status run_sequence(struct run *run, const struct choice_tokens *sequence, struct error *err)
{
    const uint64_t count = sequence->count - 1, hidden = run->model->config.hidden;
    uint64_t keep = 0;
    while (keep < count && keep < run->held_count && run->held[keep] == sequence->ids[keep])
        keep++;
    session_truncate(run->session, keep);
    run->held_count = keep;
    if (keep == count) return OK;
    const enum status status =
        session_step(run->session, run->hidden + keep * hidden, sequence->ids + keep, count - keep, err);
    if (status) return status;
    memcpy(run->held + keep, sequence->ids + keep, (count - keep) * sizeof *run->held);
    run->held_count = count;
    run->out->tokens_run += count - keep;
    return OK;
}

static enum status score_item(
    struct run *run, struct choice_tokens *sequence, uint64_t index, struct error *err)
{
    const struct task_item *item = &run->file->items[index];
    enum status status = OK;
    for (uint32_t i = 0; i < item->choices && !status; i++) {
        status = choice_tokenize(sequence, run->model, run->file, item, i, run->plan->context, err);
        if (status) break;
        status = run_sequence(run, sequence, err);
        if (status) return fail_within(err, status, "line %" PRIu64, item->line);
        status = gather(run, sequence, index, item->first + i, err);
    }
    return status;
}

static enum status allocate(struct run *run, struct error *err)
{
    const struct model_config *config = &run->model->config;
    const struct task_file *file = run->file;
    struct tasks_scores *out = run->out;
    const uint64_t fit = LOGIT_FLOATS / config->vocabulary ? LOGIT_FLOATS / config->vocabulary : 1;
    run->row_capacity = fit < GATHER_ROWS ? fit : GATHER_ROWS;
    if (run->row_capacity > run->plan->scored) run->row_capacity = run->plan->scored;
    if (!(out->sums = memory_new(file->choice_count, sizeof *out->sums, err)) ||
        !(out->chosen = memory_new(file->count, sizeof *out->chosen, err)) ||
        !(out->chosen_by_characters = memory_new(file->count, sizeof *out->chosen, err)) ||
        !(out->chosen_by_bytes = memory_new(file->count, sizeof *out->chosen, err)) ||
        !(run->held = memory_new(run->plan->longest, sizeof *run->held, err)) ||
        !(run->hidden = memory_new(run->plan->longest * config->hidden, sizeof(float), err)) ||
        !(run->gathered = memory_new(run->row_capacity * config->hidden, sizeof(float), err)) ||
        !(run->rows = memory_new(run->row_capacity, sizeof *run->rows, err)) ||
        !(run->logits = memory_new(run->row_capacity * config->vocabulary, sizeof(float), err)) ||
        !(run->nll = memory_new(run->row_capacity, sizeof *run->nll, err))) {
        return ERR_MEMORY;
    }
    return session_create(&run->session, run->model, 1, run->plan->longest, err);
}

static void release(struct run *run)
{
    session_free(run->session);
    memory_free(run->held);
    memory_free(run->hidden);
    memory_free(run->gathered);
    memory_free(run->rows);
    memory_free(run->logits);
    memory_free(run->nll);
}

uint32_t tasks_choose(const double *sums, const uint64_t *lengths, uint32_t count)
{
    double highest = -INFINITY;
    uint32_t best = 0;
    for (uint32_t i = 0; i < count; i++) {
        const double score = !lengths ? sums[i] : lengths[i] ? sums[i] / (double)lengths[i] : -INFINITY;
        if (score > highest) {
            highest = score;
            best = i;
        }
    }
    return best;
}

static void choose_all(struct tasks_scores *out, const struct task_file *file)
{
    for (uint64_t i = 0; i < file->count; i++) {
        const struct task_item *item = &file->items[i];
        const double *sums = out->sums + item->first;
        uint64_t characters[TASK_FILE_CHOICES], bytes[TASK_FILE_CHOICES];
        for (uint32_t choice = 0; choice < item->choices; choice++) {
            characters[choice] = file->choices[item->first + choice].characters;
            bytes[choice] = file->choices[item->first + choice].bytes;
        }
        out->chosen[i] = tasks_choose(sums, NULL, item->choices);
        out->chosen_by_characters[i] = tasks_choose(sums, characters, item->choices);
        out->chosen_by_bytes[i] = tasks_choose(sums, bytes, item->choices);
    }
}

enum status tasks_score(struct tasks_scores *out, struct model *model, const struct task_file *file,
    const struct tasks_plan *plan, const struct report *report, struct error *err)
{
    struct run run = {.model = model, .file = file, .plan = plan, .out = out};
    struct choice_tokens sequence = {0};
    const double start = report_seconds();
    *out = (struct tasks_scores){0};
    enum status status = allocate(&run, err);
    struct progress *progress = progress_start(report, "scoring", file->count, PROGRESS_ITEMS);
    for (uint64_t i = 0; i < file->count && !status; i++) {
        status = score_item(&run, &sequence, i, err);
        progress_add(progress, 1);
    }
    if (!status) status = flush_rows(&run, err);
    progress_end(progress);
    if (!status) choose_all(out, file);
    out->seconds = report_seconds() - start;
    choice_free(&sequence);
    release(&run);
    return status;
}

void tasks_free(struct tasks_scores *scores)
{
    memory_free(scores->sums);
    memory_free(scores->chosen);
    memory_free(scores->chosen_by_characters);
    memory_free(scores->chosen_by_bytes);
    memset(scores, 0, sizeof *scores);
}
