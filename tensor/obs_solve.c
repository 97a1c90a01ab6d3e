/* Column by column within a block, then one product for the columns after it (lazy batches, Frantar et al. 2022, section
 * 3.3). Blocks end where a group ends, so the grid of a group is always found on weights that are up to date: those of
 * its columns that lie beyond the block have seen every block before. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/linalg.h"
#include "tensor/obs_tile.h"

/* Some rows of a block. */
struct strip {
    const struct obs_plan *plan;
    struct obs_tile *tile;
    uint64_t begin, end;      /* places */
    uint64_t first_row, rows; /* of the tile; rows up to OBS_STRIP are filled with zeros */
};

void obs_tile_set_grid(
    const struct obs_plan *plan, struct obs_tile *tile, uint64_t row, uint64_t group, float scale, float zero)
{
    uint64_t at = group * plan->tile_rows + row;
    tile->scale[at] = scale;
    tile->inverse[at] = scale == 0 ? 0 : 1 / scale;
    tile->zero[at] = zero;
}

/* A block may not end within a group that starts within it. */
static uint64_t block_end(const struct obs_plan *plan, uint64_t begin)
{
    uint64_t end = begin + OBS_BLOCK;
    if (end >= plan->cols) return plan->cols;
    uint32_t group = plan->group_at[end];
    if (plan->together[group] && obs_first(plan, group) > begin) return obs_first(plan, group);
    return end;
}

/* ---- grids ---- */

static float current_weight(const struct strip *strip, uint64_t row, uint64_t place)
{
    if (place < strip->end) return strip->tile->column_weight[(place - strip->begin) * OBS_STRIP + row];
    return strip->tile->weights[(strip->first_row + row) * strip->plan->cols + place];
}

static enum status grid_fault(
    const struct strip *strip, uint64_t row, uint64_t place, const float *weights, struct error *err)
{
    uint64_t at = 0;
    for (uint64_t i = 0; i < strip->plan->group && isfinite(weights[at]); i++) {
        if (!(fabsf(weights[i]) <= fabsf(weights[at]))) at = i;
    }
    return fail(err, ERR_NUMERIC, "weight [%" PRIu64 ", %" PRIu32 "] became %g while solving: %s",
        strip->tile->row + strip->first_row + row, strip->plan->order[place + at], (double)weights[at],
        isfinite(weights[at]) ? "its scale does not fit half precision" : "it is not finite");
}

/* Find the grids of the group that starts at `place`, for every row of the strip. */
static enum status fit_group(const struct strip *strip, uint64_t place, struct error *err)
{
    const struct obs_plan *plan = strip->plan;
    const struct obs_problem *problem = plan->problem;
    const float *importance = plan->importance ? plan->importance + place : NULL;
    float *weights = strip->tile->one_group;
    for (uint64_t row = 0; row < strip->rows; row++) {
        struct grid grid;
        for (uint64_t i = 0; i < plan->group; i++)
            weights[i] = current_weight(strip, row, place + i);
        if (!grid_fit(&grid, weights, importance, plan->group, problem->scheme.bits,
                problem->scheme.asymmetric, problem->range))
            return grid_fault(strip, row, place, weights, err);
        obs_tile_set_grid(plan, strip->tile, strip->first_row + row, plan->group_at[place],
            dtype_f16_to_f32(grid.scale), grid.zero);
    }
    return OK;
}

/* ---- columns ---- */

/* Round one column of the strip; error = (w - q) / U_jj. */
static void round_column(const struct strip *strip, uint64_t place)
{
    const struct obs_plan *plan = strip->plan;
    uint64_t grid = plan->group_at[place] * plan->tile_rows + strip->first_row;
    uint64_t at = (place - strip->begin) * OBS_STRIP;
    const float *restrict scale = strip->tile->scale + grid, *restrict inverse = strip->tile->inverse + grid,
                          *restrict zero = strip->tile->zero + grid,
                          *restrict weight = strip->tile->column_weight + at;
    float *restrict error = strip->tile->column_error + at, *restrict steps = strip->tile->steps + at;
    float divisor = 1 / plan->problem->factor[place * plan->cols + place], top = plan->top;
    for (uint64_t r = 0; r < OBS_STRIP; r++) {
        steps[r] = obs_nearest_step(weight[r] * inverse[r], -zero[r], top - zero[r]);
        error[r] = (weight[r] - scale[r] * steps[r]) * divisor;
    }
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
        uint64_t grid = plan->group_at[place] * plan->tile_rows + tile_row;
        tile->codes[to] = (uint8_t)(tile->steps[at] + tile->zero[grid]);
        tile->errors[tile_row * OBS_BLOCK + place - strip->begin] = tile->column_error[at];
        tile->weights[to] = tile->scale[grid] * tile->steps[at] - tile->target[to];
    }
}

static enum status solve_strip(const struct strip *strip, struct error *err)
{
    const struct obs_plan *plan = strip->plan;
    load_strip(strip);
    for (uint64_t place = strip->begin; place < strip->end; place++) {
        uint32_t group = plan->group_at[place];
        if (plan->together[group] && obs_first(plan, group) == place) {
            enum status status = fit_group(strip, place, err);
            if (status != OK) return status;
        }
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
