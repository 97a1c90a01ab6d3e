/* See block_fit.h. A bundle of eight sub-blocks is fitted at a time, one to a lane (tensor/kernels/block_lanes.h): of a large block, its
 * sub-blocks; else eight blocks.
 *
 * 1. Each sub-block gets the best line of its own: from several first guesses codes are rounded and the line is fitted to them by least
 *    squares, over and over for the best.
 * 2. Blocks without integer scales round the line to half precision and look at its neighbours there.
 *    Blocks with them take d (and dmin) from the largest line, choose the integers of each sub-block among the nearest by their
 *    error with new codes, fit d and dmin to all codes by least squares, and choose again. The best of all rounds stays.
 * 3. Codes. */
#include "tensor/block_fit.h"

#include <math.h>
#include <string.h>

#include "tensor/dtype.h"
#include "tensor/kernels/kernels.h"

enum { BUNDLES_MOST = BLOCK_SUBS_MOST / BLOCK_LANES, HALVES_MOST = 16 };

/* How much is tried: less where nothing is known of the inputs, so that conversion keeps up with the disk. */
struct effort {
    uint32_t tries;  /* first guesses */
    uint32_t rounds; /* of step 2 */
    uint32_t
        reach; /* integer scales on each side of the nearest; or, if there are none, steps besides the line's own */
};

/* How a type is searched. */
struct search {
    const float *inverse, *begin; /* first guesses: see struct block_grid */
    uint32_t refits;
    struct effort plain, weighted;
};

/* First guesses, in the order of what each adds to those before it, measured on real and on random weights (normal, Laplace, Student's
 * t with 4 degrees of freedom). Through zero: the level at which the extreme weight lies. */
static const float levels_q3[] = {
    -4, -3.15f, -4.75f, -3.8f, -4.45f, -3.45f, 2.85f, -4.2f, 4.9f, -4.95f, 4.0f, 2.4f};
static const float levels_q4[] = {
    -8, -7.2f, -8.7f, -7.8f, 6.6f, -9.1f, -8.5f, 6.1f, -9.9f, 8.7f, 9.7f, 8.0f, 5.4f, -9.5f, 6.9f, -7.4f};
static const float levels_q5[] = {-16, -15.0f, 14.0f, -15.8f, -16.6f, 13.0f, -15.4f, -17.0f, -18.4f, 12.0f,
    10.4f, -17.6f, -19.6f, 16.6f, 14.4f, 11.0f};
static const float levels_q6[] = {-32, -31, 31};
static const float levels_q8[] = {-128};
static const float levels_nl[] = {-127, 115.9f, -138.1f, -112.7f, -122.2f, 109.5f, 123.8f, -104.8f, -154.0f,
    92.1f, 139.7f, -90.5f, 150.8f, -98.4f};

/* With an offset: how many steps the range has, and where the line begins, in parts of the range. */
static const float steps_2[] = {
    3.57f, 3.45f, 3.53f, 4.48f, 3.41f, 3.85f, 3.45f, 3.41f, 3.66f, 4.69f, 4.41f, 3.8f};
static const float begin_2[] = {.08f, .14f, 0, .18f, .02f, 0, .1f, .18f, .24f, .14f, .24f, .24f};
static const float steps_4[] = {15.62f, 15.62f, 15.15f, 14.42f, 15.15f, 15.62f, 14.15f, 14.85f, 16.3f, 16.67f,
    17.05f, 16.67f, 17.05f, 14.71f, 17.44f, 17.86f};
static const float begin_4[] = {
    .02f, 0, .02f, .02f, 0, .04f, 0, 0, 0, .08f, .06f, .1f, .04f, .04f, .02f, .14f};
static const float steps_5[] = {31, 30.1f, 31.31f, 31.63f, 29.25f, 30.69f, 30.69f, 31.63f, 29.81f, 32.29f,
    32.63f, 32.29f, 32.98f, 33.7f, 31.31f, 32.98f};
static const float begin_5[] = {0, 0, 0, .02f, 0, .02f, 0, 0, .02f, .02f, .04f, 0, .06f, 0, .02f, .02f};

static const struct search searches[BLOCK_COUNT] = {
    [BLOCK_Q4_0] = {levels_q4, NULL, 1, {5, 1, 0}, {16, 1, 0}},
    [BLOCK_Q4_1] = {steps_4, begin_4, 1, {8, 1, 0}, {16, 1, 0}},
    [BLOCK_Q5_0] = {levels_q5, NULL, 1, {6, 1, 0}, {16, 1, 0}},
    [BLOCK_Q5_1] = {steps_5, begin_5, 1, {8, 1, 0}, {16, 1, 0}},
    [BLOCK_Q8_0] = {levels_q8, NULL, 0, {1, 1, 2}, {1, 1, 12}},
    [BLOCK_Q2_K] = {steps_2, begin_2, 1, {5, 3, 1}, {12, 4, 1}},
    [BLOCK_Q3_K] = {levels_q3, NULL, 1, {5, 2, 1}, {12, 4, 1}},
    [BLOCK_Q4_K] = {steps_4, begin_4, 1, {8, 3, 1}, {16, 4, 1}},
    [BLOCK_Q5_K] = {steps_5, begin_5, 1, {8, 3, 1}, {16, 4, 1}},
    [BLOCK_Q6_K] = {levels_q6, NULL, 1, {2, 2, 6}, {3, 3, 6}},
    [BLOCK_IQ4_NL] = {levels_nl, NULL, 1, {6, 1, 0}, {14, 1, 0}},
    [BLOCK_IQ4_XS] = {levels_nl, NULL, 1, {6, 3, 1}, {14, 4, 1}},
};

static struct block_grid grid_of(enum block_type type, const struct effort *effort)
{
    const struct block_form *form = block_form(type);
    const struct search *search = &searches[type];
    return (struct block_grid){
        .n = form->sub,
        .lowest = (float)form->lowest,
        .highest = (float)(form->lowest + (int32_t)form->codes - 1),
        .levels = form->levels,
        .offset = form->offset,
        .below_zero = form->min_most > 0,
        .scale_least = (float)form->scale_least,
        .scale_most = (float)form->scale_most,
        .min_most = (float)form->min_most,
        .tries = effort->tries,
        .refits = search->refits,
        .try_inverse = search->inverse,
        .try_begin = search->begin,
    };
}

/* ---- a bundle ---- */

struct bundle {
    enum block_type type;
    const struct block_form *form;
    struct block_grid grid;
    const struct effort *effort;
    struct block_lanes lanes;
    float steps[BLOCK_LANES], offsets[BLOCK_LANES]; /* the best lines */
};

/* 1 / the greatest importance of each of `count` stretches, or all importances 1 if it is 0. */
static float part_of(const float *importance, uint32_t n)
{
    float most;
    kernels()->maximum(&most, importance, n);
    return most > 0x1p-100f ? 1 / most : 0;
}

/* Weights [BLOCK_LANES][n] into lanes; parts [BLOCK_LANES]: part_of the block of each. False if one is too large, or not finite. */
static bool gather(struct bundle *bundle, enum block_type type, const float *weights, const float *importance,
    const float *parts)
{
    bool within;
    bundle->type = type;
    bundle->form = block_form(type);
    bundle->effort = importance ? &searches[type].weighted : &searches[type].plain;
    bundle->grid = grid_of(type, bundle->effort);
    kernels()->block_gather(&bundle->lanes, &within, weights, importance, parts, bundle->grid.n);
    return within;
}

static void search(struct bundle *bundle)
{
    kernels()->block_search(bundle->steps, bundle->offsets, &bundle->grid, &bundle->lanes);
}

/* Half precision, where only 0 becomes 0: the smallest step serves weights below it better than none. */
static uint16_t half_of(float x)
{
    const uint16_t half = dtype_f32_to_f16(x);
    if ((half & 0x7fff) == 0 && x != 0) return half | 1;
    return half & 0x7fff ? half : 0;
}

static float rounded(float x)
{
    return dtype_f16_to_f32(half_of(x));
}

/* half_of for a bundle, and back; false if one of the first `count` does not fit. */
static bool round_lanes(uint16_t halves[BLOCK_LANES], float values[BLOCK_LANES], uint32_t count)
{
    uint32_t most = 0;
    kernels()->f32_to_f16(halves, values, BLOCK_LANES);
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++) {
        const uint16_t size = halves[lane] & 0x7fff;
        if (size == 0) halves[lane] = half_of(values[lane]);
        if (lane < count && size > most) most = size;
    }
    kernels()->f16_to_f32(values, halves, BLOCK_LANES);
    return most < 0x7c00;
}

/* ---- blocks without integer scales ---- */

/* The best line's step and larger ones, each as it is stored. Where codes are that many, each step rounds the weights anew, and
 * one of them is lucky. */
static void choose_halves(struct bundle *bundle)
{
    const uint32_t count = bundle->effort->reach + 1;
    float steps[HALVES_MOST][BLOCK_LANES];
    uint16_t halves[BLOCK_LANES];
    uint32_t best[BLOCK_LANES];
    for (uint32_t k = 0; k < count; k++) {
        for (uint32_t lane = 0; lane < BLOCK_LANES; lane++)
            steps[k][lane] = bundle->steps[lane] * (1 + (float)k / 128);
        round_lanes(halves, steps[k], 0);
    }
    kernels()->block_pick(best, &bundle->grid, &bundle->lanes, steps[0], count);
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++)
        bundle->steps[lane] = steps[best[lane]][lane];
}

/* Up to BLOCK_LANES blocks. False if a line does not fit half precision. An offset too small for it is none. */
static bool fit_small(struct block_parts *out, struct bundle *bundle, const float *weights, uint32_t blocks)
{
    uint16_t d[BLOCK_LANES], m[BLOCK_LANES] = {0};
    uint8_t codes[BLOCK_LANES][BLOCK_LANE_WEIGHTS];
    search(bundle);
    if (bundle->effort->reach) choose_halves(bundle);
    bool fits = round_lanes(d, bundle->steps, blocks);
    if (bundle->form->offset) {
        for (uint32_t lane = 0; lane < BLOCK_LANES; lane++)
            if (fabsf(bundle->offsets[lane]) < 0x1p-25f) bundle->offsets[lane] = 0;
        fits = round_lanes(m, bundle->offsets, blocks) && fits;
    }
    kernels()->block_codes(codes[0], &bundle->grid, weights, bundle->steps, bundle->offsets, blocks);
    for (uint32_t lane = 0; fits && lane < blocks; lane++) {
        out[lane].d = d[lane];
        out[lane].m = m[lane];
        out[lane].scale[0] = 1;
        out[lane].min[0] = 0;
        memcpy(out[lane].codes, codes[lane], sizeof codes[lane]);
    }
    return fits;
}

/* ---- blocks with integer scales ---- */

/* What of a block is not codes. */
struct scales {
    float d, m; /* values of half precision */
    int16_t scale[BLOCK_SUBS_MOST];
    uint8_t min[BLOCK_SUBS_MOST];
    double error;
};

/* Choose scale and min of every lane, sub-blocks first .. first + BLOCK_LANES - 1; the error is added. Where it is not the last
 * choice, the nearest will do. */
static void choose_integers(struct scales *scales, const struct bundle *bundle, uint32_t first, bool last)
{
    struct block_halves halves = {.d = scales->d, .m = scales->m};
    struct block_integers integers;
    halves.reach = last ? bundle->effort->reach : 0;
    halves.reach_min = last && bundle->form->min_most ? 1 : 0;
    memcpy(halves.steps, bundle->steps, sizeof halves.steps);
    memcpy(halves.offsets, bundle->offsets, sizeof halves.offsets);
    kernels()->block_choose(&integers, &bundle->grid, &bundle->lanes, &halves);
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++) {
        scales->scale[first + lane] = (int16_t)integers.scale[lane];
        scales->min[first + lane] = (uint8_t)integers.min[lane];
        scales->error += (double)integers.error[lane];
    }
}

/* Equations of least squares for d and dmin: value = d scale level - dmin min. */
struct normal {
    double dd, dm, mm, dx, mx;
};

static void add_normal(
    struct normal *normal, const struct bundle *bundle, const struct scales *scales, uint32_t first)
{
    float steps[BLOCK_LANES], offsets[BLOCK_LANES];
    struct block_sums sums;
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++) {
        steps[lane] = scales->d * (float)scales->scale[first + lane];
        offsets[lane] = -(scales->m * (float)scales->min[first + lane]);
    }
    kernels()->block_sums(&sums, &bundle->grid, &bundle->lanes, steps, offsets);
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++) {
        const double scale = scales->scale[first + lane], min = scales->min[first + lane];
        normal->dd += scale * scale * (double)sums.wll[lane];
        normal->dm -= scale * min * (double)sums.wl[lane];
        normal->mm += min * min * (double)sums.w[lane];
        normal->dx += scale * (double)sums.wlx[lane];
        normal->mx -= min * (double)sums.wx[lane];
    }
}

/* d and m anew; as they are where the equations say nothing. */
static void solve(struct scales *scales, const struct normal *normal)
{
    const double determinant = normal->dd * normal->mm - normal->dm * normal->dm;
    double d = scales->d, m = scales->m;
    if (determinant > 1e-6 * normal->dd * normal->mm) {
        d = (normal->dx * normal->mm - normal->mx * normal->dm) / determinant;
        m = (normal->mx * normal->dd - normal->dx * normal->dm) / determinant;
    } else if (normal->dd > 0 && normal->mm == 0) {
        d = normal->dx / normal->dd;
    }
    scales->d = rounded((float)d);
    scales->m = m > 0 ? rounded((float)m) : 0;
}

/* d that brings the largest step to the end of the scales' range, but for what a choice may reach beyond it, and dmin likewise. */
static void first_guess(struct scales *scales, const struct bundle *bundles, uint32_t count)
{
    const struct block_form *form = bundles->form;
    float step = 0, offset = 0;
    for (uint32_t i = 0; i < count * BLOCK_LANES; i++) {
        const struct bundle *bundle = &bundles[i / BLOCK_LANES];
        const uint32_t lane = i % BLOCK_LANES;
        if (fabsf(bundle->steps[lane]) > fabsf(step)) step = bundle->steps[lane];
        if (-bundle->offsets[lane] > offset) offset = -bundle->offsets[lane];
    }
    const int32_t end =
        form->scale_least < 0 ? form->scale_least + (int32_t)bundles->effort->reach - 1 : form->scale_most;
    scales->d = rounded(step / (float)end);
    scales->m = form->min_most ? rounded(offset / (float)form->min_most) : 0;
}

static void finish(
    struct block_parts *out, const struct bundle *bundle, const struct scales *scales, const float *weights)
{
    float steps[BLOCK_SUBS_MOST], offsets[BLOCK_SUBS_MOST];
    out->d = dtype_f32_to_f16(scales->d);
    out->m = dtype_f32_to_f16(scales->m);
    memcpy(out->scale, scales->scale, sizeof out->scale);
    memcpy(out->min, scales->min, sizeof out->min);
    for (uint32_t sub = 0; sub < bundle->form->subs; sub++) {
        const struct block_line line = block_parts_line(bundle->type, out, sub);
        steps[sub] = line.step;
        offsets[sub] = line.offset;
    }
    kernels()->block_codes(out->codes, &bundle->grid, weights, steps, offsets, bundle->form->subs);
}

/* One block of `count` bundles. */
static bool fit_large(struct block_parts *out, struct bundle *bundles, uint32_t count, const float *weights)
{
    struct scales scales = {0}, best = {.error = INFINITY};
    for (uint32_t i = 0; i < count; i++)
        search(&bundles[i]);
    first_guess(&scales, bundles, count);
    if (!isfinite(scales.d) || !isfinite(scales.m)) return false;
    for (uint32_t left = bundles->effort->rounds; left--;) {
        struct normal normal = {0};
        scales.error = 0;
        for (uint32_t i = 0; i < count; i++)
            choose_integers(&scales, &bundles[i], i * BLOCK_LANES, left <= 0);
        if (scales.error < best.error) best = scales;
        if (left == 0) break;
        for (uint32_t i = 0; i < count; i++)
            add_normal(&normal, &bundles[i], &scales, i * BLOCK_LANES);
        solve(&scales, &normal);
        if (!isfinite(scales.d) || !isfinite(scales.m)) break;
    }
    finish(out, bundles, &best, weights);
    return true;
}

/* ---- what block_fit.h offers ---- */

/* One large block, or up to BLOCK_LANES small ones; *within: whether no weight is too large or not finite. */
static bool fit_some(struct block_parts *out, enum block_type type, const float *weights,
    const float *importance, uint32_t blocks, bool *within)
{
    const struct block_form *form = block_form(type);
    const uint32_t count = form->subs == 1 ? 1 : form->subs / BLOCK_LANES;
    struct bundle bundles[BUNDLES_MOST];
    float parts[BLOCK_LANES], padded[2][BLOCK_LANES * BLOCK_LANE_WEIGHTS];
    if (form->subs == 1 && blocks < BLOCK_LANES) {
        memset(padded, 0, sizeof padded);
        memcpy(padded[0], weights, blocks * form->weights * sizeof *weights);
        if (importance) memcpy(padded[1], importance, blocks * form->weights * sizeof *importance);
        weights = padded[0];
        importance = importance ? padded[1] : NULL;
    }
    for (uint32_t lane = 0; importance && lane < BLOCK_LANES; lane++) {
        if (form->subs == 1 || lane == 0)
            parts[lane] = part_of(importance + (uint64_t)lane * form->weights, form->weights);
        else
            parts[lane] = parts[0];
    }
    *within = true;
    for (uint32_t i = 0; i < count && *within; i++) {
        const uint64_t first = (uint64_t)i * BLOCK_LANES * form->sub;
        *within = gather(&bundles[i], type, weights + first, importance ? importance + first : NULL, parts);
    }
    if (!*within) return false;
    return form->subs == 1 ? fit_small(out, bundles, weights, blocks)
                           : fit_large(out, bundles, count, weights);
}

bool block_fit(struct block_parts *out, enum block_type type, const float *weights, const float *importance)
{
    bool within;
    return fit_some(out, type, weights, importance, 1, &within);
}

void block_fit_sub(struct block_parts *parts, enum block_type type, uint32_t sub, const float *weights,
    const float *importance)
{
    const struct block_form *form = block_form(type);
    if (form->scale_least != form->scale_most) {
        struct bundle bundle;
        float padded[2][BLOCK_LANES * BLOCK_LANE_WEIGHTS] = {{0}}, part[BLOCK_LANES];
        struct scales scales = {.d = dtype_f16_to_f32(parts->d), .m = dtype_f16_to_f32(parts->m)};
        memcpy(padded[0], weights, form->sub * sizeof *weights);
        if (importance) memcpy(padded[1], importance, form->sub * sizeof *importance);
        for (uint32_t lane = 0; lane < BLOCK_LANES; lane++)
            part[lane] = importance ? part_of(importance, form->sub) : 0;
        gather(&bundle, type, padded[0], importance ? padded[1] : NULL, part);
        search(&bundle);
        choose_integers(&scales, &bundle, 0, true);
        parts->scale[sub] = scales.scale[0];
        parts->min[sub] = scales.min[0];
    }
    block_fit_codes(parts, type, sub, weights);
}

void block_fit_codes(struct block_parts *parts, enum block_type type, uint32_t sub, const float *weights)
{
    const struct block_grid grid = grid_of(type, &searches[type].plain);
    const struct block_line line = block_parts_line(type, parts, sub);
    kernels()->block_codes(parts->codes + sub * grid.n, &grid, weights, &line.step, &line.offset, 1);
}

static uint64_t largest(const float *weights, uint32_t count)
{
    uint64_t at = 0;
    for (uint32_t i = 1; i < count; i++)
        if (fabsf(weights[i]) > fabsf(weights[at])) at = i;
    return at;
}

/* Where the first weight lies that is not finite, or if all are, the largest of the first block that does not fit. */
static uint64_t fault_at(enum block_type type, const float *weights, const float *importance, uint32_t blocks)
{
    const uint32_t size = block_form(type)->weights;
    struct block_parts parts;
    for (uint64_t i = 0; i < (uint64_t)blocks * size; i++)
        if (!isfinite(weights[i])) return i;
    for (uint64_t i = 0; i < (uint64_t)blocks * size; i += size)
        if (!block_fit(&parts, type, weights + i, importance ? importance + i : NULL))
            return i + largest(weights + i, size);
    return 0;
}

bool block_fit_rows(uint8_t *out, enum block_type type, const float *weights, uint64_t rows, uint64_t cols,
    const float *importance, uint64_t *row, uint64_t *col)
{
    const struct block_form *form = block_form(type);
    const uint32_t bytes = block_info(type)->bytes, most = form->subs == 1 ? BLOCK_LANES : 1;
    struct block_parts parts[BLOCK_LANES];
    for (*row = 0; *row < rows; ++*row, weights += cols) {
        for (*col = 0; *col < cols; *col += (uint64_t)most * form->weights) {
            const uint64_t left = (cols - *col) / form->weights;
            const uint32_t blocks = left < most ? (uint32_t)left : most;
            const float *part = importance ? importance + *col : NULL;
            bool within;
            if (!fit_some(parts, type, weights + *col, part, blocks, &within)) {
                *col += fault_at(type, weights + *col, part, blocks);
                return false;
            }
            for (uint32_t i = 0; i < blocks; i++, out += bytes)
                block_parts_put(out, type, &parts[i]);
        }
    }
    return true;
}
