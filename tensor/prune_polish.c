/* Rows are independent; a strip of them shares the products with H. For d = w - t the gradient of half the error is g = d H. */
#include "tensor/prune_polish.h"

#include <math.h>
#include <string.h>

#include "tensor/linalg.h"

enum {
    LANES = 8,    /* independent maxima: they vectorize */
    SHARE = 8,    /* rows that go through H together: theirs stay in the cache */
    GRADIENTS = 6 /* steps of conjugate gradients a round */
};

/* The scratch of a strip, and what the best rows so far are. */
struct work {
    const struct prune_problem *problem;
    uint64_t rows, cols;
    const float *target;
    float *weights, *gradient, *residual, *direction, *product; /* [rows][cols] */
    uint8_t *mask;                                              /* [rows][cols] */
    float *comes; /* [SHARE][cols] of some rows: 1 / H_jj where j may come, else 0 */
    uint64_t exchanged[PRUNE_STRIP_MOST];
};

uint64_t prune_polish_floats(uint64_t rows, uint64_t cols)
{
    return (rows * 5 + SHARE) * cols + (rows * cols + sizeof(float) - 1) / sizeof(float);
}

static float diagonal(const struct work *work, uint64_t col)
{
    return work->problem->damped[col * work->cols + col];
}

/* out = in H */
static void multiply(const struct work *work, float *out, const float *in)
{
    linalg_gemm_nn(work->rows, work->cols, work->cols, 1, in, work->cols, work->problem->damped, work->cols,
        0, out, work->cols);
}

static double dot(const float *a, const float *b, uint64_t count)
{
    double sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* g = (w - t) H, afresh; error[r] = g (w - t)^T. */
static void measure(struct work *work, double *error)
{
    uint64_t cols = work->cols;
    for (uint64_t i = 0; i < work->rows * cols; i++)
        work->direction[i] = work->weights[i] - work->target[i];
    multiply(work, work->gradient, work->direction);
    for (uint64_t r = 0; r < work->rows; r++)
        error[r] = dot(work->gradient + r * cols, work->direction + r * cols, cols);
}

/* ---- conjugate gradients ---- */

/* The descent direction of one row's next step; rho: r D^-1 r of this one and (out) for the next. */
static void turn(struct work *work, uint64_t row, bool first, double *rho)
{
    uint64_t at = row * work->cols;
    double now = 0;
    for (uint64_t c = 0; c < work->cols; c++) {
        float residual = work->mask[at + c] ? -work->gradient[at + c] : 0;
        work->residual[at + c] = residual / diagonal(work, c);
        now += (double)residual * (double)work->residual[at + c];
    }
    float keep = !first && *rho > 0 ? (float)(now / *rho) : 0;
    for (uint64_t c = 0; c < work->cols; c++)
        work->direction[at + c] = work->residual[at + c] + keep * (first ? 0 : work->direction[at + c]);
    *rho = now;
}

static void step(struct work *work, uint64_t row, double rho)
{
    uint64_t at = row * work->cols;
    double curvature = dot(work->direction + at, work->product + at, work->cols);
    if (!(curvature > 0) || !(rho > 0)) return;
    float length = (float)(rho / curvature);
    for (uint64_t c = 0; c < work->cols; c++) {
        work->weights[at + c] += length * work->direction[at + c];
        work->gradient[at + c] += length * work->product[at + c];
    }
}

static void solve(struct work *work, unsigned steps)
{
    double rho[PRUNE_STRIP_MOST] = {0};
    for (unsigned i = 0; i < steps; i++) {
        for (uint64_t r = 0; r < work->rows; r++)
            turn(work, r, i == 0, rho + r);
        multiply(work, work->product, work->direction);
        for (uint64_t r = 0; r < work->rows; r++)
            step(work, r, rho[r]);
    }
}

/* ---- exchanges ---- */

/* The greatest (g_j - w h_j)^2 * comes_j for j in [begin, end). */
static float greatest(const float *gradient, const float *hessian, const float *comes, float weight,
    uint64_t begin, uint64_t end)
{
    float most[LANES] = {0}, all = 0;
    uint64_t j = begin;
    for (; j + LANES <= end; j += LANES) {
        for (uint64_t l = 0; l < LANES; l++) {
            float rest = gradient[j + l] - weight * hessian[j + l], gain = rest * rest * comes[j + l];
            most[l] = gain > most[l] ? gain : most[l];
        }
    }
    for (; j < end; j++) {
        float rest = gradient[j] - weight * hessian[j], gain = rest * rest * comes[j];
        all = gain > all ? gain : all;
    }
    for (uint64_t l = 0; l < LANES; l++)
        all = most[l] > all ? most[l] : all;
    return all;
}

static void move(float *gradient, const float *hessian, float by, uint64_t cols)
{
    for (uint64_t c = 0; c < cols; c++)
        gradient[c] += by * hessian[c];
}

/* One row while weights are exchanged, and where those that may come lie. */
struct exchanging {
    const struct work *work;
    float *weights, *gradient, *comes; /* [cols] */
    uint8_t *mask;                     /* [cols] */
};

/* Weight i goes, j in [begin, end) comes with the value that is then best, if the best j lowers the error: it changes by
 * w^2 H_ii - 2 w g_i - (g_j - w H_ij)^2 / H_jj. */
static bool exchange(const struct exchanging *row, uint64_t i, uint64_t begin, uint64_t end)
{
    uint64_t cols = row->work->cols, j = begin;
    const float *hessian = row->work->problem->damped + i * cols;
    float weight = row->weights[i], loss = weight * (weight * hessian[i] - 2 * row->gradient[i]);
    float most = greatest(row->gradient, hessian, row->comes, weight, begin, end), rest = 0;
    if (!(most > loss + 1e-6f * fabsf(loss))) return false;
    for (; j < end; j++) {
        rest = row->gradient[j] - weight * hessian[j];
        if (rest * rest * row->comes[j] == most) break;
    }
    if (j == end) return false;
    float value = -rest * row->comes[j];
    row->weights[i] = 0;
    row->weights[j] = value;
    row->mask[i] = 0;
    row->mask[j] = 1;
    row->comes[j] = 0;
    row->comes[i] = 1 / hessian[i];
    move(row->gradient, hessian, -weight, cols);
    move(row->gradient, row->work->problem->damped + j * cols, value, cols);
    return true;
}

/* Every weight of some rows in turn. */
static void exchange_rows(struct work *work, uint64_t first, uint64_t count)
{
    uint64_t of = work->problem->rule.of, cols = work->cols;
    struct exchanging rows[SHARE];
    for (uint64_t r = 0; r < count; r++) {
        uint64_t at = (first + r) * cols;
        rows[r] = (struct exchanging){
            work, work->weights + at, work->gradient + at, work->comes + r * cols, work->mask + at};
        for (uint64_t c = 0; c < cols; c++)
            rows[r].comes[c] = rows[r].mask[c] ? 0 : 1 / diagonal(work, c);
    }
    for (uint64_t i = 0; i < cols; i++) {
        uint64_t begin = of ? i / of * of : 0, end = of ? begin + of : cols;
        for (uint64_t r = 0; r < count; r++) {
            if (rows[r].mask[i]) work->exchanged[first + r] += exchange(&rows[r], i, begin, end);
        }
    }
}

/* ---- a strip ---- */

static void measure_power(struct prune_strip *strip, struct work *work)
{
    uint64_t cols = work->cols;
    multiply(work, work->product, strip->target);
    for (uint64_t r = 0; r < strip->rows; r++)
        strip->power[r] = dot(work->product + r * cols, strip->target + r * cols, cols);
}

static void keep_better(struct prune_strip *strip, const struct work *work)
{
    uint64_t cols = work->cols;
    for (uint64_t r = 0; r < strip->rows; r++) {
        if (!(strip->after[r] < strip->before[r])) {
            strip->after[r] = strip->before[r];
            continue;
        }
        memcpy(strip->weights + r * cols, work->weights + r * cols, cols * sizeof *work->weights);
        memcpy(strip->mask + r * cols, work->mask + r * cols, cols);
        strip->exchanged += work->exchanged[r];
    }
}

void prune_polish(struct prune_strip *strip)
{
    const struct prune_problem *problem = strip->problem;
    uint64_t cols = problem->cols, part = strip->rows * cols;
    float *at = strip->scratch;
    struct work work = {.problem = problem,
        .rows = strip->rows,
        .cols = cols,
        .target = strip->target,
        .weights = at,
        .gradient = at + part,
        .residual = at + 2 * part,
        .direction = at + 3 * part,
        .product = at + 4 * part,
        .comes = at + 5 * part,
        .mask = (uint8_t *)(at + 5 * part + SHARE * cols)};
    memcpy(work.weights, strip->weights, strip->rows * cols * sizeof *work.weights);
    memcpy(work.mask, strip->mask, strip->rows * cols);
    measure_power(strip, &work);
    measure(&work, strip->before);
    for (unsigned round = 0; round < problem->rounds; round++) {
        if (round > 0) measure(&work, strip->after);
        solve(&work, GRADIENTS);
        if (problem->given) continue;
        for (uint64_t r = 0; r < strip->rows; r += SHARE)
            exchange_rows(&work, r, strip->rows - r < SHARE ? strip->rows - r : SHARE);
    }
    if (problem->rounds && !problem->given) {
        measure(&work, strip->after);
        solve(&work, GRADIENTS);
    }
    measure(&work, strip->after);
    keep_better(strip, &work);
}
