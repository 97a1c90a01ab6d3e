/* What surrounds the solver: the order, the plan, and for every tile of rows the way from target to result. The tile is
 * the task; all of it stays in its worker's scratch, so the matrix is read once. */
#include "tensor/obs.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/linalg.h"
#include "tensor/obs_tile.h"
#include "tensor/polish.h"

/* ---- order ---- */

struct sort_entry {
    double group_key, key;
    uint32_t group, column;
};

static int falling(double a, double b)
{
    return (a < b) - (a > b);
}

static int compare_entries(const void *left, const void *right)
{
    const struct sort_entry *a = left, *b = right;
    int groups = falling(a->group_key, b->group_key);
    if (groups) return groups;
    if (a->group != b->group) return a->group < b->group ? -1 : 1;
    int columns = falling(a->key, b->key);
    return columns ? columns : (a->column > b->column) - (a->column < b->column);
}

static double largest_of(const double *values, uint64_t count)
{
    double largest = values[0];
    for (uint64_t i = 1; i < count; i++)
        largest = values[i] > largest ? values[i] : largest;
    return largest;
}

enum status obs_order(uint32_t *order, enum obs_order kind, const double *diagonal, uint64_t cols,
    uint64_t group, struct error *err)
{
    struct sort_entry *entries = memory_new(cols, sizeof *entries, err);
    if (!entries) return ERR_MEMORY;
    for (uint64_t j = 0; j < cols; j++) {
        entries[j] = (struct sort_entry){.column = (uint32_t)j, .key = diagonal[j]};
        if (kind != OBS_ORDER_GROUP_AWARE) continue;
        entries[j].group = (uint32_t)(j / group);
        entries[j].group_key = j % group ? entries[j - 1].group_key : largest_of(diagonal + j, group);
    }
    if (kind != OBS_ORDER_NONE) qsort(entries, cols, sizeof *entries, compare_entries);
    for (uint64_t j = 0; j < cols; j++)
        order[j] = entries[j].column;
    memory_free(entries);
    return OK;
}

/* ---- plan ---- */

/* Errors of one row. */
struct row_errors {
    double power, nearest, solved, final;
    bool kept_nearest;
};

struct job {
    struct obs_plan plan;
    struct obs_result *result;
    struct row_errors *rows;
    struct obs_tile *tiles; /* of the workers */
    float *scratch;
    unsigned workers;
};

/* Rows of a task: many enough for products, few enough that 16 workers find work. */
static uint64_t tile_rows_of(uint64_t rows)
{
    uint64_t wanted = (rows / 16 + OBS_STRIP - 1) / OBS_STRIP * OBS_STRIP;
    if (wanted < OBS_STRIP) return OBS_STRIP;
    return wanted > OBS_TILE_MOST ? OBS_TILE_MOST : wanted;
}

/* List the places of every group; one is together if the first and the last lie a group apart. */
static enum status find_groups(struct obs_plan *plan, struct error *err)
{
    uint32_t *counts = memory_new(plan->groups, sizeof *counts, err);
    if (!counts) return ERR_MEMORY;
    for (uint64_t place = 0; place < plan->cols; place++) {
        uint32_t group = plan->group_at[place];
        plan->members[group * plan->group + counts[group]++] = (uint32_t)place;
    }
    memory_free(counts);
    for (uint64_t group = 0; group < plan->groups; group++) {
        const uint32_t *members = plan->members + group * plan->group;
        plan->together[group] = members[plan->group - 1] - members[0] < plan->group;
        plan->scattered |= !plan->together[group];
    }
    return OK;
}

static enum status make_plan(struct obs_plan *plan, const struct obs_problem *problem, struct error *err)
{
    uint64_t cols = problem->cols, group = problem->scheme.group;
    *plan = (struct obs_plan){.problem = problem,
        .cols = cols,
        .group = group,
        .groups = cols / group,
        .tile_rows = tile_rows_of(problem->rows),
        .top = (float)((1u << problem->scheme.bits) - 1),
        .order = memory_new(cols, sizeof *plan->order, err),
        .group_at = memory_new(cols, sizeof *plan->group_at, err),
        .members = memory_new(cols, sizeof *plan->members, err),
        .together = memory_new(cols / group, 1, err),
        .importance = problem->importance ? memory_new(cols, sizeof *plan->importance, err) : NULL};
    if (!plan->order || !plan->group_at || !plan->members || !plan->together ||
        (problem->importance && !plan->importance))
        return ERR_MEMORY;
    for (uint64_t place = 0; place < cols; place++) {
        uint32_t column = problem->order ? problem->order[place] : (uint32_t)place;
        plan->order[place] = column;
        plan->group_at[place] = (uint32_t)(column / group);
        if (plan->importance) plan->importance[place] = problem->importance[column];
    }
    return find_groups(plan, err);
}

static void free_plan(struct obs_plan *plan)
{
    memory_free(plan->order);
    memory_free(plan->group_at);
    memory_free(plan->members);
    memory_free(plan->together);
    memory_free(plan->importance);
}

/* ---- scratch ---- */

/* Parts of one piece of memory, each on its own cache line; without memory it only counts. */
struct carving {
    float *base;
    uint64_t used;
};

static float *carve(struct carving *carving, uint64_t floats)
{
    float *part = carving->base ? carving->base + carving->used : NULL;
    carving->used += (floats + 15) / 16 * 16;
    return part;
}

static void carve_tile(struct obs_tile *tile, struct carving *carving, uint64_t rows, uint64_t cols,
    uint64_t group, bool scattered)
{
    uint64_t width = polish_width(group), grids = cols / group * rows;
    *tile = (struct obs_tile){.target = carve(carving, rows * cols),
        .weights = carve(carving, rows * cols),
        .codes = (uint8_t *)carve(carving, (rows * cols + 3) / 4),
        .scale = carve(carving, grids),
        .inverse = carve(carving, grids),
        .zero = carve(carving, grids),
        .gradient = carve(carving, rows * width),
        .product = carve(carving, rows * width),
        .direction = carve(carving, rows * width),
        .errors = carve(carving, rows * OBS_BLOCK),
        .column_weight = carve(carving, OBS_BLOCK * OBS_STRIP),
        .column_error = carve(carving, OBS_BLOCK * OBS_STRIP),
        .steps = carve(carving, OBS_BLOCK * OBS_STRIP),
        .one_group = carve(carving, group),
        .gathered = carve(carving, scattered ? group * cols : 0)};
}

static enum status make_scratch(struct job *job, struct error *err)
{
    const struct obs_plan *plan = &job->plan;
    struct carving carving = {0};
    struct obs_tile counted;
    bool gathering = plan->scattered && plan->problem->sweeps;
    carve_tile(&counted, &carving, plan->tile_rows, plan->cols, plan->group, gathering);
    job->tiles = memory_new(job->workers, sizeof *job->tiles, err);
    job->scratch = memory_new(job->workers, carving.used * sizeof *job->scratch, err);
    job->rows = memory_new(plan->problem->rows, sizeof *job->rows, err);
    if (!job->tiles || !job->scratch || !job->rows) return ERR_MEMORY;
    carving = (struct carving){.base = job->scratch};
    for (unsigned w = 0; w < job->workers; w++)
        carve_tile(job->tiles + w, &carving, plan->tile_rows, plan->cols, plan->group, gathering);
    return OK;
}

uint64_t obs_bytes(uint64_t cols, uint64_t group, unsigned workers)
{
    struct carving carving = {0};
    struct obs_tile counted;
    carve_tile(&counted, &carving, OBS_TILE_MOST, cols, group, group < cols);
    return workers * (carving.used * sizeof(float) + sizeof counted) + cols * 16 + cols / group * 5;
}

/* ---- between tile and result ---- */

static uint64_t grid_at(const struct obs_plan *plan, uint64_t row, uint64_t group)
{
    return group * plan->tile_rows + row;
}

/* q - t of one row from its codes and grids. */
static void measure_row(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row)
{
    for (uint64_t place = 0; place < plan->cols; place++) {
        uint64_t at = row * plan->cols + place, grid = grid_at(plan, row, plan->group_at[place]);
        tile->weights[at] = tile->scale[grid] * (tile->codes[at] - tile->zero[grid]) - tile->target[at];
    }
}

/* Codes and grids of one row, and q - t, from the result. */
static void load_row(const struct job *job, struct obs_tile *tile, uint64_t row)
{
    const struct obs_plan *plan = &job->plan;
    const struct obs_result *result = job->result;
    uint64_t at = tile->row + row;
    float middle = (plan->top + 1) / 2;
    for (uint64_t g = 0; g < plan->groups; g++) {
        float zero = result->zeros ? result->zeros[at * plan->groups + g] : middle;
        obs_tile_set_grid(plan, tile, row, g, dtype_f16_to_f32(result->scales[at * plan->groups + g]), zero);
    }
    for (uint64_t place = 0; place < plan->cols; place++)
        tile->codes[row * plan->cols + place] = result->codes[at * plan->cols + plan->order[place]];
    measure_row(plan, tile, row);
}

static void store_row(const struct job *job, const struct obs_tile *tile, uint64_t row)
{
    const struct obs_plan *plan = &job->plan;
    struct obs_result *result = job->result;
    uint64_t at = tile->row + row;
    for (uint64_t g = 0; g < plan->groups; g++) {
        uint64_t grid = grid_at(plan, row, g);
        result->scales[at * plan->groups + g] = dtype_f32_to_f16(tile->scale[grid]);
        if (result->zeros) result->zeros[at * plan->groups + g] = (uint8_t)tile->zero[grid];
    }
    for (uint64_t place = 0; place < plan->cols; place++) {
        result->codes[at * plan->cols + plan->order[place]] = tile->codes[row * plan->cols + place];
    }
}

/* ---- errors ---- */

enum { FORM_COLS = 256 }; /* at most polish_width */

/* x H x^T for every row of x [rows][cols], as two products per block of columns: with itself, and twice with all
 * that come later (H is symmetric). The sums over columns are in double precision. Row r's goes to out[r * stride]. */
static void quadratic_forms(
    double *out, const struct obs_plan *plan, struct obs_tile *tile, const float *x, uint64_t stride)
{
    uint64_t cols = plan->cols, width = polish_width(plan->group);
    const float *damped = plan->problem->damped;
    for (uint64_t row = 0; row < tile->rows; row++)
        out[row * stride] = 0;
    for (uint64_t begin = 0, end; begin < cols; begin = end) {
        end = cols - begin < FORM_COLS ? cols : begin + FORM_COLS;
        linalg_gemm_nn(tile->rows, end - begin, end - begin, 1, x + begin, cols,
            damped + begin * cols + begin, cols, 0, tile->product, width);
        if (end < cols)
            linalg_gemm_nn(tile->rows, end - begin, cols - end, 2, x + end, cols, damped + end * cols + begin,
                cols, 1, tile->product, width);
        for (uint64_t row = 0; row < tile->rows; row++) {
            double sum = 0;
            for (uint64_t i = 0; i < end - begin; i++)
                sum += (double)x[row * cols + begin + i] * tile->product[row * width + i];
            out[row * stride] += sum;
        }
    }
}

/* ---- a tile ---- */

static enum status check_target(const struct obs_plan *plan, const struct obs_tile *tile, struct error *err)
{
    const float *target = plan->problem->target + tile->row * plan->cols;
    for (uint64_t row = 0; row < tile->rows; row++) {
        for (uint64_t col = 0; col < plan->cols; col++) {
            float value = target[row * plan->cols + col];
            if (isfinite(value)) continue;
            return fail(err, ERR_NUMERIC, "weight [%" PRIu64 ", %" PRIu64 "] is %s", tile->row + row, col,
                isnan(value) ? "NaN" : "infinite");
        }
    }
    return OK;
}

static void load_target(const struct obs_plan *plan, struct obs_tile *tile)
{
    for (uint64_t row = 0; row < tile->rows; row++) {
        const float *target = plan->problem->target + (tile->row + row) * plan->cols;
        for (uint64_t place = 0; place < plan->cols; place++)
            tile->target[row * plan->cols + place] = target[plan->order[place]];
    }
}

/* Round the target to nearest, into the result and the tile. */
static enum status round_to_nearest(const struct job *job, struct obs_tile *tile, struct error *err)
{
    const struct obs_plan *plan = &job->plan;
    const struct obs_problem *problem = plan->problem;
    struct obs_result *result = job->result;
    uint64_t codes = tile->row * plan->cols, grids = tile->row * plan->groups, row, col;
    enum status status = grid_quantize_rows(result->codes + codes, result->scales + grids,
        result->zeros ? result->zeros + grids : NULL, problem->target + codes, tile->rows, plan->cols,
        problem->scheme, problem->range, problem->importance, &row, &col, NULL);
    if (status != OK) {
        return fail(err, status,
            "weight [%" PRIu64 ", %" PRIu64 "] is %g: its scale does not fit half precision", tile->row + row,
            col, (double)problem->target[codes + row * plan->cols + col]);
    }
    for (row = 0; row < tile->rows; row++)
        load_row(job, tile, row);
    return OK;
}

/* Errors of the solution. A choice between solutions compares like with like; where there is none, the solver's own sum is
 * spared the products. */
static void measure_solved(const struct job *job, struct obs_tile *tile)
{
    const struct obs_problem *problem = job->plan.problem;
    struct row_errors *errors = job->rows + tile->row;
    if (problem->safeguard || problem->sweeps) {
        quadratic_forms(&errors->solved, &job->plan, tile, tile->weights, sizeof *errors / sizeof(double));
        return;
    }
    for (uint64_t row = 0; row < tile->rows; row++)
        errors[row].solved = tile->solved[row];
}

/* Solve, and fall back row by row on what is in the result. Without a factor that is all there is. */
static enum status solve_and_choose(const struct job *job, struct obs_tile *tile, struct error *err)
{
    const struct obs_problem *problem = job->plan.problem;
    struct row_errors *errors = job->rows + tile->row;
    if (problem->factor) {
        enum status status = obs_solve(&job->plan, tile, err);
        if (status != OK) return status;
        measure_solved(job, tile);
    }
    for (uint64_t row = 0; row < tile->rows; row++) {
        struct row_errors *of = errors + row;
        of->kept_nearest = problem->factor && problem->safeguard && of->nearest < of->solved;
        of->final = problem->factor && !of->kept_nearest ? of->solved : of->nearest;
        if (of->kept_nearest) load_row(job, tile, row);
    }
    return OK;
}

/* The result holds what was chosen; a row that polishing made better replaces it. What polishing added up in single
 * precision is not trusted: q - t is taken from the codes again. */
static void polish_rows(const struct job *job, struct obs_tile *tile)
{
    double polished[OBS_TILE_MOST];
    polish_tile(&job->plan, tile, job->plan.problem->sweeps);
    for (uint64_t row = 0; row < tile->rows; row++)
        measure_row(&job->plan, tile, row);
    quadratic_forms(polished, &job->plan, tile, tile->weights, 1);
    for (uint64_t row = 0; row < tile->rows; row++) {
        double *final = &job->rows[tile->row + row].final;
        if (!(polished[row] < *final)) continue;
        *final = polished[row];
        store_row(job, tile, row);
    }
}

static enum status run_tile(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct job *job = context;
    const struct obs_problem *problem = job->plan.problem;
    struct obs_tile *tile = job->tiles + worker;
    tile->row = index * job->plan.tile_rows;
    uint64_t left = problem->rows - tile->row, stride = sizeof *job->rows / sizeof(double);
    tile->rows = left < job->plan.tile_rows ? left : job->plan.tile_rows;

    enum status status = check_target(&job->plan, tile, err);
    if (status != OK) return status;
    load_target(&job->plan, tile);
    if (!problem->without_power)
        quadratic_forms(&job->rows[tile->row].power, &job->plan, tile, tile->target, stride);
    bool compared = !problem->factor || problem->safeguard;
    if (compared || job->plan.scattered) status = round_to_nearest(job, tile, err);
    if (status != OK) return status;
    if (compared) quadratic_forms(&job->rows[tile->row].nearest, &job->plan, tile, tile->weights, stride);
    status = solve_and_choose(job, tile, err);
    if (status != OK) return status;
    for (uint64_t row = 0; row < tile->rows; row++)
        store_row(job, tile, row);
    if (problem->sweeps) polish_rows(job, tile);
    return OK;
}

/* ---- the matrix ---- */

static void add_up(const struct job *job)
{
    struct obs_result *result = job->result;
    result->power = result->error = result->error_nearest = result->error_solved = 0;
    result->rows_nearest = 0;
    for (uint64_t row = 0; row < job->plan.problem->rows; row++) {
        const struct row_errors *of = job->rows + row;
        result->power += of->power;
        result->error += of->final;
        result->error_nearest += of->nearest;
        result->error_solved += of->solved;
        result->rows_nearest += of->kept_nearest;
    }
}

enum status obs_quantize(
    const struct obs_problem *problem, struct obs_result *result, struct pool *pool, struct error *err)
{
    struct job job = {.result = result, .workers = pool_workers(pool)};
    uint64_t rows = problem->rows;
    enum status status = make_plan(&job.plan, problem, err);
    if (status == OK) status = make_scratch(&job, err);
    if (status == OK) {
        uint64_t tiles = (rows + job.plan.tile_rows - 1) / job.plan.tile_rows;
        status = pool_run(pool, tiles, run_tile, &job, err);
    }
    if (status == OK) add_up(&job);
    free_plan(&job.plan);
    memory_free(job.tiles);
    memory_free(job.scratch);
    memory_free(job.rows);
    return status;
}
