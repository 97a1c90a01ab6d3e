/* Statistics against published tables, closed formulas, numpy's percentiles and a naive bootstrap. */
#include "runtime-check/judge/estimate.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"

static double uniform(uint64_t *random)
{
    return (double)(testing_random(random) >> 11) * 0x1p-53;
}

#define NEAR(found, expected) CU_ASSERT_DOUBLE_EQUAL(found, expected, 1e-12 * (1 + fabs(expected)))

/* ---- means ---- */

/* 4, 7, 13, 16 have mean 10 and variance 30; a large offset must not eat it, as it would a sum of squares. */
static void moments_by_hand(void)
{
    static const double values[] = {4, 7, 13, 16};
    for (double offset = 0; offset < 2e12; offset = offset * 1e6 + 1e6) {
        struct moments moments = {0};
        for (int i = 0; i < 4; i++)
            moments_add(&moments, offset + values[i]);
        const struct estimate found = moments_estimate(&moments);
        CU_ASSERT(moments.count == 4 && found.value == offset + 10);
        CU_ASSERT_DOUBLE_EQUAL(found.error, sqrt(30.0 / 4), 1e-9);
    }
}

static void moments_of_few(void)
{
    struct moments moments = {0};
    CU_ASSERT(moments_estimate(&moments).error == 0);
    moments_add(&moments, 3.5);
    CU_ASSERT(moments_estimate(&moments).value == 3.5 && moments_estimate(&moments).error == 0);
    for (int i = 0; i < 1000; i++)
        moments_add(&moments, 3.5);
    CU_ASSERT(moments_estimate(&moments).value == 3.5 && moments_estimate(&moments).error == 0);
}

/* exp(2 +- 0.1) = 7.389 +- 0.739. */
static void exponentials(void)
{
    const struct estimate found = estimate_exp((struct estimate){2, 0.1});
    NEAR(found.value, 7.38905609893065);
    NEAR(found.error, 0.738905609893065);
}

/* `windows` windows of `per_window` values: a window's own value 0, 1, 4, 9 .., plus `within` times 0, 1, .. from token to token.
 */
static struct clustered fill(uint64_t windows, uint64_t per_window, double within)
{
    struct clustered out = {0};
    for (uint64_t i = 0; i < windows; i++) {
        for (uint64_t k = 0; k < per_window; k++)
            clustered_add(&out, per_window, (double)(i * i) + within * (double)k);
    }
    return out;
}

/* Of n squares 0, 1, 4 .. the sum of squared differences from their mean. */
static double spread_of_squares(uint64_t n)
{
    double sum = 0, fourth = 0;
    for (uint64_t i = 0; i < n; i++) {
        sum += (double)(i * i);
        fourth += (double)(i * i) * (double)(i * i);
    }
    return fourth - sum * sum / (double)n;
}

/* Window means are the squares plus a constant, so that their error is known; with one window less, tokens are the sample. */
static void clustered_errors(void)
{
    const struct clustered many = fill(ESTIMATE_LEAST, 5, 0.5), few = fill(ESTIMATE_LEAST - 1, 5, 0.5);
    const double windows = ESTIMATE_LEAST, tokens = 5 * (windows - 1);
    const double between = 5 * spread_of_squares(ESTIMATE_LEAST - 1), within = (windows - 1) * 10 * 0.25;
    CU_ASSERT_TRUE(clustered_by_block(&many));
    NEAR(clustered_estimate(&many).value, 140.0 / 8 + 1);
    NEAR(clustered_estimate(&many).error, sqrt(spread_of_squares(ESTIMATE_LEAST) / (windows - 1) / windows));
    CU_ASSERT_FALSE(clustered_by_block(&few));
    NEAR(clustered_estimate(&few).value, 91.0 / 7 + 1);
    NEAR(clustered_estimate(&few).error, sqrt((between + within) / (tokens - 1) / tokens));
    CU_ASSERT(clustered_effective(&few) == tokens);
}

/* Tokens that repeat their window's value are worth no more than one: (windows - 1) / (1 - 1 / tokens). Tokens of windows that
 * are all alike are worth themselves, not more; and where nothing varies, likewise. */
static void clustered_effective_counts(void)
{
    const struct clustered same_within = fill(12, 10, 0);
    struct clustered same_between = {0}, constant = {0};
    NEAR(clustered_effective(&same_within), 11 / (1 - 1.0 / 120));
    for (int i = 0; i < 120; i++) {
        clustered_add(&same_between, 10, i % 10);
        clustered_add(&constant, 10, 1);
    }
    CU_ASSERT(clustered_effective(&same_between) == 120 && clustered_estimate(&same_between).error == 0);
    CU_ASSERT(clustered_effective(&constant) == 120 && clustered_estimate(&constant).error == 0);
    CU_ASSERT(clustered_estimate(&constant).value == 1);
}

/* One window a block up to 39 windows, then 20 blocks or a few more. */
static void block_counts(void)
{
    static const uint64_t expected[][3] = {{1, 1, 1}, {8, 1, 8}, {39, 1, 39}, {40, 2, 20}, {59, 2, 29},
        {60, 3, 20}, {175, 8, 21}, {20001, 1000, 20}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        CU_ASSERT_EQUAL(estimate_block(expected[i][0]), expected[i][1]);
        CU_ASSERT_EQUAL(estimate_blocks(expected[i][0]), expected[i][2]);
    }
}

/* Windows that resemble the one before: x[i] = x[i-1] / 2 + noise. The variance of the mean of n is 3 / n of a window's, for large n;
 * blocks of 8 see 3 - 4 (1 - 2^-8) / 8 = 2.502 of it, single windows 1. Over 400 series of 20 blocks the mean of the squared errors is good
 * to sqrt(2 / 19 / 400) = 1.6 %; four times that is allowed. */
static void blocks_of_like_windows(void)
{
    enum { WINDOWS = 160, SERIES = 400 };
    const uint64_t block = estimate_block(WINDOWS);
    uint64_t random = 7;
    double squared = 0;
    CU_ASSERT_EQUAL(block, 8);
    for (int series = 0; series < SERIES; series++) {
        struct clustered clustered = {0};
        double x = (double)testing_normal(&random) * sqrt(4.0 / 3);
        for (int window = 0; window < WINDOWS; window++) {
            x = x / 2 + (double)testing_normal(&random);
            clustered_add(&clustered, block, x);
        }
        const double error = clustered_estimate(&clustered).error;
        squared += error * error / SERIES;
    }
    const double alone = 4.0 / 3 / WINDOWS; /* the variance of testing_normal is 1 */
    CU_ASSERT_DOUBLE_EQUAL(squared / alone, 2.502, 4 * 0.016 * 2.502);
}

/* A window not yet full counts in the mean, but is no sample. */
static void clustered_unfinished(void)
{
    struct clustered clustered = fill(ESTIMATE_LEAST, 4, 0);
    const double before = clustered_estimate(&clustered).error;
    clustered_add(&clustered, 4, 1000);
    CU_ASSERT(clustered_estimate(&clustered).error == before);
    NEAR(clustered_estimate(&clustered).value, (4 * 140.0 + 1000) / 33);
}

/* ---- quantiles and bounds ---- */

/* Normal quantiles by mpmath 1.3 at 40 digits: of tails from 1e-300 up to the middle, on both sides. */
static void normal_quantiles(void)
{
    static const struct {
        double tail, z;
    } table[] = {{1e-300, 37.047096299361199}, {1e-100, 21.273453560965324}, {1e-20, 9.2623400897984076},
        {1e-9, 5.9978070150076869}, {0.001, 3.0902323061678135}, {0.025, 1.9599639845400542},
        {0.05, 1.6448536269514727}, {0.1, 1.2815515655446005}, {0.3, 0.52440051270804078},
        {0.4999999, 2.5066282746310268e-7}, {0.5, 0}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const double share = table[i].tail;
        CU_ASSERT_DOUBLE_EQUAL(estimate_t_quantile(share, UINT64_MAX), -table[i].z, 2e-15 * (1 + table[i].z));
        if (share < 1e-9) continue;        /* 1 - share has lost it */
        const double lost = 1e-16 / share; /* relative, by writing 1 - share */
        CU_ASSERT_DOUBLE_EQUAL(
            estimate_t_quantile(1 - share, UINT64_MAX), table[i].z, 2e-15 * (1 + table[i].z) + lost);
    }
}

/* Student's t by mpmath 1.3 (incomplete beta function, inverted at 40 digits). The expansion's promise is 1e-3 of the value. */
static void t_quantiles(void)
{
    static const double shares[] = {0.6, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999};
    static const struct {
        uint64_t freedom;
        double t[8];
    } table[] = {
        {7, {0.263166861352, 0.711141778082, 1.41492392765, 1.89457860509, 2.36462425159, 2.99795156687,
                3.49948329735, 4.78528962864}},
        {8, {0.261921096749, 0.706386612645, 1.39681530974, 1.85954803753, 2.3060041352, 2.89645944771,
                3.35538733133, 4.50079093372}},
        {10, {0.260184829492, 0.699812061312, 1.37218364111, 1.81246112281, 2.22813885199, 2.76376945811,
                 3.16927267262, 4.14370049405}},
        {15, {0.257885300937, 0.691196948958, 1.34060560785, 1.75305035569, 2.13144954556, 2.60248029501,
                 2.94671288348, 3.73283442531}},
        {30, {0.255605364952, 0.682755693321, 1.31041502539, 1.69726088659, 2.0422724563, 2.4572615424,
                 2.74999565357, 3.38518486683}},
        {120, {0.253909523215, 0.676539724913, 1.28864623366, 1.65765089936, 1.97993040508, 2.35782461265,
                  2.61742114511, 3.15953874332}},
        {1000, {0.253414515839, 0.674735164607, 1.28239872146, 1.64637881729, 1.96233908083, 2.33008267476,
                   2.58075469807, 3.09840216391}},
    };
    for (size_t row = 0; row < sizeof table / sizeof *table; row++) {
        for (int i = 0; i < 8; i++) {
            const double found = estimate_t_quantile(shares[i], table[row].freedom),
                         expected = table[row].t[i];
            CU_ASSERT_DOUBLE_EQUAL(found, expected, 1e-3 * expected);
            if (table[row].freedom >= 30) CU_ASSERT_DOUBLE_EQUAL(found, expected, 1e-6 * expected);
            CU_ASSERT_DOUBLE_EQUAL(
                estimate_t_quantile(1 - shares[i], table[row].freedom), -found, 1e-13 * found + 1e-15);
        }
    }
    CU_ASSERT(estimate_t_quantile(0.5, 7) == 0);
}

/* Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3: two-sided 95 percent intervals, four decimals. An upper
 * bound is the lower one of the other outcome. */
static void wilson_bounds(void)
{
    static const struct {
        double hits, trials, lower, upper;
    } table[] = {
        {81, 263, 0.2553, 0.3662}, {15, 148, 0.0624, 0.1605}, {0, 20, 0, 0.1611}, {1, 29, 0.0061, 0.1718}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const double share = table[i].hits / table[i].trials, n = table[i].trials;
        CU_ASSERT_DOUBLE_EQUAL(estimate_share_lower(share, n, 0.975, UINT64_MAX), table[i].lower, 5e-5);
        CU_ASSERT_DOUBLE_EQUAL(
            1 - estimate_share_lower(1 - share, n, 0.975, UINT64_MAX), table[i].upper, 5e-5);
    }
    /* All hits: n / (n + z^2). Few degrees of freedom widen it. */
    const double z = 1.6448536269514727;
    NEAR(estimate_share_lower(1, 50, 0.95, UINT64_MAX), 50 / (50 + z * z));
    CU_ASSERT(estimate_share_lower(0, 50, 0.95, UINT64_MAX) == 0);
    CU_ASSERT(estimate_share_lower(0.9, 50, 0.95, 7) < estimate_share_lower(0.9, 50, 0.95, UINT64_MAX));
    NEAR(estimate_share_lower(0.9, 50, 0.5, UINT64_MAX), 0.9);
}

/* ---- percentiles ---- */

/* numpy 2.4.6: np.percentile(values, 100 * shares). */
static void percentiles_against_numpy(void)
{
    static const float values[] = {
        3.25f, -1.5f, 0.125f, 8, 2.75f, 2.75f, -4.0625f, 1e-3f, 5.5f, 7.875f, 0.5f};
    static const double shares[] = {0, 0.05, 0.25, 0.3, 0.5, 0.9, 0.95, 0.99, 0.999, 1};
    static const double expected[] = {
        -4.0625, -2.78125, 0.06300000002374873, 0.125, 2.75, 7.875, 7.9375, 7.9875, 7.99875, 8};
    struct estimate found[10];
    float sorted[11];
    struct error err = {0};
    memcpy(sorted, values, sizeof values);
    CHECK(!estimate_percentiles(found, shares, 10, sorted, 11, 11, &err), &err);
    for (int i = 0; i < 10; i++) {
        NEAR(found[i].value, expected[i]);
        NEAR(estimate_percentile(sorted, 11, shares[i]), expected[i]);
        CU_ASSERT(found[i].error == 0);
    }
    for (int i = 1; i < 11; i++)
        CU_ASSERT(sorted[i - 1] <= sorted[i]);
}

/* One value is every percentile; too few windows have no error. */
static void percentiles_of_few(void)
{
    static const double shares[] = {0, 0.5, 1};
    float values[ESTIMATE_LEAST] = {6, 5, 4, 3, 2, 1, 0, 7};
    struct estimate found[3];
    struct error err = {0};
    CHECK(!estimate_percentiles(found, shares, 3, values, 1, 1, &err), &err);
    for (int i = 0; i < 3; i++)
        CU_ASSERT(found[i].value == 6 && found[i].error == 0);
    CHECK(!estimate_percentiles(found, shares, 3, values, ESTIMATE_LEAST - 1, 1, &err), &err);
    CU_ASSERT(found[0].value == 0 && found[1].value == 3 && found[2].value == 6);
    CU_ASSERT(found[0].error == 0 && found[1].error == 0 && found[2].error == 0);
    CHECK(!estimate_percentiles(found, shares, 3, values, ESTIMATE_LEAST, 1, &err), &err);
    CU_ASSERT(found[0].error > 0 && found[1].error > 0 && found[2].error > 0);
}

/* Equal values vary in no draw; of two values, a share far from the step does not either. */
static void percentiles_of_ties(void)
{
    enum { COUNT = 400, WINDOW = 20 };
    static const double shares[] = {0, 0.25, 0.75, 1};
    static float values[COUNT];
    struct estimate found[4];
    struct error err = {0};
    for (int two = 0; two < 2; two++) {
        for (int i = 0; i < COUNT; i++)
            values[i] = two && i % 2 ? 0.7f : 0.3f;
        CHECK(!estimate_percentiles(found, shares, 4, values, COUNT, WINDOW, &err), &err);
        for (int i = 0; i < 4; i++)
            CU_ASSERT(found[i].value == (double)(two && i >= 2 ? 0.7f : 0.3f) && found[i].error == 0);
    }
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* What comes back is every value, in order: of both signs, many of them equal, from the smallest to the largest. */
static void percentiles_sort(void)
{
    enum { COUNT = 5000 };
    static float values[COUNT], expected[COUNT];
    const double median = 0.5;
    struct estimate found;
    struct error err = {0};
    uint64_t random = 3;
    for (int i = 0; i < COUNT; i++) {
        const double size = exp(170 * uniform(&random) - 85);
        const uint64_t kind = testing_random(&random) >> 61;
        values[i] = kind == 0   ? 0
                    : kind == 1 ? -FLT_MAX
                    : kind == 2 ? FLT_MIN / 8
                    : kind == 3 ? -1.5f
                                : (float)(kind == 4 ? -size : size);
    }
    memcpy(expected, values, sizeof values);
    qsort(expected, COUNT, sizeof *expected, compare_floats);
    CHECK(!estimate_percentiles(&found, &median, 1, values, COUNT, 100, &err), &err);
    CU_ASSERT(memcmp(values, expected, sizeof values) == 0);
}

/* ---- resampled errors ---- */

/* The standard deviation of the largest of 0 .. n - 1 drawn n times, which is at most k with probability ((k + 1) / n)^n; that of
 * the smallest is the same. noise: what a standard deviation of so many draws is good to, sqrt((kurtosis - 1) / 4 / draws). */
static double extreme_error(double *noise, int n)
{
    double mean = 0, square = 0, fourth = 0;
    for (int k = 1; k < n; k++)
        mean += 1 - pow((double)k / n, n);
    for (int k = 0; k < n; k++) {
        const double p = pow((k + 1.0) / n, n) - pow((double)k / n, n);
        square += p * pow(k - mean, 2);
        fourth += p * pow(k - mean, 4);
    }
    *noise = sqrt((fourth / square / square - 1) / 4 / ESTIMATE_DRAWS);
    return sqrt(square * n / (n - 1));
}

/* Few windows of one value each, in many orders: every one within four times the noise, and their mean much nearer, which shows the
 * factor sqrt(8 / 7). */
static void errors_of_extremes(void)
{
    enum { WINDOWS = ESTIMATE_LEAST, ORDERS = 200 };
    static const double shares[] = {0, 1};
    struct estimate found[2];
    struct error err = {0};
    uint64_t random = 1;
    double noise, sum = 0;
    const double expected = extreme_error(&noise, WINDOWS);
    for (int order = 0; order < ORDERS; order++) {
        float values[WINDOWS];
        for (int i = 0; i < WINDOWS; i++) {
            const uint64_t other = testing_random(&random) % (uint64_t)(i + 1);
            values[i] = (float)i; /* first, because other may be i */
            values[i] = values[other];
            values[other] = (float)i;
        }
        CHECK(!estimate_percentiles(found, shares, 2, values, WINDOWS, 1, &err), &err);
        CU_ASSERT(found[0].value == 0 && found[1].value == WINDOWS - 1);
        for (int i = 0; i < 2; i++) {
            CU_ASSERT_DOUBLE_EQUAL(found[i].error, expected, 4 * noise * expected);
            sum += found[i].error;
        }
    }
    CU_ASSERT_DOUBLE_EQUAL(sum / (2 * ORDERS), expected, 0.02 * expected);
}

enum { MANY = 20000, MANY_WINDOW = 50 };

/* Tokens independent and uniform on 0 .. 1, whose percentile p has the standard error sqrt(p (1 - p) / n) for many. Or all but a
 * hundredth of a token its window's: then windows are what is independent. */
static void draw_uniform(float *values, bool together)
{
    uint64_t random = 7;
    double shared = 0;
    for (uint64_t i = 0; i < MANY; i++) {
        if (i % MANY_WINDOW == 0) shared = uniform(&random);
        values[i] = (float)(together ? 0.99 * shared + 0.01 * uniform(&random) : uniform(&random));
    }
}

/* A bootstrap knows the density at a percentile from the sample only, to about samples^(-1/4) (Hall and Martin 1988, Probability
 * Theory and Related Fields 80:261): 8 percent of 20000, 22 percent of 400. Three times that is allowed; taking tokens for samples
 * where windows are would be off by a factor of 7. */
static void errors_of_many(void)
{
    static const double shares[] = {0.1, 0.5, 0.9};
    static float values[MANY];
    struct error err = {0};
    for (int together = 0; together < 2; together++) {
        struct estimate found[3];
        const double samples = together ? (double)MANY / MANY_WINDOW : MANY;
        draw_uniform(values, together);
        CHECK(!estimate_percentiles(found, shares, 3, values, MANY, MANY_WINDOW, &err), &err);
        for (int i = 0; i < 3; i++) {
            const double expected = sqrt(shares[i] * (1 - shares[i]) / samples);
            CU_ASSERT_DOUBLE_EQUAL(found[i].value, shares[i], 4 * expected);
            CU_ASSERT_DOUBLE_EQUAL(found[i].error, expected, 3 * pow(samples, -0.25) * expected);
        }
    }
}

enum { FEW_WINDOWS = 20, FEW_WINDOW = 15, FEW = FEW_WINDOWS * FEW_WINDOW, NAIVE_DRAWS = 4000 };

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Windows put together at random, sorted, and looked at, with another generator. noise: of the error, relative, for as many
 * draws as the library makes. */
static double naive_error(double *noise, const float *values, double share)
{
    uint64_t random = 99;
    static double found[NAIVE_DRAWS];
    double mean = 0, square = 0, fourth = 0;
    for (int draw = 0; draw < NAIVE_DRAWS; draw++) {
        float taken[FEW];
        for (int i = 0; i < FEW_WINDOWS; i++) {
            const uint64_t window = testing_random(&random) % FEW_WINDOWS;
            memcpy(taken + i * FEW_WINDOW, values + window * FEW_WINDOW, FEW_WINDOW * sizeof *taken);
        }
        qsort(taken, FEW, sizeof *taken, ascending);
        found[draw] = estimate_percentile(taken, FEW, share);
        mean += found[draw] / NAIVE_DRAWS;
    }
    for (int draw = 0; draw < NAIVE_DRAWS; draw++) {
        square += pow(found[draw] - mean, 2) / NAIVE_DRAWS;
        fourth += pow(found[draw] - mean, 4) / NAIVE_DRAWS;
    }
    *noise = sqrt((fourth / square / square - 1) / 4 * (1.0 / ESTIMATE_DRAWS + 1.0 / NAIVE_DRAWS));
    return sqrt(square * FEW_WINDOWS / (FEW_WINDOWS - 1));
}

/* Skewed values with a share of every window in them, as divergences are; percentiles between positions and at the ends. */
static void errors_against_naive(void)
{
    static const double shares[] = {0, 0.2, 0.5, 0.9, 0.99, 0.999, 1};
    float values[FEW], sorted[FEW];
    struct estimate found[7], alone;
    struct error err = {0};
    uint64_t random = 5;
    double shared = 0;
    for (int i = 0; i < FEW; i++) {
        if (i % FEW_WINDOW == 0) shared = (double)testing_normal(&random) / 2;
        values[i] = (float)exp(shared + (double)testing_normal(&random));
    }
    memcpy(sorted, values, sizeof values);
    CHECK(!estimate_percentiles(found, shares, 7, sorted, FEW, FEW_WINDOW, &err), &err);
    for (int i = 0; i < 7; i++) {
        double noise;
        const double expected = naive_error(&noise, values, shares[i]);
        CU_ASSERT_DOUBLE_EQUAL(found[i].error, expected, 4 * noise * expected);
        memcpy(sorted, values, sizeof values);
        CHECK(!estimate_percentiles(&alone, &shares[i], 1, sorted, FEW, FEW_WINDOW, &err), &err);
        CU_ASSERT(alone.value == found[i].value && alone.error == found[i].error);
    }
}

/* Values after the last whole window are in the percentiles, and in no draw. */
static void errors_with_a_rest(void)
{
    enum { COUNT = 10 * ESTIMATE_LEAST };
    static const double shares[] = {0.3, 0.5, 1};
    float whole[COUNT], rest[COUNT + 7];
    struct estimate a[3], b[3];
    struct error err = {0};
    uint64_t random = 3;
    for (int i = 0; i < COUNT; i++)
        whole[i] = rest[i] = testing_normal(&random);
    for (int i = COUNT; i < COUNT + 7; i++)
        rest[i] = 100;
    CHECK(!estimate_percentiles(a, shares, 3, whole, COUNT, 10, &err), &err);
    CHECK(!estimate_percentiles(b, shares, 3, rest, COUNT + 7, 10, &err), &err);
    CU_ASSERT(b[2].value == 100 && b[1].value > a[1].value);
    for (int i = 0; i < 3; i++)
        CU_ASSERT(a[i].error > 0 && a[i].error == b[i].error);
}

/* Every allocation may fail; the numbers are the same afterwards. */
static void without_memory(void)
{
    static const double share = 0.5;
    enum status status = ERR_MEMORY;
    struct estimate found, expected;
    struct error err = {0};
    for (uint64_t nth = 0; status == ERR_MEMORY || nth < 2; nth++) {
        float values[] = {5, 3, 8, 1, 9, 2, 7, 4, 6, 0};
        memory_fail_at(nth, 0);
        status = estimate_percentiles(nth ? &found : &expected, &share, 1, values, 10, 1, &err);
        memory_fail_at(0, 0);
        CU_ASSERT(status == (nth == 0 || nth > 3 ? OK : ERR_MEMORY));
    }
    CU_ASSERT(found.value == 4.5 && found.value == expected.value && found.error == expected.error);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"moments by hand", moments_by_hand},
        {"moments of few values", moments_of_few},
        {"exp of an estimate", exponentials},
        {"errors by block and by token", clustered_errors},
        {"effective counts", clustered_effective_counts},
        {"windows of a block", block_counts},
        {"blocks of windows that are alike", blocks_of_like_windows},
        {"a window not yet full", clustered_unfinished},
        {"quantiles of the normal distribution", normal_quantiles},
        {"quantiles of Student's t", t_quantiles},
        {"Wilson's bound", wilson_bounds},
        {"percentiles against numpy", percentiles_against_numpy},
        {"percentiles of few values", percentiles_of_few},
        {"percentiles of ties", percentiles_of_ties},
        {"percentiles sort", percentiles_sort},
        {"errors of extremes", errors_of_extremes},
        {"errors of many values", errors_of_many},
        {"errors against a naive bootstrap", errors_against_naive},
        {"errors with a rest", errors_with_a_rest},
        {"without memory", without_memory},
    };
    return TESTING_RUN("estimate", cases);
}
