/* SparseGPT against the paper's algorithm by numpy, and what the solver promises: exact masks, errors that are what it says, polishing
 * that only lowers them, the same bits for any number of threads. */
#include "tensor/obs_prune.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/hessian.h"
#include "tensor/linalg.h"
#include "tensor/prune_exchange.h"
#include "tensor/prune_polish.h"
#include "tests/support/obs_sample.h"
#include "tests/support/testing.h"

enum { MOST = OBS_SAMPLE_ROWS * OBS_SAMPLE_COLS };

static struct pool *pool;
static struct obs_sample sample;
static float weights[MOST], other[MOST];
static uint8_t mask[MOST], other_mask[MOST];

static uint64_t gone(const uint8_t *part, uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += !part[i];
    return sum;
}

/* ---- golden ---- */

enum { ROWS = 24, COLS = 192, TOKENS = 256 };

static void *golden(const char *name, uint64_t bytes)
{
    char path[64];
    uint64_t count;
    snprintf(path, sizeof path, "golden/pruning/%s", name);
    void *read = testing_read(testing_source(path), &count);
    REQUIRE(count == bytes, NULL);
    return read;
}

static void make_hessian(struct hessian *hessian)
{
    static float inputs[TOKENS * COLS];
    struct error err = {0};
    int8_t *bytes = golden("inputs.i8", sizeof inputs / sizeof *inputs);
    for (uint64_t i = 0; i < TOKENS * COLS; i++)
        inputs[i] = (float)bytes[i] / 16;
    REQUIRE(hessian_create(hessian, COLS, false, 0, 1, &err) == OK, &err);
    REQUIRE(hessian_add(hessian, pool, inputs, NULL, NULL, TOKENS, &err) == OK, &err);
    REQUIRE(hessian_mean(hessian, pool, &err) == OK, &err);
    REQUIRE(hessian_factor(hessian, pool, 0.01, &err) == OK, &err);
    REQUIRE(hessian_finish(hessian, pool, &err) == OK, &err);
    memory_free(bytes);
}

static void check_golden(const struct hessian *hessian, const char *name, struct sparsity_rule rule)
{
    struct error err = {0};
    float *target = golden("weights.f32", ROWS * COLS * sizeof *target);
    float *expected = golden(name, ROWS * COLS * sizeof *expected);
    struct prune_problem problem = {.rows = ROWS,
        .cols = COLS,
        .target = target,
        .damped = hessian->damped,
        .factor = hessian->factor,
        .rule = rule};
    struct prune_solution solution = {.weights = weights, .mask = mask};
    REQUIRE(obs_prune(&problem, &solution, pool, &err) == OK, &err);
    for (uint64_t i = 0; i < ROWS * COLS; i++) {
        CU_ASSERT_EQUAL(mask[i], expected[i] != 0);
        CU_ASSERT_DOUBLE_EQUAL(weights[i], expected[i], 2e-5);
    }
    CU_ASSERT_EQUAL(gone(mask, ROWS * COLS), ROWS * COLS / 2);
    memory_free(target);
    memory_free(expected);
}

static void test_golden(void)
{
    struct hessian hessian;
    make_hessian(&hessian);
    CU_ASSERT_EQUAL(hessian.dead, 1);
    check_golden(&hessian, "half.f32", (struct sparsity_rule){.share = 0.5});
    check_golden(&hessian, "two-of-four.f32", (struct sparsity_rule){.keep = 2, .of = 4});
    hessian_free(&hessian);
}

/* ---- promises ---- */

static struct prune_problem problem_of(struct sparsity_rule rule, unsigned rounds)
{
    return (struct prune_problem){.rows = sample.shape.rows,
        .cols = sample.shape.cols,
        .target = sample.target,
        .damped = sample.damped,
        .factor = sample.factor,
        .rule = rule,
        .rounds = rounds};
}

static struct prune_solution solve(const struct prune_problem *problem)
{
    struct error err = {0};
    struct prune_solution solution = {.weights = weights, .mask = mask};
    REQUIRE(obs_prune(problem, &solution, pool, &err) == OK, &err);
    return solution;
}

static double error_of(const struct prune_problem *problem, const float *of)
{
    static double off[OBS_SAMPLE_COLS];
    double sum = 0;
    for (uint64_t r = 0; r < problem->rows; r++) {
        for (uint64_t c = 0; c < problem->cols; c++)
            off[c] = (double)of[r * problem->cols + c] - sample.target[r * problem->cols + c];
        sum += obs_sample_error(&sample, off);
    }
    return sum;
}

/* What is said of the result is so. */
static void check(const struct prune_problem *problem, const struct prune_solution *solution)
{
    uint64_t count = problem->rows * problem->cols;
    double error = error_of(problem, weights);
    CU_ASSERT_DOUBLE_EQUAL(solution->error, error, 1e-3 * error);
    CU_ASSERT_TRUE(solution->error <= solution->error_solved && solution->error < solution->power);
    for (uint64_t i = 0; i < count; i++)
        CU_ASSERT_TRUE(mask[i] == 1 || (mask[i] == 0 && weights[i] == 0));
    for (uint64_t i = 0; problem->rule.of && !problem->given && i < count; i += problem->rule.of)
        CU_ASSERT_EQUAL(gone(mask + i, problem->rule.of), problem->rule.of - problem->rule.keep);
}

static void test_errors(void)
{
    static const struct sparsity_rule rules[] = {
        {.share = 0.5}, {.share = 0.8}, {.keep = 2, .of = 4}, {.keep = 1, .of = 3}, {.keep = 5, .of = 32}};
    obs_sample_make(&sample, (struct obs_shape){70, 288, 32}, 30, OBS_ORDER_NONE, 1);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        double before = INFINITY;
        for (unsigned rounds = 0; rounds <= 3; rounds++) {
            struct prune_problem problem = problem_of(rules[i], rounds);
            struct prune_solution solution = solve(&problem);
            check(&problem, &solution);
            CU_ASSERT_TRUE(rounds == 0 ? solution.error == solution.error_solved : solution.error < before);
            CU_ASSERT_EQUAL(rounds == 0, solution.exchanged == 0);
            before = solution.error;
        }
        if (!rules[i].of) /* of every block the nearest whole number goes */
            CU_ASSERT_EQUAL(gone(mask, 70 * 288),
                2 * sparsity_count(rules[i].share, 70 * 128) + sparsity_count(rules[i].share, 70 * 32));
    }
}

/* A mask that is given stays; what remains of its error after enough rounds is the least there is: the gradient is 0 on the support. */
static void test_given(void)
{
    obs_sample_make(&sample, (struct obs_shape){40, 96, 32}, 5, OBS_ORDER_NONE, 2);
    struct prune_problem problem = problem_of((struct sparsity_rule){.share = 0.6}, 0);
    problem.given = true;
    for (uint64_t i = 0; i < 40 * 96; i++)
        other_mask[i] = i % 5 < 2;
    for (unsigned rounds = 0; rounds <= 40; rounds += 20) {
        memcpy(mask, other_mask, sizeof mask);
        problem.rounds = rounds;
        struct prune_solution solution = solve(&problem);
        check(&problem, &solution);
        CU_ASSERT_EQUAL(memcmp(mask, other_mask, 40 * 96), 0);
        CU_ASSERT_EQUAL(solution.exchanged, 0);
    }
    for (uint64_t r = 0; r < 40; r++) {
        for (uint64_t c = 0; c < 96; c++) {
            double gradient = 0, scale = 0;
            for (uint64_t k = 0; k < 96; k++) {
                double part =
                    sample.hessian[c * 96 + k] * ((double)weights[r * 96 + k] - sample.target[r * 96 + k]);
                gradient += part;
                scale += fabs(part);
            }
            if (mask[r * 96 + c]) CU_ASSERT_TRUE(fabs(gradient) < 1e-4 * scale + 1e-6);
        }
    }
}

static void test_threads(void)
{
    obs_sample_make(&sample, (struct obs_shape){70, 288, 32}, 30, OBS_ORDER_NONE, 3);
    struct prune_problem problem = problem_of((struct sparsity_rule){.share = 0.5}, 2);
    struct prune_solution first = solve(&problem);
    memcpy(other, weights, sizeof other);
    memcpy(other_mask, mask, sizeof mask);
    for (unsigned threads = 2; threads <= 3; threads++) {
        struct pool *kept = pool;
        REQUIRE(pool_create(&pool, threads, NULL) == OK, NULL);
        struct prune_solution again = solve(&problem);
        pool_free(pool);
        pool = kept;
        CU_ASSERT_EQUAL(memcmp(other, weights, 70 * 288 * sizeof *other), 0);
        CU_ASSERT_EQUAL(memcmp(other_mask, mask, 70 * 288), 0);
        CU_ASSERT_TRUE(
            first.error == again.error && first.power == again.power && first.exchanged == again.exchanged);
    }
}

/* Polish what is in weights and mask, `most` rows at a time, into other and other_mask; the sum of the errors. */
static double polish(const struct prune_problem *problem, const float *tops, uint64_t most, double *errors)
{
    uint64_t rows = problem->rows, cols = problem->cols;
    float *scratch = malloc(prune_polish_floats(most, cols) * sizeof *scratch);
    double sum = 0;
    REQUIRE(scratch != NULL, NULL);
    memcpy(other, weights, sizeof other);
    memcpy(other_mask, mask, sizeof other_mask);
    for (uint64_t row = 0; row < rows; row += most) {
        struct prune_strip strip = {.problem = problem,
            .row = row,
            .rows = rows - row < most ? rows - row : most,
            .target = problem->target + row * cols,
            .weights = other + row * cols,
            .mask = other_mask + row * cols,
            .tops = tops,
            .scratch = scratch};
        prune_polish(&strip);
        memcpy(errors + row, strip.after, strip.rows * sizeof *errors);
        for (uint64_t r = 0; r < strip.rows; r++)
            sum += strip.after[r];
    }
    free(scratch);
    return sum;
}

/* Rows do not know their strip: products round differently for other numbers of rows, and that is all. */
static void test_strips(void)
{
    enum { ROWS_ALL = 130, COLS_ALL = 288 };
    static float tops[COLS_ALL * COLS_ALL];
    static uint8_t alone[MOST];
    static double errors[2][ROWS_ALL];
    obs_sample_make(&sample, (struct obs_shape){ROWS_ALL, COLS_ALL, 32}, 30, OBS_ORDER_NONE, 6);
    struct prune_problem problem = problem_of((struct sparsity_rule){.share = 0.5}, 0);
    struct prune_solution solved = solve(&problem);
    for (uint64_t c = 0; c < COLS_ALL; c++)
        prune_exchange_tops(tops + c * prune_exchange_blocks(COLS_ALL), sample.damped, COLS_ALL, c);
    problem.rounds = 2;
    double single = polish(&problem, tops, 1, errors[0]);
    memcpy(alone, other_mask, sizeof alone);
    CU_ASSERT_TRUE(single < 0.9 * solved.error);
    for (uint64_t most = 32; most <= PRUNE_STRIP_MOST; most *= 2) {
        uint64_t differ = 0, masks = 0;
        CU_ASSERT_DOUBLE_EQUAL(polish(&problem, tops, most, errors[1]), single, 1e-4 * single);
        for (uint64_t r = 0; r < ROWS_ALL; r++)
            differ += fabs(errors[1][r] - errors[0][r]) > 1e-4 * errors[0][r];
        for (uint64_t i = 0; i < ROWS_ALL * COLS_ALL; i++)
            masks += alone[i] != other_mask[i];
        CU_ASSERT_TRUE(differ <= 3); /* where two exchanges were worth the same but for rounding */
        CU_ASSERT_TRUE(masks <= 20);
        CU_ASSERT_DOUBLE_EQUAL(error_of(&problem, other), single, 1e-3 * single);
    }
}

static void test_not_finite(void)
{
    struct error err = {0};
    struct prune_solution solution = {.weights = weights, .mask = mask};
    obs_sample_make(&sample, (struct obs_shape){40, 96, 32}, 5, OBS_ORDER_NONE, 4);
    sample.target[5 * 96 + 17] = NAN;
    struct prune_problem problem = problem_of((struct sparsity_rule){.share = 0.5}, 1);
    CU_ASSERT_EQUAL(obs_prune(&problem, &solution, pool, &err), ERR_NUMERIC);
    CU_ASSERT_STRING_EQUAL(err.text, "weight [5, 17] is NaN");
    sample.target[5 * 96 + 17] = 1;
    sample.factor[0] = 1e-38f;
    err = (struct error){0};
    CU_ASSERT_EQUAL(obs_prune(&problem, &solution, pool, &err), OK); /* what costs so much stays */
    problem.given = true;
    memset(mask, 0, sizeof mask);
    sample.target[0] = 1e3f;
    CU_ASSERT_EQUAL(obs_prune(&problem, &solution, pool, &err), ERR_NUMERIC);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "ceased to be finite"));
}

static void test_no_memory(void)
{
    struct error err = {0};
    struct prune_solution solution = {.weights = weights, .mask = mask};
    obs_sample_make(&sample, (struct obs_shape){40, 96, 32}, 5, OBS_ORDER_NONE, 5);
    struct prune_problem problem = problem_of((struct sparsity_rule){.share = 0.5}, 1);
    for (uint64_t nth = 1; nth <= 5; nth++) {
        memory_fail_at(nth, 0);
        CU_ASSERT_EQUAL(obs_prune(&problem, &solution, pool, &err), ERR_MEMORY);
        memory_fail_at(0, 0);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"golden", test_golden},
        {"errors", test_errors},
        {"given mask", test_given},
        {"threads", test_threads},
        {"strips of other sizes", test_strips},
        {"not finite", test_not_finite},
        {"no memory", test_no_memory},
    };
    REQUIRE(linalg_init(NULL) == OK && pool_create(&pool, 1, NULL) == OK, NULL);
    int code = TESTING_RUN("obs_prune", cases);
    pool_free(pool);
    return code;
}
