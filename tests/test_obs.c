/* The solver against a plain one in double precision, and what it promises about errors, orders and faults. */
#include "tensor/obs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/kernels/kernels.h"
#include "tensor/linalg.h"
#include "tests/support/kernel_set.h"
#include "tests/support/obs_sample.h"
#include "tests/support/testing.h"

enum { ROWS_MOST = OBS_SAMPLE_ROWS, COLS_MOST = 384 };

/* ---- problems ---- */

struct outcome {
    uint8_t codes[ROWS_MOST * COLS_MOST], zeros[ROWS_MOST * COLS_MOST / 16 + ROWS_MOST];
    uint16_t scales[ROWS_MOST * COLS_MOST / 16 + ROWS_MOST];
    struct obs_result result;
};

static struct obs_sample sample;
static struct outcome outcome, other;
static struct pool *pool;

static void make_sample(struct obs_shape shape, float outlier, enum obs_order kind, uint64_t seed)
{
    obs_sample_make(&sample, shape, outlier, kind, seed);
}

static struct obs_problem problem_of(uint32_t bits, bool asymmetric)
{
    return (struct obs_problem){.rows = sample.shape.rows,
        .cols = sample.shape.cols,
        .scheme = {bits, (uint32_t)sample.shape.group, asymmetric},
        .target = sample.target,
        .damped = sample.damped,
        .factor = sample.factor,
        .order = sample.order,
        .range = GRID_MSE,
        .importance = sample.importance};
}

static enum status try_quantize(
    struct outcome *out, const struct obs_problem *problem, struct pool *with, struct error *err)
{
    memset(out, 0, sizeof *out);
    out->result.codes = out->codes;
    out->result.scales = out->scales;
    out->result.zeros = problem->scheme.asymmetric ? out->zeros : NULL;
    return obs_quantize(problem, &out->result, with, err);
}

static void quantize(struct outcome *out, const struct obs_problem *problem)
{
    struct error err = {0};
    REQUIRE(try_quantize(out, problem, pool, &err) == OK, &err);
}

/* ---- in double precision ---- */

static uint64_t groups_of(const struct obs_problem *problem)
{
    return problem->cols / problem->scheme.group;
}

/* The value of a code, natural order. */
static double value_of(
    const struct outcome *out, const struct obs_problem *problem, uint64_t row, uint64_t col)
{
    uint64_t grid = row * groups_of(problem) + col / problem->scheme.group;
    int zero = problem->scheme.asymmetric ? out->zeros[grid] : 1 << (problem->scheme.bits - 1);
    return (double)dtype_f16_to_f32(out->scales[grid]) * (out->codes[row * problem->cols + col] - zero);
}

/* (q - t) H (q - t)^T of a row. */
static double row_error(const struct outcome *out, const struct obs_problem *problem, uint64_t row)
{
    static double off[COLS_MOST];
    for (uint64_t j = 0; j < problem->cols; j++)
        off[j] = value_of(out, problem, row, j) - sample.target[row * problem->cols + j];
    return obs_sample_error(&sample, off);
}

static double error_of(const struct outcome *out, const struct obs_problem *problem)
{
    double sum = 0;
    for (uint64_t row = 0; row < problem->rows; row++)
        sum += row_error(out, problem, row);
    return sum;
}

static double power_of(const struct obs_problem *problem)
{
    double sum = 0;
    for (uint64_t row = 0; row < problem->rows; row++) {
        const float *t = sample.target + row * problem->cols;
        for (uint64_t j = 0; j < problem->cols; j++) {
            for (uint64_t k = 0; k < problem->cols; k++)
                sum += sample.hessian[j * problem->cols + k] * t[j] * t[k];
        }
    }
    return sum;
}

static bool near(double a, double b, double tolerance)
{
    return fabs(a - b) <= tolerance * fmax(fabs(a), fabs(b));
}

/* ---- the plain solver ---- */

/* Places of a group lie one behind another; `*first` is the first of them. */
static bool is_together(uint64_t group, uint64_t *first)
{
    uint64_t size = sample.shape.group, seen = 0;
    for (uint64_t j = 0; j < sample.shape.cols; j++) {
        if (sample.order[j] / size != group) continue;
        if (seen++ == 0) *first = j;
        if (j - *first >= size) return false;
    }
    return true;
}

static bool stays(const struct obs_problem *problem, uint64_t row, uint64_t column)
{
    return !problem->mask || problem->mask[row * problem->cols + column];
}

static struct grid plain_grid(
    const struct obs_problem *problem, const double *weights, const uint32_t *columns, uint64_t row)
{
    float values[COLS_MOST], importance[COLS_MOST];
    struct grid grid;
    for (uint64_t i = 0; i < problem->scheme.group; i++) {
        values[i] = stays(problem, row, columns[i]) ? (float)weights[i] : 0;
        importance[i] = problem->importance ? problem->importance[columns[i]] : 1;
    }
    REQUIRE(grid_fit(&grid, values, importance, problem->scheme.group, problem->scheme.bits,
                problem->scheme.asymmetric, problem->range),
        NULL);
    return grid;
}

/* One row as the paper has it. Grids of scattered groups are those already in *out. */
static void plain_row(struct outcome *out, const struct obs_problem *problem, uint64_t row)
{
    uint64_t cols = problem->cols, size = problem->scheme.group, groups = cols / size, first = 0;
    static double w[COLS_MOST];
    for (uint64_t j = 0; j < cols; j++)
        w[j] = sample.target[row * cols + sample.order[j]];
    for (uint64_t j = 0; j < cols; j++) {
        uint64_t column = sample.order[j], at = row * groups + column / size;
        if (is_together(column / size, &first) && first == j) {
            struct grid grid = plain_grid(problem, w + j, sample.order + j, row);
            out->scales[at] = grid.scale;
            out->zeros[at] = grid.zero;
        }
        float weight = stays(problem, row, column) ? (float)w[j] : 0;
        grid_encode(out->codes + row * cols + column, &weight, 1,
            (struct grid){out->scales[at], out->zeros[at]}, problem->scheme.bits);
        double error = (w[j] - value_of(out, problem, row, column)) / sample.factor_exact[j * cols + j];
        for (uint64_t k = j; k < cols; k++)
            w[k] -= error * sample.factor_exact[j * cols + k];
    }
}

static void plain_solve(struct outcome *out, const struct obs_problem *problem)
{
    uint64_t row, col;
    memset(out, 0, sizeof *out);
    memset(out->zeros, 1 << (problem->scheme.bits - 1), sizeof out->zeros);
    REQUIRE(grid_quantize_rows(out->codes, out->scales, problem->scheme.asymmetric ? out->zeros : NULL,
                problem->target, problem->rows, problem->cols, problem->scheme, problem->range,
                problem->importance, &row, &col, NULL) == OK,
        NULL);
    for (row = 0; row < problem->rows; row++)
        plain_row(out, problem, row);
}

/* Rows in which anything differs: single precision may round a weight near a tie the other way. */
static uint64_t rows_that_differ(const struct obs_problem *problem)
{
    uint64_t cols = problem->cols, groups = groups_of(problem), differ = 0;
    for (uint64_t row = 0; row < problem->rows; row++) {
        differ += memcmp(outcome.codes + row * cols, other.codes + row * cols, cols) != 0 ||
                  memcmp(outcome.scales + row * groups, other.scales + row * groups, 2 * groups) != 0;
    }
    return differ;
}

/* ---- cases ---- */

static const struct obs_shape shapes[] = {{1, 16, 16}, {5, 1, 1}, {3, 48, 16}, {33, 160, 32}, {9, 172, 172},
    {7, 96, 96}, {5, 384, 192}, {70, 144, 48}, {6, 256, 128}};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const uint32_t widths[] = {2, 3, 4, 5, 6, 8};
enum { WIDTHS = 6, ORDERS = 3 };

static void check_against_plain(uint32_t bits, bool asymmetric, bool weighted, uint64_t *differ, uint64_t *of)
{
    struct obs_problem problem = problem_of(bits, asymmetric);
    if (!weighted) {
        problem.importance = NULL;
        problem.range = GRID_MINMAX;
    }
    quantize(&outcome, &problem);
    plain_solve(&other, &problem);
    uint64_t rows = rows_that_differ(&problem);
    CHECK(rows * 4 <= problem.rows + 3, NULL);
    double mine = error_of(&outcome, &problem), plain = error_of(&other, &problem);
    CHECK(near(mine, plain, rows ? 0.05 : 1e-9), NULL);
    CHECK(near(outcome.result.error, mine, 1e-4), NULL);
    *differ += rows;
    *of += problem.rows;
}

static void it_agrees_with_a_plain_solver(void)
{
    uint64_t differ = 0, of = 0;
    for (uint64_t s = 0; s < SHAPES; s++) {
        for (int order = 0; order < ORDERS; order++) {
            make_sample(shapes[s], order == 1 ? 30 : 3, (enum obs_order)order, s + 1);
            for (int w = 0; w < WIDTHS; w++)
                check_against_plain(widths[w], w & 1, s & 1, &differ, &of);
            check_against_plain(4, true, true, &differ, &of);
            check_against_plain(3, false, true, &differ, &of);
        }
    }
    CHECK(differ * 50 <= of, NULL);
}

/* Of pruned weights nothing but 0 comes out, and what stays is solved, fitted and polished as if the others were known to be 0. */
static void what_is_pruned_stays_zero(void)
{
    static uint8_t mask[ROWS_MOST * COLS_MOST];
    uint64_t differ = 0, of = 0, state = 11;
    for (uint64_t s = 0; s < SHAPES; s++) {
        make_sample(shapes[s], 10, OBS_ORDER_NONE, 40 + s);
        for (uint64_t i = 0; i < shapes[s].rows * shapes[s].cols; i++)
            mask[i] = testing_random(&state) & 1;
        struct obs_problem problem = problem_of(s & 1 ? 4 : 2, false);
        problem.mask = mask;
        quantize(&outcome, &problem);
        plain_solve(&other, &problem);
        differ += rows_that_differ(&problem);
        of += problem.rows;
        double solved = outcome.result.error;
        CHECK(near(solved, error_of(&outcome, &problem), 1e-4), NULL);
        problem.sweeps = 3;
        quantize(&outcome, &problem);
        CHECK(outcome.result.error <= solved * (1 + 1e-5), NULL);
        CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-4), NULL);
        for (uint64_t i = 0; i < problem.rows * problem.cols; i++)
            CU_ASSERT_TRUE(mask[i] || outcome.codes[i] == 1 << (problem.scheme.bits - 1));
    }
    CHECK(differ * 20 <= of, NULL);
}

static void without_a_factor_it_rounds_to_nearest(void)
{
    for (int kind = 0; kind < 8; kind++) {
        make_sample(shapes[3], 10, kind & 4 ? OBS_ORDER_STATIC : OBS_ORDER_NONE, 7);
        struct obs_problem problem = problem_of(4, kind & 1);
        uint64_t row, col;
        problem.factor = NULL;
        if (kind & 2) problem.importance = NULL;
        if (kind == 0) problem.order = NULL;
        quantize(&outcome, &problem);
        memset(&other, 0, sizeof other);
        REQUIRE(grid_quantize_rows(other.codes, other.scales, kind & 1 ? other.zeros : NULL, sample.target,
                    problem.rows, problem.cols, problem.scheme, GRID_MSE, problem.importance, &row, &col,
                    NULL) == OK,
            NULL);
        CHECK(memcmp(outcome.codes, other.codes, sizeof other.codes) == 0, NULL);
        CHECK(memcmp(outcome.scales, other.scales, sizeof other.scales) == 0, NULL);
        CHECK(memcmp(outcome.zeros, other.zeros, sizeof other.zeros) == 0, NULL);
        CHECK(outcome.result.error == outcome.result.error_nearest, NULL);
        CHECK(outcome.result.error_solved == 0 && outcome.result.rows_nearest == 0, NULL);
        CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-4), NULL);
        CHECK(near(outcome.result.power, power_of(&problem), 1e-4), NULL);
        double error = outcome.result.error;
        problem.without_power = true;
        quantize(&outcome, &problem);
        CHECK(outcome.result.power == 0 && outcome.result.error == error, NULL);
    }
}

static void solving_beats_rounding(void)
{
    for (int kind = 0; kind < 2 * ORDERS; kind++) {
        make_sample(shapes[3], 10, (enum obs_order)(kind / 2), 8);
        struct obs_problem problem = problem_of(4, kind & 1);
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
    make_sample((struct obs_shape){40, 96, 32}, 10, OBS_ORDER_GROUP_AWARE, 9);
    struct obs_problem problem = problem_of(3, true);
    for (uint64_t j = 0; j < 96; j++) {
        for (uint64_t k = j + 1; k < 96; k++)
            sample.factor[j * 96 + k] *= -1;
    }
    quantize(&outcome, &problem);
    CHECK(outcome.result.rows_nearest == 0 && outcome.result.error_nearest == 0, NULL);
    problem.factor = NULL;
    quantize(&other, &problem);
    problem.factor = sample.factor;
    problem.safeguard = true;
    static struct outcome chosen;
    quantize(&chosen, &problem);
    double solved_error = error_of(&outcome, &problem);
    CHECK(chosen.result.rows_nearest > 0 && chosen.result.error < solved_error, NULL);
    CHECK(chosen.result.error <= chosen.result.error_nearest, NULL);
    CHECK(near(chosen.result.error_solved, solved_error, 1e-4), NULL);
    for (uint64_t row = 0; row < problem.rows; row++) {
        bool solved = row_error(&outcome, &problem, row) <= row_error(&other, &problem, row);
        const struct outcome *from = solved ? &outcome : &other;
        CHECK(memcmp(chosen.codes + row * 96, from->codes + row * 96, 96) == 0, NULL);
        CHECK(memcmp(chosen.scales + row * 3, from->scales + row * 3, 6) == 0, NULL);
        CHECK(memcmp(chosen.zeros + row * 3, from->zeros + row * 3, 3) == 0, NULL);
    }
}

/* ---- polish ---- */

static void polishing_only_lowers_errors(void)
{
    for (uint64_t s = 0; s < SHAPES; s++) {
        for (int kind = 0; kind < 2 * ORDERS; kind++) {
            make_sample(shapes[s], 20, (enum obs_order)(kind / 2), 20 + s);
            struct obs_problem problem = problem_of(widths[s % WIDTHS], kind & 1);
            quantize(&other, &problem);
            double before = other.result.error;
            for (unsigned sweeps = 1; sweeps <= 4; sweeps += 3) {
                problem.sweeps = sweeps;
                quantize(&outcome, &problem);
                CHECK(outcome.result.error <= outcome.result.error_solved, NULL);
                CHECK(near(outcome.result.error_solved, before, 1e-4), NULL);
                CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-4), NULL);
                for (uint64_t row = 0; row < problem.rows; row++)
                    CHECK(row_error(&outcome, &problem, row) <= row_error(&other, &problem, row) * (1 + 1e-5),
                        NULL);
            }
            if (problem.rows >= 5 && problem.cols >= 48) CHECK(outcome.result.error < 0.99 * before, NULL);
        }
    }
}

/* After enough rounds, no single code can be changed for the better. */
static void polishing_ends_at_an_optimum_of_codes(void)
{
    make_sample((struct obs_shape){4, 64, 32}, 5, OBS_ORDER_NONE, 31);
    struct obs_problem problem = problem_of(3, false);
    problem.sweeps = 50;
    quantize(&outcome, &problem);
    for (uint64_t row = 0; row < 4; row++) {
        double best = row_error(&outcome, &problem, row);
        for (uint64_t at = row * 64; at < row * 64 + 64; at++) {
            uint8_t kept = outcome.codes[at];
            for (uint8_t code = 0; code < 8; code++) {
                outcome.codes[at] = code;
                CHECK(row_error(&outcome, &problem, row) >= best * (1 - 1e-5), NULL);
            }
            outcome.codes[at] = kept;
        }
    }
}

/* ---- special problems ---- */

/* Channels never seen have only the ridge, and no importance. */
static void dead_channels_do_no_harm(void)
{
    for (int order = 0; order < ORDERS; order++) {
        make_sample((struct obs_shape){8, 64, 16}, 10, OBS_ORDER_NONE, 40);
        for (uint64_t j = 16; j < 40; j++) {
            for (uint64_t k = 0; k < 64; k++)
                sample.hessian[j * 64 + k] = sample.hessian[k * 64 + j] = 0;
            sample.hessian[j * 64 + j] = 0.01;
            sample.importance[j] = 0;
        }
        obs_sample_place(&sample, (enum obs_order)order);
        struct obs_problem problem = problem_of(4, order & 1);
        problem.safeguard = true;
        problem.sweeps = 2;
        quantize(&outcome, &problem);
        CHECK(outcome.result.error <= outcome.result.error_nearest, NULL);
        CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-4), NULL);
    }
}

static void a_loud_channel_is_survived(void)
{
    for (int order = 0; order < ORDERS; order++) {
        make_sample(shapes[3], 1e4f, (enum obs_order)order, 41);
        struct obs_problem problem = problem_of(4, false);
        problem.safeguard = true;
        problem.sweeps = 2;
        quantize(&outcome, &problem);
        CHECK(outcome.result.error < outcome.result.error_nearest, NULL);
        CHECK(near(outcome.result.error, error_of(&outcome, &problem), 1e-3), NULL);
    }
}

static void zeros_stay_zero(void)
{
    for (int kind = 0; kind < 4; kind++) {
        make_sample((struct obs_shape){3, 64, 32}, 3, kind & 2 ? OBS_ORDER_STATIC : OBS_ORDER_NONE, 42);
        memset(sample.target, 0, sizeof sample.target);
        struct obs_problem problem = problem_of(4, kind & 1);
        problem.sweeps = 1;
        quantize(&outcome, &problem);
        CHECK(outcome.result.error == 0 && outcome.result.power == 0, NULL);
        for (uint64_t i = 0; i < 3 * 64; i++)
            CHECK(outcome.codes[i] == (kind & 1 ? outcome.zeros[i / 32] : 8), NULL);
        for (uint64_t i = 0; i < 3 * 2; i++)
            CHECK(outcome.scales[i] == 0, NULL);
    }
}

static void check_fault(const struct obs_problem *problem, const char *where, const char *word)
{
    struct error err = {0};
    CHECK(try_quantize(&outcome, problem, pool, &err) == ERR_NUMERIC, &err);
    CHECK(strstr(err.text, where) != NULL && strstr(err.text, word) != NULL, &err);
}

static void bad_weights_are_named(void)
{
    const float bad[] = {NAN, INFINITY, 1e7f};
    const char *const words[] = {"NaN", "infinite", "half precision"};
    for (int kind = 0; kind < 12; kind++) {
        make_sample((struct obs_shape){70, 64, 32}, 3, (enum obs_order)(kind % 3), 43);
        struct obs_problem problem = problem_of(4, false);
        sample.target[67 * 64 + 41] = bad[kind / 4];
        problem.safeguard = kind & 1;
        if (kind & 2) problem.factor = NULL;
        check_fault(&problem, "[67, 41]", words[kind / 4]);
    }
}

static void weights_that_run_away_are_named(void)
{
    for (int kind = 0; kind < 4; kind++) {
        make_sample((struct obs_shape){2, 64, 32}, 3, kind & 1 ? OBS_ORDER_STATIC : OBS_ORDER_NONE, 44);
        struct obs_problem problem = problem_of(2, false);
        for (uint64_t k = 33; k < 64; k++)
            sample.factor[k] = kind & 2 ? 3e38f : 1e9f;
        for (uint64_t k = 0; k < 33 && kind & 2; k++)
            sample.factor[k * 64 + k] = 1e-30f;
        if (kind == 1) continue; /* finite, and the grids were found before */
        check_fault(&problem, "weight [0, ", kind & 1 ? "ceased to be finite" : "while solving");
    }
}

/* ---- the same for everyone ---- */

static void workers_do_not_matter(void)
{
    for (int kind = 0; kind < 2 * ORDERS; kind++) {
        make_sample((struct obs_shape){130, 144, 48}, 10, (enum obs_order)(kind / 2), 50);
        struct obs_problem problem = problem_of(4, kind & 1);
        problem.safeguard = true;
        problem.sweeps = 1;
        quantize(&outcome, &problem);
        for (unsigned workers = 1; workers <= 3; workers += 2) {
            struct pool *crew;
            REQUIRE(pool_create(&crew, workers, NULL) == OK, NULL);
            REQUIRE(try_quantize(&other, &problem, crew, NULL) == OK, NULL);
            pool_free(crew);
            other.result.codes = outcome.result.codes; /* compare what they point at, not the pointers */
            other.result.scales = outcome.result.scales;
            other.result.zeros = outcome.result.zeros;
            CHECK(memcmp(&outcome, &other, sizeof outcome) == 0, NULL);
        }
    }
}

static void kernel_sets_do_not_matter(void)
{
    const char *name = kernels()->name;
    make_sample((struct obs_shape){40, 144, 48}, 10, OBS_ORDER_GROUP_AWARE, 51);
    struct obs_problem problem = problem_of(4, false);
    problem.sweeps = 1;
    quantize(&outcome, &problem);
    REQUIRE(kernels_select("scalar", NULL) == OK, NULL);
    quantize(&other, &problem);
    REQUIRE(kernels_select(name, NULL) == OK, NULL);
    CHECK(memcmp(outcome.codes, other.codes, sizeof other.codes) == 0, NULL);
    CHECK(memcmp(outcome.scales, other.scales, sizeof other.scales) == 0, NULL);
    CHECK(outcome.result.error == other.result.error, NULL);
}

static void every_allocation_may_fail(void)
{
    uint64_t nth = 0, failures = 1;
    make_sample((struct obs_shape){5, 48, 16}, 3, OBS_ORDER_STATIC, 52);
    struct obs_problem problem = problem_of(4, true);
    while (failures && nth < 100) {
        struct error err = {0};
        memory_fail_at(++nth, 0);
        enum status status = try_quantize(&outcome, &problem, pool, &err);
        failures = memory_failures();
        CHECK(status == (failures ? ERR_MEMORY : OK), &err);
    }
    memory_fail_at(0, 0);
    CHECK(nth > 5 && nth < 100, NULL);
    memory_fail_at(1, 0);
    CHECK(obs_order(sample.order, OBS_ORDER_STATIC, sample.damped_exact, 48, &(uint64_t){16}, 1, NULL) ==
              ERR_MEMORY,
        NULL);
    memory_fail_at(0, 0);
}

static void scratch_is_foreseen(void)
{
    CHECK(obs_bytes(4096, 128, BLOCK_NONE, 2) > 2 * 256 * 4096 * 9, NULL);
    CHECK(obs_bytes(4096, 128, BLOCK_NONE, 2) < 2 * 256 * 4096 * 15, NULL);
}

static void orders_are_what_they_say(void)
{
    const double diagonal[] = {1, 5, 2, 2, 9, 0, 5, 9};
    const uint32_t expected[ORDERS][8] = {
        {0, 1, 2, 3, 4, 5, 6, 7}, {4, 7, 1, 6, 2, 3, 0, 5}, {4, 5, 7, 6, 1, 0, 2, 3}};
    for (int kind = 0; kind < ORDERS; kind++) {
        uint32_t order[8];
        REQUIRE(obs_order(order, (enum obs_order)kind, diagonal, 8, &(uint64_t){2}, 1, NULL) == OK, NULL);
        CHECK(memcmp(order, expected[kind], sizeof order) == 0, NULL);
    }
}

int main(void)
{
    testing_kernel_set();
    REQUIRE(linalg_init(NULL) == OK, NULL);
    REQUIRE(pool_create(&pool, 2, NULL) == OK, NULL);
    static const struct test_case cases[] = {
        {"orders are what they say", orders_are_what_they_say},
        {"it agrees with a plain solver", it_agrees_with_a_plain_solver},
        {"what is pruned stays zero", what_is_pruned_stays_zero},
        {"without a factor it rounds to nearest", without_a_factor_it_rounds_to_nearest},
        {"solving beats rounding", solving_beats_rounding},
        {"the safeguard keeps the better row", the_safeguard_keeps_the_better_row},
        {"polishing only lowers errors", polishing_only_lowers_errors},
        {"polishing ends at an optimum of codes", polishing_ends_at_an_optimum_of_codes},
        {"dead channels do no harm", dead_channels_do_no_harm},
        {"a loud channel is survived", a_loud_channel_is_survived},
        {"zeros stay zero", zeros_stay_zero},
        {"bad weights are named", bad_weights_are_named},
        {"weights that run away are named", weights_that_run_away_are_named},
        {"workers do not matter", workers_do_not_matter},
        {"kernel sets do not matter", kernel_sets_do_not_matter},
        {"every allocation may fail", every_allocation_may_fail},
        {"scratch is foreseen", scratch_is_foreseen},
    };
    int failed = TESTING_RUN("obs", cases);
    pool_free(pool);
    return failed;
}
