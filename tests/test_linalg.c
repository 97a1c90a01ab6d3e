/* Products and triangular solutions against their definitions. (tests/test_matmul.c has linalg_gemm_nt and _nn.) */
#include "tensor/linalg.h"

#include <math.h>
#include <string.h>

#include "tests/support/testing.h"

enum { M = 5, N = 7, K = 4, STRIDE = 9 };

static void fill(double *values, uint64_t count, uint64_t *state)
{
    for (uint64_t i = 0; i < count; i++)
        values[i] = (double)testing_normal(state);
}

/* Upper triangular with a good diagonal, and NaN where nothing may be read. */
static void fill_upper(double *r, uint64_t n, uint64_t *state)
{
    for (uint64_t i = 0; i < n; i++) {
        for (uint64_t j = 0; j < n; j++)
            r[i * STRIDE + j] = j < i ? (double)NAN : (double)testing_normal(state);
        r[i * STRIDE + i] = 3 + (double)i;
    }
}

static void small_products_turned(void)
{
    const float a[] = {1, 4, 2, 5, 3, 6}, b[] = {1, 0, -1, 2, 1, 0}; /* a [3, 2] */
    float c[4] = {1, 1, 1, 1}, s[4] = {1, 1, 1, 1};
    linalg_gemm_tn(2, 2, 3, 2, a, 2, b, 2, 1, c, 2);
    CHECK(c[0] == 5 && c[1] == 9 && c[2] == 11 && c[3] == 21, NULL);
    linalg_syrk_tn(2, 3, 1, a, 2, 2, s, 2);
    CHECK(s[0] == 16 && s[1] == 34 && s[2] == 1 && s[3] == 79, NULL);
    linalg_gemm_tn(0, 2, 1, 1, a, 0, b, 2, 0, c, 2);
    linalg_syrk_tn(0, 2, 1, a, 0, 0, s, 0);
}

static void small_products_in_double(void)
{
    const double a[] = {1, 2, 3, 4, 5, 6}, b[] = {1, 0, -1, 2, 1, 0};
    double c[4] = {10, 10, 10, 10}, s[4] = {1, 1, 1, 1};
    linalg_dgemm_nt(2, 2, 3, 2, a, 3, b, 3, 1, c, 2);
    CHECK(c[0] == 6 && c[1] == 18 && c[2] == 6 && c[3] == 36, NULL);
    linalg_dgemm_nn(2, 2, 3, 1, a, 3, b, 2, 0, c, 2);
    CHECK(c[0] == 2 && c[1] == 4 && c[2] == 5 && c[3] == 10, NULL);
    linalg_dsyrk_nt(2, 3, -1, a, 3, 1, s, 2);
    CHECK(s[0] == -13 && s[1] == -31 && s[2] == 1 && s[3] == -76, NULL);
    linalg_dgemm_nn(2, 2, 0, 1, a, 0, b, 2, 0.5, c, 2);
    CHECK(c[0] == 1 && c[3] == 5, NULL);
}

/* b [M, N] times r, by definition. */
static void meet(enum linalg_side side, double *out, const double *r, const double *b)
{
    for (uint64_t i = 0; i < M; i++) {
        for (uint64_t j = 0; j < N; j++) {
            double sum = 0;
            if (side == LINALG_LEFT)
                for (uint64_t k = i; k < M; k++)
                    sum += r[i * STRIDE + k] * b[k * STRIDE + j];
            for (uint64_t k = 0; side != LINALG_LEFT && k < N; k++) {
                uint64_t row = side == LINALG_RIGHT ? k : j, col = side == LINALG_RIGHT ? j : k;
                if (row <= col) sum += b[i * STRIDE + k] * r[row * STRIDE + col];
            }
            out[i * STRIDE + j] = sum;
        }
    }
}

static double distance(const double *a, const double *b)
{
    double most = 0;
    for (uint64_t i = 0; i < M; i++)
        for (uint64_t j = 0; j < N; j++)
            most = fmax(most, fabs(a[i * STRIDE + j] - b[i * STRIDE + j]));
    return most;
}

static void triangles_from_every_side(void)
{
    static const enum linalg_side sides[] = {LINALG_LEFT, LINALG_RIGHT, LINALG_RIGHT_TURNED};
    uint64_t state = 1;
    for (int s = 0; s < 3; s++) {
        double r[N * STRIDE], b[M * STRIDE], expected[M * STRIDE], got[M * STRIDE];
        fill_upper(r, sides[s] == LINALG_LEFT ? M : N, &state);
        fill(b, M * STRIDE, &state);
        meet(sides[s], expected, r, b);
        memcpy(got, b, sizeof got);
        linalg_dtrmm(sides[s], M, N, 1, r, STRIDE, got, STRIDE);
        CHECK(distance(got, expected) < 1e-13, NULL);
        linalg_dtrsm(sides[s], M, N, 1, r, STRIDE, got, STRIDE);
        CHECK(distance(got, b) < 1e-13, NULL);
        linalg_dtrmm(sides[s], 0, N, 1, r, STRIDE, got, STRIDE);
        linalg_dtrsm(sides[s], M, 0, 1, r, STRIDE, got, STRIDE);
    }
}

static void cholesky_of_a_block(void)
{
    const double nan = (double)NAN;
    double a[] = {4, nan, nan, 2, 5, nan, -2, 3, 14}, indefinite[] = {1, 0, 2, 1};
    CHECK(linalg_dpotrf_lower(3, a, 3), NULL);
    CHECK(a[0] == 2 && a[3] == 1 && a[4] == 2 && a[6] == -1 && a[7] == 2 && a[8] == 3, NULL);
    CHECK(isnan(a[1]) && isnan(a[2]) && isnan(a[5]), NULL);
    CHECK(!linalg_dpotrf_lower(2, indefinite, 2), NULL);
    CHECK(linalg_dpotrf_lower(0, NULL, 0), NULL);
}

static void inverse_of_a_triangle(void)
{
    uint64_t state = 2;
    double r[N * STRIDE], inverse[N * STRIDE];
    fill_upper(r, N, &state);
    memcpy(inverse, r, sizeof r);
    CHECK(linalg_dtrtri_upper(N, inverse, STRIDE), NULL);
    for (uint64_t i = 0; i < N; i++) {
        for (uint64_t j = i; j < N; j++) {
            double sum = 0;
            for (uint64_t k = i; k <= j; k++)
                sum += inverse[i * STRIDE + k] * r[k * STRIDE + j];
            CHECK(fabs(sum - (i == j)) < 1e-13, NULL);
        }
        for (uint64_t j = 0; j < i; j++)
            CHECK(isnan(inverse[i * STRIDE + j]), NULL);
    }
    r[0] = 0;
    CHECK(!linalg_dtrtri_upper(N, r, STRIDE), NULL);
    CHECK(linalg_dtrtri_upper(0, NULL, 0), NULL);
}

int main(void)
{
    struct error err = {0};
    REQUIRE(linalg_init(&err) == OK, &err);
    static const struct test_case cases[] = {
        {"small products, turned", small_products_turned},
        {"small products in double", small_products_in_double},
        {"triangles from every side", triangles_from_every_side},
        {"cholesky of a block", cholesky_of_a_block},
        {"inverse of a triangle", inverse_of_a_triangle},
    };
    return TESTING_RUN("linalg", cases);
}
