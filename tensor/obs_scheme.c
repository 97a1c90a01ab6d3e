/* Grids of a scheme: one scale and zero-point per group, found by tensor/grid.h. */
#include <inttypes.h>

#include "tensor/dtype.h"
#include "tensor/obs_tile.h"
#include "tensor/polish.h"

static enum status nearest(
    const struct obs_plan *plan, const struct obs_tile *tile, struct obs_result *result, struct error *err)
{
    const struct obs_problem *problem = plan->problem;
    uint64_t codes = tile->row * plan->cols, grids = tile->row * plan->groups.count, row, col;
    enum status status = grid_quantize_rows(result->codes + codes, result->scales + grids,
        result->zeros ? result->zeros + grids : NULL, problem->target + codes, tile->rows, plan->cols,
        problem->scheme, problem->range, problem->importance, &row, &col, NULL);
    if (status == OK) return OK;
    return fail(err, status, "weight [%" PRIu64 ", %" PRIu64 "] is %g: its scale does not fit half precision",
        tile->row + row, col, (double)problem->target[codes + row * plan->cols + col]);
}

static void load(
    const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, const struct obs_result *result)
{
    uint64_t at = tile->row + row, groups = plan->groups.count;
    float middle = (plan->top + 1) / 2;
    for (uint64_t g = 0; g < groups; g++) {
        float zero = result->zeros ? result->zeros[at * groups + g] : middle;
        obs_tile_set_line(plan, tile, row, g, dtype_f16_to_f32(result->scales[at * groups + g]), zero, 0);
    }
    for (uint64_t place = 0; place < plan->cols; place++)
        tile->codes[row * plan->cols + place] = result->codes[at * plan->cols + plan->order[place]];
}

static void store(
    const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, const struct obs_result *result)
{
    uint64_t at = tile->row + row, groups = plan->groups.count;
    for (uint64_t g = 0; g < groups; g++) {
        uint64_t line = obs_line_at(plan, row, g);
        result->scales[at * groups + g] = dtype_f32_to_f16(tile->step[line]);
        if (result->zeros) result->zeros[at * groups + g] = (uint8_t)tile->zero[line];
    }
    for (uint64_t place = 0; place < plan->cols; place++)
        result->codes[at * plan->cols + plan->order[place]] = tile->codes[row * plan->cols + place];
}

static uint64_t fit_unit(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t rows,
    uint64_t unit, const float *weights)
{
    const struct obs_problem *problem = plan->problem;
    const float *importance = plan->importance ? plan->importance + obs_first(&plan->units, unit) : NULL;
    for (uint64_t i = 0; i < rows; i++) {
        struct grid grid;
        if (!grid_fit(&grid, weights + i * plan->units.size, importance, plan->units.size,
                problem->scheme.bits, problem->scheme.asymmetric, problem->range))
            return i;
        obs_tile_set_line(plan, tile, row + i, unit, dtype_f16_to_f32(grid.scale), grid.zero, 0);
    }
    return rows;
}

const struct obs_grids obs_scheme_grids = {.nearest = nearest,
    .load = load,
    .store = store,
    .fit_unit = fit_unit,
    .refit_unit = polish_scheme_refit};
