/* See block_fit.h. A bundle of BLOCK_LANES sub-blocks is fitted at a time, one to a lane (tensor/kernels/block_lanes.h): those of one
 * block or two, or as many blocks where a block is a sub-block.
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

enum { BUNDLE_WEIGHTS = BLOCK_LANES * BLOCK_LANE_WEIGHTS, SUBS_LEAST = 8, HALVES_MOST = 16 };

/* How much is tried: less where nothing is known of the inputs, so that conversion keeps up with the disk. */
struct effort {
    uint32_t tries;  /* first guesses */
    uint32_t refits; /* of the best of them */
    uint32_t rounds; /* of step 2 */
    uint32_t
        reach; /* integer scales on each side of the nearest; or, if there are none, steps besides the line's own */
};

/* How a type is searched. */
struct search {
    const float *inverse, *begin; /* first guesses: see struct block_grid */
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
static const float steps_4[] = {15.62f, 15.62f, 15.15f, 14.42f, 15, 15.62f, 14.15f, 14.85f, 16.3f, 16.67f,
    17.05f, 16.67f, 17.05f, 14.71f, 17.44f, 17.86f};
static const float begin_4[] = {
    .02f, 0, .02f, .02f, 0, .04f, 0, 0, 0, .08f, .06f, .1f, .04f, .04f, .02f, .14f};
static const float steps_5[] = {31, 30.1f, 31.31f, 31.63f, 29.25f, 30.69f, 30.69f, 31.63f, 29.81f, 32.29f,
    32.63f, 32.29f, 32.98f, 33.7f, 31.31f, 32.98f};
static const float begin_5[] = {0, 0, 0, .02f, 0, .02f, 0, 0, .02f, .02f, .04f, 0, .06f, 0, .02f, .02f};

static const struct search searches[BLOCK_COUNT] = {
    [BLOCK_Q4_0] = {levels_q4, NULL, {3, 0, 1, 0}, {16, 1, 1, 0}},
    [BLOCK_Q4_1] = {steps_4, begin_4, {8, 1, 1, 0}, {16, 1, 1, 0}},
    [BLOCK_Q5_0] = {levels_q5, NULL, {5, 0, 1, 0}, {16, 1, 1, 0}},
    [BLOCK_Q5_1] = {steps_5, begin_5, {8, 1, 1, 0}, {16, 1, 1, 0}},
    [BLOCK_Q8_0] = {levels_q8, NULL, {1, 0, 1, 0}, {1, 0, 1, 12}},
    [BLOCK_Q2_K] = {steps_2, begin_2, {5, 1, 3, 1}, {12, 1, 4, 1}},
    [BLOCK_Q3_K] = {levels_q3, NULL, {5, 1, 2, 1}, {12, 1, 4, 1}},
    [BLOCK_Q4_K] = {steps_4, begin_4, {8, 1, 3, 1}, {16, 1, 4, 1}},
    [BLOCK_Q5_K] = {steps_5, begin_5, {8, 1, 3, 1}, {16, 1, 4, 1}},
    [BLOCK_Q6_K] = {levels_q6, NULL, {2, 1, 2, 6}, {3, 1, 3, 6}},
    [BLOCK_IQ4_NL] = {levels_nl, NULL, {6, 1, 1, 0}, {14, 1, 1, 0}},
    [BLOCK_IQ4_XS] = {levels_nl, NULL, {6, 1, 3, 1}, {14, 1, 4, 1}},
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
        .refits = effort->refits,
        .try_inverse = search->inverse,
        .try_begin = search->begin,
    };
}

/* ---- a bundle ---- */

/* Blocks, or sub-blocks of as many blocks; lanes beyond the last hold zeros. */
struct bundle {
    enum block_type type;
    const struct block_form *form;
    struct block_grid grid;
    const struct effort *effort;
    struct block_lanes lanes;
    float steps[BLOCK_LANES], offsets[BLOCK_LANES]; /* the best lines */
};

/* Weights as they come: `count` pieces of `n`, one after the other. Importance lies beside the weights, or is that of one piece for
 * all. */
struct source {
    const float *weights, *importance;
    uint32_t count, n;
    bool shared;
};

/* 1 / the greatest importance of a piece, or all importances 1 if it is 0. */
static float part_of(const float *importance, uint32_t n)
{
    float most;
    kernels()->maximum(&most, importance, n);
    return most > 0x1p-100f ? 1 / most : 0;
}

/* `count` pieces of `n` floats, the first again and again if there is but one of them, and zeros after them. */
static void pad(float out[BUNDLE_WEIGHTS], const float *in, uint32_t count, uint32_t n, bool one)
{
    memset(out, 0, BUNDLE_WEIGHTS * sizeof *out);
    for (uint32_t i = 0; i < count; i++)
        memcpy(out + i * n, in + (one ? 0 : i * n), n * sizeof *out);
}

/* A bundle of what one piece and the next are cut into. False if a weight is too large, or not finite. */
static bool gather(struct bundle *bundle, enum block_type type, const struct source *source)
{
    const uint32_t sub = block_form(type)->sub, cut = source->n / sub, room = BLOCK_LANES / cut;
    const float *weights = source->weights, *importance = source->importance;
    float padded[2][BUNDLE_WEIGHTS], parts[BLOCK_LANES] = {0};
    bool within;
    bundle->type = type;
    bundle->form = block_form(type);
    bundle->effort = importance ? &searches[type].weighted : &searches[type].plain;
    bundle->grid = grid_of(type, bundle->effort);
    for (uint32_t lane = 0; importance && lane < source->count * cut; lane++) {
        if (lane % cut || (lane && source->shared))
            parts[lane] = parts[lane - 1];
        else
            parts[lane] = part_of(importance + lane * sub, source->n);
    }
    if (source->count < room) {
        pad(padded[0], weights, source->count, source->n, false);
        weights = padded[0];
    }
    if (importance && (source->count < room || source->shared)) {
        pad(padded[1], importance, source->count, source->n, source->shared);
        importance = padded[1];
    }
    kernels()->block_gather(&bundle->lanes, &within, weights, importance, parts, sub);
    if (!importance) kernels()->block_weigh(&bundle->lanes, sub);
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

/* Blocks of a bundle that have no integer scales. */
struct small {
    uint16_t d[BLOCK_LANES], m[BLOCK_LANES];
    uint8_t codes[BLOCK_LANES][BLOCK_LANE_WEIGHTS];
};

/* Up to BLOCK_LANES blocks. False if a line does not fit half precision. An offset too small for it is none. */
static bool fit_small(struct small *out, struct bundle *bundle, const float *weights, uint32_t blocks)
{
    search(bundle);
    if (bundle->effort->reach) choose_halves(bundle);
    bool fits = round_lanes(out->d, bundle->steps, blocks);
    memset(out->m, 0, sizeof out->m);
    if (bundle->form->offset) {
        for (uint32_t lane = 0; lane < BLOCK_LANES; lane++)
            if (fabsf(bundle->offsets[lane]) < 0x1p-25f) bundle->offsets[lane] = 0;
        fits = round_lanes(out->m, bundle->offsets, blocks) && fits;
    }
    kernels()->block_codes(out->codes[0], &bundle->grid, weights, bundle->steps, bundle->offsets, blocks);
    return fits;
}

static void take_small(struct block_parts *out, uint64_t apart, const struct small *small, uint32_t blocks)
{
    for (uint32_t lane = 0; lane < blocks; lane++, out += apart) {
        out->d = small->d[lane];
        out->m = small->m[lane];
        out->scale[0] = 1;
        out->min[0] = 0;
        memcpy(out->codes, small->codes[lane], sizeof small->codes[lane]);
    }
}

/* ---- blocks with integer scales ---- */

/* What of a block is not codes. */
struct scales {
    float d, m; /* values of half precision */
    int16_t scale[BLOCK_SUBS_MOST];
    uint8_t min[BLOCK_SUBS_MOST];
    double error;
    bool stuck; /* d or m would not fit any more */
};

/* Choose scale and min of every lane, for d and m of the same. Where it is not the last choice, the nearest will do. */
static void choose_integers(
    struct block_integers *out, struct block_halves *halves, const struct bundle *bundle, bool last)
{
    halves->reach = last ? bundle->effort->reach : 0;
    halves->reach_min = last && bundle->form->min_most ? 1 : 0;
    memcpy(halves->steps, bundle->steps, sizeof halves->steps);
    memcpy(halves->offsets, bundle->offsets, sizeof halves->offsets);
    kernels()->block_choose(out, &bundle->grid, &bundle->lanes, halves);
}

/* The same for whole blocks, and their errors. */
static void choose_scales(struct scales *scales, uint32_t blocks, const struct bundle *bundle, bool last)
{
    const uint32_t subs = bundle->form->subs;
    struct block_halves halves = {0};
    struct block_integers integers;
    for (uint32_t lane = 0; lane < blocks * subs; lane++) {
        halves.d[lane] = scales[lane / subs].d;
        halves.m[lane] = scales[lane / subs].m;
    }
    choose_integers(&integers, &halves, bundle, last);
    for (uint32_t i = 0; i < blocks; i++) {
        scales[i].error = 0;
        for (uint32_t sub = 0; sub < subs; sub++) {
            scales[i].scale[sub] = (int16_t)integers.scale[i * subs + sub];
            scales[i].min[sub] = (uint8_t)integers.min[i * subs + sub];
            scales[i].error += (double)integers.error[i * subs + sub];
        }
    }
}

/* Equations of least squares for d and dmin: value = d scale level - dmin min. */
struct normal {
    double dd, dm, mm, dx, mx;
};

static struct normal normal_of(
    const struct scales *scales, const struct block_sums *sums, uint32_t first, uint32_t subs)
{
    struct normal normal = {0};
    for (uint32_t sub = 0; sub < subs; sub++) {
        const double scale = scales->scale[sub], min = scales->min[sub];
        normal.dd += scale * scale * (double)sums->wll[first + sub];
        normal.dm -= scale * min * (double)sums->wl[first + sub];
        normal.mm += min * min * (double)sums->w[first + sub];
        normal.dx += scale * (double)sums->wlx[first + sub];
        normal.mx -= min * (double)sums->wx[first + sub];
    }
    return normal;
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

/* Fit d and m of every block to the codes its scales give. */
static void improve(struct scales *scales, uint32_t blocks, const struct bundle *bundle)
{
    const uint32_t subs = bundle->form->subs;
    float steps[BLOCK_LANES] = {0}, offsets[BLOCK_LANES] = {0};
    struct block_sums sums;
    for (uint32_t lane = 0; lane < blocks * subs; lane++) {
        const struct scales *of = &scales[lane / subs];
        steps[lane] = of->d * (float)of->scale[lane % subs];
        offsets[lane] = -(of->m * (float)of->min[lane % subs]);
    }
    kernels()->block_sums(&sums, &bundle->grid, &bundle->lanes, steps, offsets);
    for (uint32_t i = 0; i < blocks; i++) {
        const struct normal normal = normal_of(&scales[i], &sums, i * subs, subs);
        solve(&scales[i], &normal);
        if (isfinite(scales[i].d) && isfinite(scales[i].m)) continue;
        scales[i].stuck = true;
        scales[i].d = scales[i].m = 0;
    }
}

/* d that brings the largest step to the end of the scales' range, but for what a choice may reach beyond it, and dmin likewise. False:
 * it does not fit half precision. */
static bool first_guess(struct scales *scales, const struct bundle *bundle, uint32_t first)
{
    const struct block_form *form = bundle->form;
    float step = 0, offset = 0;
    for (uint32_t lane = first; lane < first + form->subs; lane++) {
        if (fabsf(bundle->steps[lane]) > fabsf(step)) step = bundle->steps[lane];
        if (-bundle->offsets[lane] > offset) offset = -bundle->offsets[lane];
    }
    const int32_t end =
        form->scale_least < 0 ? form->scale_least + (int32_t)bundle->effort->reach - 1 : form->scale_most;
    scales->d = rounded(step / (float)end);
    scales->m = form->min_most ? rounded(offset / (float)form->min_most) : 0;
    return isfinite(scales->d) && isfinite(scales->m);
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

/* The blocks of a bundle. False if one does not fit half precision. */
static bool fit_large(
    struct block_parts *out, uint64_t apart, struct bundle *bundle, const float *weights, uint32_t blocks)
{
    struct scales now[BLOCK_LANES / SUBS_LEAST] = {{0}}, best[BLOCK_LANES / SUBS_LEAST];
    search(bundle);
    for (uint32_t i = 0; i < blocks; i++) {
        if (!first_guess(&now[i], bundle, i * bundle->form->subs)) return false;
        best[i].error = INFINITY;
    }
    for (uint32_t left = bundle->effort->rounds; left--;) {
        choose_scales(now, blocks, bundle, left == 0);
        for (uint32_t i = 0; i < blocks; i++)
            if (!now[i].stuck && now[i].error < best[i].error) best[i] = now[i];
        if (left > 0) improve(now, blocks, bundle);
    }
    for (uint32_t i = 0; i < blocks; i++)
        finish(out + i * apart, bundle, &best[i], weights + i * bundle->form->weights);
    return true;
}

/* ---- what block_fit.h offers ---- */

/* Blocks that a bundle holds. */
static uint32_t room_for(const struct block_form *form)
{
    return BLOCK_LANES / form->subs;
}

/* At most as many blocks as a bundle holds. False if one does not fit. */
static bool fit_some(
    struct block_parts *out, uint64_t apart, enum block_type type, const struct source *source)
{
    struct bundle bundle;
    struct small small;
    if (!gather(&bundle, type, source)) return false;
    if (bundle.form->subs > 1) return fit_large(out, apart, &bundle, source->weights, source->count);
    if (!fit_small(&small, &bundle, source->weights, source->count)) return false;
    take_small(out, apart, &small, source->count);
    return true;
}

/* The same as bytes, one block after the other. */
static bool fit_bytes(uint8_t *out, enum block_type type, const struct source *source)
{
    struct block_parts parts[BLOCK_LANES / SUBS_LEAST];
    struct bundle bundle;
    struct small small;
    if (!gather(&bundle, type, source)) return false;
    if (bundle.form->subs == 1) {
        if (!fit_small(&small, &bundle, source->weights, source->count)) return false;
        block_parts_put_small(out, type, small.d, small.m, small.codes[0], source->count);
        return true;
    }
    if (!fit_large(parts, 1, &bundle, source->weights, source->count)) return false;
    for (uint32_t i = 0; i < source->count; i++)
        block_parts_put(out + i * block_info(type)->bytes, type, &parts[i]);
    return true;
}

bool block_fit(struct block_parts *out, enum block_type type, const float *weights, const float *importance)
{
    return block_fit_column(out, 1, type, weights, 1, importance) == 1;
}

uint64_t block_fit_column(struct block_parts *out, uint64_t apart, enum block_type type, const float *weights,
    uint64_t rows, const float *importance)
{
    const struct block_form *form = block_form(type);
    const uint64_t room = room_for(form);
    for (uint64_t row = 0; row < rows; row += room) {
        struct source source = {weights + row * form->weights, importance, 0, form->weights, true};
        source.count = (uint32_t)(rows - row < room ? rows - row : room);
        if (fit_some(out + row * apart, apart, type, &source)) continue;
        while (
            source.count > 1 && block_fit(out + row * apart, type, weights + row * form->weights, importance))
            row++;
        return row;
    }
    return rows;
}

/* Scales and minima of one bundle. */
static void fit_sub(struct block_parts *parts, uint64_t apart, enum block_type type, uint32_t sub,
    const struct source *source)
{
    struct bundle bundle;
    struct block_halves halves = {0};
    struct block_integers integers;
    gather(&bundle, type, source);
    search(&bundle);
    for (uint32_t i = 0; i < source->count; i++) {
        halves.d[i] = dtype_f16_to_f32(parts[i * apart].d);
        halves.m[i] = dtype_f16_to_f32(parts[i * apart].m);
    }
    choose_integers(&integers, &halves, &bundle, true);
    for (uint32_t i = 0; i < source->count; i++) {
        parts[i * apart].scale[sub] = (int16_t)integers.scale[i];
        parts[i * apart].min[sub] = (uint8_t)integers.min[i];
    }
}

void block_fit_sub(struct block_parts *parts, uint64_t apart, enum block_type type, uint32_t sub,
    const float *weights, uint64_t rows, const float *importance)
{
    const struct block_form *form = block_form(type);
    for (uint64_t row = 0; form->scale_least != form->scale_most && row < rows; row += BLOCK_LANES) {
        struct source source = {weights + row * form->sub, importance, 0, form->sub, true};
        source.count = (uint32_t)(rows - row < BLOCK_LANES ? rows - row : BLOCK_LANES);
        fit_sub(parts + row * apart, apart, type, sub, &source);
    }
    for (uint64_t row = 0; row < rows; row++)
        block_fit_codes(parts + row * apart, type, sub, weights + row * form->sub);
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

/* A row, or several that lie one after the other. */
static bool fit_row(uint8_t *out, enum block_type type, const float *weights, uint64_t cols,
    const float *importance, uint64_t *col)
{
    const struct block_form *form = block_form(type);
    const uint32_t bytes = block_info(type)->bytes, room = room_for(form);
    for (*col = 0; *col < cols; *col += (uint64_t)room * form->weights) {
        const uint64_t left = (cols - *col) / form->weights;
        const struct source source = {.weights = weights + *col,
            .importance = importance ? importance + *col : NULL,
            .count = left < room ? (uint32_t)left : room,
            .n = form->weights};
        if (!fit_bytes(out, type, &source)) {
            *col += fault_at(type, source.weights, source.importance, source.count);
            return false;
        }
        out += source.count * bytes;
    }
    return true;
}

bool block_fit_rows(uint8_t *out, enum block_type type, const float *weights, uint64_t rows, uint64_t cols,
    const float *importance, uint64_t *row, uint64_t *col)
{
    const uint64_t at_once = importance ? 1 : rows,
                   bytes = cols / block_form(type)->weights * block_info(type)->bytes;
    for (*row = 0; *row < rows; *row += at_once) {
        if (fit_row(out + *row * bytes, type, weights + *row * cols, at_once * cols, importance, col))
            continue;
        *row += *col / cols;
        *col %= cols;
        return false;
    }
    return true;
}
