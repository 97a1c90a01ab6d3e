/* See contest.h. */
#include "runtime-check/judge/contest.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "runtime-check/inspect/inspect.h"
#include "runtime-check/judge/compare_check.h"
#include "runtime-check/judge/same_tokens.h"

/* ---- memory ---- */

static enum status allocate_hidden(
    const struct contest *contest, struct contestant *contestant, struct error *err)
{
    const uint64_t tokens = contest->windows->batch * contest->windows->context;
    contestant->hidden = memory_new(tokens * contestant->model->config.hidden, sizeof(float), err);
    return contestant->hidden ? OK : ERR_MEMORY;
}

static enum status allocate_candidate(
    struct contest *contest, uint64_t index, struct model *model, struct error *err)
{
    const struct windows *windows = contest->windows;
    struct contestant *candidate = &contest->candidates[index];
    candidate->model = model;
    candidate->divergence.capacity = windows->count * windows->scored;
    candidate->divergence.per_window = windows->scored;
    candidate->divergence.klds = memory_new(candidate->divergence.capacity, sizeof(float), err);
    if (!candidate->divergence.klds) return ERR_MEMORY;
    if (contest->window_nll) {
        candidate->divergence.window_nll = memory_new(windows->count, sizeof(double), err);
        if (!candidate->divergence.window_nll) return ERR_MEMORY;
    }
    return allocate_hidden(contest, candidate, err);
}

static enum status allocate(
    struct contest *contest, struct model *const *candidates, uint64_t count, struct error *err)
{
    const uint64_t vocabulary = contest->vocabulary;
    contest->logit_rows = windows_logit_rows(contest->windows, vocabulary);
    contest->rows = memory_new(contest->logit_rows, sizeof *contest->rows, err);
    contest->candidates = contest->rows ? memory_new(count, sizeof *contest->candidates, err) : NULL;
    if (!contest->candidates) return ERR_MEMORY;
    contest->count = count;
    if (!contest->top_k) {
        contest->base_logits = memory_new(contest->logit_rows * vocabulary, sizeof(float), err);
        if (!contest->base_logits) return ERR_MEMORY;
    }
    if (count > 0) {
        contest->logits = memory_new(contest->logit_rows * vocabulary, sizeof(float), err);
        if (!contest->logits) return ERR_MEMORY;
    }
    enum status status = contest->base.model ? allocate_hidden(contest, &contest->base, err) : OK;
    for (uint64_t i = 0; i < count && !status; i++)
        status = allocate_candidate(contest, i, candidates[i], err);
    return status;
}

void contest_release(struct contest *contest)
{
    for (uint64_t i = 0; i < contest->count; i++) {
        memory_free(contest->candidates[i].hidden);
        memory_free(contest->candidates[i].divergence.klds);
        memory_free(contest->candidates[i].divergence.window_nll);
    }
    memory_free(contest->base.hidden);
    memory_free(contest->candidates);
    memory_free(contest->base_logits);
    memory_free(contest->logits);
    memory_free(contest->rows);
    trace_free(contest->trace);
    base_logits_abandon(contest->writer);
    windows_free(&contest->cut);
}

/* ---- what was asked for ---- */

/* The last part of a path, quoted: what a stored base says it is of. */
static void name_of(char *out, size_t out_bytes, const char *path)
{
    size_t end = strlen(path), begin;
    while (end > 1 && path[end - 1] == '/')
        end--;
    for (begin = end; begin > 0 && path[begin - 1] != '/';)
        begin--;
    error_quote(out, out_bytes, path + begin, end - begin);
}

static enum status start_saving(struct contest *contest, const char *text, uint64_t text_bytes,
    const struct compare_options *options, struct error *err)
{
    struct inspect_totals totals;
    struct model *base = contest->base.model;
    if (!base)
        return fail(err, ERR_USAGE, "only the predictions of a model can be saved, not those of stored ones");
    inspect_total(&totals, base->container);
    struct base_logits_info info = {
        .protocol = options->text.protocol,
        .context = contest->windows->context,
        .windows = contest->windows->count,
        .vocabulary = base->config.vocabulary,
        .top_k = options->save_top_k,
        .model_bytes = totals.bytes,
        .model_weights = totals.weights,
        .text_bytes = text_bytes,
        .text_crc32 = file_crc32(0, text, text_bytes),
    };
    name_of(info.model, sizeof info.model, container_path(base->container));
    return base_logits_create(
        &contest->writer, options->save_base, options->force, &info, contest->windows, contest->pool, err);
}

static enum status start_tracing(
    struct contest *contest, struct model *const *candidates, uint64_t count, struct error *err)
{
    const struct model *base = contest->base.model;
    if (!base)
        return fail(err, ERR_USAGE, "errors of layers need the base model; stored predictions have none");
    for (uint64_t i = 0; i < count; i++) {
        if (trace_matches(base, candidates[i])) continue;
        return fail(err, ERR_USAGE, "%s has other layers than %s: their outputs do not compare",
            container_path(candidates[i]->container), container_path(base->container));
    }
    return trace_create(
        &contest->trace, base, count, contest->windows->batch * contest->windows->context, err);
}

/* Take the base: cut the text with its model's tokenizer, or take the windows as they were stored. */
static enum status open_base(struct contest *contest, const struct compare_base *base, const char *text,
    uint64_t text_bytes, const struct compare_options *options, const struct report *report,
    struct error *err)
{
    contest->base.model = base->model;
    contest->stored = base->stored;
    if (base->stored) {
        contest->windows = base_logits_windows(base->stored);
        contest->vocabulary = base_logits_info(base->stored)->vocabulary;
        contest->top_k = base_logits_info(base->stored)->top_k;
        return text ? compare_check_text(base->stored, text, text_bytes, err) : OK;
    }
    if (!text) return fail(err, ERR_USAGE, "there is no text to read");
    contest->windows = &contest->cut;
    contest->vocabulary = base->model->config.vocabulary;
    return windows_cut(&contest->cut, base->model, text, text_bytes, &options->text, report, err);
}

static enum status check_all(const struct contest *contest, struct model *const *candidates, uint64_t count,
    const char *text, uint64_t text_bytes, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; i < count && !status; i++) {
        status = contest->stored
                     ? compare_check_stored(contest->stored, candidates[i], err)
                     : same_tokens_check(contest->base.model, candidates[i], text, text_bytes, err);
    }
    return status;
}

enum status contest_prepare(struct contest *out, const struct compare_base *base,
    struct model *const *candidates, uint64_t count, const char *text, uint64_t text_bytes,
    const struct compare_options *options, const struct report *report, struct error *err)
{
    out->pool = base->model ? base->model->pool : count ? candidates[0]->pool : NULL;
    out->window_nll = options->window_nll;
    enum status status = open_base(out, base, text, text_bytes, options, report, err);
    if (!status) status = check_all(out, candidates, count, text, text_bytes, err);
    if (!status && options->layers) status = start_tracing(out, candidates, count, err);
    if (!status && options->save_base) status = start_saving(out, text, text_bytes, options, err);
    return status ? status : allocate(out, candidates, count, err);
}
