/* Bit widths under a budget: never better than the best choice by brute force, equal to it where the multiplier says so,
 * and the file that people edit. */
#include "quantize/allocate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tests/support/testing.h"

enum { MOST = 4 };

/* ---- helpers ---- */

static int width_of(uint32_t bits)
{
    for (int i = 0; i < ALLOCATE_WIDTHS; i++) {
        if (allocate_widths[i] == bits) return i;
    }
    return -1;
}

static uint64_t bytes_of(const struct allocate_matrix *matrix)
{
    REQUIRE(width_of(matrix->bits) >= 0, NULL);
    return matrix->bytes[width_of(matrix->bits)];
}

static double error_of(const struct allocate_matrix *matrices, uint64_t count)
{
    double sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += matrices[i].error[width_of(matrices[i].bits)];
    return sum;
}

/* Choose, check that the sum of bytes is what is told and within the budget; the sum of errors. */
static double choose(struct allocate_matrix *matrices, uint64_t count, uint64_t budget)
{
    struct error err = {0};
    uint64_t bytes = 0, sum = 0;

    REQUIRE(allocate_choose(matrices, count, budget, &bytes, &err) == OK, &err);
    for (uint64_t i = 0; i < count; i++)
        sum += bytes_of(&matrices[i]);
    CU_ASSERT(bytes == sum && sum <= budget);
    return error_of(matrices, count);
}

/* A matrix whose bytes are weights * bits / 8. */
static struct allocate_matrix matrix_of(
    const char *name, uint64_t weights, const double errors[ALLOCATE_WIDTHS])
{
    struct allocate_matrix matrix = {.name = name, .weights = weights};

    for (int i = 0; i < ALLOCATE_WIDTHS; i++) {
        matrix.bytes[i] = weights * allocate_widths[i] / 8;
        matrix.error[i] = errors[i];
    }
    return matrix;
}

static void check_bits(const struct allocate_matrix *matrices, uint64_t count, const char *expected)
{
    char shown[256] = "";

    for (uint64_t i = 0; i < count; i++)
        snprintf(shown + strlen(shown), sizeof shown - strlen(shown), "%" PRIu32, matrices[i].bits);
    testing_check(strcmp(shown, expected) == 0, shown, NULL, __FILE__, __LINE__);
}

/* ---- the choice ---- */

static void test_by_hand(void)
{
    struct allocate_matrix matrices[] = {
        matrix_of("a", 80, (double[]){32, 16, 8, 4, 2, 1}), /* 20 30 40 50 60 80 bytes */
        matrix_of("b", 80, (double[]){320, 80, 20, 5, 2, 1}),
    };

    choose(matrices, 2, 40);
    check_bits(matrices, 2, "22");
    choose(matrices, 2, 50);
    check_bits(matrices, 2, "23");
    choose(matrices, 2, 60);
    check_bits(matrices, 2, "24");
    choose(matrices, 2, 70);
    check_bits(matrices, 2, "34");
    choose(matrices, 2, 80);
    check_bits(matrices, 2, "35");
    choose(matrices, 2, 89);
    check_bits(matrices, 2, "35");
    CU_ASSERT_EQUAL(choose(matrices, 2, UINT64_MAX), 2);
    check_bits(matrices, 2, "88");
    CU_ASSERT_DOUBLE_EQUAL(matrices[0].importance, 16.0 / 96, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(matrices[1].importance, 80.0 / 96, 1e-15);
}

/* Small random whole numbers, so that sums are exact: errors in any order, bytes that rise, some equal. */
static void random_matrix(struct allocate_matrix *matrix, uint64_t *state)
{
    uint64_t bytes = testing_random(state) % 10;

    *matrix = (struct allocate_matrix){.name = "m", .weights = 1};
    for (int i = 0; i < ALLOCATE_WIDTHS; i++) {
        bytes += testing_random(state) % 6;
        matrix->bytes[i] = bytes;
        matrix->error[i] = (double)(testing_random(state) % 4 ? testing_random(state) % 40 : 0);
    }
}

/* The least error within a budget by trying everything. */
static double best_error(const struct allocate_matrix *matrices, uint64_t count, uint64_t budget)
{
    double best = INFINITY;

    if (count == 0) return 0;
    for (int i = 0; i < ALLOCATE_WIDTHS; i++) {
        if (matrices->bytes[i] > budget) continue;
        const double error =
            matrices->error[i] + best_error(matrices + 1, count - 1, budget - matrices->bytes[i]);
        if (error < best) best = error;
    }
    return best;
}

static uint64_t least_bytes(const struct allocate_matrix *matrices, uint64_t count)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++)
        sum += matrices[i].bytes[0]; /* random_matrix: bytes never fall */
    return sum;
}

/* The most that one step of any hull can gain is the most that greedy can lose: within one step of the budget the
 * multiplier's choice is the best of all, fractions of steps included. */
static double largest_gain(const struct allocate_matrix *matrices, uint64_t count)
{
    double largest = 0;

    for (uint64_t i = 0; i < count; i++) {
        double high = 0, low = INFINITY;
        for (int k = 0; k < ALLOCATE_WIDTHS; k++) {
            high = fmax(high, matrices[i].error[k]);
            low = fmin(low, matrices[i].error[k]);
        }
        largest = fmax(largest, high - low);
    }
    return largest;
}

static void test_every_budget_against_brute_force(void)
{
    struct allocate_matrix matrices[MOST];
    uint64_t state = 1, budgets = 0, best_ones = 0;

    for (int round = 0; round < 150; round++) {
        const uint64_t count = 1 + testing_random(&state) % MOST;
        for (uint64_t i = 0; i < count; i++)
            random_matrix(&matrices[i], &state);
        for (uint64_t budget = least_bytes(matrices, count), tries = 0; tries < 40; budget++, tries++) {
            const double error = choose(matrices, count, budget), best = best_error(matrices, count, budget);
            CU_ASSERT(error >= best && error <= best + largest_gain(matrices, count));
            if (count == 1) CU_ASSERT_EQUAL(error, best);
            budgets++;
            best_ones += error <= best;
        }
        CU_ASSERT_EQUAL(choose(matrices, count, UINT64_MAX), best_error(matrices, count, UINT64_MAX));
    }
    printf("(the best choice for %.1f %% of %" PRIu64 " budgets) ",
        100.0 * (double)best_ones / (double)budgets, budgets);
    CU_ASSERT(best_ones * 100 >= budgets * 99);
}

/* The bytes of the choice that is least in error + multiplier * bytes; of equal ones the fewest bytes. */
static uint64_t bytes_at(const struct allocate_matrix *matrices, uint64_t count, double multiplier)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < count; i++) {
        int best = 0;
        for (int k = 1; k < ALLOCATE_WIDTHS; k++) {
            const struct allocate_matrix *m = &matrices[i];
            if (m->error[k] + multiplier * (double)m->bytes[k] <
                m->error[best] + multiplier * (double)m->bytes[best])
                best = k;
        }
        sum += matrices[i].bytes[best];
    }
    return sum;
}

/* Budgets that some multiplier uses up exactly: there the choice is the best one (Everett 1963). */
static void test_best_on_the_hull(void)
{
    struct allocate_matrix matrices[MOST];
    uint64_t state = 2;

    for (int round = 0; round < 300; round++) {
        const uint64_t count = 1 + testing_random(&state) % MOST;
        for (uint64_t i = 0; i < count; i++)
            random_matrix(&matrices[i], &state);
        for (int tries = 0; tries < 20; tries++) {
            /* Never a slope of these numbers, so without ties. */
            const double multiplier = exp(3 * (double)testing_normal(&state));
            const uint64_t budget = bytes_at(matrices, count, multiplier);
            CU_ASSERT_EQUAL(choose(matrices, count, budget), best_error(matrices, count, budget));
        }
    }
}

static void test_errors_in_any_order(void)
{
    struct allocate_matrix matrices[] = {matrix_of("a", 80, (double[]){9, 10, 3, 4, 3, 3})};

    choose(matrices, 1, 30);
    check_bits(matrices, 1, "2"); /* 3 bits would be worse */
    choose(matrices, 1, 55);
    check_bits(matrices, 1, "4");
    choose(matrices, 1, 1000);
    check_bits(matrices, 1, "4"); /* nothing is better, so the fewest bytes */
}

/* Widths above the hull are used where only they fit. */
static void test_fill_beside_the_hull(void)
{
    struct allocate_matrix matrices[] = {matrix_of("a", 80, (double[]){100, 99, 98, 1, 1, 1})};

    choose(matrices, 1, 30);
    check_bits(matrices, 1, "3");
    choose(matrices, 1, 49);
    check_bits(matrices, 1, "4");
    choose(matrices, 1, 50);
    check_bits(matrices, 1, "5");
}

static void test_zero_errors(void)
{
    struct allocate_matrix matrices[] = {
        matrix_of("a", 80, (double[]){0, 0, 0, 0, 0, 0}),
        matrix_of("b", 80, (double[]){0, 0, 0, 0, 0, 0}),
        matrix_of("c", 80, (double[]){1, 0, 0, 0, 0, 0}),
    };

    choose(matrices, 3, 1000);
    check_bits(matrices, 3, "223");
    CU_ASSERT(matrices[0].importance == 0 && matrices[2].importance == 0);
}

static void test_ties(void)
{
    static const double errors[] = {32, 16, 8, 4, 2, 1};
    struct allocate_matrix matrices[] = {
        matrix_of("a", 80, errors), matrix_of("b", 80, errors), matrix_of("c", 80, errors)};

    choose(matrices, 3, 70);
    check_bits(matrices, 3, "322");
    choose(matrices, 3, 80);
    check_bits(matrices, 3, "332");
    choose(matrices, 3, 100);
    check_bits(matrices, 3, "433");
    /* Equal bytes: the smaller error, then the fewer bits. */
    struct allocate_matrix same = {.name = "s", .bytes = {5, 5, 5, 5, 5, 5}, .error = {3, 2, 1, 1, 2, 3}};
    choose(&same, 1, 5);
    check_bits(&same, 1, "4");
}

static void test_budget_too_small(void)
{
    static const double errors[] = {32, 16, 8, 4, 2, 1};
    struct allocate_matrix matrices[] = {matrix_of("a", 80, errors), matrix_of("b", 80, errors)};
    struct error err = {0};
    uint64_t bytes;

    CU_ASSERT_EQUAL(allocate_choose(matrices, 2, 39, &bytes, &err), ERR_USAGE);
    CHECK(strstr(err.text, "take 40 bytes") != NULL, &err);
    for (int i = 0; i < ALLOCATE_WIDTHS; i++)
        matrices[0].bytes[i] = UINT64_MAX;
    CU_ASSERT_EQUAL(allocate_choose(matrices, 2, UINT64_MAX, &bytes, &err), ERR_USAGE);
    CHECK(strstr(err.text, "2^64") != NULL, &err);
    CU_ASSERT_EQUAL(allocate_choose(NULL, 0, 0, &bytes, &err), OK);
    CU_ASSERT_EQUAL(bytes, 0);
}

static void test_errors_that_are_none(void)
{
    static const double wrong[] = {NAN, INFINITY, -1};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct allocate_matrix matrix = matrix_of("the.name", 80, (double[]){9, 8, 7, wrong[i], 5, 4});
        struct error err = {0};
        uint64_t bytes;
        CU_ASSERT_EQUAL(allocate_choose(&matrix, 1, 1000, &bytes, &err), ERR_NUMERIC);
        CHECK(strstr(err.text, "the.name: the error at 5 bits") != NULL, &err);
    }
}

/* Errors at the edges of what a double holds neither trap nor confuse the order of a matrix's steps. */
static void test_extreme_errors(void)
{
    struct allocate_matrix matrices[] = {
        matrix_of("a", 80, (double[]){1e308, 1e308, 1e307, 1e-300, 5e-324, 0}),
        matrix_of("b", 80, (double[]){1e308, 1e300, 1e-308, 5e-324, 5e-324, 0}),
    };

    choose(matrices, 2, 1000);
    check_bits(matrices, 2, "88");
    choose(matrices, 2, 40);
    check_bits(matrices, 2, "22");
}

static void test_many(void)
{
    enum { MANY = 3000 };
    struct allocate_matrix *matrices = calloc(MANY, sizeof *matrices);
    uint64_t state = 5;
    double before = INFINITY;

    REQUIRE(matrices != NULL, NULL);
    for (int i = 0; i < MANY; i++) {
        const double scale = exp((double)testing_normal(&state));
        matrices[i] = matrix_of("m", 1000 + testing_random(&state) % 100000, (double[ALLOCATE_WIDTHS]){0});
        for (int k = 0; k < ALLOCATE_WIDTHS; k++)
            matrices[i].error[k] = scale * pow(0.25, allocate_widths[k]);
    }
    for (uint64_t budget = 60000000; budget < 150000000; budget += 10000000) {
        const double error = choose(matrices, MANY, budget);
        CU_ASSERT(error < before);
        before = error;
    }
    free(matrices);
}

static void test_choose_without_memory(void)
{
    struct allocate_matrix matrix = matrix_of("a", 80, (double[]){32, 16, 8, 4, 2, 1});
    enum status status = ERR_MEMORY;
    uint64_t bytes, nth;

    for (nth = 1; status; nth++) {
        memory_fail_at(nth, 0);
        status = allocate_choose(&matrix, 1, 1000, &bytes, NULL);
        memory_fail_at(0, 0);
        CU_ASSERT(status == OK || status == ERR_MEMORY);
    }
    CU_ASSERT_EQUAL(nth, 5);
}

/* ---- the file ---- */

static void check_line(const struct allocation *allocation, uint64_t at, const char *name, uint32_t bits)
{
    REQUIRE(at < allocation->count, NULL);
    CU_ASSERT_STRING_EQUAL(allocation->lines[at].name, name);
    CU_ASSERT_EQUAL(allocation->lines[at].bits, bits);
}

static enum status read_text(struct allocation *out, const char *text, uint64_t count, struct error *err)
{
    testing_write(testing_path("bits.txt"), text, count);
    return allocate_read(out, testing_path("bits.txt"), err);
}

static void test_round_trip(void)
{
    struct allocate_matrix matrices[] = {
        matrix_of("model.layers.0.q_proj.weight", 8000, (double[]){9, 8, 7, 6, 5, 4}),
        matrix_of("lm_head.weight", 80000, (double[]){9, 2, 2, 2, 2, 2}),
        matrix_of("\xC3\xA9t\xC3\xA9", 80, (double[]){0, 0, 0, 0, 0, 0}),
    };
    const char *path = testing_path("bits.txt");
    struct allocation allocation;
    struct error err = {0};
    uint64_t bytes, text_bytes;

    REQUIRE(allocate_choose(matrices, 3, 33025, &bytes, &err) == OK, &err);
    CHECK(allocate_write(path, false, matrices, 3, &err) == OK, &err);
    CU_ASSERT_EQUAL(allocate_write(path, false, matrices, 3, &err), ERR_USAGE);
    CHECK(allocate_write(path, true, matrices, 3, &err) == OK, &err);
    REQUIRE(allocate_read(&allocation, path, &err) == OK, &err);
    CU_ASSERT_EQUAL(allocation.count, 3);
    for (uint64_t i = 0; i < 3; i++)
        check_line(&allocation, i, matrices[i].name, matrices[i].bits);
    allocate_free(&allocation);
    allocate_free(&allocation);
    char *text = testing_read(path, &text_bytes);
    CU_ASSERT_PTR_NOT_NULL(
        strstr(text, "\nlm_head.weight                3     #        30000 bytes   20.00 %\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "# 3 matrices, 88080 weights, "));
    memory_free(text);
}

static void test_write_keep(void)
{
    struct allocate_matrix matrix = matrix_of("a", 80, (double[]){1, 1, 1, 1, 1, 1});
    const char *path = testing_path("keep.txt");
    struct allocation allocation;
    struct error err = {0};

    CHECK(allocate_write(path, true, &matrix, 1, &err) == OK, &err);
    REQUIRE(allocate_read(&allocation, path, &err) == OK, &err);
    check_line(&allocation, 0, "a", 0);
    allocate_free(&allocation);
    CHECK(allocate_write(path, true, NULL, 0, &err) == OK, &err);
    REQUIRE(allocate_read(&allocation, path, &err) == OK, &err);
    CU_ASSERT_EQUAL(allocation.count, 0);
    allocate_free(&allocation);
}

static void test_names_that_cannot_be_written(void)
{
    static const char *const names[] = {"", "a b", "a\tb", "a\n", "#a", "a#", "a\x7f", "\x01"};
    const char *path = testing_path("no.txt");
    struct error err = {0};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct allocate_matrix matrix = {.name = names[i], .bits = 2};
        CU_ASSERT_EQUAL(allocate_write(path, true, &matrix, 1, &err), ERR_UNSUPPORTED);
    }
    struct allocate_matrix seven = {.name = "a", .bits = 7};
    CU_ASSERT_EQUAL(allocate_write(path, true, &seven, 1, &err), ERR_USAGE);
    CHECK(strstr(err.text, "7 bits") != NULL, &err);
}

static void test_write_in_any_locale(void)
{
    struct allocate_matrix matrix = matrix_of("a", 80, (double[]){1, 1, 1, 1, 1, 1});
    const char *before = testing_path("before.txt"), *after = testing_path("after.txt");
    struct error err = {0};

    matrix.bits = 3;
    matrix.importance = 0.125;
    CHECK(allocate_write(before, true, &matrix, 1, &err) == OK, &err);
    if (!testing_comma_locale()) {
        printf("(no such locale here) ");
        return;
    }
    CHECK(allocate_write(after, true, &matrix, 1, &err) == OK, &err);
    CU_ASSERT_TRUE(testing_same_files(before, after));
}

static void test_read(void)
{
    static const char text[] = "# a comment\n\n  \t\r\na 2\r\n\tb.c\t8 # 3 4 5\nd  keep#\n#e 3\nkeep 4";
    struct allocation allocation;
    struct error err = {0};

    REQUIRE(read_text(&allocation, text, sizeof text - 1, &err) == OK, &err);
    CU_ASSERT_EQUAL(allocation.count, 4);
    check_line(&allocation, 0, "a", 2);
    check_line(&allocation, 1, "b.c", 8);
    check_line(&allocation, 2, "d", 0);
    check_line(&allocation, 3, "keep", 4);
    allocate_free(&allocation);
    REQUIRE(read_text(&allocation,
                "\xEF\xBB\xBF"
                "a 2\n",
                7, &err) == OK,
        &err);
    check_line(&allocation, 0, "a", 2);
    allocate_free(&allocation);
    REQUIRE(read_text(&allocation, "", 0, &err) == OK, &err);
    CU_ASSERT_EQUAL(allocation.count, 0);
    allocate_free(&allocation);
}

static void check_bad(const char *text, uint64_t count, const char *part)
{
    struct allocation allocation;
    struct error err = {0};

    CHECK(read_text(&allocation, text, count, &err) == ERR_FORMAT, &err);
    CHECK(strstr(err.text, part) != NULL, &err);
    CHECK(strstr(err.text, "bits.txt: line ") != NULL, &err);
    CU_ASSERT(!allocation.lines && allocation.count == 0);
}

#define BAD(text, part) check_bad(text, sizeof(text) - 1, part)

static void test_read_badly(void)
{
    struct allocation allocation;
    struct error err = {0};

    BAD("a 2\n\nb\n", "line 3: 'b' is not a name and its bits");
    BAD("a 2 3", "line 1: 'a 2 3' is not");
    BAD("a # 2", "line 1: 'a ' is not");
    BAD("a 7", "line 1: 'a 7' does not end in bits");
    BAD("a 0", "does not end in bits");
    BAD("a 1", "does not end in bits");
    BAD("a 16", "does not end in bits");
    BAD("a 03", "does not end in bits");
    BAD("a 3.0", "does not end in bits");
    BAD("a -3", "does not end in bits");
    BAD("a Keep", "does not end in bits");
    BAD("a 3\0", "does not end in bits");
    BAD("a\0b 3", "line 1: 'a\\x00b 3' is not");
    BAD("# x\na 3\nb 3\n a 4 # again", "line 4: 'a' stands there a second time");
    CU_ASSERT_EQUAL(allocate_read(&allocation, testing_path("absent"), &err), ERR_IO);
    allocate_free(&allocation);
}

static void test_file_without_memory(void)
{
    struct allocate_matrix matrix = matrix_of("a", 80, (double[]){32, 16, 8, 4, 2, 1});
    const char *path = testing_path("memory.txt");
    struct allocation allocation;
    enum status status = ERR_MEMORY;

    for (uint64_t nth = 1; status; nth++) {
        memory_fail_at(nth, 0);
        status = allocate_write(path, true, &matrix, 1, NULL);
        memory_fail_at(0, 0);
        CU_ASSERT(status == OK || status == ERR_MEMORY);
    }
    status = ERR_MEMORY;
    testing_write(path, "a 2\nb 3\nc 4\n", 12);
    for (uint64_t nth = 1; status; nth++) {
        memory_fail_at(nth, 0);
        status = allocate_read(&allocation, path, NULL);
        memory_fail_at(0, 0);
        CU_ASSERT(status == OK || (status == ERR_MEMORY && !allocation.lines));
    }
    allocate_free(&allocation);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"by hand", test_by_hand},
        {"every budget against brute force", test_every_budget_against_brute_force},
        {"the best on the hull", test_best_on_the_hull},
        {"errors in any order", test_errors_in_any_order},
        {"fill beside the hull", test_fill_beside_the_hull},
        {"zero errors", test_zero_errors},
        {"ties", test_ties},
        {"a budget too small", test_budget_too_small},
        {"errors that are none", test_errors_that_are_none},
        {"extreme errors", test_extreme_errors},
        {"many", test_many},
        {"choose without memory", test_choose_without_memory},
        {"round trip", test_round_trip},
        {"write keep", test_write_keep},
        {"names that cannot be written", test_names_that_cannot_be_written},
        {"write in any locale", test_write_in_any_locale},
        {"read", test_read},
        {"read badly", test_read_badly},
        {"the file without memory", test_file_without_memory},
    };

    return TESTING_RUN("allocate", cases);
}
