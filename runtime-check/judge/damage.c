/* See damage.h. */
#include "runtime-check/judge/damage_parts.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "runtime-check/inspect/inspect.h"
#include "runtime-check/judge/same_tokens.h"
#include "runtime-check/judge/trace.h"
#include "runtime-check/judge/windows.h"

/* What both configurations must have in common, so that a layer of one could stand in the other. */
struct common_number {
    const char *name;
    double base, model;
};

static enum status check_numbers(
    const struct damage_parts *work, const struct common_number *numbers, uint64_t count, struct error *err)
{
    for (uint64_t i = 0; i < count; i++) {
        if (numbers[i].base == numbers[i].model) continue;
        return fail(err, ERR_USAGE, "%s has %s %g, %s %g: their layers do not correspond",
            container_path(work->base->container), numbers[i].name, numbers[i].base,
            container_path(work->model->container), numbers[i].model);
    }
    return OK;
}

static enum status check_shapes(const struct damage_parts *work, struct error *err)
{
    const struct model_config *a = &work->base->config, *b = &work->model->config;
    const struct common_number numbers[] = {
        {"num_hidden_layers", a->layers, b->layers},
        {"hidden_size", a->hidden, b->hidden},
        {"intermediate_size", a->ffn, b->ffn},
        {"num_attention_heads", a->heads, b->heads},
        {"num_key_value_heads", a->kv_heads, b->kv_heads},
        {"head_dim", a->head_size, b->head_size},
        {"vocab_size", a->vocabulary, b->vocabulary},
        {"attention_bias", a->attention_bias, b->attention_bias},
        {"mlp_bias", a->mlp_bias, b->mlp_bias},
        {"rms_norm_eps", a->norm_epsilon, b->norm_epsilon},
        {"rope_theta", a->rope.theta, b->rope.theta},
    };
    if (a->architecture != b->architecture) {
        return fail(err, ERR_USAGE, "%s is a %s, %s a %s: their layers do not correspond",
            container_path(work->base->container), a->architecture->name,
            container_path(work->model->container), b->architecture->name);
    }
    return check_numbers(work, numbers, sizeof numbers / sizeof *numbers, err);
}

/* ---- tensors ---- */

static struct damage_tensor *find_tensor(const struct damage *damage, const struct tensor *tensor)
{
    for (uint64_t i = 0; i < damage->tensor_count; i++) {
        if (damage->tensors[i].difference.tensor == tensor) return &damage->tensors[i];
    }
    return NULL;
}

static enum status measure_tensors(struct damage_parts *work, struct error *err)
{
    struct damage *out = work->out;
    struct verify_difference *differences = NULL;
    enum status status = verify_against(
        &differences, work->model->container, work->base->container, work->base->pool, work->report, err);
    if (status) return status;
    out->tensor_count = container_count(work->model->container);
    if (!(out->tensors = memory_new(out->tensor_count, sizeof *out->tensors, err))) status = ERR_MEMORY;
    for (uint64_t i = 0; i < out->tensor_count && !status; i++) {
        struct damage_tensor *tensor = &out->tensors[i];
        tensor->difference = differences[i];
        tensor->exact = !differences[i].missing && differences[i].relative_rms == 0;
        if (isnan(differences[i].relative_rms)) {
            status = fail(err, ERR_NUMERIC,
                "tensor %s is not finite, in %s or in %s; nibble-check verify names the place",
                differences[i].tensor->name, container_path(work->model->container),
                container_path(work->base->container));
        }
    }
    memory_free(differences);
    return status;
}

/* ---- parts ---- */

static void add_member(struct damage_members *members, const struct tensor *tensor)
{
    if (tensor) members->tensors[members->count++] = tensor;
}

void damage_parts_list(struct damage_members *out, const struct model *model, const struct damage_part *part)
{
    const struct tensor *const *once = model->tensors.once;
    const bool tied = model->config.tied;
    out->count = 0;
    if (!part->name) {
        for (int role = ROLE_PER_LAYER; role < ROLE_COUNT; role++)
            add_member(out, model->tensors.layer[part->layer][role]);
        return;
    }
    const bool embedding = strcmp(part->name, "embedding") == 0;
    if (embedding) add_member(out, once[ROLE_EMBEDDING]);
    if (!embedding) add_member(out, once[ROLE_HEAD]);
    if (!embedding || tied) add_member(out, once[ROLE_FINAL_NORM]);
}

static bool is_norm(enum role role)
{
    return role == ROLE_ATTENTION_NORM || role == ROLE_MLP_NORM || role == ROLE_FINAL_NORM;
}

/* A norm that differs although the same numbers were there to be kept. */
static bool norms_differ(const struct damage_parts *work)
{
    const struct damage *out = work->out;
    const struct model_tensors *tensors = &work->model->tensors;
    for (uint32_t layer = 0; layer < work->model->config.layers; layer++) {
        for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
            const struct damage_tensor *found =
                is_norm(role) ? find_tensor(out, tensors->layer[layer][role]) : NULL;
            if (found && found->difference.relative_rms > 1e-2) return true;
        }
    }
    return false;
}

static void describe_part(struct damage_parts *work, struct damage_part *part)
{
    struct damage_members members;
    uint64_t bytes = 0, weights = 0;
    damage_parts_list(&members, work->model, part);
    part->exact = true;
    for (uint64_t i = 0; i < members.count; i++) {
        const struct damage_tensor *tensor = find_tensor(work->out, members.tensors[i]);
        bytes += members.tensors[i]->bytes;
        weights += members.tensors[i]->elements;
        part->exact = part->exact && tensor && tensor->exact;
    }
    part->bits_per_weight = inspect_bits_per(bytes, weights);
}

static enum status list_parts(struct damage_parts *work, struct error *err)
{
    struct damage *out = work->out;
    const struct model_config *config = &work->model->config;
    const uint64_t most = (uint64_t)config->layers + 2;
    if (!(out->parts = memory_new(most, sizeof *out->parts, err))) return ERR_MEMORY;
    out->parts[out->part_count++] = (struct damage_part){.layer = UINT32_MAX, .name = "embedding"};
    for (uint32_t i = 0; i < config->layers; i++)
        out->parts[out->part_count++] = (struct damage_part){.layer = i};
    if (!config->tied)
        out->parts[out->part_count++] = (struct damage_part){.layer = UINT32_MAX, .name = "head"};
    for (uint64_t i = 0; i < out->part_count; i++)
        describe_part(work, &out->parts[i]);
    out->rescaled = norms_differ(work);
    return OK;
}

/* ---- layer outputs ---- */

enum watched { BASE, FOLLOWED, ALONE };

/* One batch of windows through one model; hidden [batch * context][hidden] is scratch. */
static enum status run_batch(struct trace *trace, enum watched watched, struct model *model,
    const struct windows *windows, uint64_t begin, float *hidden, struct error *err)
{
    struct session *session = NULL;
    enum status status =
        session_create(&session, model, windows_batch(windows, begin), windows->context, err);
    if (status) return status;
    if (watched == BASE)
        trace_watch_base(trace, session);
    else if (watched == FOLLOWED)
        trace_watch(trace, 0, session);
    else
        trace_watch_alone(trace, 0, session);
    status = session_step(session, hidden, windows->tokens + begin * windows->context, windows->context, err);
    session_free(session);
    return status ? fail_within(err, status, "%s", container_path(model->container)) : OK;
}

static enum status run_windows(
    struct damage_parts *work, struct trace *trace, const struct windows *windows, struct error *err)
{
    const uint64_t tokens = windows->batch * windows->context;
    float *hidden = memory_new(tokens, work->base->config.hidden * sizeof *hidden, err);
    struct progress *progress =
        progress_start(work->report, "reading", 3 * windows->count * windows->context, PROGRESS_TOKENS);
    enum status status = hidden ? OK : ERR_MEMORY;
    for (uint64_t begin = 0; begin < windows->count && !status; begin += windows->batch) {
        status = run_batch(trace, BASE, work->base, windows, begin, hidden, err);
        if (!status) status = run_batch(trace, FOLLOWED, work->model, windows, begin, hidden, err);
        if (!status) status = run_batch(trace, ALONE, work->model, windows, begin, hidden, err);
        progress_add(progress, 3 * windows_batch(windows, begin) * windows->context);
    }
    progress_end(progress);
    memory_free(hidden);
    return status;
}

static void take_errors(struct damage *out, const struct trace *trace)
{
    for (uint64_t i = 0; i < out->part_count; i++) {
        struct damage_part *part = &out->parts[i];
        const bool embedding = i == 0;
        if (part->name && !embedding) continue;
        const uint32_t layer = embedding ? SESSION_EMBEDDING : part->layer;
        part->traced = true;
        part->error = trace_error(trace, 0, layer);
        part->own = trace_own(trace, 0, layer);
        part->share = trace_share(trace, 0, layer);
    }
    out->tokens = trace_tokens(trace, 0);
}

static enum status measure_layers(struct damage_parts *work, struct error *err)
{
    struct windows windows = {0};
    struct trace *trace = NULL;
    enum status status = windows_cut(
        &windows, work->base, work->text, work->text_bytes, &work->options->text, work->report, err);
    if (!status) status = trace_create(&trace, work->base, 1, windows.batch * windows.context, err);
    if (!status) status = run_windows(work, trace, &windows, err);
    if (!status) {
        take_errors(work->out, trace);
        work->out->windows = windows.count;
        work->out->context = windows.context;
    }
    trace_free(trace);
    windows_free(&windows);
    return status;
}

/* ---- the whole ---- */

enum status damage_measure(struct damage *out, struct model *base, struct model *model, const char *text,
    uint64_t text_bytes, const struct damage_options *options, const struct report *report, struct error *err)
{
    struct damage_parts work = {out, base, model, text, text_bytes, options, report};
    *out = (struct damage){0};
    if (base->config.experts)
        return fail(err, ERR_UNSUPPORTED,
            "%s: %s has a mixture of experts, which cannot be taken apart layer by layer yet; compare whole "
            "models with `nibble-check compare`",
            container_path(base->container), base->config.architecture->name);
    enum status status = check_shapes(&work, err);
    if (!status && text) status = same_tokens_check(base, model, text, text_bytes, err);
    if (!status) status = measure_tensors(&work, err);
    if (!status) status = list_parts(&work, err);
    if (!status) status = damage_swap_check(&work, err);
    if (!status && text) status = measure_layers(&work, err);
    return status ? status : damage_swap_measure(&work, err);
}

void damage_free(struct damage *damage)
{
    memory_free(damage->parts);
    memory_free(damage->tensors);
    *damage = (struct damage){0};
}
