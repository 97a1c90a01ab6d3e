/* See sleb.h. A model without a layer is the model with another list of layers: nothing is copied. */
#include "prune/sleb.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/config_rewrite.h"

enum { LOGIT_TOKENS = 64 };

struct trial {
    struct model *whole;
    const struct calibration *calibration;
    struct model part; /* the layers that are tried */
    float *hidden;     /* [length][hidden] */
    float *logits;     /* [LOGIT_TOKENS][vocabulary] */
};

uint64_t sleb_passes(uint32_t layers, uint32_t count)
{
    return (uint64_t)count * layers - (uint64_t)count * (count - 1) / 2;
}

/* ---- one model ---- */

/* The model of some layers of the whole one; it shares everything but the lists of layers. */
static enum status make_part(
    struct model *out, const struct model *whole, const struct depth *depth, struct error *err)
{
    const uint64_t experts = whole->config.experts;
    uint32_t kept[CONFIG_LAYER_LIMIT];
    const uint32_t count = depth_kept(kept, depth);

    *out = *whole;
    out->tensors.experts = NULL;
    out->tensors.layer = memory_new(count, sizeof *out->tensors.layer, err);
    if (!out->tensors.layer) return ERR_MEMORY;
    if (experts) {
        out->tensors.experts = memory_new(count * experts, sizeof *out->tensors.experts, err);
        if (!out->tensors.experts) return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < count; i++) {
        memcpy(out->tensors.layer[i], whole->tensors.layer[kept[i]], sizeof *out->tensors.layer);
        if (experts)
            memcpy(out->tensors.experts[i * experts], whole->tensors.experts[kept[i] * experts],
                experts * sizeof *out->tensors.experts);
    }
    config_keep_layers(&out->config, kept, count);
    return OK;
}

/* - log p(next), summed over a sample's tokens but the first. */
static enum status sum_losses(
    double *sum, struct trial *trial, const uint32_t *tokens, uint64_t length, struct error *err)
{
    const uint64_t vocabulary = trial->part.config.vocabulary, hidden = trial->part.config.hidden;
    enum status status = OK;

    for (uint64_t done = 0, count; done + 1 < length && !status; done += count) {
        count = length - 1 - done < LOGIT_TOKENS ? length - 1 - done : LOGIT_TOKENS;
        status = model_logits(&trial->part, trial->logits, trial->hidden + done * hidden, count, err);
        for (uint64_t i = 0; i < count && !status; i++) {
            const float *row = trial->logits + i * vocabulary;
            float highest = row[0];
            double total = 0;
            for (uint64_t v = 1; v < vocabulary; v++)
                highest = row[v] > highest ? row[v] : highest;
            for (uint64_t v = 0; v < vocabulary; v++)
                total += (double)expf(row[v] - highest);
            *sum += log(total) + (double)highest - (double)row[tokens[done + i + 1]];
        }
    }
    return status;
}

/* *perplexity of the calibration text by the layers that are not gone. */
static enum status judge(
    double *perplexity, struct trial *trial, const struct depth *depth, struct error *err)
{
    const struct calibration *text = trial->calibration;
    struct session *session = NULL;
    double sum = 0;
    enum status status = make_part(&trial->part, trial->whole, depth, err);

    if (!status) status = session_create(&session, &trial->part, 1, text->length, err);
    for (uint64_t i = 0; i < text->samples && !status; i++) {
        const uint32_t *tokens = text->tokens + i * text->length;
        session_reset(session);
        status = session_step(session, trial->hidden, tokens, text->lengths[i], err);
        if (!status) status = sum_losses(&sum, trial, tokens, text->lengths[i], err);
        if (status) fail_within(err, status, "sample %" PRIu64, i);
    }
    session_free(session);
    layers_release(&trial->part.tensors);
    *perplexity = exp(sum / (double)(text->tokens_used - text->samples));
    if (status || isfinite(sum)) return status;
    return fail(err, ERR_NUMERIC, "the calibration text has no finite perplexity");
}

/* ---- all of them ---- */

/* Let the layer go without which the rest is best. */
static enum status drop_one(
    struct depth *depth, struct trial *trial, const struct report *report, struct error *err)
{
    uint32_t best = UINT32_MAX;
    double least = INFINITY;

    for (uint32_t layer = 0; layer < depth->layers; layer++) {
        double perplexity;
        if (depth->gone[layer]) continue;
        depth->gone[layer] = true;
        enum status status = judge(&perplexity, trial, depth, err);
        depth->gone[layer] = false;
        if (status) return status;
        if (best == UINT32_MAX || perplexity < least) {
            best = layer;
            least = perplexity;
        }
    }
    depth->gone[best] = true;
    depth->score[best] = least;
    depth->dropped++;
    report_note(report, "layer %" PRIu32 " goes: perplexity of the calibration text %.4f", best, least);
    return OK;
}

enum status sleb_choose(struct depth *out, struct model *model, const struct calibration *calibration,
    uint32_t count, const struct report *report, struct error *err)
{
    struct trial trial = {.whole = model, .calibration = calibration};
    enum status status = OK;

    *out = (struct depth){.layers = model->config.layers};
    trial.hidden = memory_new(calibration->length, model->config.hidden * sizeof(float), err);
    trial.logits = memory_new(LOGIT_TOKENS, model->config.vocabulary * sizeof(float), err);
    if (!trial.hidden || !trial.logits) status = ERR_MEMORY;
    report_note(report, "sleb: the calibration text goes through the model %" PRIu64 " times",
        sleb_passes(out->layers, count));
    while (!status && out->dropped < count)
        status = drop_one(out, &trial, report, err);
    memory_free(trial.hidden);
    memory_free(trial.logits);
    return status;
}
