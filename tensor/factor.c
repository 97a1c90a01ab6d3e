/* A = R R^T and U = R^-1 over square tiles, both at once:
 *
 *   R_kk             = reversed Cholesky of (A_kk - sum over j > k of R_kj R_kj^T)
 *   R_ik  (i < k)    = (A_ik - sum over j > k of R_ij R_kj^T) R_kk^-T
 *   U_kj  (k < j)    = -R_kk^-1 (R_kj R_jj^-1 + sum over k < m < j of R_km U_mj)
 *
 * R grows by columns from the right. Row k of R is complete with R_kk and is then turned into row k of U, while columns
 * further left are still growing: early on there are many tiles of R to compute, later many of U, so that workers have
 * something to do at all times. Every tile is one task that waits for the tiles it reads. The pool hands tasks out in
 * order and every tile waits only for earlier ones, so the earliest unfinished task never waits: no deadlock. What a
 * tile holds does not depend on when it was computed. */
#include "tensor/factor.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/linalg.h"

/* Blocks are a sixteenth of the matrix within these bounds. Every product packs its operands anew, which costs more the
 * smaller they are (256: 5 to 7 percent more time than 512), but a small matrix in large blocks leaves workers idle. */
enum { BLOCK_LEAST = 256, BLOCK_MOST = 512, BLOCKS = 16, BLOCK_ALIGNMENT = 32 };

/* A tile by its blocks. row <= col: R_row,col; row > col: U_col,row. */
struct task {
    uint32_t row, col;
};

struct factoring {
    double *a;
    uint64_t n, block, blocks;
    struct task *tasks; /* [blocks * blocks] */
    uint64_t count;
    double *tiles; /* [workers][block][block] */
    pthread_mutex_t lock;
    pthread_cond_t progress; /* a tile is done, or one failed */
    bool *done;              /* [blocks][blocks], places as in struct task */
    bool failed;
};

static uint64_t block_of(uint64_t n)
{
    uint64_t part = (n / BLOCKS + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT * BLOCK_ALIGNMENT;
    if (part < BLOCK_LEAST) return BLOCK_LEAST;
    return part < BLOCK_MOST ? part : BLOCK_MOST;
}

static double *tile_at(const struct factoring *f, uint64_t row, uint64_t col)
{
    return f->a + row * f->block * f->n + col * f->block;
}

static uint64_t width(const struct factoring *f, uint64_t block)
{
    uint64_t left = f->n - block * f->block;
    return left < f->block ? left : f->block;
}

static void copy_tile(
    double *out, uint64_t out_stride, const double *in, uint64_t in_stride, uint64_t rows, uint64_t cols)
{
    for (uint64_t r = 0; r < rows; r++)
        memcpy(out + r * out_stride, in + r * in_stride, cols * sizeof *out);
}

/* ---- the order of tasks ---- */

static void append(struct factoring *f, uint64_t row, uint64_t col)
{
    f->tasks[f->count++] = (struct task){(uint32_t)row, (uint32_t)col};
}

/* R_kk, which column k waits for, and R_k-1,k, which R_k-1,k-1 waits for, are handed out early: among the tiles of
 * column and row k + 1, which are ready. Halfway through those R_kk is done. */
static void append_step(struct factoring *f, uint64_t k)
{
    uint64_t before = k + 1, of_r = before < f->blocks ? k : 0;
    uint64_t total = before < f->blocks ? of_r + f->blocks - 1 - before : 0, middle = (total + 1) / 2;
    append(f, k, k);
    for (uint64_t i = 0; i <= total; i++) {
        if (i == middle && k > 0) append(f, k - 1, k);
        if (i < of_r) {
            append(f, k - 1 - i, before);
        } else if (i < total) {
            append(f, f->blocks - 1 - (i - of_r), before);
        }
    }
}

static void append_all(struct factoring *f)
{
    for (uint64_t k = f->blocks; k-- > 0;)
        append_step(f, k);
    for (uint64_t j = f->blocks; j-- > 1;)
        append(f, j, 0);
}

/* ---- waiting ---- */

/* False if a tile failed, now or before: there is nothing left to do then. Tiles outside of the matrix are done. */
static bool wait_for(struct factoring *f, uint64_t row, uint64_t col)
{
    if (row >= f->blocks || col >= f->blocks) return true;
    pthread_mutex_lock(&f->lock);
    while (!f->failed && !f->done[row * f->blocks + col])
        pthread_cond_wait(&f->progress, &f->lock);
    bool go_on = !f->failed;
    pthread_mutex_unlock(&f->lock);
    return go_on;
}

static void report(struct factoring *f, uint64_t row, uint64_t col, bool failed)
{
    pthread_mutex_lock(&f->lock);
    f->done[row * f->blocks + col] = !failed;
    f->failed |= failed;
    pthread_cond_broadcast(&f->progress);
    pthread_mutex_unlock(&f->lock);
}

/* ---- tiles ---- */

/* A = R R^T with R upper is, with rows and columns in reverse, an ordinary Cholesky factorization. */
static bool reversed_cholesky(double *a, uint64_t stride, uint64_t n, double *scratch)
{
    for (uint64_t r = 0; r < n; r++)
        for (uint64_t c = r; c < n; c++)
            scratch[(n - 1 - r) * n + (n - 1 - c)] = a[r * stride + c];
    if (!linalg_dpotrf_lower(n, scratch, n)) return false;
    for (uint64_t r = 0; r < n; r++)
        for (uint64_t c = r; c < n; c++)
            a[r * stride + c] = scratch[(n - 1 - r) * n + (n - 1 - c)];
    for (uint64_t r = 0; r < n; r++) /* a NaN or an overflow above ends here */
        if (!isfinite(a[r * stride + r]) || a[r * stride + r] <= 0) return false;
    return true;
}

/* R_kk has no earlier reader of its tile, so it is computed in place. R_k,k+1 waited for R_k,k+2 and so on. */
static enum status diagonal_tile(struct factoring *f, uint64_t k, double *scratch, struct error *err)
{
    if (!wait_for(f, k, k + 1)) return OK;
    double *tile = tile_at(f, k, k);
    uint64_t n = width(f, k), known = k + 1 < f->blocks ? f->n - (k + 1) * f->block : 0;
    if (known) linalg_dsyrk_nt(n, known, -1, tile + f->block, f->n, 1, tile, f->n);
    bool good = reversed_cholesky(tile, f->n, n, scratch);
    report(f, k, k, !good);
    if (good) return OK;
    return fail(err, ERR_NUMERIC, "not positive definite in channels %" PRIu64 " to %" PRIu64, k * f->block,
        k * f->block + n - 1);
}

static void tile_of_r(struct factoring *f, uint64_t i, uint64_t k)
{
    if (!wait_for(f, i, k + 1) || !wait_for(f, k, k)) return;
    double *tile = tile_at(f, i, k), *diagonal = tile_at(f, k, k);
    uint64_t rows = width(f, i), cols = width(f, k),
             known = k + 1 < f->blocks ? f->n - (k + 1) * f->block : 0;
    if (known) {
        linalg_dgemm_nt(
            rows, cols, known, -1, tile + f->block, f->n, diagonal + f->block, f->n, 1, tile, f->n);
    }
    linalg_dtrsm(LINALG_RIGHT_TURNED, rows, cols, 1, diagonal, f->n, tile, f->n);
    report(f, i, k, false);
}

/* Whether nobody reads R_kj any more: the tiles of column k of R, and U_k,j+1 (which waited for U_k,j+2 and so on). */
static bool wait_for_readers(struct factoring *f, uint64_t k, uint64_t j)
{
    bool go_on = wait_for(f, j + 1, k);
    for (uint64_t i = 0; i < k && go_on; i++)
        go_on = wait_for(f, i, k);
    return go_on;
}

/* U_kj takes the place of R_kj, which neighbours on the right still read: computed aside, put there last. */
static void tile_of_u(struct factoring *f, uint64_t k, uint64_t j, double *scratch)
{
    if (!wait_for(f, k, k) || (k + 1 < j && !wait_for(f, j, k + 1))) return;
    uint64_t rows = width(f, k), cols = width(f, j), between = (j - k - 1) * f->block;
    double *tile = tile_at(f, k, j), *diagonal = tile_at(f, k, k);
    copy_tile(scratch, f->block, tile, f->n, rows, cols);
    linalg_dtrsm(LINALG_RIGHT, rows, cols, 1, tile_at(f, j, j), f->n, scratch, f->block);
    linalg_dgemm_nn(
        rows, cols, between, 1, diagonal + f->block, f->n, tile_at(f, k + 1, j), f->n, 1, scratch, f->block);
    linalg_dtrsm(LINALG_LEFT, rows, cols, -1, diagonal, f->n, scratch, f->block);
    if (!wait_for_readers(f, k, j)) return;
    copy_tile(tile, f->n, scratch, f->block, rows, cols);
    report(f, j, k, false);
}

static enum status tile_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct factoring *f = context;
    struct task task = f->tasks[index];
    double *scratch = f->tiles + (uint64_t)worker * f->block * f->block;
    if (task.row == task.col) return diagonal_tile(f, task.row, scratch, err);
    if (task.row < task.col) {
        tile_of_r(f, task.row, task.col);
    } else {
        tile_of_u(f, task.col, task.row, scratch);
    }
    return OK;
}

/* Everyone needed R_kk; now U_kk takes its place, and the whole row is looked at. */
static enum status finish_task(void *context, uint64_t index, unsigned worker, struct error *err)
{
    (void)worker;
    struct factoring *f = context;
    uint64_t n = width(f, index);
    bool good = linalg_dtrtri_upper(n, tile_at(f, index, index), f->n);
    for (uint64_t r = index * f->block; good && r < index * f->block + n; r++)
        for (uint64_t c = r; c < f->n; c++)
            good &= fabs(f->a[r * f->n + c]) <= FLT_MAX; /* a NaN is not */
    if (good) return OK;
    return fail(err, ERR_NUMERIC, "the factor is not finite in channels %" PRIu64 " to %" PRIu64,
        index * f->block, index * f->block + n - 1);
}

/* ---- all of it ---- */

uint64_t factor_scratch_bytes(uint64_t n, unsigned workers)
{
    uint64_t block = block_of(n), blocks = (n + block - 1) / block;
    return workers * sizeof(double) * block * block + blocks * blocks * (sizeof(struct task) + sizeof(bool));
}

enum status factor_of_inverse(double *a, uint64_t n, struct pool *pool, struct error *err)
{
    uint64_t block = block_of(n);
    struct factoring f = {.a = a, .n = n, .block = block, .blocks = (n + block - 1) / block};
    enum status status = ERR_MEMORY;
    pthread_mutex_init(&f.lock, NULL); /* on Linux these two cannot fail */
    pthread_cond_init(&f.progress, NULL);
    if (!(f.tasks = memory_new(f.blocks * f.blocks, sizeof *f.tasks, err))) goto done;
    if (!(f.done = memory_new(f.blocks * f.blocks, sizeof *f.done, err))) goto done;
    if (!(f.tiles = memory_new(pool_workers(pool), sizeof *f.tiles * block * block, err))) goto done;
    append_all(&f);
    status = pool_run(pool, f.count, tile_task, &f, err);
    if (status == OK) status = pool_run(pool, f.blocks, finish_task, &f, err);
done:
    memory_free(f.tiles);
    memory_free(f.done);
    memory_free(f.tasks);
    pthread_cond_destroy(&f.progress);
    pthread_mutex_destroy(&f.lock);
    return status;
}
