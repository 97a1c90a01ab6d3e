/* Fitting sub-blocks (tensor/block_fit.h), written once for all kernel sets: each lane is one sub-block, sums run over its weights in
 * their order and no lane knows of another, so a set that has sixteen lanes in a register gives the bits of one that has one.
 *
 * A set defines, before it includes this:
 *   lanes, lanes_mask     LANES_WIDTH floats (1, 2, 4, 8 or 16), and truths for them
 *   LANES_WIDTH
 *   LANES_KERNEL(name)    the name of the set's kernel
 *   lanes_load lanes_store lanes_all            floats at an address; one float in all lanes
 *   lanes_add _sub _mul _div _min _max          a op b; min and max give b if a and b are equal
 *   lanes_round           to the nearest whole number, half to even, magnitude below 2^22; the sign of a zero does not matter
 *   lanes_above           a > b
 *   lanes_choose          mask ? a : b
 *   lanes_table           16 rising levels, made by lanes_table_of(const int8_t *levels)
 *   lanes_nearest         (const lanes_table *, x): the nearest level, the lower one if there are two
 * Products and sums must not be fused. */
#ifndef NIBBLE_TENSOR_KERNELS_BLOCK_LANES_H
#define NIBBLE_TENSOR_KERNELS_BLOCK_LANES_H

#include <math.h>

#include "tensor/kernels/kernels.h"

#define LANES_INLINE static inline __attribute__((always_inline))

/* Sub-blocks whose weights are all smaller hold zeros: no step in half precision is that small. */
#define LANES_TINY 0x1p-40f

/* The sub-blocks being fitted. n and table are constants wherever it counts. */
struct lanes_fit {
    const struct block_grid *grid;
    const struct block_lanes *in;
    uint32_t at, n; /* the first lane; weights of a sub-block */
    bool table;     /* levels are those of the table */
    lanes lowest, highest;
    lanes_table levels;
};

LANES_INLINE struct lanes_fit lanes_fit_of(
    const struct block_grid *grid, const struct block_lanes *in, uint32_t at, uint32_t n, bool table)
{
    struct lanes_fit fit = {.grid = grid, .in = in, .at = at, .n = n, .table = table};
    fit.lowest = lanes_all(grid->lowest);
    fit.highest = lanes_all(grid->highest);
    if (table) fit.levels = lanes_table_of(grid->levels);
    return fit;
}

/* RUN(n, table) for every kind of sub-block. */
#define LANES_CHOOSE(grid, RUN)                                                                              \
    if ((grid)->levels) {                                                                                    \
        RUN(32, true);                                                                                       \
    } else if ((grid)->n == 32) {                                                                            \
        RUN(32, false);                                                                                      \
    } else {                                                                                                 \
        RUN(16, false);                                                                                      \
    }

/* Weight i of every sub-block, and its importance. */
LANES_INLINE lanes lanes_x(const struct lanes_fit *fit, uint32_t i)
{
    return lanes_load(fit->in->x[i] + fit->at);
}

LANES_INLINE lanes lanes_w(const struct lanes_fit *fit, uint32_t i)
{
    return lanes_load(fit->in->w[i] + fit->at);
}

LANES_INLINE lanes lanes_size(lanes x)
{
    return lanes_max(x, lanes_sub(lanes_all(0), x));
}

LANES_INLINE lanes lanes_within(lanes x, lanes least, lanes most)
{
    return lanes_min(lanes_max(x, least), most);
}

/* The level nearest to t steps. */
LANES_INLINE lanes lanes_level(const struct lanes_fit *fit, lanes t)
{
    return fit->table ? lanes_nearest(&fit->levels, t)
                      : lanes_round(lanes_within(t, fit->lowest, fit->highest));
}

/* a / b where b is above 0, else 0. */
LANES_INLINE lanes lanes_ratio(lanes a, lanes b)
{
    const lanes_mask some = lanes_above(b, lanes_all(0));
    return lanes_choose(some, lanes_div(a, lanes_choose(some, b, lanes_all(1))), lanes_all(0));
}

/* 1 / x where |x| is above `least`, else 0. */
LANES_INLINE lanes lanes_inverse(lanes x, float least)
{
    const lanes_mask some = lanes_above(lanes_size(x), lanes_all(least));
    return lanes_choose(some, lanes_div(lanes_all(1), lanes_choose(some, x, lanes_all(1))), lanes_all(0));
}

/* Importance where nothing is known of the inputs: a weight's magnitude and the mean of its sub-block. Large weights count more, which
 * costs little squared error and lowers the divergence of the model's predictions (docs/results.md). */
static void LANES_KERNEL(block_weigh)(struct block_lanes *out, uint32_t n)
{
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH) {
        lanes sums[4] = {
            lanes_all(0), lanes_all(0), lanes_all(0), lanes_all(0)}; /* do not wait for one another */
        for (uint32_t i = 0; i < n; i += 4)
            for (uint32_t k = 0; k < 4; k++)
                sums[k] = lanes_add(sums[k], lanes_size(lanes_load(out->x[i + k] + at)));
        const lanes sum = lanes_add(lanes_add(sums[0], sums[1]), lanes_add(sums[2], sums[3]));
        const lanes mean = lanes_add(lanes_mul(sum, lanes_all(1 / (float)n)), lanes_all(LANES_TINY));
        for (uint32_t i = 0; i < n; i++)
            lanes_store(out->w[i] + at, lanes_add(mean, lanes_size(lanes_load(out->x[i] + at))));
    }
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

/* Round with 1 / step = inverse, then take the step that fits these levels best: the error
 * sum w (x - step level)^2 is least at step = sum w level x / sum w level^2, and is then sum w x^2 less step sum w level x.
 * Errors leave sum w x^2 out. */
LANES_INLINE void lanes_try_zero(struct lanes_best *best, const struct lanes_fit *fit, lanes inverse)
{
    const lanes zero = lanes_all(0);
    lanes squares = zero, mixed = zero;
    for (uint32_t i = 0; i < fit->n; i++) {
        const lanes x = lanes_x(fit, i), level = lanes_level(fit, lanes_mul(x, inverse));
        const lanes w_level = lanes_mul(lanes_w(fit, i), level);
        squares = lanes_add(squares, lanes_mul(w_level, level));
        mixed = lanes_add(mixed, lanes_mul(w_level, x));
    }
    const lanes step = lanes_ratio(mixed, squares);
    lanes_better(best, lanes_sub(zero, lanes_mul(step, mixed)), step, zero);
}

LANES_INLINE struct lanes_best lanes_search_zero(const struct lanes_fit *fit)
{
    const struct block_grid *grid = fit->grid;
    const lanes zero = lanes_all(0);
    lanes least = zero, most = zero;
    for (uint32_t i = 0; i < fit->n; i++) {
        least = lanes_min(lanes_x(fit, i), least);
        most = lanes_max(lanes_x(fit, i), most);
    }
    const lanes extreme = lanes_choose(lanes_above(most, lanes_sub(zero, least)), most, least);
    const lanes per = lanes_inverse(extreme, LANES_TINY);
    struct lanes_best best = {zero, zero, zero};
    for (uint32_t k = 0; k < grid->tries; k++)
        lanes_try_zero(&best, fit, lanes_mul(per, lanes_all(grid->try_inverse[k])));
    for (uint32_t k = 0; k < grid->refits; k++)
        lanes_try_zero(&best, fit, lanes_inverse(best.step, 0));
    return best;
}

/* ---- lines with an offset ---- */

/* What does not depend on the codes. */
struct lanes_whole {
    lanes least, range;                 /* of the weights; of 0 too if the offset must not be above it */
    lanes weight, mean;                 /* sum of w, sum of w x over it */
    lanes ceiling;                      /* of the offset */
    lanes centered[BLOCK_LANE_WEIGHTS]; /* x - mean */
};

LANES_INLINE void lanes_look(struct lanes_whole *out, const struct lanes_fit *fit)
{
    const bool below_zero = fit->grid->below_zero;
    lanes least = lanes_x(fit, 0), most = least, sum = lanes_all(0), weight = sum;
    if (below_zero) least = lanes_min(least, lanes_all(0));
    for (uint32_t i = 0; i < fit->n; i++) {
        const lanes x = lanes_x(fit, i), w = lanes_w(fit, i);
        least = lanes_min(x, least);
        most = lanes_max(x, most);
        weight = lanes_add(weight, w);
        sum = lanes_add(sum, lanes_mul(w, x));
    }
    out->least = least;
    out->range = lanes_sub(most, least);
    out->weight = weight;
    out->mean = lanes_div(sum, weight);
    out->ceiling = lanes_all(below_zero ? 0 : INFINITY);
    for (uint32_t i = 0; i < fit->n; i++)
        out->centered[i] = lanes_sub(lanes_x(fit, i), out->mean);
}

/* Round to the line that begins at `begin` with 1 / step = inverse, then take the line that fits these codes best. With z = x - mean
 * and V = sum w code^2 - (sum w code)^2 / sum w, the step is sum w code z / V, the line goes through the means, and the error is
 * sum w z^2 less (sum w code z)^2 / V. Where the offset must not be above zero, the line may also begin there: the step is
 * sum w code x / sum w code^2. Errors leave sum w z^2 out. */
LANES_INLINE void lanes_try_line(struct lanes_best *best, const struct lanes_fit *fit,
    const struct lanes_whole *whole, lanes inverse, lanes begin)
{
    const lanes zero = lanes_all(0), never = lanes_all(INFINITY);
    const lanes shift = lanes_mul(lanes_sub(whole->mean, begin), inverse);
    lanes sum = zero, squares = zero, mixed = zero;
    for (uint32_t i = 0; i < fit->n; i++) {
        const lanes z = whole->centered[i], code = lanes_level(fit, lanes_add(lanes_mul(z, inverse), shift));
        const lanes w_code = lanes_mul(lanes_w(fit, i), code);
        sum = lanes_add(sum, w_code);
        squares = lanes_add(squares, lanes_mul(w_code, code));
        mixed = lanes_add(mixed, lanes_mul(w_code, z));
    }
    const lanes middle = lanes_div(sum, whole->weight), spread = lanes_sub(squares, lanes_mul(middle, sum));
    const lanes_mask some = lanes_above(spread, lanes_mul(squares, lanes_all(0x1p-16f)));
    const lanes step = lanes_choose(some, lanes_ratio(mixed, spread), zero);
    const lanes offset = lanes_sub(whole->mean, lanes_mul(step, middle));
    const lanes error = lanes_sub(zero, lanes_mul(step, mixed));
    lanes_better(best, lanes_choose(lanes_above(offset, whole->ceiling), never, error), step, offset);
    if (!fit->grid->below_zero) return;
    const lanes sum_x = lanes_add(mixed, lanes_mul(whole->mean, sum)), alone = lanes_ratio(sum_x, squares);
    const lanes from_zero = lanes_mul(lanes_mul(whole->weight, whole->mean), whole->mean);
    const lanes error_alone = lanes_sub(from_zero, lanes_mul(alone, sum_x));
    lanes_better(best, lanes_choose(lanes_above(alone, zero), error_alone, never), alone, zero);
}

LANES_INLINE struct lanes_best lanes_search_line(const struct lanes_fit *fit)
{
    const struct block_grid *grid = fit->grid;
    struct lanes_whole whole;
    lanes_look(&whole, fit);
    const lanes per = lanes_inverse(whole.range, LANES_TINY);
    const lanes base = lanes_min(whole.mean, whole.ceiling), missed = lanes_sub(whole.mean, base);
    struct lanes_best best = {lanes_mul(lanes_mul(whole.weight, missed), missed), lanes_all(0), base};
    for (uint32_t k = 0; k < grid->tries; k++)
        lanes_try_line(&best, fit, &whole, lanes_mul(per, lanes_all(grid->try_inverse[k])),
            lanes_add(whole.least, lanes_mul(whole.range, lanes_all(grid->try_begin[k]))));
    for (uint32_t k = 0; k < grid->refits; k++)
        lanes_try_line(&best, fit, &whole, lanes_inverse(best.step, 0), best.offset);
    return best;
}

/* ---- the kernels ---- */

LANES_INLINE void lanes_search(float *steps, float *offsets, const struct lanes_fit *fit)
{
    const struct lanes_best best = fit->grid->offset ? lanes_search_line(fit) : lanes_search_zero(fit);
    lanes_store(steps + fit->at, best.step);
    lanes_store(offsets + fit->at, best.offset);
}

static void LANES_KERNEL(block_search)(
    float *steps, float *offsets, const struct block_grid *grid, const struct block_lanes *in)
{
#define RUN(n, table)                                                                                        \
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH) {                                             \
        const struct lanes_fit fit = lanes_fit_of(grid, in, at, n, table);                                   \
        lanes_search(steps, offsets, &fit);                                                                  \
    }
    LANES_CHOOSE(grid, RUN)
#undef RUN
}

/* The error of lines as they are, in the order in which values are computed. */
LANES_INLINE lanes lanes_error(const struct lanes_fit *fit, lanes step, lanes offset)
{
    const lanes inverse = lanes_inverse(step, 0);
    lanes error = lanes_all(0);
    for (uint32_t i = 0; i < fit->n; i++) {
        const lanes x = lanes_sub(lanes_x(fit, i), offset);
        const lanes rest = lanes_sub(x, lanes_mul(step, lanes_level(fit, lanes_mul(x, inverse))));
        error = lanes_add(error, lanes_mul(lanes_mul(lanes_w(fit, i), rest), rest));
    }
    return error;
}

static void LANES_KERNEL(block_pick)(uint32_t *best, const struct block_grid *grid,
    const struct block_lanes *in, const float *steps, uint32_t count)
{
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH) {
        const struct lanes_fit fit = lanes_fit_of(grid, in, at, 32, false);
        lanes least = lanes_all(INFINITY), which = lanes_all(0);
        for (uint32_t k = 0; k < count; k++) {
            const lanes error = lanes_error(&fit, lanes_load(steps + k * BLOCK_LANES + at), lanes_all(0));
            const lanes_mask better = lanes_above(least, error);
            least = lanes_choose(better, error, least);
            which = lanes_choose(better, lanes_all((float)k), which);
        }
        float picked[LANES_WIDTH];
        lanes_store(picked, which);
        for (uint32_t lane = 0; lane < LANES_WIDTH; lane++)
            best[at + lane] = (uint32_t)picked[lane];
    }
}

/* Scales around the nearest; with each, minima around the one that leaves the middle of the line in its place. */
LANES_INLINE void lanes_choose_integers(
    struct block_integers *out, const struct lanes_fit *fit, const struct block_halves *halves)
{
    const struct block_grid *grid = fit->grid;
    const lanes zero = lanes_all(0), d = lanes_load(halves->d + fit->at), m = lanes_load(halves->m + fit->at);
    const lanes per_d = lanes_inverse(d, 0), per_m = lanes_inverse(m, 0);
    const lanes least = lanes_all(grid->scale_least), most = lanes_all(grid->scale_most);
    const lanes most_min = lanes_all(grid->min_most), middle = lanes_all((grid->lowest + grid->highest) / 2);
    const lanes step = lanes_load(halves->steps + fit->at), offset = lanes_load(halves->offsets + fit->at);
    const lanes nearest = lanes_round(lanes_within(lanes_mul(step, per_d), least, most));
    const uint32_t minima = 2 * halves->reach_min + 1, scales = 2 * halves->reach + 1;
    lanes error = lanes_all(INFINITY), best_scale = zero, best_min = zero;
    for (uint32_t k = 0; k < scales * minima; k++) {
        const lanes beside = lanes_all((float)(k / minima) - (float)halves->reach);
        const lanes below = lanes_all((float)(k % minima) - (float)halves->reach_min);
        const lanes scale = lanes_within(lanes_add(nearest, beside), least, most),
                    new_step = lanes_mul(d, scale);
        const lanes begin = lanes_add(offset, lanes_mul(lanes_sub(step, new_step), middle));
        const lanes fitting = lanes_within(lanes_mul(lanes_sub(zero, begin), per_m), zero, most_min);
        const lanes min = lanes_within(lanes_add(lanes_round(fitting), below), zero, most_min);
        const lanes now = lanes_error(fit, new_step, lanes_sub(zero, lanes_mul(m, min)));
        const lanes_mask better = lanes_above(error, now);
        error = lanes_choose(better, now, error);
        best_scale = lanes_choose(better, scale, best_scale);
        best_min = lanes_choose(better, min, best_min);
    }
    lanes_store(out->scale + fit->at, best_scale);
    lanes_store(out->min + fit->at, best_min);
    lanes_store(out->error + fit->at, error);
}

static void LANES_KERNEL(block_choose)(struct block_integers *out, const struct block_grid *grid,
    const struct block_lanes *in, const struct block_halves *halves)
{
#define RUN(n, table)                                                                                        \
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH) {                                             \
        const struct lanes_fit fit = lanes_fit_of(grid, in, at, n, table);                                   \
        lanes_choose_integers(out, &fit, halves);                                                            \
    }
    LANES_CHOOSE(grid, RUN)
#undef RUN
}

LANES_INLINE void lanes_sums(struct block_sums *out, const struct lanes_fit *fit, lanes step, lanes offset)
{
    const lanes inverse = lanes_inverse(step, 0);
    lanes w_sum = lanes_all(0), wx = w_sum, wl = w_sum, wll = w_sum, wlx = w_sum;
    for (uint32_t i = 0; i < fit->n; i++) {
        const lanes x = lanes_x(fit, i), w = lanes_w(fit, i);
        const lanes level = lanes_level(fit, lanes_mul(lanes_sub(x, offset), inverse));
        const lanes w_level = lanes_mul(w, level);
        w_sum = lanes_add(w_sum, w);
        wx = lanes_add(wx, lanes_mul(w, x));
        wl = lanes_add(wl, w_level);
        wll = lanes_add(wll, lanes_mul(w_level, level));
        wlx = lanes_add(wlx, lanes_mul(w_level, x));
    }
    lanes_store(out->w + fit->at, w_sum);
    lanes_store(out->wx + fit->at, wx);
    lanes_store(out->wl + fit->at, wl);
    lanes_store(out->wll + fit->at, wll);
    lanes_store(out->wlx + fit->at, wlx);
}

static void LANES_KERNEL(block_sums)(struct block_sums *out, const struct block_grid *grid,
    const struct block_lanes *in, const float *steps, const float *offsets)
{
#define RUN(n, table)                                                                                        \
    for (uint32_t at = 0; at < BLOCK_LANES; at += LANES_WIDTH) {                                             \
        const struct lanes_fit fit = lanes_fit_of(grid, in, at, n, table);                                   \
        lanes_sums(out, &fit, lanes_load(steps + at), lanes_load(offsets + at));                             \
    }
    LANES_CHOOSE(grid, RUN)
#undef RUN
}

#endif
