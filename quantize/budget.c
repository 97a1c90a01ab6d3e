/* The measurement for mixed precision: every matrix rounded to nearest at every width, its output error on the calibration text
 * taken from the Hessian. What GPTQ would reach is lower everywhere by about the same factor, so the choice is the same. */
#include "quantize/budget.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/transfer.h"
#include "quantize/allocate.h"
#include "quantize/gptq.h"

/* The matrices to choose for, in the plan's order. */
struct choices {
    struct allocate_matrix *matrices; /* [count] */
    struct plan_tensor **planned;     /* [count] */
    uint64_t count;
};

static bool is_chosen(const struct plan_tensor *planned)
{
    return !planned->recipe.keep && planned->role > ROLE_PER_LAYER && planned->role < ROLE_COUNT;
}

static uint64_t bytes_at(const struct plan_tensor *planned, uint32_t bits)
{
    struct tensor target = planned->target;
    target.scheme.bits = bits;
    return transfer_target_bytes(&target);
}

static enum status collect(struct choices *out, struct plan *plan, struct error *err)
{
    out->matrices = memory_new(plan->count, sizeof *out->matrices, err);
    out->planned = memory_new(plan->count, sizeof *out->planned, err);
    if (!out->matrices || !out->planned) return ERR_MEMORY;
    for (uint64_t i = 0; i < plan->count; i++) {
        struct plan_tensor *planned = &plan->tensors[i];
        if (!is_chosen(planned)) continue;
        struct allocate_matrix *matrix = &out->matrices[out->count];
        matrix->name = planned->target.name;
        matrix->weights = planned->source->elements;
        for (unsigned w = 0; w < ALLOCATE_WIDTHS; w++)
            matrix->bytes[w] = bytes_at(planned, allocate_widths[w]);
        out->planned[out->count++] = planned;
    }
    return out->count ? OK
                      : fail(err, ERR_USAGE, "the target leaves nothing to choose: every matrix is kept");
}

static void free_choices(struct choices *choices)
{
    memory_free(choices->matrices);
    memory_free(choices->planned);
}

/* ---- measuring ---- */

/* Room for the codes of one matrix. */
struct scrap {
    uint8_t *codes, *zeros;
    uint16_t *scales;
};

/* *power is the same at every width: it is measured if it is not known yet, and 0 then. */
static enum status measure_width(struct calibrated *work, const struct plan_tensor *planned,
    const float *weights, const struct hessian *hessian, const struct scrap *scrap, uint32_t bits,
    double *error, double *power, struct error *err)
{
    struct scheme scheme = planned->target.scheme;
    scheme.bits = bits;
    const struct obs_problem problem = {.rows = planned->target.shape[0],
        .cols = planned->target.shape[1],
        .scheme = scheme,
        .target = weights,
        .damped = hessian->damped,
        .range = GRID_MSE,
        .importance = hessian->diagonal,
        .without_power = *power > 0};
    struct obs_result result = {.codes = scrap->codes, .scales = scrap->scales};
    if (scheme.asymmetric) result.zeros = scrap->zeros;
    enum status status = obs_quantize(&problem, &result, work->pool, err);
    *error = result.error;
    if (!problem.without_power) *power = result.power;
    return status;
}

static enum status measure_matrix(struct calibrated *work, const struct layer *layer,
    const struct plan_tensor *planned, const struct hessian *hessian, struct allocate_matrix *matrix,
    struct error *err)
{
    const struct scheme *scheme = &planned->target.scheme;
    uint64_t elements = planned->source->elements, groups = elements / scheme->group;
    float *weights = layer_floats(layer, planned->role, err);
    struct scrap scrap = {.codes = memory_new(elements, 1, err),
        .zeros = memory_new(groups, 1, err),
        .scales = memory_new(groups, sizeof *scrap.scales, err)};
    enum status status = weights && scrap.codes && scrap.zeros && scrap.scales ? OK : ERR_MEMORY;
    double power = 0;
    for (unsigned w = 0; status == OK && w < ALLOCATE_WIDTHS; w++) {
        double error = 0;
        status =
            measure_width(work, planned, weights, hessian, &scrap, allocate_widths[w], &error, &power, err);
        matrix->error[w] = power > 0 ? error / power : 0;
    }
    memory_free(weights);
    memory_free(scrap.codes);
    memory_free(scrap.zeros);
    memory_free(scrap.scales);
    return status == OK ? OK : fail_within(err, status, "tensor %s", planned->target.name);
}

static enum status measure_stage(struct calibrated *work, struct layer *layer, enum stage stage,
    const struct choices *choices, struct error *err)
{
    struct hessian hessian = {0};
    if (!gptq_has_work(work->plan, layer->walk.index, stage))
        return walk_to(work->walk, stage, &layer->walk, true, NULL, NULL, err);
    enum status status = gptq_observe(work, layer, stage, false, true, &hessian, err);
    if (status == OK) status = hessian_factor(&hessian, work->pool, work->settings->method.damping, err);
    for (uint64_t i = 0; status == OK && i < choices->count; i++) {
        const struct plan_tensor *planned = choices->planned[i];
        if (planned->layer == layer->walk.index && walk_stage_of(planned->role) == stage)
            status = measure_matrix(work, layer, planned, &hessian, &choices->matrices[i], err);
    }
    hessian_free(&hessian);
    return status;
}

static enum status measure_layer(
    struct calibrated *work, uint32_t index, const struct choices *choices, struct error *err)
{
    struct layer layer;
    enum status status = layer_load(&layer, work->input, index, err);
    for (enum stage stage = WALK_QKV; status == OK && stage < WALK_STAGES; stage++)
        status = measure_stage(work, &layer, stage, choices, err);
    if (status == OK) status = walk_finish(work->walk, &layer.walk, err);
    layer_free(&layer);
    return status == OK ? OK : fail_within(err, status, "layer %" PRIu32, index);
}

static enum status measure(struct calibrated *work, const struct choices *choices, struct error *err)
{
    const struct model_config *config = &work->input->config;
    uint64_t states;
    struct walk_options options = {.in_memory = true, .folder = "/tmp"};
    walk_bytes(config, work->calibration.samples, work->calibration.length, &options, &states);
    options.in_memory = states <= UINT64_C(512) << 20;
    enum status status = walk_create(&work->walk, work->input, &work->calibration, &options, work->pool, err);
    struct progress *progress = progress_start(work->report, "measuring", config->layers, PROGRESS_ITEMS);
    for (uint32_t layer = 0; status == OK && layer < config->layers; layer++) {
        status = measure_layer(work, layer, choices, err);
        progress_add(progress, 1);
    }
    progress_end(progress);
    walk_free(work->walk);
    work->walk = NULL;
    return status;
}

/* ---- choosing ---- */

/* What the matrices may take: all of the plan's other tensors, and what else the file holds, are subtracted from a size. */
static enum status find_budget(uint64_t *out, const struct calibrated *work, const struct choices *choices,
    const struct quantize_options *options, uint64_t fixed_bytes, struct error *err)
{
    uint64_t weights = 0, others = work->plan->bytes + fixed_bytes;
    for (uint64_t i = 0; i < choices->count; i++) {
        weights += choices->matrices[i].weights;
        others -= choices->planned[i]->bytes;
    }
    if (options->target_bits > 0) {
        *out = (uint64_t)(options->target_bits * (double)weights / 8);
        return OK;
    }
    if (others >= options->target_size)
        return fail(err, ERR_USAGE,
            "--target-size %" PRIu64
            ": what is not chosen here (embedding, head, norms, tokenizer) takes %" PRIu64
            " bytes already; --embedding 8 and --head 8 make it less",
            options->target_size, others);
    *out = options->target_size - others;
    return OK;
}

enum status budget_choose(struct calibrated *work, const struct quantize_options *options,
    uint64_t fixed_bytes, const char *path, bool force, struct error *err)
{
    struct choices choices = {0};
    uint64_t budget = 0, taken;
    enum status status = collect(&choices, work->plan, err);
    if (status == OK) status = find_budget(&budget, work, &choices, options, fixed_bytes, err);
    if (status == OK) status = measure(work, &choices, err);
    if (status == OK) status = allocate_choose(choices.matrices, choices.count, budget, &taken, err);
    for (uint64_t i = 0; status == OK && i < choices.count; i++) {
        choices.planned[i]->importance = choices.matrices[i].importance;
        status = plan_set_bits(work->plan, choices.planned[i], choices.matrices[i].bits, err);
    }
    if (status == OK && path) status = allocate_write(path, force, choices.matrices, choices.count, err);
    free_choices(&choices);
    return status;
}

/* ---- a choice from a file ---- */

static struct plan_tensor *find_planned(struct plan *plan, const char *name)
{
    for (uint64_t i = 0; i < plan->count; i++) {
        struct plan_tensor *planned = &plan->tensors[i];
        bool is_matrix = planned->role < ROLE_COUNT && planned->target.rank == 2;
        if (is_matrix && strcmp(planned->target.name, name) == 0) return planned;
    }
    return NULL;
}

enum status budget_apply(struct plan *plan, const char *path, struct error *err)
{
    struct allocation allocation = {0};
    enum status status = allocate_read(&allocation, path, err);
    for (uint64_t i = 0; status == OK && i < allocation.count; i++) {
        const struct allocation_line *line = &allocation.lines[i];
        struct plan_tensor *planned = find_planned(plan, line->name);
        if (!planned) {
            status = fail(err, ERR_USAGE, "%s: %s is no weight matrix of this model", path, line->name);
        } else {
            status = plan_set_bits(plan, planned, line->bits, err);
        }
    }
    allocate_free(&allocation);
    return status;
}
