/* What the experts of a mixture see. Where tokens go is kept as numbers of experts, which is little; the tokens of one expert
 * are then picked out of the residual stream, so that all experts together read every row as often as it is used, and
 * no more than one expert's inputs are in memory at a time. */
#include <assert.h>

#include "base/report.h"
#include "model/experts.h"
#include "model/walk_parts.h"

#define NOWHERE UINT16_MAX /* in place of an expert whose weight is 0 */

enum status walk_route(struct walk *walk, const struct decoder_layer *layer, const struct walk_block *block,
    const float *normed, struct error *err)
{
    const uint32_t experts = walk->config->experts, most = walk->config->experts_per_token;
    enum status status = experts_weigh(layer, walk->routed, normed, block->tokens, err);

    for (uint64_t i = 0; i < block->tokens && !status; i++) {
        const float *weights = walk->routed + i * experts;
        uint16_t *routes = walk->routes + (block->first + i) * most;
        uint32_t count = 0;

        for (uint32_t expert = 0; expert < experts && count < most; expert++)
            if (weights[expert] != 0) routes[count++] = (uint16_t)expert;
        while (count < most)
            routes[count++] = NOWHERE;
    }
    return status;
}

/* ---- one expert ---- */

/* An expert's tokens on their way to a tap. */
struct visit {
    struct walk *walk;
    const struct walk_layer *layer;
    enum stage stage;
    uint32_t expert;
    unsigned streams;
    uint64_t at; /* the next token to look at */
};

static bool goes_there(const struct walk *walk, uint64_t token, uint32_t expert)
{
    const uint32_t most = walk->config->experts_per_token;
    const uint16_t *routes = walk->routes + token * most;

    if (token % walk->length >= walk->calibration->lengths[token / walk->length]) return false; /* padding */
    for (uint32_t i = 0; i < most; i++)
        if (routes[i] == expert) return true;
    return false;
}

/* The next tokens that go to the expert, as many as are shown at once: their rows of the residual stream to x of every stream. */
static enum status gather(struct visit *visit, uint64_t *count, struct error *err)
{
    struct walk *walk = visit->walk;
    const uint64_t tokens = walk->samples * walk->length, hidden = walk->config->hidden;
    const uint64_t block = walk->block_samples * walk->length;
    const uint64_t most = block < WALK_BLOCK_TOKENS ? block : WALK_BLOCK_TOKENS;
    enum status status = OK;

    for (*count = 0; visit->at < tokens && *count < most && !status; visit->at++) {
        if (!goes_there(walk, visit->at, visit->expert)) continue;
        for (unsigned i = 0; i < visit->streams && !status; i++) {
            struct stream *stream = &walk->streams[i];
            struct spill *from = walk->config->parallel_residual ? stream->start : stream->middle;

            status = spill_read(from, visit->at * hidden, hidden, stream->x + *count * hidden, err);
        }
        ++*count;
    }
    return status;
}

/* From rows of the residual stream to what is shown, of one stream. */
static enum status run(
    const struct visit *visit, unsigned number, uint64_t count, const float **inputs, struct error *err)
{
    struct walk *walk = visit->walk;
    struct stream *stream = &walk->streams[number];
    const struct decoder_layer layer = walk_decoder_layer(walk, number, visit->layer);
    enum status status = decoder_norm(&layer, stream->x, stream->x, count, ROLE_MLP_NORM, err);

    *inputs = visit->stage == WALK_DOWN ? stream->input : stream->x;
    if (status || visit->stage != WALK_DOWN) return status;
    return experts_gate(&layer, visit->expert, stream->input, walk->beside, stream->x, count, err);
}

static enum status show_next(
    struct visit *visit, walk_tap tap, void *context, uint64_t *count, struct error *err)
{
    struct walk *walk = visit->walk;
    const double start = report_seconds();
    const float *shown[STREAMS] = {NULL};
    enum status status = gather(visit, count, err);

    for (unsigned i = 0; i < visit->streams && *count && !status; i++)
        status = run(visit, i, *count, &shown[i], err);
    walk->seconds += report_seconds() - start;
    if (status || *count == 0) return status;
    const struct walk_inputs inputs = {.tokens = *count,
        .cols = walk_expert_cols(walk->config, visit->stage),
        .hidden = walk->config->hidden,
        .x = shown[STREAM_CURRENT],
        .original = shown[STREAM_ORIGINAL]};
    return tap(context, &inputs, err);
}

enum status walk_expert(struct walk *walk, enum stage stage, uint32_t expert, const struct walk_layer *layer,
    bool only_current, walk_tap tap, void *context, struct error *err)
{
    struct visit visit = {.walk = walk,
        .layer = layer,
        .stage = stage,
        .expert = expert,
        .streams = only_current ? 1 : walk->stream_count};
    uint64_t count;
    enum status status;

    assert(!walk->spoiled && (stage == WALK_GATE_UP || stage == WALK_DOWN));
    for (unsigned i = 0; i < visit.streams; i++)
        assert(walk->streams[i].done > WALK_GATE_UP);
    do {
        status = show_next(&visit, tap, context, &count, err);
    } while (!status && count > 0);
    return status;
}
