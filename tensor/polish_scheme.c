/* Moves of a scheme's scales and zero-points, one after the other; codes stay. */
#include <math.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/polish.h"

/* A group, and where it starts in its segment. */
struct part {
    uint64_t group, at;
};

static const uint32_t *members_of(const struct polish_segment *segment, struct part part)
{
    return segment->plan->groups.members + part.group * segment->plan->groups.size;
}

static float *gradient_of(const struct polish_segment *segment, struct part part, uint64_t row)
{
    return segment->tile->gradient + row * segment->width + part.at;
}

/* direction = code - zero for a group of every row; product = direction H over the segment. */
static void scale_direction(const struct polish_segment *segment, struct part part)
{
    const struct obs_plan *plan = segment->plan;
    const uint32_t *members = members_of(segment, part);
    struct obs_tile *tile = segment->tile;
    for (uint64_t row = 0; row < tile->rows; row++) {
        float zero = tile->zero[obs_line_at(plan, row, part.group)];
        float *direction = tile->direction[0] + row * segment->width;
        for (uint64_t i = 0; i < plan->groups.size; i++)
            direction[i] = tile->codes[row * plan->cols + members[i]] - zero;
    }
    polish_product(segment, 0, part.at, plan->groups.size);
}

/* Slope and curvature of half the objective along a direction. */
struct line {
    double slope, curvature;
};

static struct line line_of(
    const float *direction, const float *gradient, const float *product, uint64_t count)
{
    return (struct line){polish_dot(direction, gradient, count), polish_dot(direction, product, count)};
}

static bool lowers(struct line line, double step)
{
    return step * (2 * line.slope + step * line.curvature) < 0;
}

static bool refit_scale(const struct polish_segment *segment, uint64_t row, struct part part)
{
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    const float *direction = tile->direction[0] + row * segment->width;
    const float *product = tile->product[0] + row * segment->width;
    uint64_t grid = obs_line_at(plan, row, part.group), size = plan->groups.size;
    float before = tile->step[grid];
    struct line line = line_of(direction, gradient_of(segment, part, row), product + part.at, size);
    if (!(line.curvature > 0)) return false;
    uint16_t half = dtype_f32_to_f16((float)(before - line.slope / line.curvature));
    float after = dtype_f16_to_f32(half);
    if (after == 0 || !isfinite(after) || !lowers(line, after - before)) return false;
    obs_tile_set_line(plan, tile, row, part.group, after, tile->zero[grid], 0);
    polish_move(segment, row, members_of(segment, part), size, after - before, direction, product);
    return true;
}

/* All values of a group go up or down together when its zero-point moves: direction 1, the same for every row. */
static void zero_direction(const struct polish_segment *segment, struct part part)
{
    const struct obs_plan *plan = segment->plan;
    float *product = segment->tile->product[0];
    memset(product, 0, (segment->end - segment->begin) * sizeof *product);
    for (uint64_t i = 0; i < plan->groups.size; i++) {
        const float *hessian = segment->hessian + (part.at + i) * plan->cols;
        segment->tile->direction[0][i] = 1;
        for (uint64_t k = 0; k < segment->end - segment->begin; k++)
            product[k] += hessian[k];
    }
}

static bool refit_zero(const struct polish_segment *segment, uint64_t row, struct part part)
{
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    const float *direction = tile->direction[0], *product = tile->product[0];
    uint64_t grid = obs_line_at(plan, row, part.group), size = plan->groups.size;
    float scale = tile->step[grid], before = tile->zero[grid];
    struct line line = line_of(direction, gradient_of(segment, part, row), product + part.at, size);
    if (!(line.curvature > 0) || scale == 0) return false;
    float after = obs_nearest_step((float)(before + line.slope / (line.curvature * scale)), 0, plan->top);
    if (!lowers(line, scale * (before - after))) return false;
    obs_tile_set_line(plan, tile, row, part.group, scale, after, 0);
    polish_move(segment, row, members_of(segment, part), size, scale * (before - after), direction, product);
    return true;
}

bool polish_scheme_refit(const struct polish_segment *segment, uint64_t unit, uint64_t at)
{
    struct part part = {unit, at};
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
