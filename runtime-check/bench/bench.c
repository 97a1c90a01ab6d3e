/* See bench.h. */
#include "runtime-check/bench/bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/report.h"
#include "runtime-check/generate/generate.h"
#include "runtime-check/inspect/inspect.h"
#include "runtime-check/bench/residency.h"

enum { WARM_UP_TOKENS = 2 };

/* ---- describing ---- */

static enum status keep_files(struct bench_model *out, const struct container *container, struct error *err)
{
    const uint64_t count = container_file_count(container);
    if (!(out->files = memory_new(count, sizeof *out->files, err))) return ERR_MEMORY;
    out->file_count = count;
    for (uint64_t i = 0; i < count; i++) {
        const struct container_file file = container_file(container, i);
        if (!(out->files[i] = memory_text(file.path, strlen(file.path), err))) return ERR_MEMORY;
        out->mapped_bytes += file.bytes;
    }
    return OK;
}

enum status bench_describe(struct bench_model *out, const char *path, struct model *model,
    const struct bench_options *options, struct error *err)
{
    struct session *session = NULL;
    struct inspect_totals totals;
    memset(out, 0, sizeof *out);
    inspect_total(&totals, model->container);
    out->path = path;
    out->bytes = totals.bytes;
    out->weights = totals.weights;
    out->context = model->config.context;
    enum status status = keep_files(out, model->container, err);
    if (!status && !(out->scratch = memory_new(options->rounds, sizeof(double), err))) status = ERR_MEMORY;
    for (unsigned i = 0; i < BENCH_METRICS && !status; i++) {
        out->values[i] = memory_new(options->rounds, sizeof(double), err);
        if (!out->values[i]) status = ERR_MEMORY;
    }
    if (!status) status = session_create(&session, model, 1, 1, err);
    if (status) return status;
    out->cache_bytes = session_cache_bytes_per_token(session);
    out->traffic = traffic_per_token(model, out->cache_bytes, options->prompt_tokens, options->tokens);
    session_free(session);
    return OK;
}

void bench_release(struct bench_model *model)
{
    for (uint64_t i = 0; i < model->file_count; i++)
        memory_free(model->files[i]);
    memory_free(model->files);
    for (unsigned i = 0; i < BENCH_METRICS; i++)
        memory_free(model->values[i]);
    memory_free(model->scratch);
    memset(model, 0, sizeof *model);
}

/* ---- running ---- */

/* A model that runs: one sequence. */
struct bench_run {
    struct model *model;
    struct session *session;
    float *hidden, *logits; /* [longest call][hidden], [vocabulary] */
    uint32_t *prompt;       /* [longest call] */
    uint32_t token;         /* the last that was chosen */
};

static void close_run(struct bench_run *run)
{
    session_free(run->session);
    memory_free(run->hidden);
    memory_free(run->logits);
    memory_free(run->prompt);
    model_close(run->model);
    memset(run, 0, sizeof *run);
}

/* The same ids for every model of one vocabulary. splitmix64, as in generate.c. */
static void draw_prompt(uint32_t *ids, uint64_t count, uint32_t vocabulary)
{
    uint64_t state = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t z = (state += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        ids[i] = (uint32_t)((z ^ (z >> 31)) % vocabulary);
    }
}

/* Replace the run's session and buffers by ones for a prompt of so many tokens and `capacity` in all. */
static enum status prepare(struct bench_run *run, uint64_t prompt, uint64_t capacity, struct error *err)
{
    const struct model_config *config = &run->model->config;
    session_free(run->session);
    memory_free(run->hidden);
    memory_free(run->logits);
    memory_free(run->prompt);
    run->session = NULL;
    run->hidden = run->logits = NULL;
    run->prompt = NULL;
    if (!(run->hidden = memory_new(prompt, config->hidden * sizeof(float), err)) ||
        !(run->logits = memory_new(config->vocabulary, sizeof(float), err)) ||
        !(run->prompt = memory_new(prompt, sizeof *run->prompt, err)))
        return ERR_MEMORY;
    draw_prompt(run->prompt, prompt, config->vocabulary);
    return session_create(&run->session, run->model, 1, capacity, err);
}

/* Logits of row `row` of run->hidden, and the likeliest token. */
static enum status choose(struct bench_run *run, uint64_t row, struct error *err)
{
    const struct model_config *config = &run->model->config;
    const struct sampling_options greedy = {.temperature = 0};
    enum status status = model_logits(run->model, run->logits, run->hidden + row * config->hidden, 1, err);
    if (!status) run->token = sampling_pick(run->logits, config->vocabulary, &greedy, NULL, NULL);
    return status;
}

static enum status generate(struct bench_run *run, uint64_t tokens, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < tokens && !status; i++) {
        const uint32_t token = run->token;
        status = session_step(run->session, run->hidden, &token, 1, err);
        if (!status) status = choose(run, 0, err);
    }
    return status;
}

/* Open and run one token. Seconds, or an error. */
static enum status load(struct bench_run *run, double *seconds, const struct bench_model *model,
    const struct bench_options *options, struct pool *pool, struct error *err)
{
    const double start = report_seconds();
    enum status status = model_open(&run->model, model->path, pool, err);
    if (status) return status;
    run->model->cache_bits = options->cache_bits;
    if (container_bytes(run->model->container) != model->mapped_bytes)
        return fail(err, ERR_FORMAT,
            "%s: was %" PRIu64 " bytes before and is %" PRIu64
            " now; it must not change while it is measured",
            model->path, model->mapped_bytes, container_bytes(run->model->container));
    status = prepare(run, 1, 1, err);
    if (!status) status = session_step(run->session, run->hidden, run->prompt, 1, err);
    if (!status) status = choose(run, 0, err);
    *seconds = report_seconds() - start;
    return status;
}

/* ---- one round ---- */

/* Get all files of the model out of the page cache. False, with the reason: some of it is still there. */
static bool drop_files(struct bench_model *model)
{
    struct error err = {0};
    for (uint64_t i = 0; i < model->file_count; i++) {
        uint64_t left;
        if (residency_drop(&left, model->files[i], &err)) {
            snprintf(model->cold_reason, sizeof model->cold_reason, "%s", err.text);
            return false;
        }
        if (left == 0) continue;
        snprintf(model->cold_reason, sizeof model->cold_reason,
            "%" PRIu64
            " bytes of %s stay in memory: the file system lies in memory, another process uses the file, "
            "or it belongs to another user",
            left, model->files[i]);
        return false;
    }
    return true;
}

/* The cold load, then the warm one, which stays open. */
static enum status measure_loads(struct bench_run *run, struct bench_model *model, uint64_t round,
    const struct bench_options *options, struct pool *pool, struct error *err)
{
    double seconds;
    const bool cold = drop_files(model);
    enum status status = load(run, &seconds, model, options, pool, err);
    model->values[BENCH_LOAD_COLD][round] = cold ? seconds : NAN;
    if (status) return status;
    close_run(run);
    return load(run, &model->values[BENCH_LOAD_WARM][round], model, options, pool, err);
}

static enum status warm_up(struct bench_run *run, uint64_t prompt, struct error *err)
{
    enum status status = session_step(run->session, run->hidden, run->prompt, prompt, err);
    if (!status) status = choose(run, prompt - 1, err);
    if (!status) status = generate(run, WARM_UP_TOKENS, err);
    session_reset(run->session);
    return status;
}

/* Joules per token, or NaN and the reason. */
static double joules(struct bench_model *model, const struct energy *energy,
    const struct energy_reading *before, const struct energy_reading *after, bool read, uint64_t tokens)
{
    if (energy->count == 0) {
        snprintf(model->energy_reason, sizeof model->energy_reason, "%s", energy->reason);
        return NAN;
    }
    const double total = read ? energy_joules(energy, before, after) : NAN;
    if (isnan(total))
        snprintf(model->energy_reason, sizeof model->energy_reason,
            read ? "the counters did not advance" : "a counter could not be read any more");
    return total / (double)tokens;
}

static enum status measure_speed(struct bench_run *run, struct bench_model *model, uint64_t round,
    const struct bench_options *options, const struct energy *energy, struct error *err)
{
    const uint64_t prompt = options->prompt_tokens, tokens = options->tokens;
    struct energy_reading readings[3] = {0};
    double times[4];
    bool read = energy_read(&readings[0], energy);
    times[0] = report_seconds();
    enum status status = session_step(run->session, run->hidden, run->prompt, prompt, err);
    times[1] = report_seconds();
    if (!status) status = choose(run, prompt - 1, err);
    times[2] = report_seconds();
    read &= energy_read(&readings[1], energy);
    const double start = report_seconds();
    if (!status) status = generate(run, tokens, err);
    times[3] = report_seconds();
    read &= energy_read(&readings[2], energy);
    model->values[BENCH_PROMPT_RATE][round] = (double)prompt / (times[1] - times[0]);
    model->values[BENCH_FIRST_TOKEN][round] = times[2] - times[0];
    model->values[BENCH_TOKEN_RATE][round] = (double)tokens / (times[3] - start);
    model->values[BENCH_PROMPT_JOULES][round] =
        joules(model, energy, &readings[0], &readings[1], read, prompt);
    model->values[BENCH_TOKEN_JOULES][round] =
        joules(model, energy, &readings[1], &readings[2], read, tokens);
    return status;
}

/* While everything is still there. What the system does not tell is NaN. */
static void measure_memory(
    const struct bench_run *run, struct bench_model *model, uint64_t round, bool peak_known)
{
    const struct container *container = run->model->container;
    uint64_t bytes;
    double resident = 0;
    model->values[BENCH_PEAK][round] = peak_known && residency_peak(&bytes) ? (double)bytes : NAN;
    model->values[BENCH_ANONYMOUS][round] = residency_anonymous(&bytes) ? (double)bytes : NAN;
    for (uint64_t i = 0; i < container_file_count(container); i++) {
        const struct container_file file = container_file(container, i);
        const enum status status = residency_of_map(&bytes, file.map, file.bytes, NULL);
        resident += status ? NAN : (double)bytes;
    }
    model->values[BENCH_RESIDENT][round] = resident;
}

enum status bench_round(struct bench_model *model, uint64_t round, const struct bench_options *options,
    struct pool *pool, const struct energy *energy, struct error *err)
{
    const uint64_t rest = options->tokens > WARM_UP_TOKENS ? options->tokens : WARM_UP_TOKENS;
    struct bench_run run = {0};
    const bool peak_known = residency_reset_peak();
    enum status status = measure_loads(&run, model, round, options, pool, err);
    if (!status) status = prepare(&run, options->prompt_tokens, options->prompt_tokens + rest, err);
    if (!status) status = warm_up(&run, options->prompt_tokens, err);
    if (!status) status = measure_speed(&run, model, round, options, energy, err);
    if (!status) measure_memory(&run, model, round, peak_known);
    close_run(&run);
    return status ? fail_within(err, status, "%s", model->path) : OK;
}

/* ---- results ---- */

struct spread bench_spread(const struct bench_model *model, enum bench_metric metric, uint64_t rounds)
{
    return bench_ratio(model, NULL, metric, rounds);
}

struct spread bench_ratio(const struct bench_model *model, const struct bench_model *first,
    enum bench_metric metric, uint64_t rounds)
{
    for (uint64_t i = 0; i < rounds; i++)
        model->scratch[i] = model->values[metric][i] / (first ? first->values[metric][i] : 1);
    return spread_of(model->scratch, rounds);
}
