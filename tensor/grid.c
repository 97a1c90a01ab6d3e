/* The quantization grid: what range, what scale, what code. The loops over weights are kernels; the decisions
 * are here, once, so that every kernel set makes the same ones. */
#include "tensor/grid.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tensor/kernels/kernels.h"

/* Consecutive groups of one row that go from weights to codes together, so that the steps between the two
 * kernels run over arrays. */
#define BATCH 64
struct batch {
    float low[BATCH], high[BATCH]; /* extremes */
    float step[BATCH];             /* the scale before its rounding to half precision */
    uint16_t half[BATCH];          /* the scale */
    float scale[BATCH], inverse[BATCH], zero[BATCH];
};

static float top_code(uint32_t bits)
{
    return (float)((1u << bits) - 1);
}

static float middle_code(uint32_t bits)
{
    return (float)(1u << (bits - 1));
}

static float inverse_of(float scale)
{
    return scale == 0 ? 0 : 1 / scale;
}

static bool half_is_finite(uint16_t half)
{
    return (half & 0x7c00) != 0x7c00;
}

/* ---- min-max ---- */

/* The weight of largest magnitude, the first of equals. */
static float extreme_of(float low, float high, const float *weights)
{
    if (high > -low) return high;
    if (high < -low) return low;
    while (*weights != low && *weights != high)
        weights++;
    return *weights;
}

static void symmetric_steps(
    struct batch *batch, const float *weights, uint64_t groups, uint64_t group, uint32_t bits)
{
    float divisor = -middle_code(bits);
    for (uint64_t g = 0; g < groups; g++) {
        float low = batch->low[g], high = batch->high[g];
        batch->step[g] = isnan(low) ? low : extreme_of(low, high, weights + g * group) / divisor;
        batch->zero[g] = -divisor;
    }
}

static void asymmetric_steps(struct batch *batch, uint64_t groups, uint32_t bits)
{
    for (uint64_t g = 0; g < groups; g++) {
        if (batch->low[g] > 0) batch->low[g] = 0;
        if (batch->high[g] < 0) batch->high[g] = 0;
        batch->step[g] = (batch->high[g] - batch->low[g]) / top_code(bits);
    }
}

/* The code whose value is 0: as many steps from the bottom as `low` lies below 0. */
static float zero_point(float low, float scale, uint32_t bits)
{
    float zero = scale == 0 ? 0 : -low / scale;
    return zero > top_code(bits) ? top_code(bits) : (float)lrintf(zero);
}

/* Fit `groups` (at most BATCH) groups to their extremes. Returns the number of the first group that cannot be
 * fitted (a weight is not finite, or the scale is too large for half precision), or `groups`. */
static uint64_t fit_minmax(struct batch *batch, const float *weights, uint64_t groups, uint64_t group,
    uint32_t bits, bool asymmetric)
{
    kernels()->group_extremes(batch->low, batch->high, weights, groups, group);
    if (asymmetric) {
        asymmetric_steps(batch, groups, bits);
    } else {
        symmetric_steps(batch, weights, groups, group, bits);
    }
    kernels()->f32_to_f16(batch->half, batch->step, groups);
    kernels()->f16_to_f32(batch->scale, batch->half, groups);
    for (uint64_t g = 0; g < groups; g++) {
        if (!half_is_finite(batch->half[g])) return g;
        if (batch->scale[g] == 0) batch->half[g] = 0; /* no negative zero in files */
        batch->inverse[g] = inverse_of(batch->scale[g]);
        if (asymmetric) batch->zero[g] = zero_point(batch->low[g], batch->scale[g], bits);
    }
    return groups;
}

/* ---- search ---- */

enum { SYMMETRIC_FACTORS = 91, ASYMMETRIC_FACTORS = 41, ZEROS_AROUND = 8 };
_Static_assert(1 + 2 * SYMMETRIC_FACTORS <= GRID_CANDIDATES, "min-max, and both signs of every factor");
_Static_assert(
    1 + ASYMMETRIC_FACTORS * (2 * ZEROS_AROUND + 1) <= GRID_CANDIDATES, "min-max, and zeros x factors");
_Static_assert(GRID_CANDIDATES % 8 == 0, "there is room to fill up to a multiple of 8");

/* Candidate 0: the min-max fit. */
static void start(struct grid_candidates *candidates, const struct batch *batch, uint64_t g, uint32_t bits)
{
    candidates->count = 1;
    candidates->top = top_code(bits);
    candidates->scale[0] = batch->scale[g];
    candidates->inverse[0] = batch->inverse[g];
    candidates->zero[0] = batch->zero[g];
}

/* Add `count` candidates with one zero-point. */
static void add(struct grid_candidates *candidates, const float *scales, const float *inverses,
    uint64_t count, float zero)
{
    uint64_t at = candidates->count;
    memcpy(candidates->scale + at, scales, count * sizeof *scales);
    memcpy(candidates->inverse + at, inverses, count * sizeof *inverses);
    for (uint64_t i = 0; i < count; i++)
        candidates->zero[at + i] = zero;
    candidates->count += count;
}

/* Round scales to half precision and find their inverses. One that becomes zero or infinite is replaced by
 * `fallback`, which is neither. */
static void round_scales(float *scales, float *inverses, uint64_t count, float fallback)
{
    uint16_t halves[SYMMETRIC_FACTORS];
    kernels()->f32_to_f16(halves, scales, count);
    kernels()->f16_to_f32(scales, halves, count);
    for (uint64_t i = 0; i < count; i++) {
        if ((halves[i] & 0x7fff) == 0 || !half_is_finite(halves[i])) scales[i] = fallback;
    }
    for (uint64_t i = 0; i < count; i++)
        inverses[i] = 1 / scales[i];
}

/* 0.30, 0.31 .. 1.20 times the min-max step, with both signs. */
static void add_symmetric(struct grid_candidates *candidates, const struct batch *batch, uint64_t g)
{
    float scales[SYMMETRIC_FACTORS], inverses[SYMMETRIC_FACTORS];
    for (int i = 0; i < SYMMETRIC_FACTORS; i++)
        scales[i] = batch->step[g] * ((float)(30 + i) / 100);
    round_scales(scales, inverses, SYMMETRIC_FACTORS, batch->scale[g]);
    add(candidates, scales, inverses, SYMMETRIC_FACTORS, batch->zero[g]);
    for (int i = 0; i < SYMMETRIC_FACTORS; i++) {
        scales[i] = -scales[i];
        inverses[i] = -inverses[i];
    }
    add(candidates, scales, inverses, SYMMETRIC_FACTORS, batch->zero[g]);
}

/* 0.40, 0.42 .. 1.20 times the min-max step, with every zero-point up to 4 bits, and with those near the
 * min-max one above. Scales are the inner loop: neighbours in the list are then about equally good, and a
 * kernel can give up on eight of them at once. */
static void add_asymmetric(
    struct grid_candidates *candidates, const struct batch *batch, uint64_t g, uint32_t bits)
{
    float scales[ASYMMETRIC_FACTORS], inverses[ASYMMETRIC_FACTORS];
    int top = (int)top_code(bits), first = 0, last = top;
    if (bits > 4) {
        first = (int)batch->zero[g] - ZEROS_AROUND;
        last = (int)batch->zero[g] + ZEROS_AROUND;
    }
    for (int i = 0; i < ASYMMETRIC_FACTORS; i++)
        scales[i] = batch->step[g] * ((float)(20 + i) / 50);
    round_scales(scales, inverses, ASYMMETRIC_FACTORS, batch->scale[g]);
    for (int zero = first < 0 ? 0 : first; zero <= last && zero <= top; zero++) {
        add(candidates, scales, inverses, ASYMMETRIC_FACTORS, (float)zero);
    }
}

/* Replace group g's min-max fit by the best candidate. */
static void search(struct batch *batch, uint64_t g, const float *weights, const float *importance,
    uint64_t group, uint32_t bits, bool asymmetric)
{
    if (batch->scale[g] == 0) return; /* nothing to scale */
    struct grid_candidates candidates;
    start(&candidates, batch, g, bits);
    if (asymmetric) {
        add_asymmetric(&candidates, batch, g, bits);
    } else {
        add_symmetric(&candidates, batch, g);
    }
    while (candidates.count % 8)
        add(&candidates, batch->scale + g, batch->inverse + g, 1, batch->zero[g]);

    uint64_t best;
    kernels()->grid_search(&best, &candidates, weights, importance, group);
    batch->scale[g] = candidates.scale[best];
    batch->inverse[g] = candidates.inverse[best];
    batch->zero[g] = candidates.zero[best];
    batch->half[g] = dtype_f32_to_f16(batch->scale[g]);
}

bool grid_fit(struct grid *out, const float *weights, const float *importance, uint64_t count, uint32_t bits,
    bool asymmetric, enum grid_range range)
{
    struct batch batch;
    if (fit_minmax(&batch, weights, 1, count, bits, asymmetric) != 1) return false;
    if (range == GRID_MSE) search(&batch, 0, weights, importance, count, bits, asymmetric);
    *out = (struct grid){batch.half[0], (uint8_t)batch.zero[0]};
    return true;
}

/* ---- codes ---- */

void grid_encode(uint8_t *codes, const float *weights, uint64_t count, struct grid grid, uint32_t bits)
{
    float inverse = inverse_of(dtype_f16_to_f32(grid.scale)), zero = grid.zero;
    kernels()->group_encode(codes, weights, 1, count, &inverse, &zero, top_code(bits));
}

void grid_decode(float *out, const uint8_t *codes, uint64_t count, struct grid grid)
{
    float scale = dtype_f16_to_f32(grid.scale);
    for (uint64_t i = 0; i < count; i++)
        out[i] = scale * (float)(codes[i] - grid.zero);
}

/* ---- whole rows ---- */

/* Say which weight of a group that could not be fitted is at fault: the first that is not finite, or else the
 * largest, which made the scale too large. */
static enum status group_fault(const float *weights, uint64_t group, uint64_t row, uint64_t first_col,
    uint64_t *fault_row, uint64_t *fault_col, struct error *err)
{
    uint64_t at = 0;
    for (uint64_t i = 0; i < group; i++) {
        if (!isfinite(weights[i])) {
            at = i;
            break;
        }
        if (fabsf(weights[i]) > fabsf(weights[at])) at = i;
    }
    *fault_row = row;
    *fault_col = first_col + at;
    if (isfinite(weights[at])) {
        return fail(err, ERR_NUMERIC,
            "weight [%" PRIu64 ", %" PRIu64 "] is %g: its scale does not fit half precision", *fault_row,
            *fault_col, (double)weights[at]);
    }
    return fail(err, ERR_NUMERIC, "weight [%" PRIu64 ", %" PRIu64 "] is %s", *fault_row, *fault_col,
        isnan(weights[at]) ? "NaN" : "infinite");
}

enum status grid_quantize_rows(uint8_t *codes, uint16_t *scales, uint8_t *zeros, const float *weights,
    uint64_t rows, uint64_t cols, struct scheme scheme, enum grid_range range, const float *importance,
    uint64_t *fault_row, uint64_t *fault_col, struct error *err)
{
    uint64_t group = scheme.group, groups = cols / group;
    struct batch batch;
    for (uint64_t row = 0; row < rows; row++) {
        for (uint64_t first = 0; first < groups; first += BATCH) {
            uint64_t at = row * cols + first * group, count = groups - first < BATCH ? groups - first : BATCH;
            uint64_t fitted = fit_minmax(&batch, weights + at, count, group, scheme.bits, scheme.asymmetric);
            if (fitted < count) {
                return group_fault(weights + at + fitted * group, group, row, (first + fitted) * group,
                    fault_row, fault_col, err);
            }
            for (uint64_t g = 0; range == GRID_MSE && g < count; g++) {
                const float *weighting = importance ? importance + (first + g) * group : NULL;
                search(&batch, g, weights + at + g * group, weighting, group, scheme.bits, scheme.asymmetric);
            }
            kernels()->group_encode(
                codes + at, weights + at, count, group, batch.inverse, batch.zero, top_code(scheme.bits));
            for (uint64_t g = 0; g < count; g++) {
                scales[row * groups + first + g] = batch.half[g];
                if (zeros) zeros[row * groups + first + g] = (uint8_t)batch.zero[g];
            }
        }
    }
    return OK;
}
