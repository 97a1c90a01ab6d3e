/* The factor of the inverse: U^T U A = I for sizes around those of a block, the same bits for every number of workers. */
#include "tensor/factor.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/linalg.h"
#include "tests/support/testing.h"

static double *new_matrix(uint64_t n)
{
    double *matrix = memory_new(n, n * sizeof *matrix, NULL);
    REQUIRE(matrix != NULL, NULL);
    return matrix;
}

/* B B^T + n I; all of it. */
static double *positive_matrix(uint64_t n, uint64_t seed)
{
    double *a = new_matrix(n), *b = new_matrix(n);
    for (uint64_t i = 0; i < n * n; i++)
        b[i] = (double)testing_normal(&seed);
    for (uint64_t i = 0; i < n; i++)
        a[i * n + i] = 0.3 * (double)n;
    linalg_dgemm_nt(n, n, n, 1, b, n, b, n, 1, a, n);
    memory_free(b);
    return a;
}

static enum status run(double *a, uint64_t n, unsigned workers, struct error *err)
{
    struct pool *pool = NULL;
    REQUIRE(pool_create(&pool, workers, err) == OK, err);
    enum status status = factor_of_inverse(a, n, pool, err);
    pool_free(pool);
    return status;
}

/* U A U^T = I, which is U^T U = A^-1. */
static void check_factor(const double *factor, const double *a, uint64_t n)
{
    double *product = new_matrix(n), most = 0;
    memcpy(product, a, n * n * sizeof *a);
    linalg_dtrmm(LINALG_LEFT, n, n, 1, factor, n, product, n);
    linalg_dtrmm(LINALG_RIGHT_TURNED, n, n, 1, factor, n, product, n);
    for (uint64_t i = 0; i < n * n; i++)
        most = fmax(most, fabs(product[i] - (i / n == i % n)));
    CHECK(most < 1e-11, NULL);
    memory_free(product);
}

static void check_size(uint64_t n)
{
    double *a = positive_matrix(n, n), *first = new_matrix(n), *again = new_matrix(n);
    struct error err = {0};
    memcpy(first, a, n * n * sizeof *a);
    CHECK(run(first, n, 1, &err) == OK, &err);
    check_factor(first, a, n);
    for (uint64_t i = 0; i < n; i++) /* what is below the diagonal stays */
        CHECK(memcmp(first + i * n, a + i * n, i * sizeof *a) == 0, NULL);
    for (unsigned workers = 2; workers < 8; workers += workers) {
        memcpy(again, a, n * n * sizeof *a);
        for (uint64_t i = 0; i < n; i++) /* nor is it read */
            for (uint64_t j = 0; j < i; j++)
                again[i * n + j] = (double)NAN;
        CHECK(run(again, n, workers + (workers == 2 && n % 2), &err) == OK, &err);
        for (uint64_t i = 0; i < n; i++)
            CHECK(memcmp(first + i * n + i, again + i * n + i, (n - i) * sizeof *a) == 0, NULL);
    }
    memory_free(again);
    memory_free(first);
    memory_free(a);
}

static void sizes_around_blocks(void)
{
    static const uint64_t sizes[] = {1, 2, 17, 255, 256, 257, 511, 513, 900, 1290};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_size(sizes[i]);
}

/* Wherever a matrix fails to be positive definite, it is an error and nobody waits for ever. */
static void indefinite_matrices(void)
{
    enum { SIZE = 1100 };
    static const uint64_t places[] = {0, 300, 600, 1030, SIZE - 1};
    static const double values[] = {0, -1, (double)NAN, (double)INFINITY};
    double *a = positive_matrix(SIZE, 5), *broken = new_matrix(SIZE);
    for (size_t p = 0; p < 5; p++) {
        for (size_t v = 0; v < 4; v++) {
            struct error err = {0};
            memcpy(broken, a, sizeof *a * SIZE * SIZE);
            broken[places[p] * SIZE + places[p]] = values[v];
            CHECK(run(broken, SIZE, 1 + (unsigned)(p + v) % 3, &err) == ERR_NUMERIC, &err);
        }
    }
    memory_free(broken);
    memory_free(a);
}

static void factors_beyond_single_precision(void)
{
    double tiny[] = {1e-80, 0, 0, 1};
    struct error err = {0};
    CHECK(run(tiny, 2, 1, &err) == ERR_NUMERIC && strstr(err.text, "not finite"), &err);
}

static void every_allocation_may_fail(void)
{
    struct pool *pool = NULL;
    struct error err = {0};
    enum status status = ERR_MEMORY;
    uint64_t nth = 0;
    REQUIRE(pool_create(&pool, 2, &err) == OK, &err);
    while (status == ERR_MEMORY) {
        double a[] = {4, 0, 0, 1};
        memory_fail_at(++nth, 0);
        status = factor_of_inverse(a, 2, pool, &err);
        memory_fail_at(0, 0);
        CHECK(a[0] == (status == OK ? 0.5 : 4), &err);
    }
    CHECK(status == OK && nth == 4, &err);
    pool_free(pool);
}

int main(void)
{
    struct error err = {0};
    REQUIRE(linalg_init(&err) == OK, &err);
    static const struct test_case cases[] = {
        {"sizes around blocks", sizes_around_blocks},
        {"indefinite matrices", indefinite_matrices},
        {"factors beyond single precision", factors_beyond_single_precision},
        {"every allocation may fail", every_allocation_may_fail},
    };
    return TESTING_RUN("factor", cases);
}
