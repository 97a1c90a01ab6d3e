/* The stages of a walk. Every block of samples goes through a stage in all streams that take part, and is then shown:
 * what is shown together has been computed together. */
#include "model/walk.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/report.h"
#include "model/decoder.h"
#include "model/experts.h"
#include "model/rope.h"
#include "model/walk_parts.h"

enum stage walk_stage_of(enum role role)
{
    assert(layers_role_is_linear(role));
    switch (role) {
    case ROLE_O:
        return WALK_O;
    case ROLE_GATE:
    case ROLE_UP:
    case ROLE_EXPERT_GATE:
    case ROLE_EXPERT_UP:
        return WALK_GATE_UP;
    case ROLE_DOWN:
    case ROLE_EXPERT_DOWN:
        return WALK_DOWN;
    default:
        return WALK_QKV;
    }
}

uint64_t walk_expert_cols(const struct model_config *config, enum stage stage)
{
    return stage == WALK_DOWN ? config->expert_ffn : config->hidden;
}

uint64_t walk_stage_cols(const struct model_config *config, enum stage stage, uint32_t layer)
{
    const struct config_widths widths = config_widths(config, layer);

    if (stage == WALK_O) return (uint64_t)widths.heads * config->head_size;
    return stage == WALK_DOWN ? widths.ffn : config->hidden;
}

double walk_seconds(const struct walk *walk)
{
    return walk->seconds;
}

/* ---- checks ---- */

enum status walk_check(const struct walk *walk, const struct walk_block *block, const float *rows,
    uint64_t cols, struct error *err)
{
    for (uint64_t i = 0; i < block->samples; i++) {
        uint64_t sample = block->first_sample + i, bad;
        const float *first = rows + i * walk->length * cols;

        if (decoder_finite(first, walk->calibration->lengths[sample] * cols, &bad)) continue;
        return fail(err, ERR_NUMERIC, "channel %" PRIu64 " is %s at position %" PRIu64 " of sample %" PRIu64,
            bad % cols, isnan(first[bad]) ? "NaN" : "infinite", bad / cols, sample);
    }
    return OK;
}

/* ---- one block of one stream ---- */

/* A block on its way through a stage. */
struct step {
    struct walk *walk;
    struct stream *stream;
    struct decoder_layer layer;
    struct walk_block block;
    bool shown; /* the input is wanted in stream->input even if nothing else needs it */
};

/* What is wrong with `rows`, and where: "layer 3, input of o_proj, original stream: channel ..." */
static enum status check(const struct step *step, const float *rows, uint64_t cols, const char *what,
    enum role role, struct error *err)
{
    enum status status = walk_check(step->walk, &step->block, rows, cols, err);

    return status ? fail_within(err, status, "layer %" PRIu32 ", %s %s, %s stream", step->layer.index, what,
                        layers_role_name(role), step->stream->name)
                  : OK;
}

/* input = norm(x), for a stage whose input is a norm's output. */
static enum status norm_input(const struct step *step, enum role gain, enum role role, struct error *err)
{
    struct stream *stream = step->stream;
    enum status status = decoder_norm(&step->layer, stream->input, stream->x, step->block.tokens, gain, err);

    return status ? status : check(step, stream->input, step->walk->config->hidden, "input of", role, err);
}

static enum status run_qkv(const struct step *step, struct error *err)
{
    struct stream *stream = step->stream;
    enum status status;

    if (!step->shown) return OK;
    status = walk_read(stream->start, &step->block, step->walk->config->hidden, stream->x, err);
    return status ? status : norm_input(step, ROLE_ATTENTION_NORM, ROLE_Q, err);
}

/* input = attention of `normed`. The cache is that of the block alone: nothing came before. */
static enum status attend(const struct step *step, struct error *err)
{
    struct walk *walk = step->walk;
    const struct decoder_attention call = {
        .sequences = step->block.samples,
        .length = walk->length,
        .capacity = walk->length,
        .cosine = walk->cosine,
        .sine = walk->sine,
        .keys = walk->keys,
        .values = walk->values,
        .q = walk->beside,
        .k = walk->k,
        .v = walk->v,
        .out = step->stream->input,
    };

    if (walk->dynamic) {
        uint64_t length = walk->calibration->lengths[step->block.first_sample];

        rope_tables(walk->cosine, walk->sine, walk->frequencies, walk->config, length, 0, walk->length);
    }
    return decoder_attend(&step->layer, &call, walk->normed, err);
}

static enum status run_o(const struct step *step, struct error *err)
{
    struct walk *walk = step->walk;
    struct stream *stream = step->stream;
    uint64_t cols = walk_stage_cols(walk->config, WALK_O, step->layer.index);
    enum status status = walk_read(stream->start, &step->block, walk->config->hidden, stream->x, err);

    if (!status)
        status =
            decoder_norm(&step->layer, walk->normed, stream->x, step->block.tokens, ROLE_ATTENTION_NORM, err);
    if (!status) status = attend(step, err);
    if (!status) status = check(step, stream->input, cols, "input of", ROLE_O, err);
    return status ? status : walk_write(stream->wide, &step->block, cols, stream->input, err);
}

/* x = `from` + norm(weight * wide), written to `to`: what ends either half of a layer. */
static enum status add_output(const struct step *step, struct spill *from, enum stage stage, enum role role,
    struct spill *to, struct error *err)
{
    struct walk *walk = step->walk;
    struct stream *stream = step->stream;
    const struct walk_block *block = &step->block;
    uint64_t hidden = walk->config->hidden, cols = walk_stage_cols(walk->config, stage, step->layer.index);
    enum status status = walk_read(from, block, hidden, stream->x, err);

    if (!status) status = walk_read(stream->wide, block, cols, stream->input, err);
    if (!status)
        status = decoder_add_output(
            &step->layer, stream->x, stream->input, walk->normed, block->tokens, role, err);
    if (!status) status = check(step, stream->x, hidden, "residual stream after", role, err);
    return status ? status : walk_write(to, block, hidden, stream->x, err);
}

static enum status run_gate_up(const struct step *step, struct error *err)
{
    struct stream *stream = step->stream;
    struct walk *walk = step->walk;
    const bool routes = walk->config->experts && stream == &walk->streams[STREAM_CURRENT];
    enum status status = add_output(step, stream->start, WALK_O, ROLE_O, stream->middle, err);

    if (status || !(step->shown || routes)) return status;
    if (walk->config->parallel_residual)
        status = walk_read(stream->start, &step->block, walk->config->hidden, stream->x, err);
    if (!status) status = norm_input(step, ROLE_MLP_NORM, ROLE_GATE, err);
    return status || !routes ? status : walk_route(walk, &step->layer, &step->block, stream->input, err);
}

static enum status run_down(const struct step *step, struct error *err)
{
    struct walk *walk = step->walk;
    struct stream *stream = step->stream;
    const struct walk_block *block = &step->block;
    uint64_t cols = walk_stage_cols(walk->config, WALK_DOWN, step->layer.index);
    bool parallel = walk->config->parallel_residual;
    struct spill *seen = parallel ? stream->start : stream->middle;
    enum status status;

    if (walk->config->experts && !step->shown) return OK; /* run_end needs nothing of it */
    status = walk_read(seen, block, walk->config->hidden, stream->x, err);

    if (!status)
        status = decoder_norm(&step->layer, walk->normed, stream->x, block->tokens, ROLE_MLP_NORM, err);
    if (!status)
        status = decoder_gate(&step->layer, stream->input, walk->beside, walk->normed, block->tokens, err);
    if (!status && parallel) /* what down is added to */
        status = walk_read(stream->middle, block, walk->config->hidden, stream->x, err);
    if (!status) status = check(step, stream->input, cols, "input of", ROLE_DOWN, err);
    if (status || walk->config->experts) return status;
    return walk_write(stream->wide, block, cols, stream->input, err);
}

/* The end of a layer with a mixture: all experts once more, as they are now. To keep what their down was applied to would take
 * experts_per_token times the memory of a dense layer, and sums in which a token's experts come in turn. */
static enum status add_experts(const struct step *step, struct error *err)
{
    struct walk *walk = step->walk;
    struct stream *stream = step->stream;
    const struct walk_block *block = &step->block;
    uint64_t hidden = walk->config->hidden;
    enum status status = walk_read(stream->middle, block, hidden, stream->x, err);

    if (!status)
        status = decoder_norm(&step->layer, walk->normed, stream->x, block->tokens, ROLE_MLP_NORM, err);
    if (!status)
        status = experts_add(&step->layer, stream->x, walk->normed, stream->input, walk->beside, walk->routed,
            block->tokens, err);
    if (!status) status = check(step, stream->x, hidden, "residual stream after", ROLE_EXPERT_DOWN, err);
    return status ? status : walk_write(stream->start, block, hidden, stream->x, err);
}

/* The end of the layer, after the last stage. */
static enum status run_end(const struct step *step, struct error *err)
{
    struct stream *stream = step->stream;

    if (step->walk->config->experts) return add_experts(step, err);
    return add_output(step, stream->middle, WALK_DOWN, ROLE_DOWN, stream->start, err);
}

typedef enum status (*stage_run)(const struct step *step, struct error *err);
static const stage_run stages[WALK_STAGES + 1] = {
    [WALK_QKV] = run_qkv,
    [WALK_O] = run_o,
    [WALK_GATE_UP] = run_gate_up,
    [WALK_DOWN] = run_down,
    [WALK_STAGES] = run_end,
};

struct decoder_layer walk_decoder_layer(
    const struct walk *walk, unsigned stream, const struct walk_layer *layer)
{
    const bool original = stream == STREAM_ORIGINAL;

    return (struct decoder_layer){.backend = &walk->backend,
        .config = walk->config,
        .tensors = original ? layer->original : layer->current,
        .index = layer->index,
        .experts = original ? layer->original_experts : layer->current_experts};
}

/* One block of stream number `number` through a stage (WALK_STAGES: to the layer's end). */
static enum status run_block(struct walk *walk, unsigned number, unsigned stage,
    const struct walk_layer *layer, const struct walk_block *block, bool shown, struct error *err)
{
    const struct step step = {
        .walk = walk,
        .stream = &walk->streams[number],
        .layer = walk_decoder_layer(walk, number, layer),
        .block = *block,
        .shown = shown,
    };
    double start = report_seconds();
    enum status status = stages[stage](&step, err);

    walk->seconds += report_seconds() - start;
    return status;
}

static enum status run_stream(
    struct walk *walk, unsigned number, unsigned stage, const struct walk_layer *layer, struct error *err)
{
    struct walk_block block = {0};
    enum status status = OK;

    while (!status && walk_next_block(walk, &block))
        status = run_block(walk, number, stage, layer, &block, false, err);
    return status;
}

/* ---- showing ---- */

struct viewer {
    uint64_t cols; /* of what is shown */
    walk_tap tap;
    void *context;
};

/* Move rows of padding out of the way, in place; the rows that are left. */
static uint64_t close_gaps(
    const struct walk *walk, const struct walk_block *block, float *rows, uint64_t cols)
{
    uint64_t kept = 0;

    for (uint64_t i = 0; i < block->samples; i++) {
        uint64_t count = walk->calibration->lengths[block->first_sample + i], from = i * walk->length;

        if (kept != from) memmove(rows + kept * cols, rows + from * cols, count * cols * sizeof *rows);
        kept += count;
    }
    return kept;
}

/* The residual streams' difference takes the place of the original's. */
static const float *take_difference(const struct walk *walk, const struct walk_block *block)
{
    uint64_t hidden = walk->config->hidden;
    const float *current = walk->streams[STREAM_CURRENT].x;
    float *x = walk->streams[STREAM_ORIGINAL].x;

    for (uint64_t i = 0; i < block->tokens * hidden; i++)
        x[i] -= current[i];
    close_gaps(walk, block, x, hidden);
    return x;
}

static enum status show(struct walk *walk, const struct walk_block *block, enum stage stage, bool both,
    const struct viewer *viewer, struct error *err)
{
    uint64_t cols = viewer->cols, hidden = walk->config->hidden, rows, count;
    float *x = walk->streams[STREAM_CURRENT].input, *original = walk->streams[STREAM_ORIGINAL].input;
    const float *residual = NULL;
    enum status status = OK;

    rows = close_gaps(walk, block, x, cols);
    if (both) close_gaps(walk, block, original, cols);
    if (both && (stage == WALK_O || (stage == WALK_DOWN && !walk->config->experts)))
        residual = take_difference(walk, block);
    for (uint64_t done = 0; done < rows && !status; done += count) {
        struct walk_inputs inputs = {.cols = cols, .hidden = hidden, .x = x + done * cols};

        count = rows - done < WALK_BLOCK_TOKENS ? rows - done : WALK_BLOCK_TOKENS;
        inputs.tokens = count;
        if (both) inputs.original = original + done * cols;
        if (residual) inputs.residual = residual + done * hidden;
        status = viewer->tap(viewer->context, &inputs, err);
    }
    return status;
}

/* ---- stages ---- */

enum status walk_to(struct walk *walk, enum stage stage, const struct walk_layer *layer, bool only_current,
    walk_tap tap, void *context, struct error *err)
{
    const struct viewer viewer = {walk_stage_cols(walk->config, stage, layer->index), tap, context};
    const unsigned streams = only_current ? 1 : walk->stream_count;
    const bool shown = tap && viewer.cols > 0;
    struct walk_block block = {0};
    enum status status = OK;

    assert(!walk->spoiled);
    for (unsigned i = 0; i < streams; i++)
        assert(stage == WALK_QKV || walk->streams[i].done == (unsigned)stage);
    while (!status && walk_next_block(walk, &block)) {
        for (unsigned i = 0; i < streams && !status; i++)
            status = run_block(walk, i, stage, layer, &block, shown, err);
        if (!status && shown) status = show(walk, &block, stage, streams == 2, &viewer, err);
    }
    for (unsigned i = 0; i < streams && !status; i++)
        walk->streams[i].done = stage + 1;
    return status;
}

static enum status catch_up(
    struct walk *walk, unsigned number, const struct walk_layer *layer, struct error *err)
{
    struct stream *stream = &walk->streams[number];
    enum status status = OK;

    while (stream->done < WALK_STAGES && !status) {
        status = run_stream(walk, number, stream->done, layer, err);
        if (!status) stream->done++;
    }
    return status;
}

enum status walk_finish(struct walk *walk, const struct walk_layer *layer, struct error *err)
{
    enum status status = OK;

    assert(walk->streams[STREAM_CURRENT].done == WALK_STAGES);
    for (unsigned i = 0; i < walk->stream_count && !status; i++)
        status = catch_up(walk, i, layer, err);
    if (status) return status;
    walk->spoiled = true;
    for (unsigned i = 0; i < walk->stream_count && !status; i++)
        status = run_stream(walk, i, WALK_STAGES, layer, err);
    if (status) return status;
    walk->spoiled = false;
    for (unsigned i = 0; i < walk->stream_count; i++)
        walk->streams[i].done = 0;
    return OK;
}

enum status walk_states(struct walk *walk, uint64_t sample, float *out, struct error *err)
{
    const struct walk_block block = {sample, 1, sample * walk->length, walk->length};

    return walk_read(walk->streams[STREAM_CURRENT].start, &block, walk->config->hidden, out, err);
}
