/* A stage: its matrices share their inputs, so they share one Hessian and its factor; and each expert's share theirs. */
#include "quantize/gptq.h"

#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "quantize/rtn.h"
#include "tensor/block_parts.h"
#include "tensor/obs.h"
#include "tensor/tiles.h"

#define STAGE_MATRICES 3 /* at most: q, k, v */

/* One matrix to quantize. */
struct member {
    struct plan_tensor *planned;
    float *target; /* [rows][cols]: the weights, then what they are corrected to */
};

struct members {
    struct member list[STAGE_MATRICES];
    unsigned count;
};

static uint32_t place_of(const struct plan_tensor *planned)
{
    return layers_place(planned->role, planned->expert);
}

static struct members members_of(const struct plan *plan, uint32_t layer, struct gptq_group group)
{
    const bool own = group.expert == GPTQ_LAYER;
    const uint32_t first = own ? ROLE_PER_LAYER : layers_place(ROLE_EXPERT_GATE, group.expert);
    const uint32_t end = own ? ROLE_COUNT : first + EXPERT_ROLES;
    struct members members = {0};
    for (uint32_t place = first; place < end; place++) {
        struct plan_tensor *planned = plan_at(plan, layer, place);
        if (planned && !planned->recipe.keep && walk_stage_of(planned->role) == group.stage)
            members.list[members.count++].planned = planned;
    }
    return members;
}

bool gptq_has_work(const struct plan *plan, uint32_t layer, struct gptq_group group)
{
    return members_of(plan, layer, group).count > 0;
}

/* ---- observing ---- */

uint64_t gptq_least_tokens(uint64_t cols)
{
    return (cols + 1) / 2;
}

static enum gptq_known known_of(const struct hessian *hessian)
{
    bool some = false;
    for (uint64_t j = 0; j < hessian->cols; j++)
        some = some || hessian->magnitude[j] > 0;
    if (!some) return GPTQ_NOTHING;
    return hessian->tokens < gptq_least_tokens(hessian->cols) ? GPTQ_CHANNELS : GPTQ_ALL;
}

/* Forget how channels go together, and what to aim at; with nothing known, all channels are alike too. */
static void forget(struct hessian *hessian, enum gptq_known known)
{
    const uint64_t cols = hessian->cols;
    memory_free(hessian->cross);
    hessian->cross = NULL;
    for (uint64_t i = 0; i < cols * cols; i++) {
        if (i % (cols + 1)) hessian->second[i] = 0;
        if (i % (cols + 1) == 0 && known == GPTQ_NOTHING) hessian->second[i] = 1;
    }
}

enum status gptq_observe(struct calibrated *work, struct layer *layer, struct gptq_group group,
    bool corrected, bool only_current, struct hessian *out, enum gptq_known *known, struct error *err)
{
    const bool own = group.expert == GPTQ_LAYER;
    const enum correction correction = corrected ? work->settings->method.correction : CORRECTION_NONE;
    const struct observe_options options = {.stage = group.stage,
        .expert = group.expert,
        .inputs = correction != CORRECTION_NONE,
        .residual = correction == CORRECTION_RESIDUAL,
        .only_current = only_current};
    enum status status = observe_inputs(out, &options, work->walk, &work->input->config, &layer->walk,
        work->pool, &work->phases.hessian, err);
    if (status != OK) return status;
    *known = own ? GPTQ_ALL : known_of(out);
    if (*known != GPTQ_NOTHING) status = hessian_mean(out, work->pool, err);
    if (status == OK && *known != GPTQ_ALL) forget(out, *known);
    return status;
}

/* ---- targets ---- */

/* Columns into solving order, or (back) out of it. */
static enum status reorder(
    float *matrix, uint64_t rows, uint64_t cols, const uint32_t *order, bool back, struct error *err)
{
    float *row = memory_new(cols, sizeof *row, err);
    if (!row) return ERR_MEMORY;
    for (uint64_t r = 0; r < rows; r++) {
        float *at = matrix + r * cols;
        memcpy(row, at, cols * sizeof *row);
        for (uint64_t j = 0; j < cols; j++) {
            if (back) {
                at[order[j]] = row[j];
            } else {
                at[j] = row[order[j]];
            }
        }
    }
    memory_free(row);
    return OK;
}

static enum status find_target(struct calibrated *work, const struct layer *layer, struct member *member,
    struct hessian *hessian, const uint32_t *order, struct error *err)
{
    const struct tensor *target = &member->planned->target;
    uint64_t rows = target->shape[0], cols = target->shape[1];
    member->target = layer_floats(layer, place_of(member->planned), err);
    if (!member->target) return err->code;
    if (!hessian->cross && !hessian->residual) return OK;
    enum status status = order ? reorder(member->target, rows, cols, order, false, err) : OK;
    if (status == OK)
        status = hessian_correct(hessian, work->pool, member->target, rows, hessian->residual != NULL, err);
    if (status == OK && order) status = reorder(member->target, rows, cols, order, true, err);
    return status == OK ? OK : fail_within(err, status, "tensor %s", target->name);
}

/* ---- packing ---- */

/* One matrix in tiles of rows, packed and measured by all workers. */
struct packing {
    const struct obs_result *result;
    const struct tensor *target;
    struct tiles_layout layout;  /* of a scheme */
    const struct tensor *before; /* the weights as they were */
    uint8_t *out;                /* [layout.bytes] */
    struct rtn_sums *sums;       /* [tiles] */
    float *floats;               /* [workers][8][cols] */
};

/* Up to 8 rows as they were: *out [rows][cols]. */
static enum status rows_before(float **out, const struct packing *packing, unsigned worker, uint64_t row,
    uint64_t rows, struct error *err)
{
    *out = packing->floats + worker * TILE_ROWS * packing->target->shape[1];
    return layer_decode_rows(*out, packing->before, row, rows, err);
}

static enum status pack_tile(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct packing *packing = context;
    const struct tiles_layout *layout = &packing->layout;
    const struct obs_result *result = packing->result;
    uint64_t row = index * TILE_ROWS, cols = layout->cols;
    uint64_t count = layout->rows - row < TILE_ROWS ? layout->rows - row : TILE_ROWS;
    const uint8_t *codes = result->codes + row * cols;
    const uint16_t *scales = result->scales + row * layout->groups;
    const uint8_t *zeros = result->zeros ? result->zeros + row * layout->groups : NULL;
    struct tile tile = tiles_at(layout, packing->out, index);
    float *before;
    enum status status = rows_before(&before, packing, worker, row, count, err);

    if (status) return status;
    tiles_pack(layout, (uint8_t *)tile.codes, (uint16_t *)tile.scales, (uint8_t *)tile.zeros, codes, scales,
        zeros, count);
    packing->sums[index] = rtn_tile_sums(layout, before, count, codes, scales, zeros);
    return OK;
}

static enum status measure_blocks(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct packing *packing = context;
    const struct tensor *target = packing->target;
    const struct block_info *info = block_info(target->block);
    uint64_t row = index * TILE_ROWS, cols = target->shape[1], bytes = cols / info->weights * info->bytes;
    uint64_t count = target->shape[0] - row < TILE_ROWS ? target->shape[0] - row : TILE_ROWS;
    float *before;
    enum status status = rows_before(&before, packing, worker, row, count, err);
    if (status) return status;
    for (uint64_t i = 0; i < count; i++) {
        struct rtn_sums sums =
            rtn_row_sums(target->block, packing->result->blocks + (row + i) * bytes, before + i * cols, cols);
        packing->sums[index].error += sums.error;
        packing->sums[index].power += sums.power;
    }
    return OK;
}

/* In blocks nothing is left to pack: the result's go over to the layer. */
static enum status pack(struct calibrated *work, struct layer *layer, struct plan_tensor *planned,
    struct obs_result *result, struct error *err)
{
    const struct tensor *target = &planned->target;
    struct packing packing = {
        .result = result, .target = target, .before = layer_current(layer, place_of(planned))};
    uint64_t tiles = (target->shape[0] + TILE_ROWS - 1) / TILE_ROWS, cols = target->shape[1];
    enum status status = OK;
    if (!result->blocks) {
        status = tiles_layout(&packing.layout, target->shape[0], cols, target->scheme, err);
        if (status != OK) return status;
        packing.out = memory_new(packing.layout.bytes, 1, err);
    }
    packing.sums = memory_new(tiles, sizeof *packing.sums, err);
    packing.floats = memory_new(pool_workers(work->pool) * TILE_ROWS * cols, sizeof(float), err);
    status = (packing.out || result->blocks) && packing.sums && packing.floats ? OK : ERR_MEMORY;
    if (status == OK)
        status = pool_run(work->pool, tiles, result->blocks ? measure_blocks : pack_tile, &packing, err);
    for (uint64_t i = 0; status == OK && i < tiles; i++) {
        planned->outcome.error += packing.sums[i].error;
        planned->outcome.power += packing.sums[i].power;
    }
    memory_free(packing.sums);
    memory_free(packing.floats);
    if (status != OK) {
        memory_free(packing.out);
        return status;
    }
    struct tensor quantized = *target;
    quantized.bytes = planned->bytes;
    layer_replace(layer, place_of(planned), &quantized, result->blocks ? result->blocks : packing.out);
    result->blocks = NULL;
    return OK;
}

/* ---- solving ---- */

static void note_outcome(
    struct outcome *outcome, const struct obs_result *result, const struct hessian *hessian, double seconds)
{
    outcome->calibrated = true;
    outcome->output_error = result->error;
    outcome->output_power = result->power;
    outcome->nearest_error = result->error_nearest;
    outcome->unpolished_error = result->error_solved;
    outcome->rows_nearest = result->rows_nearest;
    outcome->dead = hessian->dead;
    outcome->tokens = hessian->tokens;
    outcome->damping = hessian->damping;
    outcome->seconds = seconds;
}

static enum status allocate_result(
    struct obs_result *result, const struct plan_tensor *planned, struct error *err)
{
    const struct scheme scheme = planned->target.scheme;
    uint64_t rows = planned->target.shape[0], cols = planned->target.shape[1];
    if (planned->target.storage == STORAGE_BLOCKS) {
        result->blocks = memory_new(planned->bytes, 1, err);
        return result->blocks ? OK : ERR_MEMORY;
    }
    uint64_t groups = cols / scheme.group;
    result->codes = memory_new(rows * cols, 1, err);
    result->scales = memory_new(rows * groups, sizeof *result->scales, err);
    if (scheme.asymmetric) result->zeros = memory_new(rows * groups, 1, err);
    return result->codes && result->scales && (result->zeros || !scheme.asymmetric) ? OK : ERR_MEMORY;
}

static enum status solve(struct calibrated *work, struct layer *layer, struct member *member,
    const struct hessian *hessian, const uint32_t *order, const float *importance, struct error *err)
{
    const struct method *method = &work->settings->method;
    struct plan_tensor *planned = member->planned;
    const struct tensor *target = &planned->target;
    enum range range = planned->recipe.range;
    struct obs_problem problem = {.rows = target->shape[0],
        .cols = target->shape[1],
        .scheme = target->scheme,
        .block = target->block,
        .target = member->target,
        .damped = hessian->damped,
        .factor = method->solve ? hessian->factor : NULL,
        .order = order,
        .range = range == RANGE_MINMAX ? GRID_MINMAX : GRID_MSE,
        .importance = range == RANGE_HESSIAN ? importance : NULL,
        .safeguard = method->safeguard,
        .sweeps = (unsigned)method->polish};
    struct obs_result result = {0};
    double start = report_seconds();
    enum status status = allocate_result(&result, planned, err);
    if (status == OK) status = obs_quantize(&problem, &result, work->pool, err);
    if (status == OK) {
        note_outcome(&planned->outcome, &result, hessian, report_seconds() - start);
        work->phases.solve += planned->outcome.seconds;
        status = pack(work, layer, planned, &result, err);
    }
    memory_free(result.codes);
    memory_free(result.scales);
    memory_free(result.zeros);
    memory_free(result.blocks);
    return status == OK ? OK : fail_within(err, status, "tensor %s", target->name);
}

/* ---- a stage ---- */

/* What a stage works with beside its members. */
struct plate {
    struct hessian hessian;
    uint32_t *order;   /* [cols], or NULL: natural */
    float *importance; /* [cols] diagonal of H + l in natural order */
};

/* Add a size to those nested in one another, coarse to fine. One that is there, or does not nest, is left out. */
static unsigned add_size(uint64_t nested[OBS_NESTED_MOST], unsigned levels, uint64_t size)
{
    unsigned at = 0;
    while (at < levels && nested[at] > size)
        at++;
    if (levels == OBS_NESTED_MOST || (at > 0 && nested[at - 1] % size) ||
        (at < levels && (nested[at] == size || size % nested[at])))
        return levels;
    for (unsigned i = levels; i > at; i--)
        nested[i] = nested[i - 1];
    nested[at] = size;
    return levels + 1;
}

/* What has to stay together in the order: groups, or blocks and their sub-blocks. */
static unsigned find_nested(uint64_t nested[OBS_NESTED_MOST], const struct members *members)
{
    unsigned levels = 0;
    for (unsigned i = 0; i < members->count; i++) {
        const struct tensor *target = &members->list[i].planned->target;
        const struct block_form *form = block_form(target->block);
        levels = add_size(nested, levels, form ? form->weights : target->scheme.group);
        if (form) levels = add_size(nested, levels, form->sub);
    }
    return levels;
}

/* The order of the columns: by the Hessian's diagonal. */
static enum status find_order(
    struct calibrated *work, struct plate *plate, const struct members *members, struct error *err)
{
    const struct hessian *hessian = &plate->hessian;
    uint64_t cols = hessian->cols, nested[OBS_NESTED_MOST] = {0};
    unsigned levels = find_nested(nested, members);
    if (work->settings->method.order == OBS_ORDER_NONE || !work->settings->method.solve) return OK;
    double *diagonal = memory_new(cols, sizeof *diagonal, err);
    plate->order = memory_new(cols, sizeof *plate->order, err);
    enum status status = diagonal && plate->order ? OK : ERR_MEMORY;
    for (uint64_t j = 0; status == OK && j < cols; j++)
        diagonal[j] = hessian->second[j * cols + j];
    if (status == OK)
        status = obs_order(plate->order, work->settings->method.order, diagonal, cols, nested, levels, err);
    memory_free(diagonal);
    return status == OK ? hessian_permute(&plate->hessian, plate->order, err) : status;
}

/* What an error in column j costs, for the range search: its own squared error, or, when the columns that follow make up for it,
 * only what they cannot make up for (1 / U_jj^2; Frantar et al. 2022, equation 2). */
static float column_importance(const struct hessian *hessian, uint64_t j, bool solve)
{
    double pivot = hessian->second[j * hessian->cols + j];
    return solve ? (float)(1 / (pivot * pivot)) : hessian->diagonal[j];
}

enum status gptq_importance(
    float **out, const struct hessian *hessian, const uint32_t *order, bool solve, struct error *err)
{
    *out = memory_new(hessian->cols, sizeof **out, err);
    if (!*out) return ERR_MEMORY;
    for (uint64_t j = 0; j < hessian->cols; j++)
        (*out)[order ? order[j] : j] = column_importance(hessian, j, solve);
    return OK;
}

static enum status factor(struct calibrated *work, struct plate *plate, const char *name, struct error *err)
{
    struct hessian *hessian = &plate->hessian;
    enum status status = hessian_factor(hessian, work->pool, work->settings->method.damping, err);
    if (status != OK) return fail_within(err, status, "inputs of %s", name);
    if (hessian->escalations)
        report_note(work->report,
            "inputs of %s: not positive definite over %" PRIu64 " tokens; damping raised to %g", name,
            hessian->tokens, hessian->damping);
    return gptq_importance(&plate->importance, hessian, plate->order, work->settings->method.solve, err);
}

static enum status prepare(struct calibrated *work, const struct layer *layer, struct plate *plate,
    struct members *members, struct error *err)
{
    double start = report_seconds();
    enum status status = find_order(work, plate, members, err);
    if (status == OK) status = factor(work, plate, members->list[0].planned->target.name, err);
    for (unsigned i = 0; status == OK && i < members->count; i++)
        status = find_target(work, layer, &members->list[i], &plate->hessian, plate->order, err);
    if (status == OK) status = hessian_finish(&plate->hessian, work->pool, err);
    work->phases.factor += report_seconds() - start;
    return status;
}

static enum status solve_members(struct calibrated *work, struct layer *layer, struct plate *plate,
    struct members *members, enum gptq_known known, struct error *err)
{
    enum status status = prepare(work, layer, plate, members, err);
    for (unsigned i = 0; status == OK && i < members->count; i++) {
        struct member *member = &members->list[i];
        status = solve(work, layer, member, &plate->hessian, plate->order,
            known == GPTQ_NOTHING ? NULL : plate->importance, err);
        member->planned->outcome.uncalibrated = known != GPTQ_ALL;
        memory_free(member->target);
        member->target = NULL;
    }
    for (unsigned i = 0; i < members->count; i++)
        memory_free(members->list[i].target);
    return status;
}

static enum status quantize_group(
    struct calibrated *work, struct layer *layer, struct gptq_group group, struct error *err)
{
    struct members members = members_of(work->plan, layer->walk.index, group);
    struct plate plate = {0};
    enum gptq_known known;
    enum status status = gptq_observe(work, layer, group, true, false, &plate.hessian, &known, err);
    if (status == OK) status = solve_members(work, layer, &plate, &members, known, err);
    hessian_free(&plate.hessian);
    memory_free(plate.order);
    memory_free(plate.importance);
    return status;
}

enum status gptq_stage(struct calibrated *work, struct layer *layer, enum stage stage, struct error *err)
{
    const uint32_t experts = stage == WALK_GATE_UP || stage == WALK_DOWN ? work->input->config.experts : 0;
    struct gptq_group group = {stage, GPTQ_LAYER};
    enum status status = gptq_has_work(work->plan, layer->walk.index, group)
                             ? quantize_group(work, layer, group, err)
                             : walk_to(work->walk, stage, &layer->walk, false, NULL, NULL, err);
    for (group.expert = 0; status == OK && group.expert < experts; group.expert++) {
        if (gptq_has_work(work->plan, layer->walk.index, group))
            status = quantize_group(work, layer, group, err);
    }
    return status;
}
