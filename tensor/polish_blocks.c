/* Moves of the parameters of blocks, on both levels: scale and minimum of a sub-block (whole numbers), d and m of a block (halves). On
 * either, values move along two directions at once, the objective is a quadratic of two variables, and the best pair that can be
 * stored is looked for around its minimum. Codes stay. */
#include <math.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/obs_tile.h"
#include "tensor/polish.h"

/* The columns that move: `count` of the segment from `at` on, which are `count` places of a unit. */
struct span {
    uint64_t unit, at, count;
    const uint32_t *members;
};

/* Half of the objective's change for steps a, b along two directions: slope . (a, b) + (a, b) curve (a, b)^T / 2. */
struct plane {
    double slope[2], aa, ab, bb;
};

static double change_of(const struct plane *plane, double a, double b)
{
    return 2 * (plane->slope[0] * a + plane->slope[1] * b) + plane->aa * a * a + 2 * plane->ab * a * b +
           plane->bb * b * b;
}

/* The best b for a given a. */
static double best_b(const struct plane *plane, double a)
{
    return plane->bb > 0 ? -(plane->slope[1] + plane->ab * a) / plane->bb : 0;
}

/* The best a, with b free; NaN if there is none. */
static double best_a(const struct plane *plane, bool with_b)
{
    double slope = plane->slope[0], curvature = plane->aa;
    if (with_b && plane->bb > 0) {
        slope -= plane->ab * plane->slope[1] / plane->bb;
        curvature -= plane->ab * plane->ab / plane->bb;
    }
    return curvature > 0 ? -slope / curvature : NAN;
}

static float *direction_of(const struct polish_segment *segment, int which, uint64_t row)
{
    return segment->tile->direction[which] + row * segment->width;
}

static float *product_of(const struct polish_segment *segment, int which, uint64_t row)
{
    return segment->tile->product[which] + row * segment->width;
}

static struct plane plane_of(
    const struct polish_segment *segment, const struct span *span, uint64_t row, bool with_b)
{
    const float *gradient = segment->tile->gradient + row * segment->width + span->at;
    const float *a = direction_of(segment, 0, row), *b = direction_of(segment, 1, row);
    const float *of_a = product_of(segment, 0, row) + span->at;
    const float *of_b = product_of(segment, 1, row) + span->at;
    struct plane plane = {
        .slope = {polish_dot(a, gradient, span->count), 0}, .aa = polish_dot(a, of_a, span->count)};
    if (!with_b) return plane;
    plane.slope[1] = polish_dot(b, gradient, span->count);
    plane.ab = polish_dot(b, of_a, span->count);
    plane.bb = polish_dot(b, of_b, span->count);
    return plane;
}

static void move(
    const struct polish_segment *segment, const struct span *span, uint64_t row, double a, double b)
{
    polish_move(segment, row, span->members, span->count, (float)a, direction_of(segment, 0, row),
        product_of(segment, 0, row));
    if (b == 0) return;
    polish_move(segment, row, span->members, span->count, (float)b, direction_of(segment, 1, row),
        product_of(segment, 1, row));
}

/* ---- sub-blocks ---- */

static int nearest_within(double value, int least, int most)
{
    return value <= least ? least : value >= most ? most : (int)lrint(value);
}

/* The scale and the minimum of one row's sub-block: for each whole number near the best scale, the best minimum. */
static bool refit_sub_row(
    const struct polish_segment *segment, const struct span *span, uint64_t row, uint64_t group)
{
    const struct block_form *form = segment->plan->form;
    struct block_parts *parts = obs_blocks_parts(segment->plan, segment->tile, row, span->unit);
    bool with_min = form->min_most > 0;
    uint64_t sub = group % form->subs;
    double d = dtype_f16_to_f32(parts->d), m = dtype_f16_to_f32(parts->m), best = 0;
    struct plane plane = plane_of(segment, span, row, with_min);
    int scale = parts->scale[sub], min = parts->min[sub], best_scale = scale, best_min = min;
    double wanted = d == 0 ? NAN : scale + best_a(&plane, with_min) / d;
    if (!isfinite(wanted)) return false;
    int middle = nearest_within(wanted, form->scale_least, form->scale_most);
    for (int s = middle - 2; s <= middle + 2; s++) {
        if (s < form->scale_least || s > form->scale_most || s == 0) continue;
        double a = d * (s - scale);
        int n = with_min && m != 0 ? nearest_within(min - best_b(&plane, a) / m, 0, form->min_most) : min;
        double change = change_of(&plane, a, m * (min - n));
        if (!(change < best)) continue;
        best = change;
        best_scale = s;
        best_min = n;
    }
    if (!(best < 0)) return false;
    parts->scale[sub] = (int16_t)best_scale;
    parts->min[sub] = (uint8_t)best_min;
    obs_blocks_set_line(segment->plan, segment->tile, row, group);
    move(segment, span, row, d * (best_scale - scale), m * (min - best_min));
    return true;
}

/* Directions of a sub-block: levels, and 1. Where its columns do not lie side by side, they are those of the whole unit, the others 0. */
static void sub_directions(const struct polish_segment *segment, const struct span *span, uint64_t group)
{
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    for (uint64_t row = 0; row < tile->rows; row++) {
        float *a = direction_of(segment, 0, row), *b = direction_of(segment, 1, row);
        float zero = tile->zero[obs_line_at(plan, row, group)];
        for (uint64_t i = 0; i < span->count; i++) {
            uint64_t place = span->members[i];
            bool within = plan->group_at[place] == group;
            a[i] = within ? obs_level(plan, tile->codes[row * plan->cols + place], zero) : 0;
            b[i] = within;
        }
    }
}

static bool refit_sub(const struct polish_segment *segment, const struct span *unit, uint64_t group)
{
    const struct obs_plan *plan = segment->plan;
    struct span span = *unit;
    bool changed = false;
    if (plan->units.together[unit->unit] && plan->groups.together[group]) {
        span.members = plan->groups.members + group * plan->groups.size;
        span.at += span.members[0] - unit->members[0];
        span.count = plan->groups.size;
    }
    sub_directions(segment, &span, group);
    polish_product(segment, 0, span.at, span.count);
    if (plan->form->min_most) polish_product(segment, 1, span.at, span.count);
    for (uint64_t row = 0; row < segment->tile->rows; row++)
        changed |= refit_sub_row(segment, &span, row, group);
    return changed;
}

/* ---- blocks ---- */

/* What a value is multiplied by in d, and in m. */
static void block_directions(const struct polish_segment *segment, const struct span *span)
{
    const struct obs_plan *plan = segment->plan;
    struct obs_tile *tile = segment->tile;
    for (uint64_t row = 0; row < tile->rows; row++) {
        const struct block_parts *parts = obs_blocks_parts(plan, tile, row, span->unit);
        float *a = direction_of(segment, 0, row), *b = direction_of(segment, 1, row);
        for (uint64_t i = 0; i < span->count; i++) {
            uint64_t place = span->members[i], group = plan->group_at[place], sub = group % plan->form->subs;
            float zero = tile->zero[obs_line_at(plan, row, group)];
            a[i] = parts->scale[sub] * obs_level(plan, tile->codes[row * plan->cols + place], zero);
            b[i] = plan->form->min_most ? -(float)parts->min[sub] : 1;
        }
    }
}

/* The nearest half; 0 for what is none. */
static uint16_t half_of(double value)
{
    uint16_t half = dtype_f32_to_f16((float)value);
    return isfinite(dtype_f16_to_f32(half)) ? half : 0;
}

static bool refit_block_row(const struct polish_segment *segment, const struct span *span, uint64_t row)
{
    struct block_parts *parts = obs_blocks_parts(segment->plan, segment->tile, row, span->unit);
    bool with_m = segment->plan->form->offset;
    double d = dtype_f16_to_f32(parts->d), m = dtype_f16_to_f32(parts->m);
    struct plane plane = plane_of(segment, span, row, with_m);
    uint16_t half_d = half_of(d + best_a(&plane, with_m)), half_m = parts->m;
    if ((half_d & 0x7fff) == 0) half_d = parts->d;
    double a = dtype_f16_to_f32(half_d) - d, b = 0;
    if (with_m) half_m = half_of(m + best_b(&plane, a));
    b = dtype_f16_to_f32(half_m) - m;
    if (!(change_of(&plane, a, b) < 0)) return false;
    parts->d = half_d;
    parts->m = half_m;
    obs_blocks_set_lines(segment->plan, segment->tile, row, span->unit);
    move(segment, span, row, a, b);
    return true;
}

static bool refit_block(const struct polish_segment *segment, const struct span *span)
{
    bool changed = false;
    block_directions(segment, span);
    polish_product(segment, 0, span->at, span->count);
    if (segment->plan->form->offset) polish_product(segment, 1, span->at, span->count);
    for (uint64_t row = 0; row < segment->tile->rows; row++)
        changed |= refit_block_row(segment, span, row);
    return changed;
}

bool polish_blocks_refit(const struct polish_segment *segment, uint64_t unit, uint64_t at)
{
    const struct obs_plan *plan = segment->plan;
    uint64_t subs = plan->form->subs;
    struct span span = {unit, at, plan->units.size, plan->units.members + unit * plan->units.size};
    bool changed = false;
    for (uint64_t sub = 0; subs > 1 && sub < subs; sub++)
        changed |= refit_sub(segment, &span, unit * subs + sub);
    return refit_block(segment, &span) || changed;
}
