/* Block coordinate descent. Gradients are brought up to date lazily, as the solver does with weights: within a segment
 * after every step, beyond it when the next segment is reached. */
#include "tensor/polish.h"

#include <math.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/linalg.h"

enum { WIDTH_LEAST = 256 };

/* Columns of a tile whose gradient is at hand: places [begin, end), or the columns of one scattered group (begin 0, end
 * its size). */
struct segment {
    const struct obs_plan *plan;
    struct obs_tile *tile;
    const float *hessian; /* of these columns; stride plan->cols */
    uint64_t begin, end, width;
};

uint64_t polish_width(uint64_t group)
{
    return group < WIDTH_LEAST ? WIDTH_LEAST : group;
}

static bool is_together(const struct obs_plan *plan, uint64_t place)
{
    return plan->together[plan->group_at[place]];
}

/* Whole groups up to OBS_BLOCK columns, but at least one; groups that are not together count as single columns. */
static uint64_t segment_end(const struct obs_plan *plan, uint64_t begin)
{
    bool together = is_together(plan, begin);
    uint64_t step = together ? plan->group : 1, end = begin + step;
    while (end < plan->cols && is_together(plan, end) == together && end + step - begin <= OBS_BLOCK)
        end += step;
    return end;
}

/* ---- grids ---- */

/* A group, and where it starts in its segment. */
struct part {
    uint64_t group, at;
};

static float *gradient_of(const struct segment *segment, struct part part, uint64_t row)
{
    return segment->tile->gradient + row * segment->width + part.at;
}

/* direction = code - zero for a group of every row; product = direction H over the segment. */
static void scale_direction(const struct segment *segment, struct part part)
{
    const struct obs_plan *plan = segment->plan;
    const uint32_t *members = plan->members + part.group * plan->group;
    struct obs_tile *tile = segment->tile;
    for (uint64_t row = 0; row < tile->rows; row++) {
        float zero = tile->zero[part.group * plan->tile_rows + row];
        float *direction = tile->direction + row * segment->width;
        for (uint64_t i = 0; i < plan->group; i++)
            direction[i] = tile->codes[row * plan->cols + members[i]] - zero;
    }
    linalg_gemm_nn(tile->rows, segment->end - segment->begin, plan->group, 1, tile->direction, segment->width,
        segment->hessian + part.at * plan->cols, plan->cols, 0, tile->product, segment->width);
}

/* Slope and curvature of half the objective along a direction. */
struct line {
    double slope, curvature;
};

static struct line line_of(
    const float *direction, const float *gradient, const float *product, uint64_t count)
{
    struct line line = {0, 0};
    for (uint64_t i = 0; i < count; i++) {
        line.slope += (double)direction[i] * gradient[i];
        line.curvature += (double)direction[i] * product[i];
    }
    return line;
}

static bool lowers(struct line line, double step)
{
    return step * (2 * line.slope + step * line.curvature) < 0;
}

/* q changes by step * direction in the group, and the gradient by step * product in the segment. */
static void move_row(const struct segment *segment, uint64_t row, struct part part, float step,
    const float *direction, const float *product)
{
    const struct obs_plan *plan = segment->plan;
    const uint32_t *members = plan->members + part.group * plan->group;
    float *offset = segment->tile->weights + row * plan->cols;
    float *gradient = segment->tile->gradient + row * segment->width;
    for (uint64_t i = 0; i < plan->group; i++)
        offset[members[i]] += step * direction[i];
    for (uint64_t i = 0; i < segment->end - segment->begin; i++)
        gradient[i] += step * product[i];
}

static bool refit_scale(const struct segment *segment, uint64_t row, struct part part)
{
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    const float *direction = tile->direction + row * segment->width;
    const float *product = tile->product + row * segment->width;
    uint64_t grid = part.group * plan->tile_rows + row;
    float before = tile->scale[grid];
    struct line line = line_of(direction, gradient_of(segment, part, row), product + part.at, plan->group);
    if (!(line.curvature > 0)) return false;
    uint16_t half = dtype_f32_to_f16((float)(before - line.slope / line.curvature));
    float after = dtype_f16_to_f32(half);
    if (after == 0 || !isfinite(after) || !lowers(line, after - before)) return false;
    obs_tile_set_grid(plan, tile, row, part.group, after, tile->zero[grid]);
    move_row(segment, row, part, after - before, direction, product);
    return true;
}

/* All values of a group go up or down together when its zero-point moves: direction 1, the same for every row. */
static void zero_direction(const struct segment *segment, struct part part)
{
    const struct obs_plan *plan = segment->plan;
    float *product = segment->tile->product;
    memset(product, 0, (segment->end - segment->begin) * sizeof *product);
    for (uint64_t i = 0; i < plan->group; i++) {
        const float *hessian = segment->hessian + (part.at + i) * plan->cols;
        segment->tile->direction[i] = 1;
        for (uint64_t k = 0; k < segment->end - segment->begin; k++)
            product[k] += hessian[k];
    }
}

static bool refit_zero(const struct segment *segment, uint64_t row, struct part part)
{
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    uint64_t grid = part.group * plan->tile_rows + row;
    float scale = tile->scale[grid], before = tile->zero[grid];
    struct line line =
        line_of(tile->direction, gradient_of(segment, part, row), tile->product + part.at, plan->group);
    if (!(line.curvature > 0) || scale == 0) return false;
    float after = obs_nearest_step((float)(before + line.slope / (line.curvature * scale)), 0, plan->top);
    if (!lowers(line, scale * (before - after))) return false;
    obs_tile_set_grid(plan, tile, row, part.group, scale, after);
    move_row(segment, row, part, scale * (before - after), tile->direction, tile->product);
    return true;
}

static bool refit_group(const struct segment *segment, struct part part)
{
    bool changed = false;
    scale_direction(segment, part);
    for (uint64_t row = 0; row < segment->tile->rows; row++)
        changed |= refit_scale(segment, row, part);
    if (!segment->plan->problem->scheme.asymmetric) return changed;
    zero_direction(segment, part);
    for (uint64_t row = 0; row < segment->tile->rows; row++)
        changed |= refit_zero(segment, row, part);
    return changed;
}

/* A group whose columns lie apart: gather its rows of H (which are its columns too) for the gradient, then of these
 * its own columns, in place, since places only grow. */
static bool refit_scattered(const struct obs_plan *plan, struct obs_tile *tile, uint64_t group)
{
    const uint32_t *members = plan->members + group * plan->group;
    struct segment segment = {plan, tile, tile->gathered, 0, plan->group, polish_width(plan->group)};
    for (uint64_t i = 0; i < plan->group; i++) {
        memcpy(tile->gathered + i * plan->cols, plan->problem->damped + members[i] * plan->cols,
            plan->cols * sizeof *tile->gathered);
    }
    linalg_gemm_nt(tile->rows, plan->group, plan->cols, 1, tile->weights, plan->cols, tile->gathered,
        plan->cols, 0, tile->gradient, segment.width);
    for (uint64_t i = 0; i < plan->group; i++) {
        float *row = tile->gathered + i * plan->cols;
        for (uint64_t k = 0; k < plan->group; k++)
            row[k] = row[members[k]];
    }
    return refit_group(&segment, (struct part){group, 0});
}

/* ---- codes ---- */

/* Some rows of a block of a segment. */
struct strip {
    const struct segment *segment;
    uint64_t begin, end, first_row, rows;
};

/* Gradients and steps of the strip, columns outside; rows that are not there have gradient 0 and do not move. */
static void load_strip(const struct strip *strip)
{
    const struct segment *segment = strip->segment;
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    for (uint64_t place = strip->begin; place < strip->end; place++) {
        const float *zero = tile->zero + plan->group_at[place] * plan->tile_rows + strip->first_row;
        uint64_t to = (place - strip->begin) * OBS_STRIP, from = strip->first_row * segment->width + place;
        for (uint64_t r = 0; r < OBS_STRIP; r++) {
            bool there = r < strip->rows;
            tile->column_weight[to + r] =
                there ? tile->gradient[from + r * segment->width - segment->begin] : 0;
            tile->steps[to + r] =
                there ? tile->codes[(strip->first_row + r) * plan->cols + place] - zero[r] : 0;
        }
    }
}

/* Move every row's code of one column to the best one, where that is better; the changes go to column_error. */
static bool improve_column(const struct strip *strip, uint64_t place)
{
    const struct obs_plan *plan = strip->segment->plan;
    struct obs_tile *tile = strip->segment->tile;
    uint64_t grid = plan->group_at[place] * plan->tile_rows + strip->first_row;
    uint64_t at = (place - strip->begin) * OBS_STRIP;
    const float *restrict scale = tile->scale + grid, *restrict inverse = tile->inverse + grid,
                          *restrict zero = tile->zero + grid, *restrict gradient = tile->column_weight + at;
    float *restrict change = tile->column_error + at, *restrict steps = tile->steps + at;
    float diagonal = plan->problem->damped[place * plan->cols + place], top = plan->top;
    float reach = 1 / diagonal, most = 0;
    for (uint64_t r = 0; r < OBS_STRIP; r++) {
        float best = (scale[r] * steps[r] - gradient[r] * reach) * inverse[r];
        best = obs_nearest_step(best, -zero[r], top - zero[r]);
        float delta = scale[r] * (best - steps[r]);
        bool better = delta * (2 * gradient[r] + delta * diagonal) < 0;
        change[r] = better ? delta : 0;
        steps[r] = better ? best : steps[r];
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
        float zero = tile->zero[plan->group_at[place] * plan->tile_rows + tile_row];
        tile->codes[to] = (uint8_t)(tile->steps[at] + zero);
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

static bool improve_block(const struct segment *segment, uint64_t begin, uint64_t end)
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
    uint64_t width = polish_width(plan->group);
    struct segment segment = {plan, tile, damped + begin * plan->cols + begin, begin, end, width};
    bool changed = false;
    linalg_gemm_nn(tile->rows, end - begin, plan->cols, 1, tile->weights, plan->cols, damped + begin,
        plan->cols, 0, tile->gradient, width);
    for (uint64_t first = begin; first < end && is_together(plan, begin); first += plan->group)
        changed |= refit_group(&segment, (struct part){plan->group_at[first], first - begin});
    for (uint64_t block = begin, stop; block < end; block = stop) {
        stop = end - block < OBS_BLOCK ? end : block + OBS_BLOCK;
        changed |= improve_block(&segment, block, stop);
    }
    return changed;
}

static bool polish_round(const struct obs_plan *plan, struct obs_tile *tile)
{
    bool changed = false;
    for (uint64_t group = 0; group < plan->groups && plan->scattered; group++) {
        if (!plan->together[group]) changed |= refit_scattered(plan, tile, group);
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
