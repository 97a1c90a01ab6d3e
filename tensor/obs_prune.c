/* Blocks of columns one after the other. In each: scores of all rows, the threshold, then strips of rows column by column and one
 * product for the columns after the block (lazy batches, as in obs_solve.c). */
#include "tensor/obs_prune.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/linalg.h"
#include "tensor/prune_exchange.h"
#include "tensor/prune_polish.h"

enum {
    BLOCK = 128, /* columns of a block, or the largest multiple of a pattern's below */
    STRIP = 32   /* rows that go through a column together */
};

struct job {
    const struct prune_problem *problem;
    struct prune_solution *solution;
    uint64_t begin, end; /* columns of the block */
    float *scores;       /* [rows][end - begin] */
    uint8_t *chosen;     /* [rows][end - begin] */
    float *scratch;      /* [workers][per_worker] */
    uint64_t per_worker;
    struct row_sums *rows; /* [rows] */
    float *tops; /* of all columns, for exchanges in whole rows (tensor/prune_exchange.h); or NULL */
};

struct row_sums {
    double power, solved, error;
    uint64_t exchanged; /* of a strip, at its first row */
};

/* A strip of rows within a block: arrays by column, [BLOCK][STRIP]. */
struct strip {
    struct job *job;
    uint64_t row, rows;
    float *weights, *errors, *stays;
    float *row_errors; /* [STRIP][BLOCK] */
};

static uint64_t block_columns(const struct prune_problem *problem)
{
    return problem->rule.of && !problem->given ? BLOCK / problem->rule.of * problem->rule.of : BLOCK;
}

static float pivot(const struct prune_problem *problem, uint64_t col)
{
    return problem->factor[col * problem->cols + col];
}

/* ---- which weights go ---- */

/* w^2 / U_jj^2; what overflows is as good as infinite, and stays. */
static float cost_of(float weight, float divisor)
{
    float share = weight / divisor, cost = share * share;
    return cost < INFINITY ? cost : 3e38f;
}

static enum status score_row(void *context, uint64_t row, unsigned worker, struct error *err)
{
    const struct job *job = context;
    uint64_t width = job->end - job->begin;
    const float *weights = job->solution->weights + row * job->problem->cols + job->begin;
    (void)worker, (void)err;
    for (uint64_t i = 0; i < width; i++)
        job->scores[row * width + i] = cost_of(weights[i], pivot(job->problem, job->begin + i));
    return OK;
}

/* Over all rows and the columns of the block. */
static enum status choose_block(struct job *job, struct pool *pool, struct error *err)
{
    const struct prune_problem *problem = job->problem;
    uint64_t width = job->end - job->begin;
    if (problem->given || problem->rule.of) return OK;
    enum status status = pool_run(pool, problem->rows, score_row, job, err);
    if (status == OK)
        status = sparsity_mask(job->chosen, job->scores, 1, problem->rows * width, &problem->rule, pool, err);
    for (uint64_t row = 0; status == OK && row < problem->rows; row++)
        memcpy(job->solution->mask + row * problem->cols + job->begin, job->chosen + row * width, width);
    return status;
}

/* Of the next columns of every row of the strip, on their current weights. */
static void choose_few(const struct strip *strip, uint64_t col)
{
    const struct job *job = strip->job;
    const struct prune_problem *problem = job->problem;
    uint32_t of = problem->rule.of;
    float scores[32];
    for (uint64_t r = 0; r < strip->rows; r++) {
        uint8_t *mask = job->solution->mask + (strip->row + r) * problem->cols + col;
        for (uint32_t i = 0; i < of; i++)
            scores[i] = cost_of(strip->weights[(col - job->begin + i) * STRIP + r], pivot(problem, col + i));
        sparsity_mask_few(mask, scores, problem->rule.keep, of);
        for (uint32_t i = 0; i < of; i++)
            strip->stays[(col - job->begin + i) * STRIP + r] = mask[i];
    }
}

/* ---- columns ---- */

static void load_strip(const struct strip *strip)
{
    const struct job *job = strip->job;
    uint64_t cols = job->problem->cols;
    for (uint64_t r = 0; r < STRIP; r++) {
        uint64_t at = (strip->row + r) * cols;
        for (uint64_t c = job->begin; c < job->end; c++) {
            uint64_t to = (c - job->begin) * STRIP + r;
            strip->weights[to] = r < strip->rows ? job->solution->weights[at + c] : 0;
            strip->stays[to] = r < strip->rows ? job->solution->mask[at + c] : 1;
        }
    }
}

/* Take the weights of one column away that go, and their errors out of the later columns of the block. */
static void prune_column(const struct strip *strip, uint64_t col)
{
    const struct job *job = strip->job;
    uint64_t at = (col - job->begin) * STRIP;
    const float *factor = job->problem->factor + col * job->problem->cols;
    float divisor = 1 / factor[col], error[STRIP];
    for (uint64_t r = 0; r < STRIP; r++)
        error[r] = strip->stays[at + r] != 0 ? 0 : strip->weights[at + r] * divisor;
    memcpy(strip->errors + at, error, sizeof error);
    for (uint64_t k = col + 1; k < job->end; k++) {
        float *weight = strip->weights + (k - job->begin) * STRIP, share = factor[k];
        for (uint64_t r = 0; r < STRIP; r++)
            weight[r] -= error[r] * share;
    }
}

static void store_row(const struct strip *strip, uint64_t r)
{
    const struct job *job = strip->job;
    float *weights = job->solution->weights + (strip->row + r) * job->problem->cols;
    for (uint64_t c = job->begin; c < job->end; c++) {
        uint64_t at = (c - job->begin) * STRIP + r;
        weights[c] = strip->stays[at] != 0 ? strip->weights[at] : 0;
        strip->row_errors[r * BLOCK + c - job->begin] = strip->errors[at];
    }
}

/* The errors e of a row are those of the columns, and (w - t) H (w - t)^T is e e^T (obs_solve.c). */
static enum status add_errors(const struct strip *strip, struct error *err)
{
    const struct job *job = strip->job;
    for (uint64_t r = 0; r < strip->rows; r++) {
        const float *errors = strip->row_errors + r * BLOCK;
        double *sum = &job->rows[strip->row + r].solved;
        uint64_t bad = 0;
        for (uint64_t i = 0; i < job->end - job->begin; i++)
            *sum += (double)errors[i] * (double)errors[i];
        if (isfinite(*sum)) continue;
        while (isfinite(errors[bad]))
            bad++;
        return fail(err, ERR_NUMERIC, "weight [%" PRIu64 ", %" PRIu64 "] ceased to be finite while solving",
            strip->row + r, job->begin + bad);
    }
    return OK;
}

static enum status solve_strip(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct job *job = context;
    const struct prune_problem *problem = job->problem;
    float *scratch = job->scratch + worker * job->per_worker;
    uint64_t row = index * STRIP, left = problem->rows - row, cols = problem->cols, part = BLOCK * STRIP;
    struct strip strip = {job, row, left < STRIP ? left : STRIP, scratch, scratch + part, scratch + 2 * part,
        scratch + 3 * part};
    bool few = problem->rule.of && !problem->given;
    load_strip(&strip);
    for (uint64_t c = job->begin; c < job->end; c++) {
        if (few && (c - job->begin) % problem->rule.of == 0) choose_few(&strip, c);
        prune_column(&strip, c);
    }
    for (uint64_t r = 0; r < strip.rows; r++)
        store_row(&strip, r);
    enum status status = add_errors(&strip, err);
    if (status != OK) return status;
    linalg_gemm_nn(strip.rows, cols - job->end, job->end - job->begin, -1, strip.row_errors, BLOCK,
        problem->factor + job->begin * cols + job->end, cols, 1,
        job->solution->weights + row * cols + job->end, cols);
    return OK;
}

/* ---- afterwards ---- */

/* Rows of a task: many enough for products, few enough that 16 workers find work. */
static uint64_t finish_rows(uint64_t rows)
{
    uint64_t wanted = (rows / 16 + STRIP - 1) / STRIP * STRIP;
    if (wanted < STRIP) return STRIP;
    return wanted > PRUNE_STRIP_MOST ? PRUNE_STRIP_MOST : wanted;
}

static enum status finish_strip(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct job *job = context;
    const struct prune_problem *problem = job->problem;
    uint64_t most = finish_rows(problem->rows), row = index * most, left = problem->rows - row,
             at = row * problem->cols;
    struct prune_strip strip = {.problem = problem,
        .row = row,
        .rows = left < most ? left : most,
        .target = problem->target + at,
        .weights = job->solution->weights + at,
        .mask = job->solution->mask + at,
        .tops = job->tops,
        .scratch = job->scratch + worker * job->per_worker};
    (void)err;
    prune_polish(&strip);
    for (uint64_t r = 0; r < strip.rows; r++) {
        struct row_sums *sums = job->rows + row + r;
        sums->power = strip.power[r];
        sums->solved = strip.before[r];
        sums->error = strip.after[r];
    }
    job->rows[row].exchanged = strip.exchanged;
    return OK;
}

static enum status find_tops(void *context, uint64_t col, unsigned worker, struct error *err)
{
    const struct job *job = context;
    uint64_t cols = job->problem->cols;
    (void)worker, (void)err;
    prune_exchange_tops(job->tops + col * prune_exchange_blocks(cols), job->problem->damped, cols, col);
    return OK;
}

static enum status check_row(void *context, uint64_t row, unsigned worker, struct error *err)
{
    const struct job *job = context;
    uint64_t cols = job->problem->cols;
    const float *target = job->problem->target + row * cols;
    (void)worker;
    for (uint64_t c = 0; c < cols; c++) {
        if (isfinite(target[c])) continue;
        return fail(err, ERR_NUMERIC, "weight [%" PRIu64 ", %" PRIu64 "] is %s", row, c,
            isnan(target[c]) ? "NaN" : "infinite");
    }
    memcpy(job->solution->weights + row * cols, target, cols * sizeof *target);
    return OK;
}

/* ---- the matrix ---- */

static void add_up(const struct job *job)
{
    struct prune_solution *solution = job->solution;
    solution->power = solution->error = solution->error_solved = 0;
    solution->exchanged = 0;
    for (uint64_t row = 0; row < job->problem->rows; row++) {
        solution->power += job->rows[row].power;
        solution->error += job->rows[row].error;
        solution->error_solved += job->rows[row].solved;
        solution->exchanged += job->rows[row].exchanged;
    }
}

static uint64_t worker_floats(uint64_t rows, uint64_t cols)
{
    uint64_t solving = 4 * BLOCK * STRIP, polishing = prune_polish_floats(finish_rows(rows), cols);
    return solving > polishing ? solving : polishing;
}

uint64_t obs_prune_bytes(uint64_t rows, uint64_t cols, unsigned workers)
{
    return workers * worker_floats(rows, cols) * sizeof(float) +
           rows * (BLOCK * (sizeof(float) + 1) + sizeof(struct row_sums)) +
           cols * prune_exchange_blocks(cols) * sizeof(float);
}

static uint64_t parts_of(uint64_t rows, uint64_t part)
{
    return (rows + part - 1) / part;
}

static enum status make_scratch(
    struct job *job, const struct prune_problem *problem, struct pool *pool, struct error *err)
{
    job->per_worker = worker_floats(problem->rows, problem->cols);
    job->scratch = memory_new(pool_workers(pool) * job->per_worker, sizeof *job->scratch, err);
    job->rows = memory_new(problem->rows, sizeof *job->rows, err);
    return job->scratch && job->rows ? OK : ERR_MEMORY;
}

static void free_scratch(struct job *job)
{
    memory_free(job->scores);
    memory_free(job->chosen);
    memory_free(job->scratch);
    memory_free(job->rows);
    memory_free(job->tops);
}

static enum status finish(struct job *job, struct pool *pool, struct error *err)
{
    uint64_t cols = job->problem->cols;
    enum status status = OK;
    if (job->problem->rounds && !job->problem->given && !job->problem->rule.of) {
        job->tops = memory_new(cols * prune_exchange_blocks(cols), sizeof *job->tops, err);
        status = job->tops ? pool_run(pool, cols, find_tops, job, err) : ERR_MEMORY;
    }
    if (status == OK)
        status = pool_run(
            pool, parts_of(job->problem->rows, finish_rows(job->problem->rows)), finish_strip, job, err);
    if (status == OK) add_up(job);
    return status;
}

enum status obs_prune(const struct prune_problem *problem, struct prune_solution *solution, struct pool *pool,
    struct error *err)
{
    uint64_t width = block_columns(problem);
    struct job job = {.problem = problem, .solution = solution};
    enum status status = make_scratch(&job, problem, pool, err);
    if (status == OK) {
        job.scores = memory_new(problem->rows * width, sizeof *job.scores, err);
        job.chosen = memory_new(problem->rows * width, 1, err);
        status = job.scores && job.chosen ? pool_run(pool, problem->rows, check_row, &job, err) : ERR_MEMORY;
    }
    for (uint64_t begin = 0; status == OK && begin < problem->cols; begin = job.end) {
        job.begin = begin;
        job.end = problem->cols - begin < width ? problem->cols : begin + width;
        status = choose_block(&job, pool, err);
        if (status == OK) status = pool_run(pool, parts_of(problem->rows, STRIP), solve_strip, &job, err);
    }
    if (status == OK) status = finish(&job, pool, err);
    free_scratch(&job);
    return status;
}

enum status obs_prune_measure(const struct prune_problem *problem, struct prune_solution *solution,
    struct pool *pool, struct error *err)
{
    struct prune_problem measured = *problem;
    struct job job = {.problem = &measured, .solution = solution};
    measured.rounds = 0;
    enum status status = make_scratch(&job, problem, pool, err);
    if (status == OK) status = finish(&job, pool, err);
    free_scratch(&job);
    return status;
}
