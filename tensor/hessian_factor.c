/* From the sums to what the solver needs: damping, factor, target weights, and single precision.
 *
 * `second` is used to the last byte. Factoring happens on and above the diagonal, while what is below keeps H for
 * another attempt with more damping. At the end each row of doubles is cut into two rows of floats, one of H + l and one
 * of U, and these are sorted in place into two matrices: no further matrix is ever needed. */
#include "tensor/hessian.h"

#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/factor.h"
#include "tensor/linalg.h"

enum {
    SQUARE = 8,
    CORRECT_ROWS = 128,
    MIRROR_ROWS = 64, /* that one task mirrors or splits */
    SLICE = 1024      /* columns that one task sorts */
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- damping and factor ---- */

static uint64_t parts(uint64_t count, uint64_t size)
{
    return (count + size - 1) / size;
}

/* Put H back from below the diagonal. */
static enum status restore_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)worker, (void)err;
    struct hessian *hessian = context;
    double *a = hessian->second;
    uint64_t n = hessian->cols, begin = index * MIRROR_ROWS, end = least(begin + MIRROR_ROWS, n);
    for (uint64_t top = begin; top < end; top += SQUARE)
        for (uint64_t left = 0; left <= top; left += SQUARE)
            for (uint64_t r = top; r < least(top + SQUARE, end); r++)
                for (uint64_t c = left; c < least(left + SQUARE, r); c++)
                    a[c * n + r] = a[r * n + c];
    return OK;
}

static enum status attempt(struct hessian *hessian, struct pool *pool, const double *diagonal, double mean,
    double damping, struct error *err)
{
    uint64_t n = hessian->cols;
    hessian->damping = damping;
    hessian->ridge = damping * mean;
    enum status status = pool_run(pool, parts(n, MIRROR_ROWS), restore_task, hessian, err);
    if (status != OK) return status;
    for (uint64_t j = 0; j < n; j++) {
        hessian->second[j * n + j] = diagonal[j] + hessian->ridge;
        hessian->diagonal[j] = (float)(diagonal[j] + hessian->ridge);
        if (isfinite(hessian->diagonal[j])) continue;
        return fail(err, ERR_NUMERIC, "the mean square of channel %" PRIu64 " does not fit", j);
    }
    return factor_of_inverse(hessian->second, n, pool, err);
}

static enum status give_up(const struct hessian *hessian, double damping, struct error *err)
{
    return fail_within(err, ERR_NUMERIC,
        "no factor with damping %g to %g, %u tries (%" PRIu64 " tokens, %" PRIu64 " channels, %" PRIu64
        " of them dead)",
        damping, hessian->damping, hessian->escalations + 1, hessian->tokens, hessian->cols, hessian->dead);
}

enum status hessian_factor(struct hessian *hessian, struct pool *pool, double damping, struct error *err)
{
    assert(damping > 0);
    uint64_t n = hessian->cols;
    double sum = 0, *diagonal = memory_new(n, sizeof *diagonal, err);
    if (!diagonal) return ERR_MEMORY;
    for (uint64_t j = 0; j < n; j++)
        sum += diagonal[j] = hessian->second[j * n + j];
    hessian->escalations = 0;
    double mean = sum / (double)n, now = damping;
    enum status status = attempt(hessian, pool, diagonal, mean, now, err);
    while (status == ERR_NUMERIC && now < 1) {
        now = fmin(now * 10, 1);
        hessian->escalations++;
        status = attempt(hessian, pool, diagonal, mean, now, err);
    }
    memory_free(diagonal);
    return status == ERR_NUMERIC ? give_up(hessian, damping, err) : status;
}

/* ---- the target ---- */

struct correction {
    const struct hessian *hessian;
    float *weights;
    uint64_t rows;
    const double *residual; /* or NULL */
    double *scratch;        /* [workers][2][CORRECT_ROWS][cols] */
};

uint64_t hessian_correct_scratch_bytes(uint64_t cols)
{
    return sizeof(double) * 2 * CORRECT_ROWS * cols;
}

/* (W cross + residual) U^T U for some rows. `wide` is scratch. */
static void correction_of_rows(
    const struct correction *work, double *out, double *wide, uint64_t row, uint64_t count)
{
    const struct hessian *hessian = work->hessian;
    uint64_t n = hessian->cols;
    for (uint64_t i = 0; i < count * n; i++)
        wide[i] = (double)work->weights[row * n + i];
    memset(out, 0, count * n * sizeof *out);
    if (work->residual) memcpy(out, work->residual + row * n, count * n * sizeof *out);
    if (hessian->cross) linalg_dgemm_nn(count, n, n, 1, wide, n, hessian->cross, n, 1, out, n);
    linalg_dtrmm(LINALG_RIGHT_TURNED, count, n, 1, hessian->second, n, out, n);
    linalg_dtrmm(LINALG_RIGHT, count, n, 1, hessian->second, n, out, n);
}

static enum status correct_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct correction *work = context;
    uint64_t n = work->hessian->cols, row = index * CORRECT_ROWS;
    uint64_t count = least(CORRECT_ROWS, work->rows - row);
    double *out = work->scratch + (uint64_t)worker * 2 * CORRECT_ROWS * n, *wide = out + CORRECT_ROWS * n;
    correction_of_rows(work, out, wide, row, count);
    for (uint64_t i = 0; i < count * n; i++) {
        float *weight = &work->weights[row * n + i];
        *weight = (float)(wide[i] + out[i]);
        if (isfinite(*weight)) continue;
        return fail(err, ERR_NUMERIC,
            "the target weight in row %" PRIu64 ", column %" PRIu64 " is not finite", row + i / n, i % n);
    }
    return OK;
}

enum status hessian_correct(struct hessian *hessian, struct pool *pool, float *weights, uint64_t rows,
    bool residual, struct error *err)
{
    assert(!residual || (hessian->residual && hessian->rows == rows));
    if (!hessian->cross && !residual) return OK;
    struct correction work = {hessian, weights, rows, residual ? hessian->residual : NULL, NULL};
    work.scratch = memory_new(pool_workers(pool), hessian_correct_scratch_bytes(hessian->cols), err);
    if (!work.scratch) return ERR_MEMORY;
    enum status status = pool_run(pool, (rows + CORRECT_ROWS - 1) / CORRECT_ROWS, correct_task, &work, err);
    memory_free(work.scratch);
    return status;
}

/* ---- single precision ---- */

/* A Hessian as its two matrices of floats take its place. */
struct finishing {
    uint64_t n;
    double *second;
    float *floats; /* the same memory */
    const float *diagonal;
    float *spare; /* [workers][2n] */
    bool *placed; /* [workers][2n] */
};

/* Row r of doubles becomes a row of H below the diagonal (zeros elsewhere), and a row of U:
 *
 *     doubles  | H H H H R U U U |        floats  | HHHH0000 | 0000UUUU |
 */
static void split_row(double *row, float *spare, uint64_t r, uint64_t n)
{
    memset(spare, 0, 2 * n * sizeof *spare);
    for (uint64_t c = 0; c < r; c++)
        spare[c] = (float)row[c];
    for (uint64_t c = r; c < n; c++)
        spare[n + c] = (float)row[c];
    memcpy(row, spare, 2 * n * sizeof *spare);
}

static enum status split_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)err;
    const struct finishing *work = context;
    uint64_t n = work->n, end = least((index + 1) * MIRROR_ROWS, n);
    for (uint64_t r = index * MIRROR_ROWS; r < end; r++)
        split_row(work->second + r * n, work->spare + worker * 2 * n, r, n);
    return OK;
}

/* 2n rows that alternate between two matrices are sorted: all of the first, then all of the second. Place p takes row 2p,
 * or in the second half 2(p - n) + 1; the rows go round in cycles. A task does this for a slice of columns. */
static enum status sort_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)err;
    const struct finishing *work = context;
    uint64_t n = work->n, width = least(SLICE, n - index * SLICE);
    float *slice = work->floats + index * SLICE, *spare = work->spare + worker * 2 * n;
    bool *placed = work->placed + worker * 2 * n;
    memset(placed, 0, 2 * n * sizeof *placed);
    for (uint64_t first = 0; first < 2 * n; first++) {
        uint64_t place = first, from;
        if (placed[first]) continue;
        memcpy(spare, slice + first * n, width * sizeof *spare);
        while ((from = place < n ? 2 * place : 2 * (place - n) + 1) != first) {
            memcpy(slice + place * n, slice + from * n, width * sizeof *spare);
            placed[place] = true;
            place = from;
        }
        memcpy(slice + place * n, spare, width * sizeof *spare);
        placed[place] = true;
    }
    return OK;
}

/* H + l from below the diagonal to above it, and onto it. */
static enum status mirror_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)worker, (void)err;
    const struct finishing *work = context;
    float *a = work->floats;
    uint64_t n = work->n, begin = index * MIRROR_ROWS, end = least(begin + MIRROR_ROWS, n);
    for (uint64_t top = begin; top < end; top += SQUARE)
        for (uint64_t left = 0; left <= top; left += SQUARE)
            for (uint64_t r = top; r < least(top + SQUARE, end); r++)
                for (uint64_t c = left; c < least(left + SQUARE, r); c++)
                    a[c * n + r] = a[r * n + c];
    for (uint64_t j = begin; j < end; j++)
        a[j * n + j] = work->diagonal[j];
    return OK;
}

static void release_sums(struct hessian *hessian)
{
    memory_free(hessian->cross);
    memory_free(hessian->residual);
    memory_free(hessian->scratch);
    hessian->cross = hessian->residual = NULL;
    hessian->scratch = NULL;
}

enum status hessian_finish(struct hessian *hessian, struct pool *pool, struct error *err)
{
    uint64_t n = hessian->cols;
    unsigned workers = pool_workers(pool);
    struct finishing work = {.n = n,
        .second = hessian->second,
        .floats = (float *)(void *)hessian->second,
        .diagonal = hessian->diagonal,
        .spare = memory_new(workers, 2 * n * sizeof *work.spare, err),
        .placed = memory_new(workers, 2 * n * sizeof *work.placed, err)};
    enum status status = work.spare && work.placed ? OK : ERR_MEMORY;
    if (status != OK) goto done;
    release_sums(hessian);
    hessian->damped = work.floats;
    hessian->factor = hessian->damped + n * n;
    hessian->second = NULL;
    status = pool_run(pool, parts(n, MIRROR_ROWS), split_task, &work, err);
    if (status == OK) status = pool_run(pool, parts(n, SLICE), sort_task, &work, err);
    if (status == OK) status = pool_run(pool, parts(n, MIRROR_ROWS), mirror_task, &work, err);
done:
    memory_free(work.placed);
    memory_free(work.spare);
    return status;
}
