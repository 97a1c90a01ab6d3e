/* Column by column within a block, then one product for the columns after it (lazy batches, Frantar et al. 2022, section
 * 3.3). Blocks end where a group ends, so the grid of a group is always found on weights that are up to date: those of
 * its columns that lie beyond the block have seen every block before. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tensor/linalg.h"
#include "tensor/obs_tile.h"

/* Some rows of a block. */
struct strip {
    const struct obs_plan *plan;
    struct obs_tile *tile;
    uint64_t begin, end;      /* places */
    uint64_t first_row, rows; /* of the tile; rows up to OBS_STRIP are filled with zeros */
};

void obs_tile_set_line(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t group,
    float step, float zero, float offset)
{
    uint64_t at = obs_line_at(plan, row, group);
    tile->step[at] = step;
    tile->inverse[at] = step == 0 ? 0 : 1 / step;
    tile->zero[at] = zero;
    tile->offset[at] = offset;
}

/* A block may not end within a unit or a group that starts within it. */
static uint64_t block_end(const struct obs_plan *plan, uint64_t begin)
{
    uint64_t end = begin + OBS_BLOCK;
    if (end >= plan->cols) return plan->cols;
    uint64_t unit = obs_unit_at(plan, end), group = plan->group_at[end];
    if (plan->units.together[unit] && obs_first(&plan->units, unit) > begin)
        return obs_first(&plan->units, unit);
    if (plan->groups.together[group] && obs_first(&plan->groups, group) > begin)
        return obs_first(&plan->groups, group);
    return end;
}

/* ---- grids ---- */

static float current_weight(const struct strip *strip, uint64_t row, uint64_t place)
{
    const struct obs_plan *plan = strip->plan;
    const uint8_t *mask = plan->problem->mask;
    if (mask && !mask[(strip->tile->row + strip->first_row + row) * plan->cols + place]) return 0;
    if (place < strip->end) return strip->tile->column_weight[(place - strip->begin) * OBS_STRIP + row];
    return strip->tile->weights[(strip->first_row + row) * plan->cols + place];
}

/* What is wrong with the `count` weights from `place` on: the first that is not finite, or the largest. */
static enum status grid_fault(const struct strip *strip, uint64_t row, uint64_t place, const float *weights,
    uint64_t count, struct error *err)
{
    uint64_t at = 0;
    for (uint64_t i = 0; i < count && isfinite(weights[at]); i++) {
        if (!(fabsf(weights[i]) <= fabsf(weights[at]))) at = i;
    }
    return fail(err, ERR_NUMERIC, "weight [%" PRIu64 ", %" PRIu32 "] became %g while solving: %s",
        strip->tile->row + strip->first_row + row, strip->plan->order[place + at], (double)weights[at],
        isfinite(weights[at]) ? "its scale does not fit half precision" : "it is not finite");
}

static bool all_finite(const float *weights, uint64_t count)
{
    bool finite = true;
    for (uint64_t i = 0; i < count; i++)
        finite &= isfinite(weights[i]) != 0;
    return finite;
}

/* Find the lines of part `index` of a cut, which starts at `place`, for every row of the strip. */
static enum status fit_part(
    const struct strip *strip, const struct obs_cut *cut, uint64_t index, uint64_t place, struct error *err)
{
    const struct obs_plan *plan = strip->plan;
    float *weights = strip->tile->unit_weights;
    uint64_t finite = 0;
    for (; finite < strip->rows; finite++) {
        float *row = weights + finite * cut->size;
        for (uint64_t i = 0; i < cut->size; i++)
            row[i] = current_weight(strip, finite, place + i);
        if (!all_finite(row, cut->size)) break;
    }
    uint64_t fitted = (cut == &plan->units ? plan->grids->fit_unit : plan->grids->fit_group)(
        plan, strip->tile, strip->first_row, finite, index, weights);
    if (fitted == strip->rows) return OK;
    return grid_fault(strip, fitted, place, weights + fitted * cut->size, cut->size, err);
}

/* Find what is to be found when `place` is reached. */
static enum status fit_at(const struct strip *strip, uint64_t place, struct error *err)
{
    const struct obs_plan *plan = strip->plan;
    uint64_t unit = obs_unit_at(plan, place), group = plan->group_at[place];
    enum status status = OK;
    if (plan->units.together[unit] && obs_first(&plan->units, unit) == place)
        status = fit_part(strip, &plan->units, unit, place, err);
    if (status == OK && plan->groups.size < plan->units.size && plan->groups.together[group] &&
        obs_first(&plan->groups, group) == place)
        status = fit_part(strip, &plan->groups, group, place, err);
    return status;
}

/* ---- columns ---- */

/* Round one column of the strip; error = (w - q) / U_jj. */
static void round_column(const struct strip *strip, uint64_t place)
{
    const struct obs_plan *plan = strip->plan;
    uint64_t grid = obs_line_at(plan, strip->first_row, plan->group_at[place]);
    uint64_t at = (place - strip->begin) * OBS_STRIP;
    const float *restrict step = strip->tile->step + grid, *restrict inverse = strip->tile->inverse + grid,
                          *restrict offset = strip->tile->offset + grid,
                          *restrict weight = strip->tile->column_weight + at;
    float *restrict error = strip->tile->column_error + at, *restrict steps = strip->tile->steps + at;
    float divisor = 1 / plan->problem->factor[place * plan->cols + place];
    for (uint64_t r = 0; r < OBS_STRIP; r++)
        steps[r] = (weight[r] - offset[r]) * inverse[r];
    obs_nearest_levels(plan, steps, strip->tile->zero + grid);
    obs_mask_levels(plan, steps, strip->tile->stays + at);
    for (uint64_t r = 0; r < OBS_STRIP; r++)
        error[r] = (weight[r] - (step[r] * steps[r] + offset[r])) * divisor;
}

/* Take the error of one column out of the later columns of the block. */
static void spread_error(const struct strip *strip, uint64_t place)
{
    const float *factor = strip->plan->problem->factor + place * strip->plan->cols;
    float error[OBS_STRIP];
    memcpy(error, strip->tile->column_error + (place - strip->begin) * OBS_STRIP, sizeof error);
    for (uint64_t k = place + 1; k < strip->end; k++) {
        float *weight = strip->tile->column_weight + (k - strip->begin) * OBS_STRIP, share = factor[k];
        for (uint64_t r = 0; r < OBS_STRIP; r++)
            weight[r] -= error[r] * share;
    }
}

static void load_strip(const struct strip *strip)
{
    obs_load_stays(strip->plan, strip->tile, strip->first_row, strip->rows, strip->begin, strip->end);
    for (uint64_t row = 0; row < OBS_STRIP; row++) {
        const float *weights = strip->tile->weights + (strip->first_row + row) * strip->plan->cols;
        for (uint64_t place = strip->begin; place < strip->end; place++) {
            strip->tile->column_weight[(place - strip->begin) * OBS_STRIP + row] =
                row < strip->rows ? weights[place] : 0;
        }
    }
}

/* Codes, errors, and in place of the current weights q - t. */
static void store_row(const struct strip *strip, uint64_t row)
{
    const struct obs_plan *plan = strip->plan;
    struct obs_tile *tile = strip->tile;
    uint64_t tile_row = strip->first_row + row;
    for (uint64_t place = strip->begin; place < strip->end; place++) {
        uint64_t at = (place - strip->begin) * OBS_STRIP + row, to = tile_row * plan->cols + place;
        uint64_t grid = obs_line_at(plan, tile_row, plan->group_at[place]);
        tile->codes[to] = obs_code(plan, tile->steps[at], tile->zero[grid]);
        tile->errors[tile_row * OBS_BLOCK + place - strip->begin] = tile->column_error[at];
        tile->weights[to] = tile->step[grid] * tile->steps[at] + tile->offset[grid] - tile->target[to];
    }
}

static enum status solve_strip(const struct strip *strip, struct error *err)
{
    load_strip(strip);
    for (uint64_t place = strip->begin; place < strip->end; place++) {
        enum status status = fit_at(strip, place, err);
        if (status != OK) return status;
        round_column(strip, place);
        spread_error(strip, place);
    }
    for (uint64_t row = 0; row < strip->rows; row++)
        store_row(strip, row);
    return OK;
}

/* ---- blocks ---- */

/* The changes of a row are q - t = -e U with e the column errors, and U H U^T = 1, so (q - t) H (q - t)^T = e e^T. Squares of
 * floats do not overflow: a sum that is not finite has an error in it that is not. Grids found beforehand would hide
 * such a weight that ran away. */
static enum status add_errors(
    const struct obs_plan *plan, struct obs_tile *tile, uint64_t begin, uint64_t end, struct error *err)
{
    for (uint64_t row = 0; row < tile->rows; row++) {
        const float *errors = tile->errors + row * OBS_BLOCK;
        uint64_t bad = 0;
        for (uint64_t i = 0; i < end - begin; i++)
            tile->solved[row] += (double)errors[i] * (double)errors[i];
        if (isfinite(tile->solved[row])) continue;
        while (isfinite(errors[bad]))
            bad++;
        return fail(err, ERR_NUMERIC, "weight [%" PRIu64 ", %" PRIu32 "] ceased to be finite while solving",
            tile->row + row, plan->order[begin + bad]);
    }
    return OK;
}

static enum status solve_block(
    const struct obs_plan *plan, struct obs_tile *tile, uint64_t begin, uint64_t end, struct error *err)
{
    for (uint64_t row = 0; row < tile->rows; row += OBS_STRIP) {
        uint64_t rows = tile->rows - row < OBS_STRIP ? tile->rows - row : OBS_STRIP;
        struct strip strip = {plan, tile, begin, end, row, rows};
        enum status status = solve_strip(&strip, err);
        if (status != OK) return status;
    }
    enum status status = add_errors(plan, tile, begin, end, err);
    if (status != OK) return status;
    linalg_gemm_nn(tile->rows, plan->cols - end, end - begin, -1, tile->errors, OBS_BLOCK,
        plan->problem->factor + begin * plan->cols + end, plan->cols, 1, tile->weights + end, plan->cols);
    return OK;
}

enum status obs_solve(const struct obs_plan *plan, struct obs_tile *tile, struct error *err)
{
    memcpy(tile->weights, tile->target, tile->rows * plan->cols * sizeof *tile->weights);
    memset(tile->solved, 0, sizeof tile->solved);
    for (uint64_t begin = 0, end; begin < plan->cols; begin = end) {
        end = block_end(plan, begin);
        enum status status = solve_block(plan, tile, begin, end, err);
        if (status != OK) return status;
    }
    return OK;
}
