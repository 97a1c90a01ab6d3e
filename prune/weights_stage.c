#include "prune/weights_stage.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "model/layerwise/observe.h"
#include "prune/weights_store.h"
#include "tensor/obs.h"
#include "tensor/obs_prune.h"

enum { POLISH_CODES = 3 }; /* rounds of polishing codes, as in quantize/ */

/* One matrix on its way. All arrays [rows][cols] but the last. */
struct pruning {
    struct weights *work;
    struct prune_tensor *matrix;
    const struct hessian *hessian; /* NULL: without calibration */
    const double *second;          /* [cols] mean squares of the inputs; NULL without calibration */
    float *weights;                /* as they are */
    float *target;                 /* what they aim at; may be the same memory */
    float *pruned;
    uint8_t *mask;
    uint8_t *codes;   /* with --bits */
    uint16_t *scales; /* [rows][groups] */
};

/* ---- which weights go ---- */

struct sparsity_rule weights_rule(const struct weights *work, const struct prune_tensor *matrix)
{
    const struct prune_settings *settings = work->job->settings;
    return (struct sparsity_rule){.share = matrix->share,
        .keep = settings->pattern.keep,
        .of = settings->pattern.of,
        .by_row = settings->method->score != SCORE_MAGNITUDE};
}

static enum sparsity_score score_of(const struct prune_method *method)
{
    if (method->score == SCORE_WANDA) return SPARSITY_WANDA;
    return method->score == SCORE_RIA ? SPARSITY_RIA : SPARSITY_MAGNITUDE;
}

/* By a score of the weights as they are. */
static enum status choose(struct pruning *pruning, struct error *err)
{
    struct prune_job *job = pruning->work->job;
    uint64_t rows = pruning->matrix->target.shape[0], cols = pruning->matrix->target.shape[1];
    struct sparsity_rule rule = weights_rule(pruning->work, pruning->matrix);
    float *scores = pruning->pruned; /* not filled yet */
    enum status status = sparsity_scores(scores, score_of(job->settings->method), pruning->weights, rows,
        cols, pruning->second, job->pool, err);
    if (status == OK) status = sparsity_mask(pruning->mask, scores, rows, cols, &rule, job->pool, err);
    for (uint64_t i = 0; i < rows * cols; i++)
        pruning->pruned[i] = pruning->mask[i] ? pruning->weights[i] : 0;
    return status;
}

/* ---- what the others become ---- */

/* By the solver, or as they are; with calibration the error is measured either way. */
static enum status solve(struct pruning *pruning, struct error *err)
{
    const struct prune_method *method = pruning->work->job->settings->method;
    const struct hessian *hessian = pruning->hessian;
    struct prune_tensor *matrix = pruning->matrix;
    struct prune_solution solution = {.weights = pruning->pruned, .mask = pruning->mask};
    if (!hessian) return OK;
    struct prune_problem problem = {.rows = matrix->target.shape[0],
        .cols = matrix->target.shape[1],
        .target = pruning->target,
        .damped = hessian->damped,
        .factor = hessian->factor,
        .given = method->score != SCORE_OBS,
        .rule = weights_rule(pruning->work, matrix),
        .rounds = pruning->work->rounds};
    enum status status =
        (method->solve ? obs_prune : obs_prune_measure)(&problem, &solution, pruning->work->job->pool, err);
    matrix->output_error = solution.error;
    matrix->output_power = solution.power;
    matrix->solved_error = solution.error_solved;
    matrix->exchanged = solution.exchanged;
    return status;
}

/* ---- codes ---- */

/* Round what stays to nearest; a column counts as much as its inputs are loud. */
static enum status round_codes(struct pruning *pruning, struct error *err)
{
    const struct tensor *target = &pruning->matrix->target;
    const float *importance = pruning->hessian ? pruning->hessian->diagonal : NULL;
    uint64_t row, col;
    return grid_quantize_rows(pruning->codes, pruning->scales, NULL, pruning->pruned, target->shape[0],
        target->shape[1], target->scheme, GRID_MSE, importance, &row, &col, err);
}

/* Solve once more for the codes, with the weights that went known. */
static enum status solve_codes(struct pruning *pruning, struct error *err)
{
    const struct hessian *hessian = pruning->hessian;
    const struct tensor *target = &pruning->matrix->target;
    uint64_t cols = target->shape[1];
    struct obs_result result = {.codes = pruning->codes, .scales = pruning->scales};
    float *importance = memory_new(cols, sizeof *importance, err);
    if (!importance) return ERR_MEMORY;
    for (uint64_t j = 0; j < cols; j++) {
        float pivot = hessian->factor[j * cols + j];
        importance[j] = 1 / (pivot * pivot);
    }
    struct obs_problem problem = {.rows = target->shape[0],
        .cols = cols,
        .scheme = target->scheme,
        .target = pruning->target,
        .damped = hessian->damped,
        .factor = hessian->factor,
        .range = GRID_MSE,
        .importance = importance,
        .mask = pruning->mask,
        .sweeps = pruning->work->rounds ? POLISH_CODES : 0,
        .without_power = true};
    enum status status = obs_quantize(&problem, &result, pruning->work->job->pool, err);
    pruning->matrix->output_error = result.error;
    memory_free(importance);
    return status;
}

/* What the codes are worth, for the error of codes that nobody solved for. */
static void decode(struct pruning *pruning)
{
    const struct tensor *target = &pruning->matrix->target;
    uint64_t group = target->scheme.group, groups = target->shape[0] * target->shape[1] / group;
    for (uint64_t g = 0; g < groups; g++) {
        struct grid grid = {pruning->scales[g], (uint8_t)(1u << (target->scheme.bits - 1))};
        grid_decode(pruning->pruned + g * group, pruning->codes + g * group, group, grid);
    }
}

static enum status measure_codes(struct pruning *pruning, struct error *err)
{
    const struct tensor *target = &pruning->matrix->target;
    struct prune_solution solution = {.weights = pruning->pruned, .mask = pruning->mask};
    struct prune_problem problem = {.rows = target->shape[0],
        .cols = target->shape[1],
        .target = pruning->target,
        .damped = pruning->hessian->damped,
        .given = true};
    decode(pruning);
    enum status status = obs_prune_measure(&problem, &solution, pruning->work->job->pool, err);
    pruning->matrix->output_error = solution.error;
    return status;
}

static enum status quantize(struct pruning *pruning, struct error *err)
{
    const struct tensor *target = &pruning->matrix->target;
    uint64_t rows = target->shape[0], cols = target->shape[1];
    if (target->storage != STORAGE_TILES) return OK;
    pruning->codes = memory_new(rows * cols, 1, err);
    pruning->scales = memory_new(rows * (cols / target->scheme.group), sizeof *pruning->scales, err);
    if (!pruning->codes || !pruning->scales) return ERR_MEMORY;
    if (pruning->work->job->settings->method->solve) return solve_codes(pruning, err);
    enum status status = round_codes(pruning, err);
    return status == OK && pruning->hessian ? measure_codes(pruning, err) : status;
}

/* ---- one matrix ---- */

static void measure_gone(struct pruning *pruning)
{
    struct prune_tensor *matrix = pruning->matrix;
    matrix->gone = matrix->power = 0;
    for (uint64_t i = 0; i < matrix->weights; i++) {
        double square = (double)pruning->weights[i] * (double)pruning->weights[i];
        matrix->power += square;
        if (!pruning->mask[i]) matrix->gone += square;
    }
}

static enum status prune(struct pruning *pruning, struct layer *layer, struct error *err)
{
    const struct prune_method *method = pruning->work->job->settings->method;
    struct prune_tensor *matrix = pruning->matrix;
    struct tensor stored;
    void *data = NULL;
    pruning->pruned = memory_new(matrix->weights, sizeof *pruning->pruned, err);
    pruning->mask = memory_new(matrix->weights, 1, err);
    enum status status = pruning->pruned && pruning->mask ? OK : ERR_MEMORY;
    if (status == OK && method->score != SCORE_OBS) status = choose(pruning, err);
    if (status == OK) status = solve(pruning, err);
    if (status == OK) measure_gone(pruning);
    if (status == OK) status = quantize(pruning, err);
    const struct weights_values values = {pruning->pruned, pruning->codes, pruning->scales};
    if (status == OK) status = weights_store(&stored, &data, matrix, &values, pruning->work, err);
    if (status == OK) layer_replace(layer, matrix->role, &stored, data);
    return status;
}

static void release(struct pruning *pruning)
{
    if (pruning->target != pruning->weights) memory_free(pruning->target);
    memory_free(pruning->weights);
    memory_free(pruning->pruned);
    memory_free(pruning->mask);
    memory_free(pruning->codes);
    memory_free(pruning->scales);
    *pruning = (struct pruning){0};
}

/* ---- without inputs ---- */

enum status weights_layer(struct weights *work, struct layer *layer, struct error *err)
{
    enum status status = OK;
    for (enum role role = ROLE_PER_LAYER; status == OK && role < ROLE_COUNT; role++) {
        struct prune_tensor *matrix = work->layer[layer->walk.index][role];
        double start = report_seconds();
        if (!matrix) continue;
        struct pruning pruning = {.work = work, .matrix = matrix, .weights = layer_floats(layer, role, err)};
        matrix->share = work->shares[layer->walk.index];
        pruning.target = pruning.weights;
        status = pruning.weights ? prune(&pruning, layer, err) : ERR_MEMORY;
        release(&pruning);
        matrix->seconds = report_seconds() - start;
        if (status != OK) fail_within(err, status, "tensor %s", matrix->name);
    }
    return status;
}

/* ---- with inputs ---- */

static enum status observe_stage(
    struct weights *work, struct layer *layer, enum stage stage, struct hessian *out, struct error *err)
{
    const struct observe_options options = {
        .stage = stage, .expert = OBSERVE_LAYER, .inputs = work->aim.inputs, .residual = work->aim.residual};
    struct pool *pool = work->job->pool;
    enum status status =
        observe_inputs(out, &options, work->walk, &work->job->input->config, &layer->walk, pool, NULL, err);
    return status == OK ? hessian_mean(out, pool, err) : status;
}

/* Factor, and tell where damping had to be raised. */
static enum status factor(struct weights *work, struct hessian *hessian, const char *name, struct error *err)
{
    enum status status = hessian_factor(hessian, work->job->pool, work->damping, err);
    if (status != OK) return fail_within(err, status, "inputs of %s", name);
    if (hessian->escalations)
        report_note(work->job->report,
            "inputs of %s: not positive definite over %" PRIu64 " tokens; damping raised to %g", name,
            hessian->tokens, hessian->damping);
    return OK;
}

static enum status find_target(
    struct pruning *pruning, const struct layer *layer, struct hessian *hessian, struct error *err)
{
    struct prune_tensor *matrix = pruning->matrix;
    pruning->weights = pruning->target = layer_floats(layer, matrix->role, err);
    if (!pruning->weights) return ERR_MEMORY;
    if (!hessian->cross && !hessian->residual) return OK;
    pruning->target = memory_new(matrix->weights, sizeof *pruning->target, err);
    if (!pruning->target) return ERR_MEMORY;
    memcpy(pruning->target, pruning->weights, matrix->weights * sizeof *pruning->target);
    return hessian_correct(hessian, pruning->work->job->pool, pruning->target, matrix->target.shape[0],
        hessian->residual != NULL, err);
}

unsigned weights_members(const struct weights *work, uint32_t layer, enum stage stage,
    struct prune_tensor *members[WEIGHTS_MEMBERS])
{
    unsigned count = 0;
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        struct prune_tensor *matrix = work->layer[layer][role];
        if (matrix && walk_stage_of(role) == stage) members[count++] = matrix;
    }
    return count;
}

/* Everything a stage works with. */
struct bench {
    struct hessian hessian;
    double *second; /* [cols] */
    struct pruning list[WEIGHTS_MEMBERS];
    unsigned count;
};

static enum status prepare(
    struct weights *work, const struct layer *layer, struct bench *bench, struct error *err)
{
    struct hessian *hessian = &bench->hessian;
    bench->second = memory_new(hessian->cols, sizeof *bench->second, err);
    if (!bench->second) return ERR_MEMORY;
    for (uint64_t j = 0; j < hessian->cols; j++)
        bench->second[j] = hessian->second[j * hessian->cols + j];
    enum status status = factor(work, hessian, bench->list[0].matrix->name, err);
    for (unsigned i = 0; status == OK && i < bench->count; i++) {
        struct pruning *pruning = &bench->list[i];
        pruning->hessian = hessian;
        pruning->second = bench->second;
        pruning->matrix->share = work->shares[layer->walk.index];
        pruning->matrix->damping = hessian->damping;
        pruning->matrix->dead = hessian->dead;
        status = find_target(pruning, layer, hessian, err);
        if (status != OK) fail_within(err, status, "tensor %s", pruning->matrix->name);
    }
    return status == OK ? hessian_finish(hessian, work->job->pool, err) : status;
}

static enum status prune_members(struct bench *bench, struct layer *layer, struct error *err)
{
    for (unsigned i = 0; i < bench->count; i++) {
        struct prune_tensor *matrix = bench->list[i].matrix;
        double start = report_seconds();
        enum status status = prune(&bench->list[i], layer, err);
        release(&bench->list[i]);
        matrix->seconds = report_seconds() - start;
        if (status != OK) return fail_within(err, status, "tensor %s", matrix->name);
    }
    return OK;
}

enum status weights_stage(struct weights *work, struct layer *layer, enum stage stage, struct error *err)
{
    struct prune_tensor *members[WEIGHTS_MEMBERS];
    struct bench bench = {.count = weights_members(work, layer->walk.index, stage, members)};
    for (unsigned i = 0; i < bench.count; i++)
        bench.list[i] = (struct pruning){.work = work, .matrix = members[i]};
    if (bench.count == 0) return walk_to(work->walk, stage, &layer->walk, false, NULL, NULL, err);
    enum status status = observe_stage(work, layer, stage, &bench.hessian, err);
    if (status == OK) status = prepare(work, layer, &bench, err);
    if (status == OK) status = prune_members(&bench, layer, err);
    for (unsigned i = 0; i < bench.count; i++)
        release(&bench.list[i]);
    hessian_free(&bench.hessian);
    memory_free(bench.second);
    return status;
}

uint64_t weights_stage_bytes(const struct weights *work, uint32_t layer, enum stage stage)
{
    const struct model_config *config = &work->job->input->config;
    unsigned workers = pool_workers(work->job->pool);
    bool residual = work->aim.residual && observe_adds_to_stream(config, stage);
    uint64_t cols = walk_stage_cols(config, stage, layer), all = 0, most = 0, scratch = 0;
    struct prune_tensor *members[WEIGHTS_MEMBERS];
    unsigned count = weights_members(work, layer, stage, members);
    for (unsigned i = 0; i < count; i++) {
        uint64_t weights = members[i]->weights, needed = obs_prune_bytes(weights / cols, cols, workers);
        if (members[i]->target.scheme.bits)
            needed += obs_bytes(cols, members[i]->target.scheme.group, BLOCK_NONE, workers);
        all += weights * sizeof(float) * (work->aim.inputs ? 2 : 1);
        if (weights > most) most = weights;
        if (needed > scratch) scratch = needed;
    }
    if (count == 0) return 0;
    return hessian_bytes(cols, work->aim.inputs, residual ? config->hidden : 0, workers) + all + most * 12 +
           scratch;
}
