/* Rows are independent; a strip of them shares the products with H. For d = w - t the gradient of half the error is g = d H. */
#include "tensor/prune_polish.h"

#include <math.h>
#include <string.h>

#include "tensor/linalg.h"
#include "tensor/prune_exchange.h"

enum { GRADIENTS = 6 /* steps of conjugate gradients a round, at most */ };
/* A step that gains less of its row's error is the row's last of the round; with a mask that is given nothing else is to be gained. */
#define LEAST_GAIN 1e-3
#define LEAST_GAIN_GIVEN 1e-6

/* The scratch of a strip, and what the best rows so far are. */
struct work {
    const struct prune_problem *problem;
    uint64_t rows, cols;
    const float *target;
    float *weights, *gradient, *direction, *packed, *product; /* [rows][cols] */
    uint8_t *mask;                                            /* [rows][cols] */
    float *inverse;                                           /* [cols] 1 / H_jj */
    float *exchange;                                          /* prune_exchange_floats */
    double error[PRUNE_STRIP_MOST];                           /* of a row as it is now, to single precision */
    double rho[PRUNE_STRIP_MOST];                             /* r D^-1 r of a row's last step */
    uint64_t exchanged[PRUNE_STRIP_MOST];
};

uint64_t prune_polish_floats(uint64_t rows, uint64_t cols)
{
    return (rows * 5 + 1) * cols + prune_exchange_floats(cols) +
           (rows * cols + sizeof(float) - 1) / sizeof(float);
}

/* product = in H, for the first `count` rows */
static void multiply(const struct work *work, const float *in, uint64_t count)
{
    linalg_gemm_nn(count, work->cols, work->cols, 1, in, work->cols, work->problem->damped, work->cols, 0,
        work->product, work->cols);
}

enum { LANES = 4 /* independent sums: they vectorize */ };

static double dot(const float *a, const float *b, uint64_t count)
{
    double sums[LANES] = {0};
    uint64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (uint64_t l = 0; l < LANES; l++)
            sums[l] += (double)a[i + l] * (double)b[i + l];
    }
    for (; i < count; i++)
        sums[0] += (double)a[i] * (double)b[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* g = (w - t) H, afresh; error[r] = g (w - t)^T. */
static void measure(struct work *work, double *error)
{
    uint64_t cols = work->cols;
    for (uint64_t i = 0; i < work->rows * cols; i++)
        work->packed[i] = work->weights[i] - work->target[i];
    multiply(work, work->packed, work->rows);
    for (uint64_t r = 0; r < work->rows; r++)
        error[r] = dot(work->product + r * cols, work->packed + r * cols, cols);
    memcpy(work->gradient, work->product, work->rows * cols * sizeof *work->gradient);
}

/* ---- conjugate gradients ---- */

/* The descent direction of one row's next step. */
static void turn(struct work *work, uint64_t row, bool first, float *packed)
{
    uint64_t at = row * work->cols;
    float *direction = work->direction + at;
    for (uint64_t c = 0; c < work->cols; c++)
        packed[c] = work->mask[at + c] ? -work->gradient[at + c] * work->inverse[c] : 0;
    double now = -dot(packed, work->gradient + at, work->cols), before = work->rho[row];
    float keep = !first && before > 0 ? (float)(now / before) : 0;
    for (uint64_t c = 0; c < work->cols; c++)
        packed[c] = direction[c] = packed[c] + (first ? 0 : keep * direction[c]);
    work->rho[row] = now;
}

/* Go there, as far as the error falls. Whether another step is worth it. */
static bool step(struct work *work, uint64_t row, const float *product)
{
    uint64_t at = row * work->cols;
    double rho = work->rho[row], curvature = dot(work->direction + at, product, work->cols);
    if (!(curvature > 0) || !(rho > 0)) return false;
    float length = (float)(rho / curvature);
    for (uint64_t c = 0; c < work->cols; c++) {
        work->weights[at + c] += length * work->direction[at + c];
        work->gradient[at + c] += length * product[c];
    }
    double gain = rho * (double)length;
    bool more = gain > (work->problem->given ? LEAST_GAIN_GIVEN : LEAST_GAIN) * work->error[row];
    work->error[row] -= gain;
    return more;
}

/* Rows that are done drop out of the products. */
static void solve(struct work *work)
{
    uint64_t list[PRUNE_STRIP_MOST], count = work->rows, cols = work->cols;
    for (uint64_t r = 0; r < count; r++)
        list[r] = r;
    for (unsigned i = 0; i < GRADIENTS && count; i++) {
        uint64_t kept = 0;
        for (uint64_t k = 0; k < count; k++)
            turn(work, list[k], i == 0, work->packed + k * cols);
        multiply(work, work->packed, count);
        for (uint64_t k = 0; k < count; k++) {
            uint64_t row = list[k];
            if (step(work, row, work->product + k * cols)) list[kept++] = row;
        }
        count = kept;
    }
}

/* ---- exchanges ---- */

static void exchange(struct work *work, const float *tops)
{
    for (uint64_t first = 0; first < work->rows; first += PRUNE_EXCHANGE_ROWS) {
        uint64_t left = work->rows - first, at = first * work->cols;
        struct prune_exchange rows = {.problem = work->problem,
            .tops = tops,
            .inverse = work->inverse,
            .rows = left < PRUNE_EXCHANGE_ROWS ? left : PRUNE_EXCHANGE_ROWS,
            .weights = work->weights + at,
            .gradient = work->gradient + at,
            .mask = work->mask + at,
            .scratch = work->exchange};
        prune_exchange(&rows);
        for (uint64_t r = 0; r < rows.rows; r++) {
            work->exchanged[first + r] += rows.exchanged[r];
            work->error[first + r] -= rows.gain[r];
        }
    }
}

/* ---- a strip ---- */

static void measure_power(struct prune_strip *strip, struct work *work)
{
    uint64_t cols = work->cols;
    multiply(work, strip->target, strip->rows);
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

static void make_work(struct work *work, const struct prune_strip *strip)
{
    uint64_t cols = strip->problem->cols, part = strip->rows * cols;
    float *at = strip->scratch;
    *work = (struct work){.problem = strip->problem,
        .rows = strip->rows,
        .cols = cols,
        .target = strip->target,
        .weights = at,
        .gradient = at + part,
        .direction = at + 2 * part,
        .packed = at + 3 * part,
        .product = at + 4 * part,
        .inverse = at + 5 * part,
        .exchange = at + 5 * part + cols,
        .mask = (uint8_t *)(at + 5 * part + cols + prune_exchange_floats(cols))};
    memcpy(work->weights, strip->weights, part * sizeof *work->weights);
    memcpy(work->mask, strip->mask, part);
    for (uint64_t c = 0; c < cols; c++)
        work->inverse[c] = 1 / strip->problem->damped[c * cols + c];
}

void prune_polish(struct prune_strip *strip)
{
    const struct prune_problem *problem = strip->problem;
    struct work work;
    make_work(&work, strip);
    measure_power(strip, &work);
    measure(&work, strip->before);
    memcpy(work.error, strip->before, sizeof work.error);
    memcpy(strip->after, strip->before, sizeof strip->after);
    strip->exchanged = 0;
    if (problem->rounds == 0) return;
    for (unsigned round = 0; round < problem->rounds; round++) {
        solve(&work);
        if (!problem->given) exchange(&work, strip->tops);
    }
    if (!problem->given) solve(&work);
    measure(&work, strip->after);
    keep_better(strip, &work);
}
