/* What surrounds the solver: the plan, and for every tile of rows the way from target to result. The tile is
 * the task; all of it stays in its worker's scratch, so the matrix is read once. */
#include "tensor/obs.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/linalg.h"
#include "tensor/obs_tile.h"
#include "tensor/polish.h"

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

/* Cut the columns: list the places of every part; one is together if the first and the last lie no farther apart than its size. */
static enum status make_cut(
    struct obs_cut *cut, const uint32_t *order, uint64_t cols, uint64_t size, struct error *err)
{
    *cut = (struct obs_cut){.size = size,
        .count = cols / size,
        .members = memory_new(cols, sizeof *cut->members, err),
        .together = memory_new(cols / size, 1, err)};
    uint32_t *counts = memory_new(cut->count, sizeof *counts, err);
    if (!cut->members || !cut->together || !counts) {
        memory_free(counts);
        return ERR_MEMORY;
    }
    for (uint64_t place = 0; place < cols; place++) {
        uint64_t part = order[place] / size;
        cut->members[part * size + counts[part]++] = (uint32_t)place;
    }
    memory_free(counts);
    for (uint64_t part = 0; part < cut->count; part++) {
        const uint32_t *members = cut->members + part * size;
        cut->together[part] = members[size - 1] - members[0] < size;
    }
    return OK;
}

static enum status make_cuts(struct obs_plan *plan, uint64_t group, uint64_t unit, struct error *err)
{
    enum status status = make_cut(&plan->groups, plan->order, plan->cols, group, err);
    if (status == OK) status = make_cut(&plan->units, plan->order, plan->cols, unit, err);
    for (uint64_t i = 0; status == OK && i < plan->units.count; i++)
        plan->scattered |= !plan->units.together[i];
    return status;
}

/* What a block type's codes stand for. */
static void set_levels(struct obs_plan *plan)
{
    const int8_t *levels = plan->form->levels;
    plan->top = (float)(plan->form->codes - 1);
    plan->uneven = levels != NULL;
    for (uint64_t i = 0; levels && i < OBS_LEVELS; i++)
        plan->levels[i] = levels[i];
    for (uint64_t i = 0; levels && i + 1 < OBS_LEVELS; i++)
        plan->middles[i] = (plan->levels[i] + plan->levels[i + 1]) / 2;
}

static enum status make_plan(struct obs_plan *plan, const struct obs_problem *problem, struct error *err)
{
    const struct block_form *form = block_form(problem->block);
    uint64_t cols = problem->cols, group = form ? form->sub : problem->scheme.group;
    *plan = (struct obs_plan){.problem = problem,
        .grids = form ? &obs_block_grids : &obs_scheme_grids,
        .form = form,
        .cols = cols,
        .tile_rows = tile_rows_of(problem->rows),
        .top = (float)((1u << problem->scheme.bits) - 1),
        .order = memory_new(cols, sizeof *plan->order, err),
        .group_at = memory_new(cols, sizeof *plan->group_at, err),
        .importance = problem->importance ? memory_new(cols, sizeof *plan->importance, err) : NULL};
    if (!plan->order || !plan->group_at || (problem->importance && !plan->importance)) return ERR_MEMORY;
    if (form) set_levels(plan);
    for (uint64_t place = 0; place < cols; place++) {
        uint32_t column = problem->order ? problem->order[place] : (uint32_t)place;
        plan->order[place] = column;
        plan->group_at[place] = (uint32_t)(column / group);
        if (plan->importance) plan->importance[place] = problem->importance[column];
    }
    return make_cuts(plan, group, form ? form->weights : group, err);
}

static void free_plan(struct obs_plan *plan)
{
    memory_free(plan->order);
    memory_free(plan->group_at);
    memory_free(plan->groups.members);
    memory_free(plan->groups.together);
    memory_free(plan->units.members);
    memory_free(plan->units.together);
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

/* What the scratch of a tile is sized by. */
struct sizes {
    uint64_t rows, cols, group, unit;
    bool blocks, gathering;
};

static void carve_tile(struct obs_tile *tile, struct carving *carving, const struct sizes *sizes)
{
    uint64_t rows = sizes->rows, cols = sizes->cols, width = polish_width(sizes->unit);
    uint64_t lines = cols / sizes->group * rows, units = sizes->blocks ? cols / sizes->unit * rows : 0;
    *tile = (struct obs_tile){.target = carve(carving, rows * cols),
        .weights = carve(carving, rows * cols),
        .codes = (uint8_t *)carve(carving, (rows * cols + 3) / 4),
        .step = carve(carving, lines),
        .inverse = carve(carving, lines),
        .zero = carve(carving, lines),
        .offset = carve(carving, lines),
        .parts = (struct block_parts *)(void *)carve(carving, (units * sizeof *tile->parts + 3) / 4),
        .gradient = carve(carving, rows * width),
        .product = {carve(carving, rows * width), carve(carving, sizes->blocks ? rows * width : 0)},
        .direction = {carve(carving, rows * width), carve(carving, sizes->blocks ? rows * width : 0)},
        .errors = carve(carving, rows * OBS_BLOCK),
        .column_weight = carve(carving, OBS_BLOCK * OBS_STRIP),
        .column_error = carve(carving, OBS_BLOCK * OBS_STRIP),
        .steps = carve(carving, OBS_BLOCK * OBS_STRIP),
        .stays = carve(carving, OBS_BLOCK * OBS_STRIP),
        .unit_weights = carve(carving, OBS_STRIP * sizes->unit),
        .ordered = carve(carving, sizes->blocks ? OBS_STRIP * sizes->unit : 0),
        .gathered = carve(carving, sizes->gathering ? sizes->unit * cols : 0)};
}

static enum status make_scratch(struct job *job, struct error *err)
{
    const struct obs_plan *plan = &job->plan;
    const struct sizes sizes = {.rows = plan->tile_rows,
        .cols = plan->cols,
        .group = plan->groups.size,
        .unit = plan->units.size,
        .blocks = plan->form != NULL,
        .gathering = plan->scattered && plan->problem->sweeps};
    struct carving carving = {0};
    struct obs_tile counted;
    carve_tile(&counted, &carving, &sizes);
    job->tiles = memory_new(job->workers, sizeof *job->tiles, err);
    job->scratch = memory_new(job->workers, carving.used * sizeof *job->scratch, err);
    job->rows = memory_new(plan->problem->rows, sizeof *job->rows, err);
    if (!job->tiles || !job->scratch || !job->rows) return ERR_MEMORY;
    carving = (struct carving){.base = job->scratch};
    for (unsigned w = 0; w < job->workers; w++)
        carve_tile(job->tiles + w, &carving, &sizes);
    return OK;
}

uint64_t obs_bytes(uint64_t cols, uint64_t group, enum block_type block, unsigned workers)
{
    const struct block_form *form = block_form(block);
    uint64_t unit = form ? form->weights : group;
    const struct sizes sizes = {.rows = OBS_TILE_MOST,
        .cols = cols,
        .group = form ? form->sub : group,
        .unit = unit,
        .blocks = form != NULL,
        .gathering = unit < cols};
    struct carving carving = {0};
    struct obs_tile counted;
    carve_tile(&counted, &carving, &sizes);
    return workers * (carving.used * sizeof(float) + sizeof counted) + cols * 20 + cols / sizes.group * 5 +
           cols / unit * 5;
}

/* ---- between tile and result ---- */

/* q - t of one row from its codes and lines. */
static void measure_row(const struct obs_plan *plan, struct obs_tile *tile, uint64_t row)
{
    for (uint64_t place = 0; place < plan->cols; place++) {
        uint64_t at = row * plan->cols + place, line = obs_line_at(plan, row, plan->group_at[place]);
        float level = obs_level(plan, tile->codes[at], tile->zero[line]);
        tile->weights[at] = tile->step[line] * level + tile->offset[line] - tile->target[at];
    }
}

/* Lines and codes of one row, and q - t, from the result. */
static void load_row(const struct job *job, struct obs_tile *tile, uint64_t row)
{
    job->plan.grids->load(&job->plan, tile, row, job->result);
    measure_row(&job->plan, tile, row);
}

/* ---- errors ---- */

enum { FORM_COLS = 256 }; /* at most polish_width */

/* x H x^T for every row of x [rows][cols], as two products per block of columns: with itself, and twice with all
 * that come later (H is symmetric). The sums over columns are in double precision. Row r's goes to out[r * stride]. */
static void quadratic_forms(
    double *out, const struct obs_plan *plan, struct obs_tile *tile, const float *x, uint64_t stride)
{
    uint64_t cols = plan->cols, width = polish_width(plan->units.size);
    const float *damped = plan->problem->damped;
    for (uint64_t row = 0; row < tile->rows; row++)
        out[row * stride] = 0;
    for (uint64_t begin = 0, end; begin < cols; begin = end) {
        end = cols - begin < FORM_COLS ? cols : begin + FORM_COLS;
        linalg_gemm_nn(tile->rows, end - begin, end - begin, 1, x + begin, cols,
            damped + begin * cols + begin, cols, 0, tile->product[0], width);
        if (end < cols)
            linalg_gemm_nn(tile->rows, end - begin, cols - end, 2, x + end, cols, damped + end * cols + begin,
                cols, 1, tile->product[0], width);
        for (uint64_t row = 0; row < tile->rows; row++) {
            double sum = 0;
            for (uint64_t i = 0; i < end - begin; i++)
                sum += (double)x[row * cols + begin + i] * tile->product[0][row * width + i];
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
    enum status status = job->plan.grids->nearest(&job->plan, tile, job->result, err);
    for (uint64_t row = 0; status == OK && row < tile->rows; row++)
        load_row(job, tile, row);
    return status;
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
        job->plan.grids->store(&job->plan, tile, row, job->result);
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
        job->plan.grids->store(&job->plan, tile, row, job->result);
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
