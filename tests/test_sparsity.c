/* Scores against their formulas, and masks: exact counts, ties, patterns, the same for any number of threads. */
#include "tensor/sparsity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/testing.h"

enum { ROWS = 37, COLS = 96, COUNT = ROWS * COLS };

static struct pool *pool;
static float weights[COUNT], scores[COUNT];
static double second[COLS];
static uint8_t mask[COUNT];

static void fill(uint64_t seed)
{
    for (uint64_t i = 0; i < COUNT; i++)
        weights[i] = testing_normal(&seed);
    for (uint64_t c = 0; c < COLS; c++)
        second[c] = c == 5 ? 0 : fabs((double)testing_normal(&seed));
}

static void score(enum sparsity_score kind)
{
    struct error err = {0};
    REQUIRE(sparsity_scores(scores, kind, weights, ROWS, COLS, second, pool, &err) == OK, &err);
}

static void choose(const struct sparsity_rule *rule)
{
    struct error err = {0};
    REQUIRE(sparsity_mask(mask, scores, ROWS, COLS, rule, pool, &err) == OK, &err);
}

static uint64_t gone(const uint8_t *part, uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++)
        sum += !part[i];
    return sum;
}

/* ---- scores ---- */

static void check_ria(uint64_t r, uint64_t c)
{
    double row = 0, col = 0, weight = fabs((double)weights[r * COLS + c]);
    for (uint64_t i = 0; i < COLS; i++)
        row += fabs((double)weights[r * COLS + i]);
    for (uint64_t i = 0; i < ROWS; i++)
        col += fabs((double)weights[i * COLS + c]);
    double expected = (weight / row + weight / col) * pow(sqrt(second[c]), 0.5);
    CU_ASSERT_DOUBLE_EQUAL(scores[r * COLS + c], expected, 1e-6 * expected);
}

static void test_scores(void)
{
    fill(1);
    score(SPARSITY_MAGNITUDE);
    for (uint64_t i = 0; i < COUNT; i++)
        CU_ASSERT_EQUAL(scores[i], fabsf(weights[i]));
    score(SPARSITY_WANDA);
    for (uint64_t i = 0; i < COUNT; i++) {
        double expected = fabs((double)weights[i]) * sqrt(second[i % COLS]);
        CU_ASSERT_DOUBLE_EQUAL(scores[i], expected, 1e-6 * expected);
    }
    score(SPARSITY_RIA);
    for (uint64_t i = 0; i < COUNT; i++)
        check_ria(i / COLS, i % COLS);
}

/* A matrix, a row and a column of zeros divide nothing by nothing; what is too large for a float stays the largest. */
static void test_scores_are_finite(void)
{
    fill(2);
    memset(weights, 0, COLS * sizeof *weights);
    for (uint64_t r = 0; r < ROWS; r++)
        weights[r * COLS + 7] = 0;
    weights[COLS] = 3e38f;
    second[0] = 1e200;
    for (int kind = SPARSITY_MAGNITUDE; kind <= SPARSITY_RIA; kind++) {
        score((enum sparsity_score)kind);
        for (uint64_t i = 0; i < COUNT; i++)
            CU_ASSERT_TRUE(isfinite(scores[i]) && scores[i] >= 0);
    }
}

/* ---- masks ---- */

static void test_counts_are_exact(void)
{
    static const double shares[] = {0, 0.001, 0.3, 0.5, 0.625, 0.999};
    fill(3);
    score(SPARSITY_MAGNITUDE);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        choose(&(struct sparsity_rule){.share = shares[i]});
        CU_ASSERT_EQUAL(gone(mask, COUNT), (uint64_t)(shares[i] * COUNT + 0.5));
        choose(&(struct sparsity_rule){.share = shares[i], .by_row = true});
        for (uint64_t r = 0; r < ROWS; r++)
            CU_ASSERT_EQUAL(gone(mask + r * COLS, COLS), (uint64_t)(shares[i] * COLS + 0.5));
    }
}

/* No weight that stays scores below one that goes. */
static void test_the_lowest_go(void)
{
    fill(4);
    score(SPARSITY_WANDA);
    choose(&(struct sparsity_rule){.share = 0.4});
    float highest = 0, lowest = INFINITY;
    for (uint64_t i = 0; i < COUNT; i++) {
        if (!mask[i] && scores[i] > highest) highest = scores[i];
        if (mask[i] && scores[i] < lowest) lowest = scores[i];
    }
    CU_ASSERT_TRUE(highest <= lowest);
}

static void test_patterns(void)
{
    static const struct sparsity_rule rules[] = {
        {.keep = 2, .of = 4}, {.keep = 4, .of = 8}, {.keep = 1, .of = 32}, {.keep = 2, .of = 3}};
    fill(5);
    score(SPARSITY_WANDA);
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const uint32_t of = rules[i].of;
        choose(&rules[i]);
        for (uint64_t at = 0; at < COUNT; at += of)
            CU_ASSERT_EQUAL(gone(mask + at, of), of - rules[i].keep);
    }
}

/* Of equal scores the first goes. */
static void test_ties(void)
{
    for (uint64_t i = 0; i < COUNT; i++)
        scores[i] = i % 3 == 0 ? -0.0f : 1;
    choose(&(struct sparsity_rule){.share = 0.5});
    uint64_t zeros = COUNT / 3, ones = COUNT / 2 - zeros;
    for (uint64_t i = 0; i < COUNT; i++) {
        bool first = i % 3 && (i - i / 3 - 1) < ones;
        CU_ASSERT_EQUAL(mask[i], !(i % 3 == 0 || first));
    }
    choose(&(struct sparsity_rule){.keep = 1, .of = 4});
    static const uint8_t expected[12] = {0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1};
    CU_ASSERT_EQUAL(memcmp(mask, expected, sizeof expected), 0);
    for (uint64_t i = 0; i < COUNT; i++)
        scores[i] = 2;
    choose(&(struct sparsity_rule){.share = 0.25, .by_row = true});
    for (uint64_t i = 0; i < COUNT; i++)
        CU_ASSERT_EQUAL(mask[i], i % COLS >= COLS / 4);
}

static void test_threads(void)
{
    static uint8_t expected[COUNT];
    static float first[COUNT];
    struct error err = {0};
    fill(6);
    score(SPARSITY_RIA);
    choose(&(struct sparsity_rule){.share = 0.5, .by_row = true});
    memcpy(expected, mask, COUNT);
    memcpy(first, scores, sizeof first);
    for (unsigned threads = 2; threads <= 7; threads++) {
        struct pool *own = NULL;
        REQUIRE(pool_create(&own, threads, &err) == OK, &err);
        struct pool *kept = pool;
        pool = own;
        score(SPARSITY_RIA);
        choose(&(struct sparsity_rule){.share = 0.5, .by_row = true});
        pool = kept;
        pool_free(own);
        CU_ASSERT_EQUAL(memcmp(first, scores, sizeof first), 0);
        CU_ASSERT_EQUAL(memcmp(expected, mask, COUNT), 0);
    }
}

/* ---- layers ---- */

static void test_spread(void)
{
    const double outliers[3] = {0.01, 0.05, 0.03};
    const uint64_t sizes[3] = {100, 200, 100};
    double shares[3], whole = 0;
    CU_ASSERT_TRUE(sparsity_spread(shares, outliers, sizes, 3, 0.6, 0.08));
    for (int i = 0; i < 3; i++)
        whole += shares[i] * (double)sizes[i] / 400;
    CU_ASSERT_DOUBLE_EQUAL(whole, 0.6, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(shares[0] - shares[1], 0.16, 1e-12);
    CU_ASSERT_DOUBLE_EQUAL(shares[0] - shares[2], 0.08, 1e-12);
    CU_ASSERT_FALSE(sparsity_spread(shares, outliers, sizes, 3, 0.95, 0.08));
    const double alike[2] = {0.02, 0.02};
    CU_ASSERT_TRUE(sparsity_spread(shares, alike, sizes, 2, 0.6, 0.08));
    CU_ASSERT_EQUAL(shares[0], 0.6);
    CU_ASSERT_EQUAL(shares[1], 0.6);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"scores", test_scores},
        {"scores are finite", test_scores_are_finite},
        {"counts are exact", test_counts_are_exact},
        {"the lowest go", test_the_lowest_go},
        {"patterns", test_patterns},
        {"ties", test_ties},
        {"threads", test_threads},
        {"spread", test_spread},
    };
    REQUIRE(pool_create(&pool, 1, NULL) == OK, NULL);
    int code = TESTING_RUN("sparsity", cases);
    pool_free(pool);
    return code;
}
