/* Grids of a block type: parameters of a whole block, lines of its sub-blocks (tensor/block_parts.h), found by tensor/block_fit.h. */
#include <inttypes.h>

#include "tensor/block_fit.h"
#include "tensor/obs_tile.h"
#include "tensor/polish.h"

struct block_parts *obs_blocks_parts(
    const struct obs_plan *plan, const struct obs_tile *tile, uint64_t row, uint64_t unit)
{
    return tile->parts + row * plan->units.count + unit;
}

void obs_blocks_set_line(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t group)
{
    uint32_t subs = plan->form->subs;
    struct block_line line = block_parts_line(
        plan->problem->block, obs_blocks_parts(plan, tile, row, group / subs), (uint32_t)(group % subs));
    float zero = plan->uneven ? 0 : (float)-plan->form->lowest;
    obs_tile_set_line(plan, tile, row, group, line.step, zero, line.offset);
}

void obs_blocks_set_lines(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t unit)
{
    for (uint32_t sub = 0; sub < plan->form->subs; sub++)
        obs_blocks_set_line(plan, tile, row, unit * plan->form->subs + sub);
}

/* The blocks of one row in the result. */
static uint8_t *blocks_of(
    const struct obs_plan *plan, const struct obs_tile *tile, uint64_t row, const struct obs_result *result)
{
    return result->blocks + (tile->row + row) * plan->units.count * block_info(plan->problem->block)->bytes;
}

static enum status nearest(
    const struct obs_plan *plan, const struct obs_tile *tile, struct obs_result *result, struct error *err)
{
    const struct obs_problem *problem = plan->problem;
    const float *target = problem->target + tile->row * plan->cols;
    uint64_t row, col;
    if (block_fit_rows(blocks_of(plan, tile, 0, result), problem->block, target, tile->rows, plan->cols,
            problem->importance, &row, &col))
        return OK;
    return fail(err, ERR_NUMERIC,
        "weight [%" PRIu64 ", %" PRIu64 "] is %g: its scale does not fit half precision", tile->row + row,
        col, (double)target[row * plan->cols + col]);
}

static void load(
    const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, const struct obs_result *result)
{
    enum block_type type = plan->problem->block;
    const uint8_t *block = blocks_of(plan, tile, row, result);
    uint64_t size = plan->units.size;
    for (uint64_t unit = 0; unit < plan->units.count; unit++, block += block_info(type)->bytes) {
        struct block_parts *parts = obs_blocks_parts(plan, tile, row, unit);
        const uint32_t *members = plan->units.members + unit * size;
        block_parts_take(parts, type, block);
        obs_blocks_set_lines(plan, tile, row, unit);
        for (uint64_t i = 0; i < size; i++)
            tile->codes[row * plan->cols + members[i]] = parts->codes[plan->order[members[i]] % size];
    }
}

static void store(
    const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, const struct obs_result *result)
{
    enum block_type type = plan->problem->block;
    uint8_t *block = blocks_of(plan, tile, row, result);
    uint64_t size = plan->units.size;
    for (uint64_t unit = 0; unit < plan->units.count; unit++, block += block_info(type)->bytes) {
        struct block_parts *parts = obs_blocks_parts(plan, tile, row, unit);
        const uint32_t *members = plan->units.members + unit * size;
        for (uint64_t i = 0; i < size; i++)
            parts->codes[plan->order[members[i]] % size] = tile->codes[row * plan->cols + members[i]];
        block_parts_put(block, type, parts);
    }
}

/* Weights [rows] by place into the order of the row, in the tile's scratch. */
static const float *in_order(const struct obs_plan *plan, struct obs_tile *tile, const float *weights,
    uint64_t rows, const struct obs_cut *cut, uint64_t index)
{
    float *out = tile->ordered;
    const uint32_t *members = cut->members + index * cut->size;
    for (uint64_t row = 0; row < rows; row++, out += cut->size, weights += cut->size)
        for (uint64_t i = 0; i < cut->size; i++)
            out[plan->order[members[i]] % cut->size] = weights[i];
    return tile->ordered;
}

static const float *importance_of(const struct obs_plan *plan, const struct obs_cut *cut, uint64_t index)
{
    return plan->problem->importance ? plan->problem->importance + index * cut->size : NULL;
}

static uint64_t fit_unit(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t rows,
    uint64_t unit, const float *weights)
{
    const float *ordered = in_order(plan, tile, weights, rows, &plan->units, unit);
    uint64_t fitted = block_fit_column(obs_blocks_parts(plan, tile, row, unit), plan->units.count,
        plan->problem->block, ordered, rows, importance_of(plan, &plan->units, unit));
    for (uint64_t i = 0; i < fitted; i++)
        obs_blocks_set_lines(plan, tile, row + i, unit);
    return fitted;
}

static uint64_t fit_group(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t rows,
    uint64_t group, const float *weights)
{
    uint64_t subs = plan->form->subs, unit = group / subs;
    const float *ordered = in_order(plan, tile, weights, rows, &plan->groups, group);
    block_fit_sub(obs_blocks_parts(plan, tile, row, unit), plan->units.count, plan->problem->block,
        (uint32_t)(group % subs), ordered, rows, importance_of(plan, &plan->groups, group));
    for (uint64_t i = 0; i < rows; i++)
        obs_blocks_set_line(plan, tile, row + i, group);
    return rows;
}

const struct obs_grids obs_block_grids = {.nearest = nearest,
    .load = load,
    .store = store,
    .fit_unit = fit_unit,
    .fit_group = fit_group,
    .refit_unit = polish_blocks_refit};
