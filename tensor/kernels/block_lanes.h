/* Fitting sub-blocks (tensor/block_fit.h), written once for all kernel sets: each lane is one sub-block, sums run over its weights in
 * their order and no lane knows of another, so a set that has eight lanes in a register gives the bits of one that has one.
 *
 * A set defines, before it includes this:
 *   lanes, lanes_mask     LANES_WIDTH floats (1, 2, 4 or 8), and truths for them
 *   LANES_WIDTH
 *   LANES_KERNEL(name)    the name of the set's kernel
 *   lanes_load lanes_store lanes_all            floats at an address; one float in all lanes
 *   lanes_add _sub _mul _div _min _max          a op b; min and max give b if a and b are equal
 *   lanes_round           to the nearest whole number, half to even, magnitude below 2^22; the sign of a zero does not matter
 *   lanes_above           a > b
 *   lanes_choose          mask ? a : b
 *   lanes_nearest         the nearest of 16 rising levels, the lower one if there are two
 * Products and sums must not be fused. */
#ifndef NIBBLE_TENSOR_KERNELS_BLOCK_LANES_H
#define NIBBLE_TENSOR_KERNELS_BLOCK_LANES_H

#include <math.h>

#include "tensor/kernels/kernels.h"

#define LANES_INLINE static inline __attribute__((always_inline))

/* Sub-blocks whose weights are all smaller hold zeros: no step in half precision is that small. */
#define LANES_TINY 0x1p-40f

/* What is being fitted, in registers. */
struct lanes_grid {
    lanes lowest, highest;
    const int8_t *levels;
};

LANES_INLINE struct lanes_grid lanes_grid_of(const struct block_grid *grid)
{
    return (struct lanes_grid){lanes_all(grid->lowest), lanes_all(grid->highest), grid->levels};
}

/* The level nearest to t steps. */
LANES_INLINE lanes lanes_level(struct lanes_grid grid, lanes t)
{
    if (grid.levels) return lanes_nearest(grid.levels, t);
    return lanes_round(lanes_min(lanes_max(t, grid.lowest), grid.highest));
}

/* 1 / step, 0 for 0. */
LANES_INLINE lanes lanes_inverse(lanes step)
{
    const lanes zero = lanes_all(0), size = lanes_max(step, lanes_sub(zero, step));
    const lanes_mask some = lanes_above(size, zero);
    return lanes_choose(some, lanes_div(lanes_all(1), lanes_choose(some, step, lanes_all(1))), zero);
}

/* The best line so far. */
struct lanes_best {
    lanes error, step, offset;
};

LANES_INLINE void lanes_better(struct lanes_best *best, lanes error, lanes step, lanes offset)
{
    const lanes_mask better = lanes_above(best->error, error);
    best->error = lanes_choose(better, error, best->error);
    best->step = lanes_choose(better, step, best->step);
    best->offset = lanes_choose(better, offset, best->offset);
}

/* ---- lines through zero ---- */

/* Round with 1 / step = inverse, then take the step that fits these codes best (least squares):
 * with r = x / step - level, sum w (r - delta level)^2 is least at delta = sum w r level / sum w level^2. */
LANES_INLINE void lanes_try_zero(struct lanes_best *best, struct lanes_grid grid,
    const struct block_lanes *in, uint32_t at, uint32_t n, lanes inverse)
{
    const lanes zero = lanes_all(0), one = lanes_all(1);
    lanes squares = zero, mixed = zero, errors = zero;
    for (uint32_t i = 0; i < n; i++) {
        const lanes t = lanes_mul(lanes_load(in->x[i] + at), inverse), w = lanes_load(in->w[i] + at);
        const lanes level = lanes_level(grid, t), rest = lanes_sub(t, level);
        const lanes w_level = lanes_mul(w, level), w_rest = lanes_mul(w, rest);
        squares = lanes_add(squares, lanes_mul(w_level, level));
        mixed = lanes_add(mixed, lanes_mul(w_level, rest));
        errors = lanes_add(errors, lanes_mul(w_rest, rest));
    }
    const lanes_mask some = lanes_above(squares, zero);
    const lanes delta = lanes_choose(some, lanes_div(mixed, lanes_choose(some, squares, one)), zero);
    const lanes step = lanes_inverse(inverse);
    const lanes error = lanes_mul(lanes_mul(lanes_sub(errors, lanes_mul(delta, mixed)), step), step);
    lanes_better(best, error, lanes_add(step, lanes_mul(step, delta)), zero);
}

LANES_INLINE struct lanes_best lanes_search_zero(
    const struct block_grid *grid, const struct block_lanes *in, uint32_t at, uint32_t n)
{
    const lanes zero = lanes_all(0), one = lanes_all(1);
    lanes extreme = zero, most = zero;
    for (uint32_t i = 0; i < n; i++) {
        const lanes x = lanes_load(in->x[i] + at), size = lanes_max(x, lanes_sub(zero, x));
        extreme = lanes_choose(lanes_above(size, most), x, extreme);
        most = lanes_max(size, most);
    }
    const lanes_mask some = lanes_above(most, lanes_all(LANES_TINY));
    const lanes per = lanes_choose(some, lanes_div(one, lanes_choose(some, extreme, one)), zero);
    const struct lanes_grid of = lanes_grid_of(grid);
    struct lanes_best best = {lanes_all(INFINITY), zero, zero};
    for (uint32_t k = 0; k < grid->tries; k++)
        lanes_try_zero(&best, of, in, at, n, lanes_mul(per, lanes_all(grid->try_inverse[k])));
    for (uint32_t k = 0; k < grid->refits; k++)
        lanes_try_zero(&best, of, in, at, n, lanes_inverse(best.step));
    best.step = lanes_choose(some, best.step, zero);
    return best;
}

/* ---- lines with an offset ---- */

/* What does not depend on the codes. */
struct lanes_whole {
    lanes least, range; /* of the weights, and 0 if the offset must not be above it */
    lanes weight, mean; /* sum of w, sum of w x over it */
    lanes ceiling;      /* of the offset */
    lanes centered[32]; /* x - mean */
};

LANES_INLINE void lanes_look(struct lanes_whole *out, const struct block_grid *grid,
    const struct block_lanes *in, uint32_t at, uint32_t n)
{
    lanes least = lanes_load(in->x[0] + at), most = least, sum = lanes_all(0), weight = sum;
    if (grid->below_zero) least = lanes_min(least, lanes_all(0));
    for (uint32_t i = 0; i < n; i++) {
        const lanes x = lanes_load(in->x[i] + at), w = lanes_load(in->w[i] + at);
        least = lanes_min(x, least);
        most = lanes_max(x, most);
        weight = lanes_add(weight, w);
        sum = lanes_add(sum, lanes_mul(w, x));
    }
    out->least = least;
    out->range = lanes_sub(most, least);
    out->weight = weight;
    out->mean = lanes_div(sum, weight);
    out->ceiling = lanes_all(grid->below_zero ? 0 : INFINITY);
    for (uint32_t i = 0; i < n; i++)
        out->centered[i] = lanes_sub(lanes_load(in->x[i] + at), out->mean);
}

/* Round to the line that begins at `begin` with 1 / step = inverse, then take the line that fits these codes best. With z = x - mean and
 * V = sum w code^2 - (sum w code)^2 / sum w, the step is sum w code z / V, the line goes through the means, and the error is
 * sum w z^2 less (sum w code z)^2 / V. Where the offset must not be above zero, the line may also begin there: the step is
 * sum w code x / sum w code^2. Errors leave sum w z^2 out. */
LANES_INLINE void lanes_try_line(struct lanes_best *best, struct lanes_grid grid,
    const struct lanes_whole *whole, const struct block_lanes *in, uint32_t at, uint32_t n, bool below_zero,
    lanes inverse, lanes begin)
{
    const lanes zero = lanes_all(0), one = lanes_all(1), never = lanes_all(INFINITY);
    const lanes shift = lanes_mul(lanes_sub(whole->mean, begin), inverse);
    lanes sum = zero, squares = zero, mixed = zero;
    for (uint32_t i = 0; i < n; i++) {
        const lanes z = whole->centered[i];
        const lanes code = lanes_level(grid, lanes_add(lanes_mul(z, inverse), shift));
        const lanes w_code = lanes_mul(lanes_load(in->w[i] + at), code);
        sum = lanes_add(sum, w_code);
        squares = lanes_add(squares, lanes_mul(w_code, code));
        mixed = lanes_add(mixed, lanes_mul(w_code, z));
    }
    const lanes middle = lanes_div(sum, whole->weight), spread = lanes_sub(squares, lanes_mul(middle, sum));
    const lanes_mask some = lanes_above(spread, lanes_mul(squares, lanes_all(0x1p-16f)));
    const lanes step = lanes_choose(some, lanes_div(mixed, lanes_choose(some, spread, one)), zero);
    const lanes offset = lanes_sub(whole->mean, lanes_mul(step, middle));
    const lanes error = lanes_sub(zero, lanes_mul(step, mixed));
    lanes_better(best, lanes_choose(lanes_above(offset, whole->ceiling), never, error), step, offset);
    if (!below_zero) return;
    const lanes_mask filled = lanes_above(squares, zero);
    const lanes sum_x = lanes_add(mixed, lanes_mul(whole->mean, sum));
    const lanes alone = lanes_choose(filled, lanes_div(sum_x, lanes_choose(filled, squares, one)), zero);
    const lanes least = lanes_mul(lanes_mul(whole->weight, whole->mean), whole->mean);
    lanes_better(best,
        lanes_choose(lanes_above(alone, zero), lanes_sub(least, lanes_mul(alone, sum_x)), never), alone,
        zero);
}

LANES_INLINE struct lanes_best lanes_search_line(
    const struct block_grid *grid, const struct block_lanes *in, uint32_t at, uint32_t n)
{
    const lanes zero = lanes_all(0), one = lanes_all(1);
    struct lanes_whole whole;
    lanes_look(&whole, grid, in, at, n);
    const lanes_mask some = lanes_above(whole.range, lanes_all(LANES_TINY));
    const lanes per = lanes_choose(some, lanes_div(one, lanes_choose(some, whole.range, one)), zero);
    const lanes base = lanes_min(whole.mean, whole.ceiling), missed = lanes_sub(whole.mean, base);
    const struct lanes_grid of = lanes_grid_of(grid);
    struct lanes_best best = {lanes_mul(lanes_mul(whole.weight, missed), missed), zero, base};
    for (uint32_t k = 0; k < grid->tries; k++)
        lanes_try_line(&best, of, &whole, in, at, n, grid->below_zero,
            lanes_mul(per, lanes_all(grid->try_inverse[k])),
            lanes_add(whole.least, lanes_mul(whole.range, lanes_all(grid->try_begin[k]))));
    for (uint32_t k = 0; k < grid->refits; k++)
        lanes_try_line(&best, of, &whole, in, at, n, grid->below_zero, lanes_inverse(best.step), best.offset);
    return best;
}

/* ---- the kernels ---- */

static void LANES_KERNEL(block_search)(
    float *steps, float *offsets, const struct block_grid *grid, const struct block_lanes *in)
{
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH) {
        const struct lanes_best best = grid->offset ? lanes_search_line(grid, in, at, grid->n)
                                                    : lanes_search_zero(grid, in, at, grid->n);
        lanes_store(steps + at, best.step);
        lanes_store(offsets + at, best.offset);
    }
}

/* The error of lines as they are, in the order in which values are computed. */
LANES_INLINE lanes lanes_error(
    struct lanes_grid grid, const struct block_lanes *in, uint32_t at, uint32_t n, lanes step, lanes offset)
{
    const lanes inverse = lanes_inverse(step);
    lanes error = lanes_all(0);
    for (uint32_t i = 0; i < n; i++) {
        const lanes x = lanes_sub(lanes_load(in->x[i] + at), offset);
        const lanes rest = lanes_sub(x, lanes_mul(step, lanes_level(grid, lanes_mul(x, inverse))));
        error = lanes_add(error, lanes_mul(lanes_mul(lanes_load(in->w[i] + at), rest), rest));
    }
    return error;
}

static void LANES_KERNEL(block_pick)(uint32_t *best, float *errors, const struct block_grid *grid,
    const struct block_lanes *in, const float *steps, const float *offsets, uint32_t count)
{
    const struct lanes_grid of = lanes_grid_of(grid);
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH) {
        lanes least = lanes_all(INFINITY), which = lanes_all(0);
        for (uint32_t k = 0; k < count; k++) {
            const lanes error = lanes_error(of, in, at, grid->n, lanes_load(steps + k * BLOCK_LANES + at),
                lanes_load(offsets + k * BLOCK_LANES + at));
            const lanes_mask better = lanes_above(least, error);
            least = lanes_choose(better, error, least);
            which = lanes_choose(better, lanes_all((float)k), which);
        }
        float picked[LANES_WIDTH];
        lanes_store(picked, which);
        lanes_store(errors + at, least);
        for (uint32_t lane = 0; lane < LANES_WIDTH; lane++)
            best[at + lane] = (uint32_t)picked[lane];
    }
}

static void LANES_KERNEL(block_sums)(struct block_sums *out, const struct block_grid *grid,
    const struct block_lanes *in, const float *steps, const float *offsets)
{
    const struct lanes_grid of = lanes_grid_of(grid);
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH) {
        const lanes inverse = lanes_inverse(lanes_load(steps + at)), offset = lanes_load(offsets + at);
        lanes w_sum = lanes_all(0), wx = w_sum, wl = w_sum, wll = w_sum, wlx = w_sum;
        for (uint32_t i = 0; i < grid->n; i++) {
            const lanes x = lanes_load(in->x[i] + at), w = lanes_load(in->w[i] + at);
            const lanes level = lanes_level(of, lanes_mul(lanes_sub(x, offset), inverse));
            const lanes w_level = lanes_mul(w, level);
            w_sum = lanes_add(w_sum, w);
            wx = lanes_add(wx, lanes_mul(w, x));
            wl = lanes_add(wl, w_level);
            wll = lanes_add(wll, lanes_mul(w_level, level));
            wlx = lanes_add(wlx, lanes_mul(w_level, x));
        }
        lanes_store(out->w + at, w_sum);
        lanes_store(out->wx + at, wx);
        lanes_store(out->wl + at, wl);
        lanes_store(out->wll + at, wll);
        lanes_store(out->wlx + at, wlx);
    }
}

#endif
