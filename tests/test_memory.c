/* Memory: aligned, zeroed, safe against overflow, and failing where a test wants it to. */
#include "base/memory.h"

#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/testing.h"

static bool all_zero(const char *bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (bytes[i] != 0) return false;
    return true;
}

static void test_aligned_and_zeroed(void)
{
    struct error err = {OK, ""};

    for (uint64_t bytes = 1; bytes < 3000000; bytes = bytes * 3 + 1) {
        for (int round = 0; round < 2; round++) { /* the second round is likely to get used memory back */
            char *block = memory_new(bytes, 1, &err);
            REQUIRE(block != NULL, &err);
            CU_ASSERT_EQUAL((uintptr_t)block % 64, 0);
            CU_ASSERT_TRUE(all_zero(block, bytes));
            memset(block, 0xAB, bytes);
            memory_free(block);
        }
    }
    memory_free(NULL);
}

static void test_nothing_is_a_block(void)
{
    void *none = memory_new(0, 8, NULL), *empty = memory_new(8, 0, NULL);

    CU_ASSERT_PTR_NOT_NULL(none);
    CU_ASSERT_PTR_NOT_NULL(empty);
    memory_free(none);
    memory_free(empty);
}

static void test_impossible_sizes(void)
{
    static const uint64_t sizes[][2] = {{UINT64_MAX, 1}, {UINT64_MAX, 2},
        {UINT64_C(1) << 32, UINT64_C(1) << 32}, {UINT64_C(1) << 63, 2}, {UINT64_C(1) << 40, 1},
        {1, UINT64_MAX - 8}};
    struct error err = {OK, ""};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CU_ASSERT_PTR_NULL(memory_new(sizes[i][0], sizes[i][1], &err));
        CU_ASSERT_EQUAL(err.code, ERR_MEMORY);
    }
    CU_ASSERT_PTR_NULL(memory_new(UINT64_MAX, UINT64_MAX, NULL));
    CU_ASSERT_PTR_NULL(memory_text("x", UINT64_MAX, &err));
}

static void test_grow(void)
{
    struct error err = {OK, ""};
    uint32_t *array = NULL;
    uint64_t capacity = 0;

    REQUIRE(memory_grow(&array, &capacity, 3, sizeof *array, &err) == OK, &err);
    CU_ASSERT_TRUE(capacity >= 3);
    for (uint32_t i = 0; i < 3; i++)
        array[i] = i + 1;
    REQUIRE(memory_grow(&array, &capacity, 4, sizeof *array, &err) == OK, &err);
    CU_ASSERT_TRUE(capacity >= 6);
    CU_ASSERT_TRUE(array[0] == 1 && array[1] == 2 && array[2] == 3);
    CU_ASSERT_TRUE(all_zero((char *)(array + 3), (capacity - 3) * sizeof *array));
    uint32_t *same = array;
    REQUIRE(memory_grow(&array, &capacity, capacity, sizeof *array, &err) == OK, &err);
    CU_ASSERT_PTR_EQUAL(array, same);
    memory_free(array);
}

static void test_grow_that_fails_keeps_all(void)
{
    struct error err = {OK, ""};
    uint32_t *array = NULL, *same;
    uint64_t capacity = 0;

    REQUIRE(memory_grow(&array, &capacity, 4, sizeof *array, &err) == OK, &err);
    array[3] = 77;
    same = array;
    memory_fail_at(1, 0);
    CU_ASSERT_EQUAL(memory_grow(&array, &capacity, 5, sizeof *array, &err), ERR_MEMORY);
    memory_fail_at(0, 0);
    CU_ASSERT_EQUAL(memory_grow(&array, &capacity, UINT64_MAX, sizeof *array, &err), ERR_MEMORY);
    CU_ASSERT_EQUAL(memory_grow(&array, &capacity, UINT64_MAX / 2, sizeof *array, &err), ERR_MEMORY);
    CU_ASSERT_PTR_EQUAL(array, same);
    CU_ASSERT_EQUAL(capacity, 4);
    CU_ASSERT_EQUAL(array[3], 77);
    memory_free(array);
}

static void test_text(void)
{
    char *copy = memory_text("a\0bc", 3, NULL);

    REQUIRE(copy != NULL, NULL);
    CU_ASSERT_EQUAL(memcmp(copy, "a\0b", 4), 0);
    memory_free(copy);
    copy = memory_text(NULL, 0, NULL);
    REQUIRE(copy != NULL, NULL);
    CU_ASSERT_STRING_EQUAL(copy, "");
    memory_free(copy);
}

/* Allocate `count` times; bit i of the result is set if allocation i failed. */
static unsigned failures_of(unsigned count)
{
    unsigned failed = 0;

    for (unsigned i = 0; i < count; i++) {
        void *block = memory_new(1, 1, NULL);
        if (!block) failed |= 1u << i;
        memory_free(block);
    }
    return failed;
}

static void test_planned_failures(void)
{
    struct error err = {OK, ""};

    memory_fail_at(1, 0);
    CU_ASSERT_PTR_NULL(memory_new(5, 1, &err));
    CU_ASSERT_EQUAL(err.code, ERR_MEMORY);
    CU_ASSERT_EQUAL(memory_failures(), 1);
    CU_ASSERT_EQUAL(failures_of(4), 0);
    memory_fail_at(3, 0);
    CU_ASSERT_EQUAL(memory_failures(), 0);
    CU_ASSERT_EQUAL(failures_of(6), 1u << 2);
    CU_ASSERT_EQUAL(memory_failures(), 1);
    memory_fail_at(3, 1);
    CU_ASSERT_EQUAL(failures_of(6), 0x3C);
    CU_ASSERT_EQUAL(memory_failures(), 4);
    memory_fail_at(0, 0);
    CU_ASSERT_EQUAL(failures_of(6), 0);
}

static void *allocate_many(void *failed)
{
    for (int i = 0; i < 1000; i++) {
        void *block = memory_new(16, 1, NULL);
        if (!block) ++*(unsigned *)failed;
        memory_free(block);
    }
    return NULL;
}

static void test_one_failure_among_threads(void)
{
    unsigned failed[4] = {0};
    pthread_t threads[4];

    memory_fail_at(2000, 0);
    for (int i = 0; i < 4; i++)
        REQUIRE(pthread_create(&threads[i], NULL, allocate_many, &failed[i]) == 0, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CU_ASSERT_EQUAL(failed[0] + failed[1] + failed[2] + failed[3], 1);
    CU_ASSERT_EQUAL(memory_failures(), 1);
    memory_fail_at(0, 0);
}

/* The real thing: a process that may not have more address space gets an error, not a signal. */
static void test_limited_process(void)
{
    const uint64_t limit = 256 << 20;
    int status;
    pid_t child;

    if (TESTING_SANITIZED) return; /* their shadow memory is beyond any limit */
    child = fork();
    if (child == 0) {
        struct rlimit space = {limit, limit};
        struct error err = {OK, ""};
        setrlimit(RLIMIT_AS, &space);
        void *block = memory_new(limit, 1, &err);
        _exit(block == NULL && err.code == ERR_MEMORY ? 0 : 1);
    }
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_EQUAL(status, 0);
}

static void test_peak(void)
{
    const uint64_t bytes = 64 << 20;
    uint64_t before = memory_peak_bytes(), untouched, touched;
    char *block = memory_new(bytes, 1, NULL);

    REQUIRE(block != NULL, NULL);
    untouched = memory_peak_bytes();
    memset(block, 1, bytes);
    touched = memory_peak_bytes();
    CU_ASSERT_TRUE(before > 0);
    if (!TESTING_SANITIZED) CU_ASSERT_TRUE(untouched < before + bytes / 2); /* zeroed without being touched */
    CU_ASSERT_TRUE(touched >= bytes);
    memory_free(block);
    CU_ASSERT_TRUE(memory_peak_bytes() >= touched - touched / 8); /* the system counts in batches */
}

int main(void)
{
    static const struct test_case cases[] = {
        {"aligned and zeroed", test_aligned_and_zeroed},
        {"nothing is a block", test_nothing_is_a_block},
        {"impossible sizes", test_impossible_sizes},
        {"grow keeps, doubles and zeroes", test_grow},
        {"grow that fails keeps all", test_grow_that_fails_keeps_all},
        {"text", test_text},
        {"planned failures", test_planned_failures},
        {"one planned failure among threads", test_one_failure_among_threads},
        {"a process with limited memory", test_limited_process},
        {"peak", test_peak},
    };

    return TESTING_RUN("memory", cases);
}
