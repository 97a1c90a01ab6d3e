/* See depth.h. */
#include "prune/depth.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Tokens whose states at all layers are in memory at once. */
enum { STEP_TOKENS = 128 };

/* ---- by number ---- */

static enum status bad_list(const char *list, struct error *err)
{
    return fail(err, ERR_USAGE, "--drop-layers %s: layers by number, such as 21-29 or 3,5,8-10", list);
}

/* A plain decimal number; NULL: there is none. */
static const char *read_number(uint32_t *out, const char *at)
{
    char *end;

    if (*at < '0' || *at > '9') return NULL;
    unsigned long value = strtoul(at, &end, 10);
    *out = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
    return end;
}

static enum status mark(struct depth *out, const char *list, uint32_t first, uint32_t last, struct error *err)
{
    if (last >= out->layers)
        return fail(err, ERR_USAGE,
            "--drop-layers %s: there is no layer %" PRIu32 "; the model has %" PRIu32 ", 0 to %" PRIu32, list,
            last, out->layers, out->layers - 1);
    for (uint32_t layer = first; layer <= last; layer++) {
        if (out->gone[layer])
            return fail(err, ERR_USAGE, "--drop-layers %s: names layer %" PRIu32 " twice", list, layer);
        out->gone[layer] = true;
        out->dropped++;
    }
    return OK;
}

enum status depth_parse(struct depth *out, const char *list, uint32_t layers, struct error *err)
{
    const char *at = list;

    *out = (struct depth){.layers = layers};
    for (bool more = true; more;) {
        uint32_t first, last;
        at = read_number(&first, at);
        last = first;
        if (at && *at == '-') at = read_number(&last, at + 1);
        if (!at || last < first || (*at && *at != ',')) return bad_list(list, err);
        enum status status = mark(out, list, first, last, err);
        if (status) return status;
        more = *at++ == ',';
    }
    if (out->dropped < layers) return OK;
    return fail(err, ERR_USAGE, "--drop-layers %s: all %" PRIu32 " layers would go", list, layers);
}

enum status depth_count(uint32_t *out, double sparsity, uint32_t layers, struct error *err)
{
    double count = floor(sparsity * layers + 0.5);

    if (layers < 2) return fail(err, ERR_USAGE, "the model has one layer, which must stay");
    if (count < 1) count = 1;
    *out = count < layers ? (uint32_t)count : layers - 1;
    return OK;
}

uint32_t depth_kept(uint32_t *kept, const struct depth *depth)
{
    uint32_t count = 0;

    for (uint32_t layer = 0; layer < depth->layers; layer++) {
        if (!depth->gone[layer]) kept[count++] = layer;
    }
    return count;
}

/* ---- by the stream ---- */

struct watch {
    uint64_t hidden, step;
    float *states; /* [layers + 1][STEP_TOKENS][hidden]: before layer i; of a step */
};

static enum status watch_stream(
    void *context, uint32_t layer, uint64_t first_token, float *x, uint64_t tokens, struct error *err)
{
    const struct watch *watch = context;
    const uint64_t at = layer == SESSION_EMBEDDING ? 0 : layer + UINT64_C(1);

    (void)err;
    memcpy(watch->states + (at * STEP_TOKENS + first_token) * watch->hidden, x,
        tokens * watch->hidden * sizeof *x);
    return OK;
}

static double cosine(const float *a, const float *b, uint64_t count)
{
    double product = 0, a_square = 0, b_square = 0;

    for (uint64_t i = 0; i < count; i++) {
        product += (double)a[i] * b[i];
        a_square += (double)a[i] * a[i];
        b_square += (double)b[i] * b[i];
    }
    if (a_square == 0 || b_square == 0) return a_square == b_square;
    return fmax(-1, fmin(1, product / sqrt(a_square * b_square)));
}

/* Add what the tokens of a step say of every layer from which `span` more can be counted. */
static void add_step(double *sums, const struct watch *watch, uint32_t layers, uint32_t span, uint64_t tokens,
    enum prune_score score)
{
    const uint64_t floats = STEP_TOKENS * watch->hidden;

    for (uint32_t layer = 0; layer + span <= layers; layer++) {
        for (uint64_t token = 0; token < tokens; token++) {
            const float *before = watch->states + layer * floats + token * watch->hidden;
            const double turn = cosine(before, before + span * floats, watch->hidden);
            sums[layer] += score == SCORE_ANGULAR ? acos(turn) / acos(-1) : 1 - turn;
        }
    }
}

static enum status watch_sample(double *sums, struct session *session, struct watch *watch, float *hidden,
    const uint32_t *tokens, uint64_t length, uint32_t layers, uint32_t span, enum prune_score score,
    struct error *err)
{
    enum status status = OK;

    session_reset(session);
    for (uint64_t done = 0, count; done < length && !status; done += count) {
        count = length - done < STEP_TOKENS ? length - done : STEP_TOKENS;
        status = session_step(session, hidden, tokens + done, count, err);
        if (!status) add_step(sums, watch, layers, span, count, score);
    }
    return status;
}

static void choose(struct depth *out, enum prune_score score, uint32_t count)
{
    for (uint32_t chosen = 0; chosen < count;) {
        const uint32_t last = score == SCORE_ANGULAR ? out->layers - count : out->layers - 1;
        uint32_t best = UINT32_MAX;
        for (uint32_t layer = 0; layer <= last; layer++) {
            if (!out->gone[layer] && (best == UINT32_MAX || out->score[layer] < out->score[best]))
                best = layer;
        }
        for (uint32_t i = 0; i < (score == SCORE_ANGULAR ? count : 1); i++, chosen++)
            out->gone[best + i] = true;
    }
    out->dropped = count;
}

uint64_t depth_bytes(const struct model_config *config)
{
    return (config->layers + UINT64_C(1)) * STEP_TOKENS * config->hidden * sizeof(float);
}

enum status depth_by_stream(struct depth *out, struct model *model, const struct calibration *calibration,
    enum prune_score score, uint32_t count, struct error *err)
{
    const uint32_t layers = model->config.layers, span = score == SCORE_ANGULAR ? count : 1;
    struct watch watch = {.hidden = model->config.hidden};
    struct session *session = NULL;
    float *hidden = memory_new(STEP_TOKENS, watch.hidden * sizeof *hidden, err);
    enum status status = hidden ? session_create(&session, model, 1, calibration->length, err) : ERR_MEMORY;

    *out = (struct depth){.layers = layers};
    if (!status) {
        watch.states =
            memory_new((layers + UINT64_C(1)) * STEP_TOKENS, watch.hidden * sizeof *watch.states, err);
        if (!watch.states) status = ERR_MEMORY;
    }
    if (!status) session_observe(session, watch_stream, &watch);
    for (uint64_t i = 0; i < calibration->samples && !status; i++) {
        status = watch_sample(out->score, session, &watch, hidden,
            calibration->tokens + i * calibration->length, calibration->lengths[i], layers, span, score, err);
        if (status) fail_within(err, status, "sample %" PRIu64, i);
    }
    for (uint32_t layer = 0; layer < layers && !status; layer++)
        out->score[layer] /= (double)calibration->tokens_used;
    if (!status) choose(out, score, count);
    memory_free(watch.states);
    memory_free(hidden);
    session_free(session);
    return status;
}
