/* Block coordinate descent. Gradients are brought up to date lazily, as the solver does with weights: within a segment
 * after every step, beyond it when the next segment is reached. */
#include "tensor/polish.h"

#include <math.h>
#include <string.h>

#include "tensor/linalg.h"

enum { WIDTH_LEAST = 256 };

uint64_t polish_width(uint64_t unit)
{
    return unit < WIDTH_LEAST ? WIDTH_LEAST : unit;
}

static bool is_together(const struct obs_plan *plan, uint64_t place)
{
    return plan->units.together[obs_unit_at(plan, place)];
}

/* Whole units up to OBS_BLOCK columns, but at least one; units that are not together count as single columns. */
static uint64_t segment_end(const struct obs_plan *plan, uint64_t begin)
{
    bool together = is_together(plan, begin);
    uint64_t step = together ? plan->units.size : 1, end = begin + step;
    while (end < plan->cols && is_together(plan, end) == together && end + step - begin <= OBS_BLOCK)
        end += step;
    return end;
}

/* ---- lines ---- */

void polish_product(const struct polish_segment *segment, int which, uint64_t at, uint64_t count)
{
    struct obs_tile *tile = segment->tile;
    uint64_t stride = segment->plan->cols;
    linalg_gemm_nn(tile->rows, segment->end - segment->begin, count, 1, tile->direction[which],
        segment->width, segment->hessian + at * stride, stride, 0, tile->product[which], segment->width);
}

double polish_dot(const float *a, const float *b, uint64_t count)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

void polish_move(const struct polish_segment *segment, uint64_t row, const uint32_t *members, uint64_t count,
    float step, const float *direction, const float *product)
{
    float *offset = segment->tile->weights + row * segment->plan->cols;
    float *gradient = segment->tile->gradient + row * segment->width;
    for (uint64_t i = 0; i < count; i++)
        offset[members[i]] += step * direction[i];
    for (uint64_t i = 0; i < segment->end - segment->begin; i++)
        gradient[i] += step * product[i];
}

/* A unit whose columns lie apart: gather its rows of H (which are its columns too) for the gradient, then of these
 * its own columns, in place, since places only grow. */
static bool refit_scattered(const struct obs_plan *plan, struct obs_tile *tile, uint64_t unit)
{
    uint64_t size = plan->units.size;
    const uint32_t *members = plan->units.members + unit * size;
    struct polish_segment segment = {plan, tile, tile->gathered, 0, size, polish_width(size)};
    for (uint64_t i = 0; i < size; i++) {
        memcpy(tile->gathered + i * plan->cols, plan->problem->damped + members[i] * plan->cols,
            plan->cols * sizeof *tile->gathered);
    }
    linalg_gemm_nt(tile->rows, size, plan->cols, 1, tile->weights, plan->cols, tile->gathered, plan->cols, 0,
        tile->gradient, segment.width);
    for (uint64_t i = 0; i < size; i++) {
        float *row = tile->gathered + i * plan->cols;
        for (uint64_t k = 0; k < size; k++)
            row[k] = row[members[k]];
    }
    return plan->grids->refit_unit(&segment, unit, 0);
}

/* ---- codes ---- */

/* Some rows of a block of a segment. */
struct strip {
    const struct polish_segment *segment;
    uint64_t begin, end, first_row, rows;
};

/* Gradients and steps of the strip, columns outside; rows that are not there have gradient 0 and do not move. */
static void load_strip(const struct strip *strip)
{
    const struct polish_segment *segment = strip->segment;
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    obs_load_stays(plan, tile, strip->first_row, strip->rows, strip->begin, strip->end);
    for (uint64_t place = strip->begin; place < strip->end; place++) {
        const float *zero = tile->zero + obs_line_at(plan, strip->first_row, plan->group_at[place]);
        uint64_t to = (place - strip->begin) * OBS_STRIP, from = strip->first_row * segment->width + place;
        for (uint64_t r = 0; r < OBS_STRIP; r++) {
            bool there = r < strip->rows;
            tile->column_weight[to + r] =
                there ? tile->gradient[from + r * segment->width - segment->begin] : 0;
            tile->steps[to + r] =
                there ? obs_level(plan, tile->codes[(strip->first_row + r) * plan->cols + place], zero[r])
                      : 0;
        }
    }
}

/* Move every row's code of one column to the best one, where that is better; the changes go to column_error. */
static bool improve_column(const struct strip *strip, uint64_t place)
{
    const struct obs_plan *plan = strip->segment->plan;
    struct obs_tile *tile = strip->segment->tile;
    uint64_t grid = obs_line_at(plan, strip->first_row, plan->group_at[place]);
    uint64_t at = (place - strip->begin) * OBS_STRIP;
    const float *restrict step = tile->step + grid, *restrict inverse = tile->inverse + grid,
                          *restrict gradient = tile->column_weight + at;
    float *restrict change = tile->column_error + at, *restrict steps = tile->steps + at;
    float diagonal = plan->problem->damped[place * plan->cols + place], best[OBS_STRIP];
    float reach = 1 / diagonal, most = 0;
    for (uint64_t r = 0; r < OBS_STRIP; r++)
        best[r] = (step[r] * steps[r] - gradient[r] * reach) * inverse[r];
    obs_nearest_levels(plan, best, tile->zero + grid);
    obs_mask_levels(plan, best, tile->stays + at);
    for (uint64_t r = 0; r < OBS_STRIP; r++) {
        float delta = step[r] * (best[r] - steps[r]);
        bool better = delta * (2 * gradient[r] + delta * diagonal) < 0;
        change[r] = better ? delta : 0;
        steps[r] = better ? best[r] : steps[r];
    }
    for (uint64_t r = 0; r < OBS_STRIP; r++)
        most = fabsf(change[r]) > most ? fabsf(change[r]) : most;
    return most > 0;
}

static void spread_change(const struct strip *strip, uint64_t place)
{
    const struct obs_plan *plan = strip->segment->plan;
    const float *damped = plan->problem->damped + place * plan->cols;
    float change[OBS_STRIP];
    memcpy(change, strip->segment->tile->column_error + (place - strip->begin) * OBS_STRIP, sizeof change);
    for (uint64_t k = place + 1; k < strip->end; k++) {
        float *gradient = strip->segment->tile->column_weight + (k - strip->begin) * OBS_STRIP,
              share = damped[k];
        for (uint64_t r = 0; r < OBS_STRIP; r++)
            gradient[r] += change[r] * share;
    }
}

static void store_row(const struct strip *strip, uint64_t row)
{
    const struct obs_plan *plan = strip->segment->plan;
    struct obs_tile *tile = strip->segment->tile;
    uint64_t tile_row = strip->first_row + row;
    for (uint64_t place = strip->begin; place < strip->end; place++) {
        uint64_t at = (place - strip->begin) * OBS_STRIP + row, to = tile_row * plan->cols + place;
        float zero = tile->zero[obs_line_at(plan, tile_row, plan->group_at[place])];
        tile->codes[to] = obs_code(plan, tile->steps[at], zero);
        tile->weights[to] += tile->column_error[at];
        tile->errors[tile_row * OBS_BLOCK + place - strip->begin] = tile->column_error[at];
    }
}

static bool improve_strip(const struct strip *strip)
{
    bool changed = false;
    load_strip(strip);
    for (uint64_t place = strip->begin; place < strip->end; place++) {
        if (!improve_column(strip, place)) continue;
        changed = true;
        spread_change(strip, place);
    }
    for (uint64_t row = 0; row < strip->rows; row++)
        store_row(strip, row);
    return changed;
}

static bool improve_block(const struct polish_segment *segment, uint64_t begin, uint64_t end)
{
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    bool changed = false;
    for (uint64_t row = 0; row < tile->rows; row += OBS_STRIP) {
        uint64_t rows = tile->rows - row < OBS_STRIP ? tile->rows - row : OBS_STRIP;
        struct strip strip = {segment, begin, end, row, rows};
        changed |= improve_strip(&strip);
    }
    if (!changed) return false;
    linalg_gemm_nn(tile->rows, segment->end - end, end - begin, 1, tile->errors, OBS_BLOCK,
        plan->problem->damped + begin * plan->cols + end, plan->cols, 1,
        tile->gradient + (end - segment->begin), segment->width);
    return true;
}

/* ---- rounds ---- */

/* Places [begin, end): gradient, grids, codes. */
static bool polish_segment(const struct obs_plan *plan, struct obs_tile *tile, uint64_t begin, uint64_t end)
{
    const float *damped = plan->problem->damped;
    uint64_t width = polish_width(plan->units.size);
    struct polish_segment segment = {plan, tile, damped + begin * plan->cols + begin, begin, end, width};
    bool changed = false;
    linalg_gemm_nn(tile->rows, end - begin, plan->cols, 1, tile->weights, plan->cols, damped + begin,
        plan->cols, 0, tile->gradient, width);
    for (uint64_t first = begin; first < end && is_together(plan, begin); first += plan->units.size)
        changed |= plan->grids->refit_unit(&segment, obs_unit_at(plan, first), first - begin);
    for (uint64_t block = begin, stop; block < end; block = stop) {
        stop = end - block < OBS_BLOCK ? end : block + OBS_BLOCK;
        changed |= improve_block(&segment, block, stop);
    }
    return changed;
}

static bool polish_round(const struct obs_plan *plan, struct obs_tile *tile)
{
    bool changed = false;
    for (uint64_t unit = 0; unit < plan->units.count && plan->scattered; unit++) {
        if (!plan->units.together[unit]) changed |= refit_scattered(plan, tile, unit);
    }
    for (uint64_t begin = 0, end; begin < plan->cols; begin = end) {
        end = segment_end(plan, begin);
        changed |= polish_segment(plan, tile, begin, end);
    }
    return changed;
}

void polish_tile(const struct obs_plan *plan, struct obs_tile *tile, unsigned rounds)
{
    while (rounds-- && polish_round(plan, tile)) {
    }
}
