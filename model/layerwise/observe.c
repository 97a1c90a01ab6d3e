/* See observe.h. */
#include "model/layerwise/observe.h"

#include "base/report.h"

struct observer {
    struct hessian *hessian;
    struct pool *pool;
    double seconds;
};

bool observe_adds_to_stream(const struct model_config *config, enum stage stage)
{
    return stage == WALK_O || (stage == WALK_DOWN && !config->experts);
}

static enum status add(void *context, const struct walk_inputs *inputs, struct error *err)
{
    struct observer *observer = context;
    struct hessian *hessian = observer->hessian;
    const double start = report_seconds();
    enum status status =
        hessian_add(hessian, observer->pool, inputs->x, hessian->cross ? inputs->original : NULL,
            hessian->residual ? inputs->residual : NULL, inputs->tokens, err);
    observer->seconds += report_seconds() - start;
    return status;
}

enum status observe_inputs(struct hessian *out, const struct observe_options *options, struct walk *walk,
    const struct model_config *config, const struct walk_layer *layer, struct pool *pool, double *seconds,
    struct error *err)
{
    const enum stage stage = options->stage;
    const bool own = options->expert == OBSERVE_LAYER, first = layer->index == 0 && stage == WALK_QKV;
    const bool inputs = options->inputs && !options->only_current && !first;
    const bool residual =
        options->residual && !options->only_current && observe_adds_to_stream(config, stage);
    const uint64_t cols =
        own ? walk_stage_cols(config, stage, layer->index) : walk_expert_cols(config, stage);
    struct observer observer = {.hessian = out, .pool = pool};
    enum status status =
        hessian_create(out, cols, inputs, residual ? config->hidden : 0, pool_workers(pool), err);
    if (status == OK && own) status = walk_to(walk, stage, layer, options->only_current, add, &observer, err);
    if (status == OK && !own)
        status = walk_expert(walk, stage, options->expert, layer, options->only_current, add, &observer, err);
    if (seconds) *seconds += observer.seconds;
    return status;
}
