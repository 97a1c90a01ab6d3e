/* Hessians against sums by definition: means, factor, target weights; order, scales, dead channels, damping, errors. */
#include "tensor/hessian.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/linalg.h"
#include "tests/support/testing.h"

/* Inputs of one layer, and the workers that look at them. */
struct inputs {
    uint64_t tokens, cols, rows;
    float *x, *original, *residual;
    unsigned workers;
};

static void *get(uint64_t count, uint64_t size)
{
    void *memory = memory_new(count, size, NULL);
    REQUIRE(memory != NULL, NULL);
    return memory;
}

/* Channels differ in size and lean on one another, as real ones do. */
static struct inputs make_inputs(uint64_t tokens, uint64_t cols, uint64_t rows)
{
    struct inputs in = {tokens, cols, rows, get(tokens * cols, sizeof(float)),
        get(tokens * cols, sizeof(float)), get(tokens * rows, sizeof(float)), 2};
    uint64_t state = tokens + cols;
    for (uint64_t t = 0; t < tokens; t++) {
        float common = testing_normal(&state);
        for (uint64_t c = 0; c < cols; c++) {
            float *x = &in.x[t * cols + c];
            *x = (common * 0.5f + testing_normal(&state)) * (1 + (float)(c % 5));
            in.original[t * cols + c] = *x + 0.1f * testing_normal(&state);
        }
        for (uint64_t r = 0; r < rows; r++)
            in.residual[t * rows + r] = testing_normal(&state) + common;
    }
    return in;
}

static void free_inputs(struct inputs *in)
{
    memory_free(in->x);
    memory_free(in->original);
    memory_free(in->residual);
}

/* Everything up to the means, in batches of `batch` tokens. */
static enum status build(
    struct hessian *hessian, const struct inputs *in, bool targets, uint64_t batch, struct error *err)
{
    struct pool *pool = NULL;
    REQUIRE(pool_create(&pool, in->workers, err) == OK, err);
    enum status status = hessian_create(hessian, in->cols, targets, targets ? in->rows : 0, in->workers, err);
    for (uint64_t t = 0; t < in->tokens && status == OK; t += batch) {
        uint64_t count = in->tokens - t < batch ? in->tokens - t : batch;
        status =
            hessian_add(hessian, pool, in->x + t * in->cols, targets ? in->original + t * in->cols : NULL,
                targets && in->rows ? in->residual + t * in->rows : NULL, count, err);
    }
    if (status == OK) status = hessian_mean(hessian, pool, err);
    pool_free(pool);
    return status;
}

static enum status factor(struct hessian *hessian, double damping, struct error *err)
{
    struct pool *pool = NULL;
    REQUIRE(pool_create(&pool, hessian->workers, err) == OK, err);
    enum status status = hessian_factor(hessian, pool, damping, err);
    pool_free(pool);
    return status;
}

static enum status finish(struct hessian *hessian, struct error *err)
{
    struct pool *pool = NULL;
    REQUIRE(pool_create(&pool, hessian->workers, err) == OK, err);
    enum status status = hessian_finish(hessian, pool, err);
    pool_free(pool);
    return status;
}

static enum status correct(
    struct hessian *hessian, float *weights, uint64_t rows, bool residual, struct error *err)
{
    struct pool *pool = NULL;
    REQUIRE(pool_create(&pool, hessian->workers, err) == OK, err);
    enum status status = hessian_correct(hessian, pool, weights, rows, residual, err);
    pool_free(pool);
    return status;
}

/* mean of left^T x, by definition; left = original - minus (minus may be NULL). */
static double *mean_product(const struct inputs *in, const float *original, const float *minus, uint64_t rows)
{
    double *sum = get(rows * in->cols, sizeof *sum);
    for (uint64_t t = 0; t < in->tokens; t++) {
        for (uint64_t r = 0; r < rows; r++) {
            double left = (double)original[t * rows + r] - (minus ? (double)minus[t * rows + r] : 0);
            for (uint64_t c = 0; c < in->cols; c++)
                sum[r * in->cols + c] += left * (double)in->x[t * in->cols + c] / (double)in->tokens;
        }
    }
    return sum;
}

static bool close_to(const double *a, const double *b, uint64_t count, double tolerance)
{
    double most = 0, largest = 0;
    for (uint64_t i = 0; i < count; i++) {
        most = fmax(most, fabs(a[i] - b[i]));
        if (isnan(a[i]) || isnan(b[i])) return false;
        largest = fmax(largest, fabs(b[i]));
    }
    return most <= tolerance * largest;
}

static void means_by_definition(void)
{
    static const struct {
        uint64_t tokens, cols, rows, batch;
    } cases[] = {{1, 1, 1, 1}, {5, 17, 3, 2}, {40, 33, 0, 40}, {2100, 20, 9, 2100}, {20, 530, 515, 9},
        {30, 1030, 2, 30}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct inputs in = make_inputs(cases[i].tokens, cases[i].cols, cases[i].rows);
        uint64_t n = in.cols;
        double *second = mean_product(&in, in.x, NULL, n), *cross = mean_product(&in, in.original, in.x, n),
               *residual = mean_product(&in, in.residual, NULL, in.rows);
        struct hessian hessian;
        struct error err = {0};
        CHECK(build(&hessian, &in, true, cases[i].batch, &err) == OK, &err);
        CHECK(hessian.tokens == in.tokens && hessian.dead == 0, NULL);
        CHECK(close_to(hessian.second, second, n * n, 2e-6), NULL);
        CHECK(close_to(hessian.cross, cross, n * n, 2e-6), NULL);
        CHECK(in.rows == 0 || close_to(hessian.residual, residual, in.rows * n, 2e-6), NULL);
        for (uint64_t c = 0; c < n; c++) {
            double magnitude = 0;
            for (uint64_t t = 0; t < in.tokens; t++)
                magnitude += (double)fabsf(in.x[t * n + c]) / (double)in.tokens;
            CHECK(fabs(hessian.magnitude[c] - magnitude) <= 1e-12 * magnitude, NULL);
        }
        hessian_free(&hessian);
        memory_free(second);
        memory_free(cross);
        memory_free(residual);
        free_inputs(&in);
    }
}

/* (U^T U) (H + l) = I, from what hessian_finish leaves. The error grows with the condition of H + l. */
static void check_finished(const struct hessian *hessian, double tolerance)
{
    uint64_t n = hessian->cols;
    double *factor_wide = get(n * n, sizeof(double)), *product = get(n * n, sizeof(double)), most = 0;
    for (uint64_t i = 0; i < n * n; i++) {
        factor_wide[i] = (double)hessian->factor[i];
        product[i] = (double)hessian->damped[i];
        CHECK(hessian->damped[i] == hessian->damped[i % n * n + i / n], NULL);
        CHECK(i % n >= i / n || hessian->factor[i] == 0, NULL);
    }
    linalg_dtrmm(LINALG_LEFT, n, n, 1, factor_wide, n, product, n);
    linalg_dtrmm(LINALG_RIGHT_TURNED, n, n, 1, factor_wide, n, product, n);
    for (uint64_t i = 0; i < n * n; i++)
        most = fmax(most, fabs(product[i] - (i / n == i % n)));
    CHECK(most < tolerance, NULL);
    for (uint64_t j = 0; j < n; j++)
        CHECK(hessian->diagonal[j] == hessian->damped[j * n + j], NULL);
    memory_free(factor_wide);
    memory_free(product);
}

static void factors_by_definition(void)
{
    static const uint64_t sizes[] = {1, 2, 17, 64, 300, 513};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct inputs in = make_inputs(sizes[i] * 2, sizes[i], 0);
        struct hessian hessian;
        struct error err = {0};
        uint64_t n = in.cols;
        CHECK(build(&hessian, &in, false, 100, &err) == OK, &err);
        double mean = 0, *second = get(n * n, sizeof *second);
        memcpy(second, hessian.second, n * n * sizeof *second);
        for (uint64_t j = 0; j < n; j++)
            mean += second[j * n + j] / (double)n;
        CHECK(factor(&hessian, 0.01, &err) == OK, &err);
        CHECK(hessian.damping == 0.01 && hessian.escalations == 0, NULL);
        CHECK(fabs(hessian.ridge - 0.01 * mean) < 1e-12 * mean, NULL);
        CHECK(finish(&hessian, &err) == OK, &err);
        CHECK(!hessian.second && !hessian.cross && !hessian.residual && hessian.magnitude, NULL);
        for (uint64_t e = 0; e < n * n; e++) {
            double expected = second[e] + (e / n == e % n ? hessian.ridge : 0);
            CHECK(hessian.damped[e] == (float)expected, NULL);
        }
        check_finished(&hessian, 1e-3);
        memory_free(second);
        hessian_free(&hessian);
        free_inputs(&in);
    }
}

/* Gaussian elimination with pivots: x (H + l) = rhs for one row, to compare with. */
static void solve(double *matrix, double *rhs, uint64_t n)
{
    for (uint64_t k = 0; k < n; k++) { /* H is symmetric: x H = rhs is H x = rhs */
        for (uint64_t r = k + 1; r < n; r++) {
            double times = matrix[r * n + k] / matrix[k * n + k];
            for (uint64_t c = k; c < n; c++)
                matrix[r * n + c] -= times * matrix[k * n + c];
            rhs[r] -= times * rhs[k];
        }
    }
    for (uint64_t k = n; k-- > 0;) {
        for (uint64_t c = k + 1; c < n; c++)
            rhs[k] -= matrix[k * n + c] * rhs[c];
        rhs[k] /= matrix[k * n + k];
    }
}

static void check_target_row(const struct hessian *before, const struct hessian *after, const float *weights,
    const float *target, uint64_t row, bool residual)
{
    uint64_t n = before->cols;
    double *rhs = get(n, sizeof *rhs), *matrix = get(n * n, sizeof *matrix);
    memcpy(matrix, before->second, n * n * sizeof *matrix);
    for (uint64_t j = 0; j < n; j++) {
        matrix[j * n + j] += after->ridge;
        rhs[j] = residual ? before->residual[row * n + j] : 0;
        for (uint64_t i = 0; before->cross && i < n; i++)
            rhs[j] += (double)weights[row * n + i] * before->cross[i * n + j];
    }
    solve(matrix, rhs, n);
    for (uint64_t j = 0; j < n; j++) {
        double expected = (double)weights[row * n + j] + rhs[j];
        CHECK(fabs((double)target[row * n + j] - expected) < 1e-6 * (1 + fabs(expected)), NULL);
    }
    memory_free(matrix);
    memory_free(rhs);
}

static void targets_by_definition(void)
{
    enum { COLS = 37, ROWS = 260, TOKENS = 90 };
    static float weights[ROWS * COLS], target[ROWS * COLS];
    struct inputs in = make_inputs(TOKENS, COLS, ROWS);
    uint64_t state = 3;
    for (int i = 0; i < ROWS * COLS; i++)
        weights[i] = testing_normal(&state);
    for (int kind = 0; kind < 3; kind++) { /* both sums, cross alone, none */
        struct hessian hessian, before;
        struct error err = {0};
        REQUIRE(build(&hessian, &in, kind < 2, TOKENS, &err) == OK, &err);
        REQUIRE(build(&before, &in, kind < 2, TOKENS, &err) == OK, &err);
        REQUIRE(factor(&hessian, 0.01, &err) == OK, &err);
        memcpy(target, weights, sizeof target);
        CHECK(correct(&hessian, target, ROWS, kind == 0, &err) == OK, &err);
        if (kind == 2) CHECK(memcmp(target, weights, sizeof target) == 0, NULL);
        for (uint64_t row = 0; row < ROWS; row += 43)
            check_target_row(&before, &hessian, weights, target, row, kind == 0);
        weights[200 * COLS + 5] = INFINITY;
        CHECK(kind == 2 || correct(&hessian, weights, ROWS, false, &err) == ERR_NUMERIC, &err);
        CHECK(kind == 2 || strstr(err.text, "row 200,"), &err);
        for (int i = 0; i < COLS; i++)
            weights[200 * COLS + i] = 1;
        hessian_free(&hessian);
        hessian_free(&before);
    }
    free_inputs(&in);
}

/* ---- order and scales ---- */

static void check_same_sums(const struct hessian *a, const struct hessian *b, double tolerance)
{
    uint64_t n = a->cols;
    CHECK(close_to(a->second, b->second, n * n, tolerance), NULL);
    CHECK(close_to(a->cross, b->cross, n * n, tolerance), NULL);
    CHECK(close_to(a->residual, b->residual, a->rows * n, tolerance), NULL);
    CHECK(close_to(a->magnitude, b->magnitude, n, tolerance), NULL);
}

/* Inputs whose channel j is channel order[j] of `in`. */
static struct inputs rearranged(const struct inputs *in, const uint32_t *order)
{
    struct inputs out = make_inputs(in->tokens, in->cols, in->rows);
    for (uint64_t t = 0; t < in->tokens; t++) {
        for (uint64_t j = 0; j < in->cols; j++) {
            uint64_t from = t * in->cols + order[j], to = t * in->cols + j;
            out.x[to] = in->x[from];
            out.original[to] = in->original[from];
        }
    }
    return out;
}

static void orders(void)
{
    enum { COLS = 100 };
    uint32_t order[COLS];
    uint64_t state = 7;
    struct inputs in = make_inputs(60, COLS, 6);
    for (uint32_t j = 0; j < COLS; j++) {
        order[j] = j;
    }
    for (uint32_t j = COLS - 1; j > 10; j--) { /* the first few mostly stay: cycles of length one */
        uint32_t other = (uint32_t)(testing_random(&state) % (j + 1)), kept = order[j];
        order[j] = order[other];
        order[other] = kept;
    }
    struct inputs permuted = rearranged(&in, order);
    struct hessian hessian, expected;
    struct error err = {0};
    REQUIRE(build(&hessian, &in, true, 60, &err) == OK, &err);
    REQUIRE(build(&expected, &permuted, true, 60, &err) == OK, &err);
    CHECK(hessian_permute(&hessian, order, &err) == OK, &err);
    check_same_sums(&hessian, &expected, 1e-6);
    CHECK(factor(&hessian, 0.01, &err) == OK && finish(&hessian, &err) == OK, &err);
    check_finished(&hessian, 1e-3);
    hessian_free(&hessian);
    hessian_free(&expected);
    free_inputs(&permuted);
    free_inputs(&in);
}

/* ---- difficult inputs ---- */

static void dead_channels_stand_alone(void)
{
    enum { COLS = 40 };
    struct inputs in = make_inputs(100, COLS, 0);
    for (uint64_t t = 0; t < 100; t++)
        in.x[t * COLS + 3] = in.x[t * COLS + 39] = 0;
    struct hessian hessian;
    struct error err = {0};
    CHECK(build(&hessian, &in, false, 100, &err) == OK, &err);
    CHECK(hessian.dead == 2, NULL);
    CHECK(factor(&hessian, 0.01, &err) == OK && finish(&hessian, &err) == OK, &err);
    for (uint64_t j = 0; j < COLS; j++) {
        CHECK(j == 3 || (hessian.factor[3 * COLS + j] == 0 && hessian.factor[j * COLS + 3] == 0), NULL);
    }
    CHECK(hessian.diagonal[3] == (float)hessian.ridge, NULL);
    hessian_free(&hessian);
    memset(in.x, 0, sizeof *in.x * 100 * COLS);
    CHECK(build(&hessian, &in, false, 100, &err) == ERR_NUMERIC && strstr(err.text, "40"), &err);
    hessian_free(&hessian);
    in.tokens = 0;
    CHECK(build(&hessian, &in, false, 100, &err) == ERR_NUMERIC && strstr(err.text, "no tokens"), &err);
    hessian_free(&hessian);
    free_inputs(&in);
}

/* One channel 10^4 times as large as the others; fewer tokens than channels, and very little damping. */
static void ill_conditioned_inputs(void)
{
    for (int kind = 0; kind < 2; kind++) {
        struct inputs in = make_inputs(kind ? 20 : 200, 90, 0);
        for (uint64_t t = 0; t < in.tokens && kind == 0; t++)
            in.x[t * in.cols + 4] *= 1e4f;
        struct hessian hessian;
        struct error err = {0};
        CHECK(build(&hessian, &in, false, 512, &err) == OK, &err);
        CHECK(factor(&hessian, kind ? 1e-4 : 0.01, &err) == OK && hessian.escalations == 0, &err);
        CHECK(finish(&hessian, &err) == OK, &err);
        check_finished(&hessian, 0.05);
        hessian_free(&hessian);
        free_inputs(&in);
    }
}

/* H with an eigenvalue of about -0.05: damping 0.01 is not enough, 0.1 is; with -2 nothing is. */
static void damping_escalates(void)
{
    enum { COLS = 300 };
    struct inputs in = make_inputs(10, COLS, 0);
    for (int kind = 0; kind < 2; kind++) {
        struct hessian hessian;
        struct error err = {0};
        REQUIRE(build(&hessian, &in, false, 10, &err) == OK, &err);
        memset(hessian.second, 0, sizeof(double) * COLS * COLS);
        for (uint64_t j = 0; j < COLS; j++)
            hessian.second[j * COLS + j] = 1;
        hessian.second[1] = hessian.second[COLS] = kind ? 3 : 1.05;
        enum status status = factor(&hessian, kind ? 0.03 : 0.01, &err);
        CHECK(status == (kind ? ERR_NUMERIC : OK), &err);
        CHECK(hessian.escalations == (kind ? 2 : 1) && hessian.damping == (kind ? 1 : 0.1), NULL);
        CHECK(!kind || (strstr(err.text, "0.03 to 1") && strstr(err.text, "10 tokens, 300 channels")), &err);
        if (!kind) {
            CHECK(finish(&hessian, &err) == OK, &err);
            CHECK(hessian.damped[COLS] == 1.05f && hessian.diagonal[7] == 1.1f, NULL);
            check_finished(&hessian, 1e-4);
        }
        hessian_free(&hessian);
    }
    free_inputs(&in);
}

static void bad_inputs_are_named(void)
{
    const float bad[] = {NAN, INFINITY, -INFINITY, 1e19f, -5e17f};
    for (int i = 0; i < 15; i++) {
        struct inputs in = make_inputs(30, 300, 260);
        float *place = i < 5    ? in.x + 17 * 300 + 270
                       : i < 10 ? in.original + 17 * 300 + 270
                                : in.residual + 17 * 260 + 258;
        struct hessian hessian;
        struct error err = {0};
        *place = bad[i % 5];
        CHECK(build(&hessian, &in, true, 10, &err) == ERR_NUMERIC, &err);
        CHECK(strstr(err.text, i < 10 ? "channel 270" : "channel 258") && strstr(err.text, "token 17"), &err);
        hessian_free(&hessian);
        free_inputs(&in);
    }
}

/* The largest inputs that are accepted do not overflow. */
static void large_inputs_fit(void)
{
    struct inputs in = make_inputs(2048, 3, 0);
    for (uint64_t i = 0; i < 2048 * 3; i++)
        in.x[i] = i % 2 ? 4e17f : -4e17f;
    in.x[0] = 1;
    struct hessian hessian;
    struct error err = {0};
    CHECK(build(&hessian, &in, false, 2048, &err) == OK, &err);
    CHECK(factor(&hessian, 0.01, &err) == OK && finish(&hessian, &err) == OK, &err);
    check_finished(&hessian, 1e-3);
    hessian_free(&hessian);
    free_inputs(&in);
}

/* ---- workers and memory ---- */

static void the_same_bits_for_any_workers(void)
{
    enum { COLS = 1100, ROWS = 130, TOKENS = 2500 };
    static float weights[3][ROWS * COLS];
    struct inputs in = make_inputs(TOKENS, COLS, ROWS);
    struct hessian hessian[3];
    for (unsigned w = 0; w < 3; w++) {
        struct error err = {0};
        in.workers = w + 1;
        for (int i = 0; i < ROWS * COLS; i++)
            weights[w][i] = (float)(i % 11) - 5;
        REQUIRE(build(&hessian[w], &in, true, TOKENS, &err) == OK, &err);
        uint64_t bytes = sizeof(double) * COLS * COLS;
        CHECK(memcmp(hessian[0].cross, hessian[w].cross, w ? bytes : 0) == 0, NULL);
        CHECK(memcmp(hessian[0].second, hessian[w].second, w ? bytes : 0) == 0, NULL);
        CHECK(memcmp(hessian[0].residual, hessian[w].residual, w ? bytes / COLS * ROWS : 0) == 0, NULL);
        CHECK(memcmp(hessian[0].magnitude, hessian[w].magnitude, sizeof(double) * COLS) == 0, NULL);
    }
    for (unsigned w = 0; w < 3; w++) {
        struct error err = {0};
        CHECK(factor(&hessian[w], 0.01, &err) == OK, &err);
        CHECK(correct(&hessian[w], weights[w], ROWS, true, &err) == OK, &err);
        CHECK(finish(&hessian[w], &err) == OK, &err);
        CHECK(memcmp(weights[0], weights[w], sizeof weights[0]) == 0, NULL);
        CHECK(memcmp(hessian[0].factor, hessian[w].factor, sizeof(float) * COLS * COLS) == 0, NULL);
        CHECK(memcmp(hessian[0].damped, hessian[w].damped, sizeof(float) * COLS * COLS) == 0, NULL);
    }
    for (unsigned w = 0; w < 3; w++)
        hessian_free(&hessian[w]);
    free_inputs(&in);
}

static enum status whole_life(const struct inputs *in, struct pool *pool, float *weights, struct error *err)
{
    static const uint32_t order[] = {2, 0, 1, 3};
    struct hessian hessian;
    enum status status = hessian_create(&hessian, in->cols, true, in->rows, 2, err);
    if (status == OK)
        status = hessian_add(&hessian, pool, in->x, in->original, in->residual, in->tokens, err);
    if (status == OK) status = hessian_mean(&hessian, pool, err);
    if (status == OK) status = hessian_permute(&hessian, order, err);
    if (status == OK) status = hessian_factor(&hessian, pool, 0.01, err);
    if (status == OK) status = hessian_correct(&hessian, pool, weights, in->rows, true, err);
    if (status == OK) status = hessian_finish(&hessian, pool, err);
    hessian_free(&hessian);
    return status;
}

static void every_allocation_may_fail(void)
{
    struct inputs in = make_inputs(9, 4, 3);
    struct pool *pool = NULL;
    struct error err = {0};
    enum status status = ERR_MEMORY;
    uint64_t failures = 0;
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    for (uint64_t nth = 1; status == ERR_MEMORY; nth++) {
        float weights[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
        memory_fail_at(nth, 0);
        status = whole_life(&in, pool, weights, &err);
        failures += memory_failures();
        memory_fail_at(0, 0);
    }
    CHECK(status == OK && failures == 6 + 2 + 4 + 1 + 2, &err);
    pool_free(pool);
    free_inputs(&in);
    hessian_free(NULL);
}

static void sizes_for_the_plan(void)
{
    uint64_t plain = hessian_bytes(4096, false, 0, 2), all = hessian_bytes(4096, true, 4096, 2);
    CHECK(plain > UINT64_C(8) * 4096 * 4096 && plain < UINT64_C(9) * 4096 * 4096, NULL);
    CHECK(all > UINT64_C(24) * 4096 * 4096 && all < UINT64_C(26) * 4096 * 4096, NULL);
}

int main(void)
{
    struct error err = {0};
    REQUIRE(linalg_init(&err) == OK, &err);
    static const struct test_case cases[] = {
        {"means by definition", means_by_definition},
        {"factors by definition", factors_by_definition},
        {"targets by definition", targets_by_definition},
        {"orders", orders},
        {"dead channels stand alone", dead_channels_stand_alone},
        {"ill-conditioned inputs", ill_conditioned_inputs},
        {"damping escalates", damping_escalates},
        {"bad inputs are named", bad_inputs_are_named},
        {"large inputs fit", large_inputs_fit},
        {"the same bits for any workers", the_same_bits_for_any_workers},
        {"every allocation may fail", every_allocation_may_fail},
        {"sizes for the plan", sizes_for_the_plan},
    };
    return TESTING_RUN("hessian", cases);
}
