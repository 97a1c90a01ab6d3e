/* The rejection rule: what it returns is distributed as the target, by a chi-square test that a wrong rule fails; it accepts as often
 * as the two rows overlap; and what it does at temperature 0. */
#include <math.h>
#include <string.h>

#include "runtime-check/generate/generate.h"
#include "runtime-check/generate/rejection.h"
#include "tests/support/testing.h"

enum { VOCABULARY = 11, DRAWS = 200000 };

/* Rows of logits whose distributions overlap in part: each has tokens that the other hardly has or cannot have. */
static const float target_logits[VOCABULARY] = {0, 1, 2, -1, -INFINITY, 0.5f, 3, -2, 1.5f, -4, 0};
static const float draft_logits[VOCABULARY] = {0.5f, 2, 0, -1, 1, -INFINITY, 1.5f, -2, 1.4f, 1, -3};

struct rows {
    double p[VOCABULARY], q[VOCABULARY];
};

static void make_rows(struct rows *rows, double temperature)
{
    REQUIRE(rejection_probabilities(rows->p, target_logits, VOCABULARY, temperature), NULL);
    REQUIRE(rejection_probabilities(rows->q, draft_logits, VOCABULARY, temperature), NULL);
}

/* sum of (found - expected)^2 / expected over the tokens that can come; infinite if another came. */
static double chi_square(const uint64_t *counts, const double *p, uint64_t draws)
{
    double sum = 0;
    for (int i = 0; i < VOCABULARY; i++) {
        const double expected = p[i] * (double)draws, difference = (double)counts[i] - expected;
        if (expected > 0)
            sum += difference * difference / expected;
        else if (counts[i])
            sum = INFINITY;
    }
    return sum;
}

/* A chi-square variable of k degrees of freedom exceeds k + 2 sqrt(k x) + 2 x with probability at most e^-x (Laurent and Massart 2000,
 * lemma 1); x = 16: one run in nine million fails by chance, and the seed is fixed. */
static double chi_square_bound(const double *p)
{
    double k = -1;
    for (int i = 0; i < VOCABULARY; i++)
        k += p[i] > 0;
    return k + 2 * sqrt(k * 16) + 2 * 16;
}

enum rule { RIGHT, REDRAW_FROM_TARGET, ALWAYS_ACCEPT };

/* Draw from q and judge DRAWS times; returns how often the draft was accepted. */
static uint64_t run_rule(uint64_t *counts, double temperature, enum rule rule)
{
    struct rows rows;
    uint64_t random = 1, accepted = 0;
    memset(counts, 0, VOCABULARY * sizeof *counts);
    for (int i = 0; i < DRAWS; i++) {
        make_rows(&rows, temperature);
        const uint32_t drafted = rejection_draw(rows.q, VOCABULARY, &random);
        uint32_t token = drafted;
        const bool kept = rejection_judge(&token, rows.p, rows.q, VOCABULARY, &random);
        accepted += kept;
        if (kept) CU_ASSERT_EQUAL_FATAL(token, drafted);
        make_rows(&rows, temperature);
        if (!kept && rule == REDRAW_FROM_TARGET) token = rejection_draw(rows.p, VOCABULARY, &random);
        counts[rule == ALWAYS_ACCEPT ? drafted : token]++;
    }
    return accepted;
}

static void distributed_as_the_target(void)
{
    static const double temperatures[] = {0.5, 1, 3};
    uint64_t counts[VOCABULARY];
    for (size_t i = 0; i < sizeof temperatures / sizeof *temperatures; i++) {
        struct rows rows;
        make_rows(&rows, temperatures[i]);
        const uint64_t accepted = run_rule(counts, temperatures[i], RIGHT);
        CU_ASSERT(chi_square(counts, rows.p, DRAWS) < chi_square_bound(rows.p));
        double overlap = 0;
        for (int t = 0; t < VOCABULARY; t++)
            overlap += fmin(rows.p[t], rows.q[t]);
        const double error = sqrt(overlap * (1 - overlap) / DRAWS);
        CU_ASSERT_DOUBLE_EQUAL((double)accepted / DRAWS, overlap, 5 * error);
    }
}

/* The test above is worth something: rules that are nearly right do not pass it. */
static void wrong_rules_show(void)
{
    struct rows rows;
    uint64_t counts[VOCABULARY];
    make_rows(&rows, 1);
    run_rule(counts, 1, REDRAW_FROM_TARGET);
    CU_ASSERT(chi_square(counts, rows.p, DRAWS) > chi_square_bound(rows.p));
    run_rule(counts, 1, ALWAYS_ACCEPT);
    CU_ASSERT(chi_square(counts, rows.p, DRAWS) > chi_square_bound(rows.p));
}

static void drawing(void)
{
    struct rows rows;
    uint64_t random = 5, counts[VOCABULARY] = {0};
    double weights[VOCABULARY];
    make_rows(&rows, 1);
    for (int i = 0; i < VOCABULARY; i++)
        weights[i] = 7 * rows.p[i]; /* need not be normalised */
    for (int i = 0; i < DRAWS; i++)
        counts[rejection_draw(weights, VOCABULARY, &random)]++;
    CU_ASSERT(chi_square(counts, rows.p, DRAWS) < chi_square_bound(rows.p));
}

/* Equal rows: always accepted. Rows without overlap: always replaced. Temperature 0: the target's first likeliest token. */
static void edges(void)
{
    struct rows rows;
    uint64_t random = 2;
    make_rows(&rows, 1);
    for (int i = 0; i < 1000; i++) {
        uint32_t token = rejection_draw(rows.p, VOCABULARY, &random);
        CU_ASSERT(rejection_judge(&token, rows.p, rows.p, VOCABULARY, &random));
    }
    for (int i = 0; i < 100; i++) {
        double p[3] = {0, 0.5, 0.5};
        const double q[3] = {1, 0, 0};
        uint32_t token = 0;
        CU_ASSERT(!rejection_judge(&token, p, q, 3, &random) && (token == 1 || token == 2));
    }
    make_rows(&rows, 0);
    CU_ASSERT(rows.p[6] == 1 && rows.q[1] == 1);
    uint32_t token = rejection_draw(rows.q, VOCABULARY, &random);
    CU_ASSERT(token == 1 && !rejection_judge(&token, rows.p, rows.q, VOCABULARY, &random) && token == 6);
    const float tie[3] = {1, 4, 4};
    CU_ASSERT(rejection_probabilities(rows.p, tie, 3, 0) && rows.p[1] == 1 && rows.p[2] == 0);
}

static void probabilities(void)
{
    const float logits[3] = {0, 1.0986123f, -INFINITY}; /* 1 to 3 */
    double p[3];
    CU_ASSERT(rejection_probabilities(p, logits, 3, 1));
    CU_ASSERT(fabs(p[0] - 0.25) < 1e-7 && fabs(p[1] - 0.75) < 1e-7 && p[2] == 0);
    CU_ASSERT(rejection_probabilities(p, logits, 3, 0.5)); /* 1 to 9 */
    CU_ASSERT(fabs(p[0] - 0.1) < 1e-7 && fabs(p[1] - 0.9) < 1e-7);
    const float bad[][3] = {{NAN, 0, 1}, {0, NAN, 1}, {0, 1, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}};
    for (size_t i = 0; i < 4; i++) {
        CU_ASSERT_FALSE(rejection_probabilities(p, bad[i], 3, 1));
        CU_ASSERT_FALSE(rejection_probabilities(p, bad[i], 3, 0));
    }
}

/* (1 - a^(n + 1)) / (1 - a) where that can be divided, and its limits. */
static void expected(void)
{
    for (uint64_t n = 1; n <= 8; n++) {
        CU_ASSERT_DOUBLE_EQUAL(rejection_expected(0.8, n), (1 - pow(0.8, (double)n + 1)) / 0.2, 1e-12);
        CU_ASSERT(rejection_expected(0, n) == 1 && rejection_expected(1, n) == (double)n + 1);
    }
}

int main(void)
{
    static const struct test_case cases[] = {
        {"judged tokens are distributed as the target", distributed_as_the_target},
        {"wrong rules show", wrong_rules_show},
        {"drawing", drawing},
        {"edges", edges},
        {"probabilities", probabilities},
        {"expected tokens of a cycle", expected},
    };
    return TESTING_RUN("rejection", cases);
}
