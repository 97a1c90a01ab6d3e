/* Divergence adds up over matrices, and grows in proportion to the error of a matrix's output, as long as it is small
 * (docs/methods/mixed-precision.md). So one probe per matrix says what an error there is worth, and the Hessian says how
 * large the error is at each width. */
#include "quantize/cost.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "quantize/gptq.h"
#include "tensor/grid.h"

#define PROBED_BITS allocate_widths[ALLOCATE_PROBED]
#define PROBE_TOKENS 1024 /* at least; more where they take no longer than the walk */

/* What one stage's matrices are measured with. */
struct bench {
    struct calibrated *work;
    struct probes *probes;
    struct layer *layer;
    struct hessian hessian;
    float *importance; /* [cols] */
};

/* A matrix quantized one way. */
struct trial {
    float *weights;         /* [elements] as they are */
    uint8_t *codes, *zeros; /* of a scheme */
    uint16_t *scales;
    uint8_t *blocks;
    double error; /* of its output */
};

/* ---- one matrix ---- */

static enum status quantize(struct trial *trial, const struct bench *bench, const struct plan_tensor *planned,
    uint32_t bits, bool solve, struct error *err)
{
    const struct hessian *hessian = &bench->hessian;
    const struct recipe *recipe = &planned->recipe;
    struct obs_problem problem = {.rows = planned->target.shape[0],
        .cols = planned->target.shape[1],
        .scheme = planned->target.scheme,
        .target = trial->weights,
        .damped = hessian->damped,
        .factor = solve ? hessian->factor : NULL,
        .range = recipe->range == RANGE_MINMAX ? GRID_MINMAX : GRID_MSE,
        .importance = recipe->range == RANGE_HESSIAN ? bench->importance : NULL};
    struct obs_result result = {
        .codes = trial->codes, .scales = trial->scales, .zeros = trial->zeros, .blocks = trial->blocks};
    enum status status;

    problem.scheme.bits = bits;
    if (trial->blocks) problem.block = mix_candidate(bits, problem.cols);
    status = obs_quantize(&problem, &result, bench->work->pool, err);
    trial->error = result.error;
    return status;
}

/* The weights that the trial's codes or blocks stand for, in place of the weights. */
static void decode(struct trial *trial, const struct plan_tensor *planned)
{
    const struct scheme *scheme = &planned->target.scheme;
    uint64_t elements = planned->source->elements;
    if (trial->blocks) {
        blocks_decode(
            trial->weights, mix_candidate(PROBED_BITS, planned->target.shape[1]), trial->blocks, 0, elements);
        return;
    }
    uint64_t group = scheme->group, groups = elements / group;
    for (uint64_t i = 0; i < groups; i++) {
        const struct grid grid = {trial->scales[i], trial->zeros ? trial->zeros[i] : 1 << (PROBED_BITS - 1)};
        grid_decode(trial->weights + i * group, trial->codes + i * group, group, grid);
    }
}

static enum status probe(
    struct trial *trial, const struct bench *bench, const struct plan_tensor *planned, struct error *err)
{
    const struct tensor *tensors[ROLE_COUNT];
    struct tensor changed = *planned->source;

    decode(trial, planned);
    changed.storage = STORAGE_DENSE;
    changed.dtype = DTYPE_F32;
    changed.bytes = changed.elements * sizeof(float);
    changed.data = trial->weights;
    memcpy(tensors, bench->layer->walk.original, sizeof tensors);
    tensors[planned->role] = &changed;
    return probes_add(bench->probes, bench->work->walk, planned->layer, tensors, err);
}

static enum status measure(struct trial *trial, const struct bench *bench, const struct plan_tensor *planned,
    struct allocate_matrix *matrix, struct error *err)
{
    enum status status = OK;

    for (unsigned w = 0; w < ALLOCATE_WIDTHS && !status; w++) {
        status = quantize(trial, bench, planned, allocate_widths[w], false, err);
        matrix->error[w] = trial->error;
    }
    if (!status)
        status = quantize(trial, bench, planned, PROBED_BITS, bench->work->settings->method.solve, err);
    return status ? status : probe(trial, bench, planned, err);
}

static void free_trial(struct trial *trial)
{
    memory_free(trial->weights);
    memory_free(trial->codes);
    memory_free(trial->zeros);
    memory_free(trial->scales);
    memory_free(trial->blocks);
}

/* Room for any of the choices. */
static enum status create_trial(
    struct trial *trial, const struct bench *bench, const struct plan_tensor *planned, struct error *err)
{
    const struct scheme *scheme = &planned->target.scheme;
    uint64_t elements = planned->source->elements;
    trial->weights = layer_floats(bench->layer, planned->role, err);
    if (!trial->weights) return err->code;
    if (planned->recipe.block) {
        trial->blocks = memory_new(elements, 2, err); /* the largest take 34 bytes for 32 weights */
        return trial->blocks ? OK : ERR_MEMORY;
    }
    trial->codes = memory_new(elements, 1, err);
    trial->scales = memory_new(elements / scheme->group, sizeof *trial->scales, err);
    if (scheme->asymmetric) trial->zeros = memory_new(elements / scheme->group, 1, err);
    return trial->codes && trial->scales && (trial->zeros || !scheme->asymmetric) ? OK : ERR_MEMORY;
}

static enum status measure_matrix(const struct bench *bench, const struct plan_tensor *planned,
    struct allocate_matrix *matrix, struct error *err)
{
    struct trial trial = {0};
    enum status status = create_trial(&trial, bench, planned, err);

    if (!status) status = measure(&trial, bench, planned, matrix, err);
    free_trial(&trial);
    return status ? fail_within(err, status, "tensor %s", planned->target.name) : OK;
}

/* ---- stages and layers ---- */

static enum status measure_members(
    const struct bench *bench, enum stage stage, struct cost_table *table, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < table->count && !status; i++) {
        const struct plan_tensor *planned = table->planned[i];
        if (planned->layer == bench->layer->walk.index && walk_stage_of(planned->role) == stage)
            status = measure_matrix(bench, planned, &table->matrices[i], err);
    }
    return status;
}

static enum status measure_stage(
    struct bench *bench, enum stage stage, struct cost_table *table, struct error *err)
{
    struct calibrated *work = bench->work;
    struct layer *layer = bench->layer;
    const struct gptq_group group = {stage, GPTQ_LAYER};
    bool solve = work->settings->method.solve;
    enum gptq_known known;
    enum status status;

    if (!gptq_has_work(work->plan, layer->walk.index, group))
        return walk_to(work->walk, stage, &layer->walk, true, NULL, NULL, err);
    status = gptq_observe(work, layer, group, false, true, &bench->hessian, &known, err);
    if (!status) status = hessian_factor(&bench->hessian, work->pool, work->settings->method.damping, err);
    if (!status) status = gptq_importance(&bench->importance, &bench->hessian, NULL, solve, err);
    if (!status) status = hessian_finish(&bench->hessian, work->pool, err);
    if (!status) status = measure_members(bench, stage, table, err);
    hessian_free(&bench->hessian);
    memory_free(bench->importance);
    bench->importance = NULL;
    return status;
}

static enum status measure_layer(struct calibrated *work, struct probes *probes, uint32_t index,
    struct cost_table *table, struct error *err)
{
    struct layer layer;
    struct bench bench = {.work = work, .probes = probes, .layer = &layer};
    enum status status = layer_load(&layer, work->input, index, err);

    if (!status) status = probes_advance(probes, index, layer.walk.original, err);
    for (enum stage stage = WALK_QKV; stage < WALK_STAGES && !status; stage++)
        status = measure_stage(&bench, stage, table, err);
    if (!status) status = walk_finish(work->walk, &layer.walk, err);
    layer_free(&layer);
    return status ? fail_within(err, status, "layer %" PRIu32, index) : OK;
}

/* ---- all of them ---- */

struct probes_options cost_probing(const struct calibrated *work, uint64_t matrices)
{
    const struct calibration *calibration = &work->calibration;
    /* A probe goes through half of the layers on average: so many take as long as the walk itself. */
    uint64_t samples = 2 * calibration->samples / matrices;
    uint64_t least = (PROBE_TOKENS + calibration->length - 1) / calibration->length;

    if (samples < least) samples = least;
    if (samples > calibration->samples) samples = calibration->samples;
    return (struct probes_options){.capacity = matrices, .samples = samples};
}

/* Probes were added layer by layer in the order of stages, not of the plan. */
static void settle_stage(
    struct cost_table *table, uint32_t layer, enum stage stage, const double **divergences)
{
    for (uint64_t i = 0; i < table->count; i++) {
        const struct plan_tensor *planned = table->planned[i];
        double *error = table->matrices[i].error, probed = error[ALLOCATE_PROBED];

        if (planned->layer != layer || walk_stage_of(planned->role) != stage) continue;
        double worth = probed > 0 ? *(*divergences) / probed : 0;
        for (unsigned w = 0; w < ALLOCATE_WIDTHS; w++)
            error[w] *= worth;
        ++*divergences;
    }
}

static enum status conclude(
    struct calibrated *work, struct probes *probes, struct cost_table *table, struct error *err)
{
    double *divergences = memory_new(table->count, sizeof *divergences, err);
    const double *next = divergences;
    enum status status = divergences ? probes_finish(probes, work->walk, divergences, err) : ERR_MEMORY;

    for (uint32_t layer = 0; layer < work->input->config.layers && !status; layer++) {
        for (enum stage stage = WALK_QKV; stage < WALK_STAGES; stage++)
            settle_stage(table, layer, stage, &next);
    }
    memory_free(divergences);
    return status;
}

enum status cost_measure(
    struct calibrated *work, struct cost_table *table, bool in_memory, const char *folder, struct error *err)
{
    uint32_t layers = work->input->config.layers;
    const struct walk_options walking = {.in_memory = in_memory, .folder = folder};
    struct probes_options probing = cost_probing(work, table->count);
    struct probes *probes = NULL;
    enum status status = walk_create(&work->walk, work->input, &work->calibration, &walking, work->pool, err);

    probing.in_memory = in_memory;
    probing.folder = folder;
    if (!status) status = probes_create(&probes, work->input, &work->calibration, &probing, work->pool, err);
    struct progress *progress = progress_start(work->report, "measuring", layers, PROGRESS_ITEMS);
    for (uint32_t layer = 0; layer < layers && !status; layer++) {
        status = measure_layer(work, probes, layer, table, err);
        progress_add(progress, 1);
    }
    progress_end(progress);
    if (!status) status = conclude(work, probes, table, err);
    probes_free(probes);
    walk_free(work->walk);
    work->walk = NULL;
    return status;
}
