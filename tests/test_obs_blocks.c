/* The solver into blocks, against a plain one in double precision, and what it promises about errors, orders and faults. */
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/block_fit.h"
#include "tensor/kernels/kernels.h"
#include "tensor/linalg.h"
#include "tensor/obs.h"
#include "tests/support/kernel_set.h"
#include "tests/support/obs_sample.h"
#include "tests/support/testing.h"

enum { ORDERS = 3, ROWS = 5, COLS = OBS_SAMPLE_COLS, BYTES_MOST = OBS_SAMPLE_ROWS * COLS * 34 / 32 };

/* One of each family. */
static const enum block_type families[] = {BLOCK_Q4_0, BLOCK_Q4_1, BLOCK_Q4_K, BLOCK_Q6_K, BLOCK_IQ4_NL};
enum { FAMILIES = sizeof families / sizeof *families };

struct outcome {
    uint8_t blocks[BYTES_MOST];
    struct obs_result result;
};

static struct obs_sample sample;
static struct outcome outcome, other;
static struct pool *pool;

/* ---- problems ---- */

static uint64_t row_bytes(const struct obs_problem *problem)
{
    const struct block_info *info = block_info(problem->block);
    return problem->cols / info->weights * info->bytes;
}

static struct obs_problem make_problem(
    enum block_type type, uint64_t rows, uint64_t cols, enum obs_order order, uint64_t seed)
{
    sample.block = block_form(type)->weights;
    obs_sample_make(
        &sample, (struct obs_shape){rows, cols, block_form(type)->sub}, order == 1 ? 30 : 5, order, seed);
    return (struct obs_problem){.rows = rows,
        .cols = cols,
        .block = type,
        .target = sample.target,
        .damped = sample.damped,
        .factor = sample.factor,
        .order = sample.order,
        .importance = sample.importance};
}

static enum status try_quantize(
    struct outcome *out, const struct obs_problem *problem, struct pool *with, struct error *err)
{
    memset(out, 0, sizeof *out);
    out->result.blocks = out->blocks;
    return obs_quantize(problem, &out->result, with, err);
}

static void quantize(struct outcome *out, const struct obs_problem *problem)
{
    struct error err = {0};
    REQUIRE(try_quantize(out, problem, pool, &err) == OK, &err);
}

static double row_error(const struct outcome *out, const struct obs_problem *problem, uint64_t row)
{
    static float values[COLS];
    static double off[COLS];
    blocks_decode(values, problem->block, out->blocks + row * row_bytes(problem), 0, problem->cols);
    for (uint64_t j = 0; j < problem->cols; j++)
        off[j] = (double)values[j] - sample.target[row * problem->cols + j];
    return obs_sample_error(&sample, off);
}

static double error_of(const struct outcome *out, const struct obs_problem *problem)
{
    double sum = 0;
    for (uint64_t row = 0; row < problem->rows; row++)
        sum += row_error(out, problem, row);
    return sum;
}

static bool near(double a, double b, double tolerance)
{
    return fabs(a - b) <= tolerance * fmax(fabs(a), fabs(b));
}

/* ---- the plain solver ---- */

/* A row while it is solved: current weights by place, its blocks taken apart. */
struct plain {
    const struct obs_problem *problem;
    double weights[COLS];
    struct block_parts parts[COLS / 32];
};

/* Whether the columns of a stretch of `size` lie one behind another, and `place` is the first of them. */
static bool begins(const struct plain *plain, uint64_t place, uint64_t size)
{
    const uint32_t *order = plain->problem->order;
    uint64_t part = order[place] / size;
    for (uint64_t i = 0; i < size; i++) {
        if (place + i >= plain->problem->cols || order[place + i] / size != part) return false;
    }
    return place == 0 || order[place - 1] / size != part;
}

/* The current weights of a stretch in the order of the row. */
static void gather(float *out, const struct plain *plain, uint64_t place, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++)
        out[plain->problem->order[place + i] % size] = (float)plain->weights[place + i];
}

static void plain_fit(struct plain *plain, uint64_t place)
{
    const struct obs_problem *problem = plain->problem;
    const struct block_form *form = block_form(problem->block);
    uint64_t column = problem->order[place], unit = column / form->weights;
    const float *importance = problem->importance;
    float weights[BLOCK_WEIGHTS_MOST];
    if (begins(plain, place, form->weights)) {
        gather(weights, plain, place, form->weights);
        REQUIRE(block_fit(&plain->parts[unit], problem->block, weights,
                    importance ? importance + unit * form->weights : NULL),
            NULL);
    }
    if (form->subs > 1 && begins(plain, place, form->sub)) {
        gather(weights, plain, place, form->sub);
        block_fit_sub(&plain->parts[unit], 1, problem->block, (uint32_t)(column / form->sub % form->subs),
            weights, 1, importance ? importance + column / form->sub * form->sub : NULL);
    }
}

/* The best code of a weight, by trying all. */
static uint8_t best_code(double weight, enum block_type type, const struct block_line *line, double *value)
{
    const struct block_form *form = block_form(type);
    uint32_t best = 0;
    double least = INFINITY;
    for (uint32_t code = 0; code < form->codes; code++) {
        float level = form->levels ? form->levels[code] : (float)((int)code + form->lowest);
        double this = (double)line->step * (double)level + (double)line->offset;
        if (!(fabs(this - weight) < least)) continue;
        least = fabs(this - weight);
        best = code;
        *value = this;
    }
    return (uint8_t)best;
}

static void plain_row(struct outcome *out, struct plain *plain, uint64_t row)
{
    const struct obs_problem *problem = plain->problem;
    const struct block_form *form = block_form(problem->block);
    uint64_t cols = problem->cols, units = cols / form->weights;
    uint8_t *blocks = out->blocks + row * row_bytes(problem);
    for (uint64_t unit = 0; unit < units; unit++)
        block_parts_take(
            &plain->parts[unit], problem->block, blocks + unit * block_info(problem->block)->bytes);
    for (uint64_t j = 0; j < cols; j++)
        plain->weights[j] = sample.target[row * cols + sample.order[j]];
    for (uint64_t j = 0; j < cols; j++) {
        uint64_t column = sample.order[j];
        struct block_parts *parts = &plain->parts[column / form->weights];
        double value = 0;
        plain_fit(plain, j);
        struct block_line line =
            block_parts_line(problem->block, parts, (uint32_t)(column / form->sub % form->subs));
        parts->codes[column % form->weights] = best_code(plain->weights[j], problem->block, &line, &value);
        double error = (plain->weights[j] - value) / sample.factor_exact[j * cols + j];
        for (uint64_t k = j; k < cols; k++)
            plain->weights[k] -= error * sample.factor_exact[j * cols + k];
    }
    for (uint64_t unit = 0; unit < units; unit++)
        block_parts_put(
            blocks + unit * block_info(problem->block)->bytes, problem->block, &plain->parts[unit]);
}

static void plain_solve(struct outcome *out, const struct obs_problem *problem)
{
    static struct plain plain;
    uint64_t row, col;
    memset(out, 0, sizeof *out);
    plain.problem = problem;
    REQUIRE(block_fit_rows(out->blocks, problem->block, problem->target, problem->rows, problem->cols,
                problem->importance, &row, &col),
        NULL);
    for (row = 0; row < problem->rows; row++)
        plain_row(out, &plain, row);
}

/* ---- cases ---- */

/* Rows whose blocks differ: single precision may round a weight near a tie the other way. */
static uint64_t rows_that_differ(const struct obs_problem *problem)
{
    uint64_t bytes = row_bytes(problem), differ = 0;
    for (uint64_t row = 0; row < problem->rows; row++)
        differ += memcmp(outcome.blocks + row * bytes, other.blocks + row * bytes, bytes) != 0;
    return differ;
}

static void it_agrees_with_a_plain_solver(void)
{
    uint64_t differ = 0, of = 0;
    for (int f = 0; f < FAMILIES; f++) {
        for (int order = 0; order < ORDERS; order++) {
            struct obs_problem problem =
                make_problem(families[f], ROWS, order ? COLS : 256, (enum obs_order)order, f + 1);
            if (f & 1) problem.importance = NULL;
            quantize(&outcome, &problem);
            plain_solve(&other, &problem);
            double mine = error_of(&outcome, &problem), plain = error_of(&other, &problem);
            uint64_t rows = rows_that_differ(&problem);
            CHECK(near(mine, plain, rows ? 0.05 : 1e-9), NULL);
            CHECK(near(outcome.result.error, mine, 1e-3), NULL);
            differ += rows;
            of += problem.rows;
        }
    }
    CHECK(differ * 3 <= of, NULL);
}

static void without_a_factor_it_rounds_to_nearest(void)
{
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        uint64_t row, col;
        if (!block_form(type)) continue;
        struct obs_problem problem = make_problem(type, ROWS, 256, OBS_ORDER_GROUP_AWARE, 7);
        problem.factor = NULL;
        if (type & 1) problem.importance = NULL;
        quantize(&outcome, &problem);
        memset(&other, 0, sizeof other);
        REQUIRE(block_fit_rows(other.blocks, type, sample.target, ROWS, 256, problem.importance, &row, &col),
            NULL);
        CHECK(memcmp(outcome.blocks, other.blocks, sizeof other.blocks) == 0, NULL);
        CHECK(outcome.result.error == outcome.result.error_nearest, NULL);
        CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-4), NULL);
    }
}

static void solving_beats_rounding(void)
{
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (!block_form(type)) continue;
        struct obs_problem problem = make_problem(type, 16, 256, OBS_ORDER_GROUP_AWARE, 8);
        problem.safeguard = true;
        quantize(&outcome, &problem);
        CHECK(outcome.result.error < 0.8 * outcome.result.error_nearest, NULL);
        CHECK(outcome.result.error <= outcome.result.error_solved, NULL);
        CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-4), NULL);
    }
}

/* A factor that has nothing to do with the Hessian makes solving harmful. */
static void the_safeguard_keeps_the_better_row(void)
{
    struct obs_problem problem = make_problem(BLOCK_Q4_K, 40, 256, OBS_ORDER_GROUP_AWARE, 9);
    for (uint64_t j = 0; j < 256; j++) {
        for (uint64_t k = j + 1; k < 256; k++)
            sample.factor[j * 256 + k] *= -1;
    }
    problem.factor = NULL;
    quantize(&other, &problem);
    problem.factor = sample.factor;
    problem.safeguard = true;
    quantize(&outcome, &problem);
    CHECK(outcome.result.rows_nearest > 0, NULL);
    for (uint64_t row = 0; row < problem.rows; row++)
        CHECK(row_error(&outcome, &problem, row) <= row_error(&other, &problem, row) * (1 + 1e-6), NULL);
}

static void polishing_only_lowers_errors(void)
{
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (!block_form(type)) continue;
        for (int order = 0; order < ORDERS; order++) {
            struct obs_problem problem = make_problem(type, 3, 256, (enum obs_order)order, 20 + type);
            quantize(&other, &problem);
            for (unsigned sweeps = 1; sweeps <= 3; sweeps += 2) {
                problem.sweeps = sweeps;
                quantize(&outcome, &problem);
                CHECK(near(outcome.result.error_solved, other.result.error, 1e-3), NULL);
                CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-4), NULL);
                for (uint64_t row = 0; row < problem.rows; row++)
                    CHECK(row_error(&outcome, &problem, row) <= row_error(&other, &problem, row) * (1 + 1e-5),
                        NULL);
            }
            CHECK(outcome.result.error < 0.97 * other.result.error, NULL);
        }
    }
}

/* After enough rounds no code, scale or minimum can be changed alone for the better. */
static void polishing_ends_at_an_optimum(void)
{
    struct obs_problem problem = make_problem(BLOCK_Q4_K, 2, 256, OBS_ORDER_GROUP_AWARE, 31);
    struct block_parts parts;
    problem.sweeps = 100;
    quantize(&outcome, &problem);
    for (uint64_t row = 0; row < 2; row++) {
        uint8_t *block = outcome.blocks + row * row_bytes(&problem);
        double best = row_error(&outcome, &problem, row);
        block_parts_take(&parts, BLOCK_Q4_K, block);
        for (uint32_t i = 0; i < 256 + 8 + 8; i++) {
            struct block_parts changed = parts;
            if (i < 256) changed.codes[i] = (uint8_t)(parts.codes[i] ? parts.codes[i] - 1 : 1);
            if (i >= 256 && i < 264) changed.scale[i - 256] += parts.scale[i - 256] < 63 ? 1 : -1;
            if (i >= 264) changed.min[i - 264] += parts.min[i - 264] < 63 ? 1 : -1;
            block_parts_put(block, BLOCK_Q4_K, &changed);
            CHECK(row_error(&outcome, &problem, row) >= best * (1 - 1e-5), NULL);
        }
        block_parts_put(block, BLOCK_Q4_K, &parts);
    }
}

/* The same bits a weight, the same solver: a block must not be worse than the group of a scheme. */
static void q4_0_is_as_good_as_the_scheme(void)
{
    enum { MANY = 64 };
    static uint8_t codes[MANY * COLS];
    static uint16_t scales[MANY * COLS / 32];
    struct obs_problem problem = make_problem(BLOCK_Q4_0, MANY, COLS, OBS_ORDER_GROUP_AWARE, 33);
    struct obs_result result = {.codes = codes, .scales = scales};
    struct error err = {0};
    problem.safeguard = true;
    problem.sweeps = 3;
    quantize(&outcome, &problem);
    problem.block = BLOCK_NONE;
    problem.scheme = (struct scheme){4, 32, false};
    problem.range = GRID_MSE;
    REQUIRE(obs_quantize(&problem, &result, pool, &err) == OK, &err);
    CHECK(outcome.result.error < 1.02 * result.error, NULL);
}

/* The order keeps the sub-blocks of one type together; those of the other are larger. */
static void sub_blocks_may_lie_apart(void)
{
    struct obs_problem problem = make_problem(BLOCK_Q6_K, 32, COLS, OBS_ORDER_GROUP_AWARE, 34);
    problem.block = BLOCK_Q4_K;
    problem.safeguard = true;
    quantize(&other, &problem);
    CHECK(other.result.error < 0.8 * other.result.error_nearest, NULL);
    problem.sweeps = 2;
    quantize(&outcome, &problem);
    CHECK(outcome.result.error < 0.97 * other.result.error, NULL);
    CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-4), NULL);
}

/* ---- special problems ---- */

static void zeros_stay_zero(void)
{
    for (enum block_type type = BLOCK_NONE + 1; type < BLOCK_COUNT; type++) {
        if (!block_form(type)) continue;
        struct obs_problem problem = make_problem(type, 3, 256, OBS_ORDER_GROUP_AWARE, 42);
        memset(sample.target, 0, sizeof sample.target);
        problem.sweeps = 1;
        quantize(&outcome, &problem);
        CHECK(outcome.result.error == 0 && outcome.result.power == 0, NULL);
    }
}

static void bad_weights_are_named(void)
{
    const float bad[] = {NAN, INFINITY, 1e9f};
    const char *const words[] = {"NaN", "infinite", "half precision"};
    for (int kind = 0; kind < 12; kind++) {
        struct error err = {0};
        struct obs_problem problem =
            make_problem(kind & 1 ? BLOCK_Q4_K : BLOCK_Q4_0, 70, 256, (enum obs_order)(kind % 3), 43);
        sample.target[67 * 256 + 41] = bad[kind / 4];
        if (kind & 2) problem.factor = NULL;
        CHECK(try_quantize(&outcome, &problem, pool, &err) == ERR_NUMERIC, &err);
        CHECK(strstr(err.text, "[67, 41]") && strstr(err.text, words[kind / 4]), &err);
    }
}

static void workers_do_not_matter(void)
{
    const unsigned workers[] = {1, 2, 7};
    for (int f = 0; f < FAMILIES; f++) {
        struct obs_problem problem = make_problem(families[f], 130, 256, OBS_ORDER_GROUP_AWARE, 44);
        problem.safeguard = true;
        problem.sweeps = 2;
        quantize(&outcome, &problem);
        for (int i = 0; i < 3; i++) {
            struct pool *with = NULL;
            REQUIRE(pool_create(&with, workers[i], NULL) == OK, NULL);
            REQUIRE(try_quantize(&other, &problem, with, NULL) == OK, NULL);
            pool_free(with);
            CHECK(memcmp(outcome.blocks, other.blocks, sizeof other.blocks) == 0, NULL);
            CHECK(outcome.result.error == other.result.error, NULL);
        }
    }
}

static void kernel_sets_do_not_matter(void)
{
    const char *chosen = kernels()->name;
    for (int f = 0; f < FAMILIES; f++) {
        struct obs_problem problem = make_problem(families[f], 33, 256, OBS_ORDER_GROUP_AWARE, 45);
        problem.sweeps = 1;
        quantize(&outcome, &problem);
        REQUIRE(kernels_select("scalar", NULL) == OK, NULL);
        quantize(&other, &problem);
        REQUIRE(kernels_select(chosen, NULL) == OK, NULL);
        CHECK(memcmp(outcome.blocks, other.blocks, sizeof other.blocks) == 0, NULL);
    }
}

static void every_allocation_may_fail(void)
{
    struct obs_problem problem = make_problem(BLOCK_Q4_K, 3, 256, OBS_ORDER_STATIC, 46);
    uint64_t nth = 0, failures = 1;
    problem.sweeps = 1;
    while (failures && nth < 100) {
        struct error err = {0};
        memory_fail_at(++nth, 0);
        enum status status = try_quantize(&outcome, &problem, pool, &err);
        failures = memory_failures();
        CHECK(status == (failures ? ERR_MEMORY : OK), &err);
    }
    memory_fail_at(0, 0);
    CHECK(nth > 5 && nth < 100, NULL);
}

static void orders_nest(void)
{
    const double diagonal[] = {1, 0, 4, 2, 3, 3, 0, 5};
    const uint64_t nested[] = {4, 2};
    const uint32_t expected[] = {7, 6, 4, 5, 2, 3, 0, 1};
    uint32_t order[8];
    REQUIRE(obs_order(order, OBS_ORDER_GROUP_AWARE, diagonal, 8, nested, 2, NULL) == OK, NULL);
    CHECK(memcmp(order, expected, sizeof order) == 0, NULL);
}

int main(void)
{
    testing_kernel_set();
    REQUIRE(linalg_init(NULL) == OK, NULL);
    REQUIRE(pool_create(&pool, 3, NULL) == OK, NULL);
    static const struct test_case cases[] = {
        {"orders nest", orders_nest},
        {"it agrees with a plain solver", it_agrees_with_a_plain_solver},
        {"without a factor it rounds to nearest", without_a_factor_it_rounds_to_nearest},
        {"solving beats rounding", solving_beats_rounding},
        {"the safeguard keeps the better row", the_safeguard_keeps_the_better_row},
        {"polishing only lowers errors", polishing_only_lowers_errors},
        {"polishing ends at an optimum", polishing_ends_at_an_optimum},
        {"Q4_0 is as good as the scheme", q4_0_is_as_good_as_the_scheme},
        {"sub-blocks may lie apart", sub_blocks_may_lie_apart},
        {"zeros stay zero", zeros_stay_zero},
        {"bad weights are named", bad_weights_are_named},
        {"workers do not matter", workers_do_not_matter},
        {"kernel sets do not matter", kernel_sets_do_not_matter},
        {"every allocation may fail", every_allocation_may_fail},
    };
    int failed = TESTING_RUN("obs_blocks", cases);
    pool_free(pool);
    return failed;
}
