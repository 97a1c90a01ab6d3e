/* The sums: products of tiles of columns in single precision, added up in double precision.
 *
 * Three sums are of one form, left^T x with left = x, x_o - x or r_o - r. Every tile of every sum is one task that goes
 * through all tokens of a call, so the order of additions depends on shapes alone. */
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
    BATCH = 2048,      /* tokens summed in single precision */
    TILE = 512,        /* rows and columns of a tile of `second` and `residual` */
    CROSS_ROWS = 256,  /* of `cross`: flat, because differences are computed anew for each tile */
    CROSS_COLS = 1024, /* CROSS_ROWS * CROSS_COLS = TILE * TILE */
    STRIP = 256,       /* columns that one task looks through */
    MEAN_ROWS = 64,    /* that one task divides or mirrors */
    TILE_FLOATS = TILE * TILE,
    DIFFERENCE_FLOATS = BATCH * CROSS_ROWS,
};

/* A value is refused if BATCH squares of it do not fit single precision; then no sum overflows. */
static float largest_input(void)
{
    return sqrtf(FLT_MAX / BATCH);
}

/* One call of hessian_add, as its tasks see it. */
struct batch {
    struct hessian *hessian;
    const float *x, *original, *residual;
    uint64_t tokens;
    uint64_t cross_tasks, residual_tasks, off_diagonal_tasks, diagonal_tasks;
};

static uint64_t parts(uint64_t count, uint64_t size)
{
    return (count + size - 1) / size;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- life ---- */

static uint64_t scratch_floats(bool with_cross)
{
    return TILE_FLOATS + (with_cross ? DIFFERENCE_FLOATS : 0);
}

uint64_t hessian_bytes(uint64_t cols, bool with_cross, uint64_t residual_rows, unsigned workers)
{
    uint64_t sums = sizeof(double) * cols * ((with_cross ? 2 : 1) * cols + residual_rows + 1);
    uint64_t adding = sizeof(float) * scratch_floats(with_cross) * workers;
    uint64_t factoring = factor_scratch_bytes(cols, workers) + sizeof(double) * cols;
    bool corrects = with_cross || residual_rows;
    uint64_t correcting = corrects ? workers * hessian_correct_scratch_bytes(cols) : 0;
    uint64_t later = factoring > correcting ? factoring : correcting;
    return sums + sizeof(float) * cols + (adding > later ? adding : later);
}

enum status hessian_create(struct hessian *out, uint64_t cols, bool with_cross, uint64_t residual_rows,
    unsigned workers, struct error *err)
{
    *out = (struct hessian){.cols = cols, .rows = residual_rows, .workers = workers};
    uint64_t row_bytes = cols * sizeof(double), scratch_bytes = scratch_floats(with_cross) * sizeof(float);
    if (!(out->second = memory_new(cols, row_bytes, err))) return ERR_MEMORY;
    if (with_cross && !(out->cross = memory_new(cols, row_bytes, err))) return ERR_MEMORY;
    if (residual_rows && !(out->residual = memory_new(residual_rows, row_bytes, err))) return ERR_MEMORY;
    if (!(out->magnitude = memory_new(1, row_bytes, err))) return ERR_MEMORY;
    if (!(out->diagonal = memory_new(cols, sizeof *out->diagonal, err))) return ERR_MEMORY;
    if (!(out->scratch = memory_new(workers, scratch_bytes, err))) return ERR_MEMORY;
    return OK;
}

void hessian_free(struct hessian *hessian)
{
    if (!hessian) return;
    memory_free(hessian->second);
    memory_free(hessian->cross);
    memory_free(hessian->residual);
    memory_free(hessian->magnitude);
    memory_free(hessian->diagonal);
    memory_free(hessian->damped); /* and factor, which lies behind it */
    memory_free(hessian->scratch);
    *hessian = (struct hessian){0};
}

/* ---- looking through the inputs ---- */

static enum status bad_value(const struct batch *batch, uint64_t col, struct error *err)
{
    uint64_t cols = batch->hessian->cols;
    for (uint64_t t = 0; t < batch->tokens; t++) {
        float x = batch->x[t * cols + col], original = batch->original ? batch->original[t * cols + col] : x;
        if (fabsf(x) <= largest_input() && fabsf(original - x) <= largest_input()) continue;
        return fail(err, ERR_NUMERIC,
            "input channel %" PRIu64 " is %g (%g in the original network) at token %" PRIu64
            ": not finite, or too large to square",
            col, (double)x, (double)original, batch->hessian->tokens + t);
    }
    return OK;
}

/* One token of a strip of columns: |x| into the sums, and whether any value is bad. Each loop has numbers of few kinds, so
 * that it compiles to vectors. */
static void look_at(double *restrict sums, uint32_t *restrict bad, const float *restrict x,
    const float *restrict original, uint64_t count)
{
    float limit = largest_input();
    for (uint64_t c = 0; c < count; c++)
        sums[c] += (double)fabsf(x[c]);
    for (uint64_t c = 0; c < count; c++)
        bad[c] |= !(fabsf(x[c]) <= limit);
    for (uint64_t c = 0; original && c < count; c++)
        bad[c] |= !(fabsf(original[c] - x[c]) <= limit);
}

static enum status strip_of_inputs(const struct batch *batch, uint64_t col, struct error *err)
{
    uint64_t cols = batch->hessian->cols, count = least(STRIP, cols - col);
    double sums[STRIP] = {0};
    uint32_t bad[STRIP] = {0};
    for (uint64_t t = 0; t < batch->tokens; t++) {
        uint64_t at = t * cols + col;
        look_at(sums, bad, batch->x + at, batch->original ? batch->original + at : NULL, count);
    }
    for (uint64_t c = 0; c < count; c++) {
        if (bad[c]) return bad_value(batch, col + c, err);
        batch->hessian->magnitude[col + c] += sums[c];
    }
    return OK;
}

static enum status strip_of_residual(const struct batch *batch, uint64_t row, struct error *err)
{
    uint64_t rows = batch->hessian->rows, end = least(row + STRIP, rows);
    float limit = largest_input();
    for (uint64_t t = 0; t < batch->tokens; t++) {
        for (uint64_t r = row; r < end; r++) {
            float value = batch->residual[t * rows + r];
            if (fabsf(value) <= limit) continue;
            return fail(err, ERR_NUMERIC,
                "residual channel %" PRIu64 " differs by %g from the original network at token %" PRIu64, r,
                (double)value, batch->hessian->tokens + t);
        }
    }
    return OK;
}

static enum status strip_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)worker;
    const struct batch *batch = context;
    uint64_t strips = parts(batch->hessian->cols, STRIP);
    if (index < strips) return strip_of_inputs(batch, index * STRIP, err);
    return strip_of_residual(batch, (index - strips) * STRIP, err);
}

/* ---- tiles of the sums ---- */

/* rows x cols elements of a sum, from where they begin. */
struct tile {
    double *sum;
    uint64_t rows, cols, stride;
};

static void add_product(const struct tile *tile, float *product, const float *left, uint64_t left_stride,
    const float *x, uint64_t x_stride, uint64_t tokens)
{
    linalg_gemm_tn(tile->rows, tile->cols, tokens, 1, left, left_stride, x, x_stride, 0, product, tile->cols);
    for (uint64_t r = 0; r < tile->rows; r++)
        for (uint64_t c = 0; c < tile->cols; c++)
            tile->sum[r * tile->stride + c] += product[r * tile->cols + c];
}

/* A tile of left^T x at [row, col] with both matrices as they lie. */
static void plain_tile(const struct batch *batch, double *sum, const float *left, uint64_t left_cols,
    uint64_t row, uint64_t col, float *product)
{
    uint64_t cols = batch->hessian->cols;
    struct tile tile = {sum + row * cols + col, least(TILE, left_cols - row), least(TILE, cols - col), cols};
    for (uint64_t t = 0; t < batch->tokens; t += BATCH) {
        add_product(&tile, product, left + t * left_cols + row, left_cols, batch->x + t * cols + col, cols,
            least(BATCH, batch->tokens - t));
    }
}

/* A tile of `second` that the diagonal runs through: only what is on and above it. */
static void diagonal_tile(const struct batch *batch, uint64_t col, float *product)
{
    uint64_t cols = batch->hessian->cols, count = least(TILE, cols - col);
    double *sum = batch->hessian->second + col * cols + col;
    for (uint64_t t = 0; t < batch->tokens; t += BATCH) {
        linalg_syrk_tn(
            count, least(BATCH, batch->tokens - t), 1, batch->x + t * cols + col, cols, 0, product, count);
        for (uint64_t r = 0; r < count; r++)
            for (uint64_t c = r; c < count; c++)
                sum[r * cols + c] += product[r * count + c];
    }
}

/* Differences are taken before they are multiplied: the products of x_o and x themselves nearly cancel. */
static void cross_tile(const struct batch *batch, uint64_t row, uint64_t col, float *product, float *left)
{
    uint64_t cols = batch->hessian->cols;
    struct tile tile = {batch->hessian->cross + row * cols + col, least(CROSS_ROWS, cols - row),
        least(CROSS_COLS, cols - col), cols};
    for (uint64_t first = 0; first < batch->tokens; first += BATCH) {
        uint64_t count = least(BATCH, batch->tokens - first);
        for (uint64_t t = 0; t < count; t++) {
            const float *x = batch->x + (first + t) * cols + row;
            const float *original = batch->original + (first + t) * cols + row;
            for (uint64_t r = 0; r < tile.rows; r++)
                left[t * CROSS_ROWS + r] = original[r] - x[r];
        }
        add_product(&tile, product, left, CROSS_ROWS, batch->x + first * cols + col, cols, count);
    }
}

static void off_diagonal_tile(const struct batch *batch, uint64_t index, float *product)
{
    uint64_t row = 0, blocks = batch->diagonal_tasks;
    for (; index >= blocks - 1 - row; row++)
        index -= blocks - 1 - row;
    plain_tile(batch, batch->hessian->second, batch->x, batch->hessian->cols, row * TILE,
        (row + 1 + index) * TILE, product);
}

/* Tiles that take longest come first. */
static enum status tile_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)err;
    const struct batch *batch = context;
    struct hessian *hessian = batch->hessian;
    float *product = hessian->scratch + worker * scratch_floats(hessian->cross != NULL);
    uint64_t tiles_across = parts(hessian->cols, TILE), cross_across = parts(hessian->cols, CROSS_COLS);
    if (index < batch->cross_tasks) {
        cross_tile(batch, index / cross_across * CROSS_ROWS, index % cross_across * CROSS_COLS, product,
            product + TILE_FLOATS);
        return OK;
    }
    index -= batch->cross_tasks;
    if (index < batch->residual_tasks) {
        plain_tile(batch, hessian->residual, batch->residual, hessian->rows, index / tiles_across * TILE,
            index % tiles_across * TILE, product);
        return OK;
    }
    index -= batch->residual_tasks;
    if (index < batch->off_diagonal_tasks) {
        off_diagonal_tile(batch, index, product);
    } else {
        diagonal_tile(batch, (index - batch->off_diagonal_tasks) * TILE, product);
    }
    return OK;
}

enum status hessian_add(struct hessian *hessian, struct pool *pool, const float *x, const float *original,
    const float *residual, uint64_t tokens, struct error *err)
{
    assert(pool_workers(pool) <= hessian->workers);
    assert(!hessian->cross == !original && !hessian->residual == !residual);
    uint64_t cols = hessian->cols, blocks = parts(cols, TILE);
    struct batch batch = {.hessian = hessian,
        .x = x,
        .original = original,
        .residual = residual,
        .tokens = tokens,
        .cross_tasks = original ? parts(cols, CROSS_ROWS) * parts(cols, CROSS_COLS) : 0,
        .residual_tasks = parts(hessian->rows, TILE) * blocks,
        .off_diagonal_tasks = blocks * (blocks - 1) / 2,
        .diagonal_tasks = blocks};
    uint64_t strips = parts(cols, STRIP) + parts(hessian->rows, STRIP);
    enum status status = pool_run(pool, strips, strip_task, &batch, err);
    if (status != OK) return status;
    hessian->tokens += tokens;
    return pool_run(pool,
        batch.cross_tasks + batch.residual_tasks + batch.off_diagonal_tasks + batch.diagonal_tasks, tile_task,
        &batch, err);
}

/* ---- means, scales, order ---- */

/* Rows [row, end) of a matrix, if it exists; all of each, or what is on and above the diagonal. */
static void divide_rows(
    double *matrix, uint64_t row, uint64_t end, uint64_t cols, bool above_diagonal, double divisor)
{
    for (; matrix && row < end; row++)
        for (uint64_t c = above_diagonal ? row : 0; c < cols; c++)
            matrix[row * cols + c] /= divisor;
}

static enum status divide_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)worker, (void)err;
    struct hessian *hessian = context;
    uint64_t cols = hessian->cols, row = index * MEAN_ROWS, end = row + MEAN_ROWS;
    double tokens = (double)hessian->tokens;
    divide_rows(hessian->second, row, least(end, cols), cols, true, tokens);
    divide_rows(hessian->cross, row, least(end, cols), cols, false, tokens);
    divide_rows(hessian->residual, row, least(end, hessian->rows), cols, false, tokens);
    return OK;
}

/* In small squares: a column of a large matrix is one cache line per element. */
static enum status mirror_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    enum { SQUARE = 8 };
    (void)worker, (void)err;
    struct hessian *hessian = context;
    double *a = hessian->second;
    uint64_t n = hessian->cols, begin = index * MEAN_ROWS, end = least(begin + MEAN_ROWS, n);
    for (uint64_t top = begin; top < end; top += SQUARE)
        for (uint64_t left = 0; left <= top; left += SQUARE)
            for (uint64_t r = top; r < least(top + SQUARE, end); r++)
                for (uint64_t c = left; c < least(left + SQUARE, r); c++)
                    a[r * n + c] = a[c * n + r];
    return OK;
}

enum status hessian_mean(struct hessian *hessian, struct pool *pool, struct error *err)
{
    uint64_t cols = hessian->cols, most = cols > hessian->rows ? cols : hessian->rows;
    if (hessian->tokens == 0) return fail(err, ERR_NUMERIC, "no tokens were seen");
    enum status status = pool_run(pool, parts(most, MEAN_ROWS), divide_task, hessian, err);
    if (status == OK) status = pool_run(pool, parts(cols, MEAN_ROWS), mirror_task, hessian, err);
    if (status != OK) return status;
    divide_rows(hessian->magnitude, 0, 1, cols, false, (double)hessian->tokens);
    hessian->dead = 0;
    for (uint64_t j = 0; j < cols; j++)
        hessian->dead += hessian->second[j * cols + j] == 0;
    if (hessian->dead < cols) return OK;
    return fail(err, ERR_NUMERIC, "all %" PRIu64 " input channels are 0 for all %" PRIu64 " tokens", cols,
        hessian->tokens);
}

static void permute_cols(double *matrix, uint64_t rows, uint64_t cols, const uint32_t *order, double *spare)
{
    for (uint64_t r = 0; matrix && r < rows; r++) {
        for (uint64_t c = 0; c < cols; c++)
            spare[c] = matrix[r * cols + order[c]];
        memcpy(matrix + r * cols, spare, cols * sizeof *spare);
    }
}

/* Rows go round in cycles: one is put aside, and each place takes the row that belongs there. */
static void permute_rows(double *matrix, uint64_t n, const uint32_t *order, double *spare, bool *placed)
{
    if (!matrix) return;
    memset(placed, 0, n * sizeof *placed);
    for (uint64_t first = 0; first < n; first++) {
        if (placed[first]) continue;
        uint64_t place = first;
        memcpy(spare, matrix + first * n, n * sizeof *spare);
        for (; order[place] != first; place = order[place]) {
            memcpy(matrix + place * n, matrix + order[place] * n, n * sizeof *spare);
            placed[place] = true;
        }
        memcpy(matrix + place * n, spare, n * sizeof *spare);
        placed[place] = true;
    }
}

enum status hessian_permute(struct hessian *hessian, const uint32_t *order, struct error *err)
{
    uint64_t n = hessian->cols;
    double *spare = memory_new(n, sizeof *spare, err);
    bool *placed = spare ? memory_new(n, sizeof *placed, err) : NULL;
    enum status status = placed ? OK : ERR_MEMORY;
    if (!placed) goto done;
    permute_rows(hessian->second, n, order, spare, placed);
    permute_cols(hessian->second, n, n, order, spare);
    permute_rows(hessian->cross, n, order, spare, placed);
    permute_cols(hessian->cross, n, n, order, spare);
    permute_cols(hessian->residual, hessian->rows, n, order, spare);
    permute_cols(hessian->magnitude, 1, n, order, spare);
done:
    memory_free(placed);
    memory_free(spare);
    return status;
}
