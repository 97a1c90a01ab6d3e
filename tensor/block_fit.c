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

enum { ROUNDS = 3, PICKS_MOST = 16, BUNDLES_MOST = BLOCK_SUBS_MOST / BLOCK_LANES };

/* How a type is searched. */
struct search {
    uint32_t tries, refits;
    const float *inverse, *begin; /* see struct block_grid */
    bool neighbours;              /* of d in half precision: where its rounding matters */
};

#define COUNT(list) (sizeof(list) / sizeof *(list))
#define ZERO_SEARCH(list, refits, neighbours)                                                                \
    {                                                                                                        \
        COUNT(list), refits, list, NULL, neighbours                                                          \
    }
#define LINE_SEARCH(lists, refits)                                                                           \
    {                                                                                                        \
        COUNT((lists)[0]), refits, (lists)[0], (lists)[1], false                                             \
    }

/* Through zero: the level at which the extreme weight lies. */
static const float levels_4[] = {-8, -7.5f, -7, -8.5f, 7, 7.5f, 8, 6.5f};
static const float levels_5[] = {-16, -15.5f, 15, 15.5f, -16.5f, 14.5f};
static const float levels_8[] = {-128, 127};
static const float levels_3[] = {-4, -3.5f, -3, -4.5f, 3, 3.5f, 4, 2.5f};
static const float levels_6[] = {-32, -31.5f, 31, 31.5f};
static const float levels_nl[] = {-127, -120, -113, -135, 113, 107, 120, 100};

/* With an offset: how many steps the range has, and where the line begins. */
static const float lines_2[2][8] = {
    {3, 2.6f, 3.4f, 3.8f, 3.4f, 3.8f, 4.2f, 4.6f}, {0, 0, 0, 0, .06f, .06f, .1f, .15f}};
static const float lines_4[2][8] = {
    {15, 14, 15.5f, 16.5f, 15.5f, 16, 17, 18}, {0, 0, 0, 0, .03f, .03f, .05f, .07f}};
static const float lines_5[2][4] = {{31, 30, 31.5f, 32}, {0, 0, 0, 0.01f}};

static const struct search searches[BLOCK_COUNT] = {
    [BLOCK_Q4_0] = ZERO_SEARCH(levels_4, 1, false),
    [BLOCK_Q4_1] = LINE_SEARCH(lines_4, 1),
    [BLOCK_Q5_0] = ZERO_SEARCH(levels_5, 1, false),
    [BLOCK_Q5_1] = LINE_SEARCH(lines_5, 1),
    [BLOCK_Q8_0] = ZERO_SEARCH(levels_8, 0, true),
    [BLOCK_Q2_K] = LINE_SEARCH(lines_2, 2),
    [BLOCK_Q3_K] = ZERO_SEARCH(levels_3, 1, false),
    [BLOCK_Q4_K] = LINE_SEARCH(lines_4, 2),
    [BLOCK_Q5_K] = LINE_SEARCH(lines_5, 1),
    [BLOCK_Q6_K] = ZERO_SEARCH(levels_6, 1, false),
    [BLOCK_IQ4_NL] = ZERO_SEARCH(levels_nl, 1, false),
    [BLOCK_IQ4_XS] = ZERO_SEARCH(levels_nl, 1, false),
};

static struct block_grid grid_of(enum block_type type)
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
        .tries = search->tries,
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
    struct block_lanes lanes;
    float steps[BLOCK_LANES], offsets[BLOCK_LANES]; /* the best lines */
};

/* Candidates for every lane, and which was taken. */
struct picks {
    uint32_t count, best[BLOCK_LANES];
    float steps[PICKS_MOST][BLOCK_LANES], offsets[PICKS_MOST][BLOCK_LANES], errors[BLOCK_LANES];
};

static void pick(struct picks *picks, const struct bundle *bundle)
{
    kernels()->block_pick(picks->best, picks->errors, &bundle->grid, &bundle->lanes, picks->steps[0],
        picks->offsets[0], picks->count);
}

/* 1 / the greatest importance of each of `count` stretches, or all importances 1 if it is 0. */
static float part_of(const float *importance, uint32_t n)
{
    float most;
    kernels()->maximum(&most, importance, n);
    return most > 0x1p-100f ? 1 / most : 0;
}

/* Weights [BLOCK_LANES][n] into lanes; parts [BLOCK_LANES]: part_of the block of each. False if one is not finite. */
static bool gather(struct bundle *bundle, enum block_type type, const float *weights, const float *importance,
    const float *parts)
{
    bool finite;
    bundle->type = type;
    bundle->form = block_form(type);
    bundle->grid = grid_of(type);
    kernels()->block_gather(&bundle->lanes, &finite, weights, importance, parts, bundle->grid.n);
    return finite;
}

static void search(struct bundle *bundle)
{
    kernels()->block_search(bundle->steps, bundle->offsets, &bundle->grid, &bundle->lanes);
}

static bool fits(uint16_t half)
{
    return (half & 0x7fff) < 0x7c00;
}

static void encode(struct block_parts *parts, const struct bundle *bundle, uint32_t sub, const float *weights)
{
    const struct block_line line = block_parts_line(bundle->type, parts, sub);
    kernels()->block_codes(
        parts->codes + sub * bundle->grid.n, &bundle->grid, weights, line.step, line.offset);
}

/* ---- blocks without integer scales ---- */

/* Half precision numbers beside `half`: away from zero, and towards it. */
static uint16_t beside(uint16_t half, uint32_t which)
{
    const uint16_t size = half & 0x7fff;
    if (which == 1 && size < 0x7bff) return half + 1;
    if (which == 2 && size > 0) return half - 1;
    return half;
}

/* d of every lane, the best of three. */
static void choose_halves(uint16_t d[BLOCK_LANES], const struct bundle *bundle)
{
    struct picks picks = {.count = 3};
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++) {
        for (uint32_t k = 0; k < picks.count; k++)
            picks.steps[k][lane] = dtype_f16_to_f32(beside(d[lane], k));
    }
    pick(&picks, bundle);
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++)
        d[lane] = beside(d[lane], picks.best[lane]);
}

/* Up to BLOCK_LANES blocks. False if a line does not fit half precision. */
static bool fit_small(struct block_parts *out, struct bundle *bundle, const float *weights, uint32_t blocks)
{
    uint16_t d[BLOCK_LANES];
    bool fit = true;
    search(bundle);
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++)
        d[lane] = dtype_f32_to_f16(bundle->steps[lane]);
    if (searches[bundle->type].neighbours) choose_halves(d, bundle);
    for (uint32_t lane = 0; lane < blocks; lane++) {
        out[lane].d = d[lane];
        out[lane].m = bundle->form->offset ? dtype_f32_to_f16(bundle->offsets[lane]) : 0;
        out[lane].scale[0] = 1;
        out[lane].min[0] = 0;
        if (!fits(out[lane].d) || !fits(out[lane].m)) {
            fit = false;
            continue;
        }
        encode(&out[lane], bundle, 0, weights + (uint64_t)lane * bundle->grid.n);
    }
    return fit;
}

/* ---- blocks with integer scales ---- */

static int32_t clamped(float x, int32_t least, int32_t most)
{
    if (!(x > (float)least)) return least;
    return x < (float)most ? (int32_t)lrintf(x) : most;
}

/* What of a block is not codes. */
struct scales {
    float d, m; /* values of half precision */
    int16_t scale[BLOCK_SUBS_MOST];
    uint8_t min[BLOCK_SUBS_MOST];
    double error;
};

/* Candidate k of a sub-block whose best line is given: three scales, and with each the three minima around the one that leaves the middle
 * of the line in its place. */
static void candidate(int32_t *scale, int32_t *min, uint32_t k, const struct bundle *bundle,
    const struct scales *scales, uint32_t lane)
{
    const struct block_form *form = bundle->form;
    const float step = bundle->steps[lane], offset = bundle->offsets[lane];
    const float ratio = scales->d != 0 ? step / scales->d : 0;
    const int32_t nearest = clamped(ratio, form->scale_least, form->scale_most);
    *scale = clamped((float)(nearest + (int32_t)(k % 3) - 1), form->scale_least, form->scale_most);
    *min = 0;
    if (!form->min_most || scales->m == 0) return;
    const float middle = (bundle->grid.lowest + bundle->grid.highest) / 2;
    const float moved = offset + (step - scales->d * (float)*scale) * middle;
    const int32_t at = clamped(-moved / scales->m, 0, form->min_most);
    *min = clamped((float)(at + (int32_t)(k / 3) - 1), 0, form->min_most);
}

/* Choose scale and min of every lane, sub-blocks first .. first + BLOCK_LANES - 1; the error is added. */
static void choose_integers(struct scales *scales, const struct bundle *bundle, uint32_t first)
{
    struct picks picks = {.count = bundle->form->min_most ? 9 : 3};
    int32_t scale, min;
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++) {
        for (uint32_t k = 0; k < picks.count; k++) {
            candidate(&scale, &min, k, bundle, scales, lane);
            picks.steps[k][lane] = scales->d * (float)scale;
            picks.offsets[k][lane] = -(scales->m * (float)min);
        }
    }
    pick(&picks, bundle);
    for (uint32_t lane = 0; lane < BLOCK_LANES; lane++) {
        candidate(&scale, &min, picks.best[lane], bundle, scales, lane);
        scales->scale[first + lane] = (int16_t)scale;
        scales->min[first + lane] = (uint8_t)min;
        scales->error += (double)picks.errors[lane];
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
    scales->d = dtype_f16_to_f32(dtype_f32_to_f16((float)d));
    scales->m = dtype_f16_to_f32(dtype_f32_to_f16((float)(m > 0 ? m : 0)));
}

/* d that brings the largest step to the end of the scales' range, and dmin likewise. */
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
    const int32_t end = form->scale_least < 0 ? form->scale_least : form->scale_most;
    scales->d = dtype_f16_to_f32(dtype_f32_to_f16(step / (float)end));
    scales->m = form->min_most ? dtype_f16_to_f32(dtype_f32_to_f16(offset / (float)form->min_most)) : 0;
}

static void put_scales(struct block_parts *out, const struct scales *scales)
{
    out->d = dtype_f32_to_f16(scales->d);
    out->m = dtype_f32_to_f16(scales->m);
    memcpy(out->scale, scales->scale, sizeof out->scale);
    memcpy(out->min, scales->min, sizeof out->min);
}

/* One block of `count` bundles. */
static bool fit_large(struct block_parts *out, struct bundle *bundles, uint32_t count, const float *weights)
{
    struct scales scales = {0}, best = {.error = INFINITY};
    for (uint32_t i = 0; i < count; i++)
        search(&bundles[i]);
    first_guess(&scales, bundles, count);
    if (!isfinite(scales.d) || !isfinite(scales.m)) return false;
    for (int round = 0; round < ROUNDS; round++) {
        struct normal normal = {0};
        scales.error = 0;
        for (uint32_t i = 0; i < count; i++)
            choose_integers(&scales, &bundles[i], i * BLOCK_LANES);
        if (scales.error < best.error) best = scales;
        if (round + 1 == ROUNDS) break;
        for (uint32_t i = 0; i < count; i++)
            add_normal(&normal, &bundles[i], &scales, i * BLOCK_LANES);
        solve(&scales, &normal);
        if (!isfinite(scales.d) || !isfinite(scales.m)) break;
    }
    put_scales(out, &best);
    for (uint32_t sub = 0; sub < bundles->form->subs; sub++)
        encode(out, bundles, sub, weights + (uint64_t)sub * bundles->grid.n);
    return true;
}

/* ---- what block_fit.h offers ---- */

/* One large block, or up to BLOCK_LANES small ones; *finite: whether all weights are. */
static bool fit_some(struct block_parts *out, enum block_type type, const float *weights,
    const float *importance, uint32_t blocks, bool *finite)
{
    const struct block_form *form = block_form(type);
    const uint32_t count = form->subs == 1 ? 1 : form->subs / BLOCK_LANES;
    struct bundle bundles[BUNDLES_MOST];
    float parts[BLOCK_LANES], padded[2][BLOCK_LANES * BLOCK_LANE_WEIGHTS] = {{0}};
    if (form->subs == 1 && blocks < BLOCK_LANES) {
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
    *finite = true;
    for (uint32_t i = 0; i < count && *finite; i++) {
        const uint64_t first = (uint64_t)i * BLOCK_LANES * form->sub;
        *finite = gather(&bundles[i], type, weights + first, importance ? importance + first : NULL, parts);
    }
    if (!*finite) return false;
    return form->subs == 1 ? fit_small(out, bundles, weights, blocks)
                           : fit_large(out, bundles, count, weights);
}

bool block_fit(struct block_parts *out, enum block_type type, const float *weights, const float *importance)
{
    bool finite;
    return fit_some(out, type, weights, importance, 1, &finite);
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
        choose_integers(&scales, &bundle, 0);
        parts->scale[sub] = scales.scale[0];
        parts->min[sub] = scales.min[0];
    }
    block_fit_codes(parts, type, sub, weights);
}

void block_fit_codes(struct block_parts *parts, enum block_type type, uint32_t sub, const float *weights)
{
    const struct block_grid grid = grid_of(type);
    const struct block_line line = block_parts_line(type, parts, sub);
    kernels()->block_codes(parts->codes + sub * grid.n, &grid, weights, line.step, line.offset);
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
            bool finite;
            if (!fit_some(parts, type, weights + *col, part, blocks, &finite)) {
                *col += fault_at(type, weights + *col, part, blocks);
                return false;
            }
            for (uint32_t i = 0; i < blocks; i++, out += bytes)
                block_parts_put(out, type, &parts[i]);
        }
    }
    return true;
}
