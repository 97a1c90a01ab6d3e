/* Exchanges of weights: the search by bounds finds what a search of everything finds, to the bit; errors fall by what is said; as many
 * weights stay as before. */
#include "tensor/prune_exchange.h"

#include <math.h>
#include <string.h>

#include "tensor/linalg.h"
#include "tests/support/obs_sample.h"
#include "tests/support/testing.h"

enum {
    ROWS = PRUNE_EXCHANGE_ROWS,
    COLS = 300,
    BLOCKS = (COLS + PRUNE_EXCHANGE_BLOCK - 1) / PRUNE_EXCHANGE_BLOCK
};

static struct obs_sample sample;
static float tops[COLS * BLOCKS], inverse[COLS];

/* Rows on their way, with what an exchange wants. */
struct state {
    float weights[ROWS * COLS], gradient[ROWS * COLS];
    uint8_t mask[ROWS * COLS];
};
static struct state first, bounded, whole;

static double error_of(const struct state *state, uint64_t row)
{
    double off[COLS];
    for (uint64_t c = 0; c < COLS; c++)
        off[c] = (double)state->weights[row * COLS + c] - sample.target[row * COLS + c];
    return obs_sample_error(&sample, off);
}

static void find_gradient(float *out, const struct state *state)
{
    static float off[ROWS * COLS];
    for (uint64_t i = 0; i < ROWS * COLS; i++)
        off[i] = state->weights[i] - sample.target[i];
    linalg_gemm_nn(ROWS, COLS, COLS, 1, off, COLS, sample.damped, COLS, 0, out, COLS);
}

/* Two of `of` weights stay, times `scale`: far from 1, taking one away may even lower the error. */
static void make_state(float outlier, uint32_t of, float scale, uint64_t seed)
{
    obs_sample_make(&sample, (struct obs_shape){ROWS, COLS, 4}, outlier, OBS_ORDER_NONE, seed);
    for (uint64_t i = 0; i < ROWS * COLS; i++) {
        first.mask[i] = i % of < 2;
        first.weights[i] = first.mask[i] ? sample.target[i] * scale : 0;
    }
    find_gradient(first.gradient, &first);
    for (uint64_t c = 0; c < COLS; c++) {
        prune_exchange_tops(tops + c * BLOCKS, sample.damped, COLS, c);
        inverse[c] = 1 / sample.damped[c * COLS + c];
    }
}

static struct prune_exchange run(struct state *state, uint32_t of)
{
    static float scratch[ROWS * (COLS + BLOCKS)];
    struct prune_problem problem = {.rows = ROWS, .cols = COLS, .damped = sample.damped, .rule = {.of = of}};
    CU_ASSERT_EQUAL(prune_exchange_blocks(COLS), BLOCKS);
    CU_ASSERT_EQUAL(prune_exchange_floats(COLS), sizeof scratch / sizeof *scratch);
    *state = first;
    struct prune_exchange exchange = {.problem = &problem,
        .tops = of ? NULL : tops,
        .inverse = inverse,
        .rows = ROWS,
        .weights = state->weights,
        .gradient = state->gradient,
        .mask = state->mask,
        .scratch = scratch};
    prune_exchange(&exchange);
    return exchange;
}

static void check_row(const struct state *state, const struct prune_exchange *done, uint64_t row)
{
    double before = error_of(&first, row), after = error_of(state, row);
    uint64_t stay = 0, stayed = 0;
    CU_ASSERT_TRUE(after <= before);
    CU_ASSERT_DOUBLE_EQUAL(before - after, done->gain[row], 1e-3 * before);
    CU_ASSERT_EQUAL(done->exchanged[row] > 0, done->gain[row] > 0);
    for (uint64_t c = row * COLS; c < (row + 1) * COLS; c++) {
        stay += state->mask[c];
        stayed += first.mask[c];
        if (!state->mask[c]) CU_ASSERT_EQUAL(state->weights[c], 0);
    }
    CU_ASSERT_EQUAL(stay, stayed);
}

/* What was kept up to date is what it would be afresh. */
static void check_gradient(const struct state *state)
{
    static float fresh[ROWS * COLS];
    float most = 0;
    find_gradient(fresh, &first);
    for (uint64_t i = 0; i < ROWS * COLS; i++)
        most = fabsf(fresh[i]) > most ? fabsf(fresh[i]) : most;
    find_gradient(fresh, state);
    for (uint64_t i = 0; i < ROWS * COLS; i++)
        CU_ASSERT_DOUBLE_EQUAL(state->gradient[i], fresh[i], 1e-5 * most);
}

static uint64_t check(float outlier, uint32_t of, float scale, uint64_t seed)
{
    uint64_t exchanged = 0;
    make_state(outlier, of, scale, seed);
    struct prune_exchange by_bounds = run(&bounded, 0), by_all = run(&whole, COLS);
    CU_ASSERT_EQUAL(memcmp(&bounded, &whole, sizeof bounded), 0);
    check_gradient(&bounded);
    for (uint64_t row = 0; row < ROWS; row++) {
        check_row(&bounded, &by_bounds, row);
        CU_ASSERT_EQUAL(by_bounds.exchanged[row], by_all.exchanged[row]);
        exchanged += by_bounds.exchanged[row];
    }
    return exchanged;
}

static void test_bounds(void)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        CU_ASSERT_TRUE(check(1, 4, 1, seed) > ROWS);
        CU_ASSERT_TRUE(check(30, 4, 1, seed) > ROWS);
        CU_ASSERT_TRUE(check(30, 10, 1, seed) > ROWS);
        CU_ASSERT_TRUE(check(30, 3, -2, seed) > ROWS);
    }
}

/* A row without a place to come to stays, although each of its weights were better gone. */
static void test_full(void)
{
    CU_ASSERT_EQUAL(check(30, 2, -2, 5), 0);
    CU_ASSERT_EQUAL(memcmp(&first, &bounded, sizeof first), 0);
}

/* Weights come to columns of their own pattern only. */
static void test_pattern(void)
{
    make_state(30, 4, 1, 6);
    struct prune_exchange done = run(&bounded, 4);
    uint64_t exchanged = 0;
    for (uint64_t row = 0; row < ROWS; row++) {
        check_row(&bounded, &done, row);
        exchanged += done.exchanged[row];
    }
    CU_ASSERT_TRUE(exchanged > ROWS);
    for (uint64_t i = 0; i < ROWS * COLS; i += 4)
        CU_ASSERT_EQUAL(bounded.mask[i] + bounded.mask[i + 1] + bounded.mask[i + 2] + bounded.mask[i + 3], 2);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"the search by bounds finds what a search of everything finds", test_bounds},
        {"a full row stays", test_full},
        {"patterns", test_pattern},
    };
    REQUIRE(linalg_init(NULL) == OK, NULL);
    return TESTING_RUN("prune_exchange", cases);
}
