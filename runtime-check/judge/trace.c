/* See trace.h. Slot 0 is the embedding, slot i + 1 the output of layer i. */
#include "runtime-check/judge/trace.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

enum { TASK_ROWS = 16 }; /* rows that one task compares */

/* Sums over tokens of one slot of one candidate. */
struct sums {
    double error, own, share;
};

/* Whose step an observer is shown. Session and trace share it, so it must not move. */
struct watch {
    struct trace *trace;
    struct sums *sums; /* [slots] */
    uint64_t tokens, tokens_alone;
    bool alone;
};

/* What became of one row. */
struct row {
    double error, share;
};

struct trace {
    struct pool *pool;
    uint64_t slots, hidden, capacity; /* capacity: rows that are kept of every slot */
    uint64_t kept;                    /* rows of the base's last step that are there */
    float *base;                      /* [slots][capacity][hidden] */
    struct row *rows;                 /* [capacity] */
    struct watch *watches;            /* [candidates] */
    uint64_t candidates;
};

/* ---- life ---- */

static enum status allocate(struct trace *trace, struct error *err)
{
    if (!(trace->base = memory_new(trace->slots * trace->capacity, trace->hidden * sizeof(float), err)) ||
        !(trace->rows = memory_new(trace->capacity, sizeof *trace->rows, err)) ||
        !(trace->watches = memory_new(trace->candidates, sizeof *trace->watches, err))) {
        return ERR_MEMORY;
    }
    for (uint64_t i = 0; i < trace->candidates; i++) {
        struct watch *watch = &trace->watches[i];
        watch->trace = trace;
        if (!(watch->sums = memory_new(trace->slots, sizeof *watch->sums, err))) return ERR_MEMORY;
    }
    return OK;
}

enum status trace_create(struct trace **out, const struct model *base, uint64_t candidates,
    uint64_t batch_tokens, struct error *err)
{
    struct trace *trace = *out = memory_new(1, sizeof *trace, err);
    if (!trace) return ERR_MEMORY;
    trace->pool = base->pool;
    trace->slots = (uint64_t)base->config.layers + 1;
    trace->hidden = base->config.hidden;
    trace->candidates = candidates;
    const uint64_t fit = TRACE_BYTES / (trace->slots * trace->hidden * sizeof(float));
    trace->capacity = batch_tokens < fit ? batch_tokens : fit ? fit : 1;
    const enum status status = allocate(trace, err);
    if (status) {
        trace_free(trace);
        *out = NULL;
    }
    return status;
}

void trace_free(struct trace *trace)
{
    if (!trace) return;
    for (uint64_t i = 0; i < trace->candidates && trace->watches; i++)
        memory_free(trace->watches[i].sums);
    memory_free(trace->watches);
    memory_free(trace->rows);
    memory_free(trace->base);
    memory_free(trace);
}

bool trace_matches(const struct model *base, const struct model *candidate)
{
    return base->config.layers == candidate->config.layers && base->config.hidden == candidate->config.hidden;
}

/* ---- watching ---- */

static uint64_t slot_of(uint32_t layer)
{
    return layer == SESSION_EMBEDDING ? 0 : (uint64_t)layer + 1;
}

static float *kept_row(const struct trace *trace, uint64_t slot, uint64_t row)
{
    return trace->base + (slot * trace->capacity + row) * trace->hidden;
}

/* How many of `tokens` rows from first_token on lie below `limit`. */
static uint64_t rows_below(uint64_t limit, uint64_t first_token, uint64_t tokens)
{
    if (first_token >= limit) return 0;
    return tokens < limit - first_token ? tokens : limit - first_token;
}

static enum status keep(
    void *context, uint32_t layer, uint64_t first_token, float *x, uint64_t tokens, struct error *err)
{
    struct trace *trace = context;
    const uint64_t count = rows_below(trace->capacity, first_token, tokens);
    (void)err;
    if (!count) return OK;
    memcpy(kept_row(trace, slot_of(layer), first_token), x, count * trace->hidden * sizeof *x);
    trace->kept = first_token + count;
    return OK;
}

void trace_watch_base(struct trace *trace, struct session *session)
{
    trace->kept = 0;
    session_observe(session, keep, trace);
}

/* Rows first .. first + count - 1 of a slot, and the candidate's x [count][hidden]. */
struct comparing {
    const struct trace *trace;
    uint64_t slot, first, count;
    const float *x;
};

/* part / whole of squared lengths. */
static double relative(double part, double whole)
{
    return whole > 0 ? part / whole : part > 0 ? INFINITY : 0;
}

static void compare_row(const struct comparing *job, uint64_t i)
{
    const struct trace *trace = job->trace;
    const float *a = kept_row(trace, job->slot, job->first + i), *b = job->x + i * trace->hidden;
    const float *before = job->slot ? kept_row(trace, job->slot - 1, job->first + i) : NULL;
    double squares = 0, errors = 0, changes = 0;
    for (uint64_t c = 0; c < trace->hidden; c++) {
        const double value = (double)a[c], error = (double)b[c] - value;
        const double change = value - (before ? (double)before[c] : 0);
        squares += value * value;
        errors += error * error;
        changes += change * change;
    }
    trace->rows[job->first + i] = (struct row){relative(errors, squares), relative(errors, changes)};
}

static enum status compare_rows(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct comparing *job = context;
    const uint64_t begin = index * TASK_ROWS;
    (void)worker;
    (void)err;
    for (uint64_t i = begin; i < begin + TASK_ROWS && i < job->count; i++)
        compare_row(job, i);
    return OK;
}

/* Add what the rows of one call gave, in their order. */
static void add_rows(struct watch *watch, const struct comparing *job)
{
    struct sums *sums = &watch->sums[job->slot];
    for (uint64_t i = 0; i < job->count; i++) {
        const struct row *row = &watch->trace->rows[job->first + i];
        if (watch->alone) {
            sums->own += row->error;
            sums->share += row->share;
        } else {
            sums->error += row->error;
        }
    }
    if (job->slot) return; /* tokens are counted once, at the embedding */
    if (watch->alone)
        watch->tokens_alone += job->count;
    else
        watch->tokens += job->count;
}

/* Rows of a sequence see only those before them, and those are kept too: replacing the kept rows gives each of them the base's
 * stream throughout. */
static enum status compare(
    void *context, uint32_t layer, uint64_t first_token, float *x, uint64_t tokens, struct error *err)
{
    struct watch *watch = context;
    struct trace *trace = watch->trace;
    const uint64_t count = rows_below(trace->kept, first_token, tokens);
    struct comparing job = {trace, slot_of(layer), first_token, count, x};
    if (!count) return OK;
    const enum status status =
        pool_run(trace->pool, (count + TASK_ROWS - 1) / TASK_ROWS, compare_rows, &job, err);
    if (status) return status;
    add_rows(watch, &job);
    if (watch->alone) memcpy(x, kept_row(trace, job.slot, first_token), count * trace->hidden * sizeof *x);
    return OK;
}

void trace_watch(struct trace *trace, uint64_t index, struct session *session)
{
    trace->watches[index].alone = false;
    session_observe(session, compare, &trace->watches[index]);
}

void trace_watch_alone(struct trace *trace, uint64_t index, struct session *session)
{
    trace->watches[index].alone = true;
    session_observe(session, compare, &trace->watches[index]);
}

/* ---- results ---- */

static double root_mean(double sum, uint64_t tokens)
{
    return tokens ? sqrt(sum / (double)tokens) : 0;
}

double trace_error(const struct trace *trace, uint64_t index, uint32_t layer)
{
    const struct watch *watch = &trace->watches[index];
    return root_mean(watch->sums[slot_of(layer)].error, watch->tokens);
}

double trace_own(const struct trace *trace, uint64_t index, uint32_t layer)
{
    const struct watch *watch = &trace->watches[index];
    return root_mean(watch->sums[slot_of(layer)].own, watch->tokens_alone);
}

double trace_share(const struct trace *trace, uint64_t index, uint32_t layer)
{
    const struct watch *watch = &trace->watches[index];
    return root_mean(watch->sums[slot_of(layer)].share, watch->tokens_alone);
}

uint64_t trace_tokens(const struct trace *trace, uint64_t index)
{
    return trace->watches[index].tokens;
}

uint64_t trace_tokens_alone(const struct trace *trace, uint64_t index)
{
    return trace->watches[index].tokens_alone;
}
