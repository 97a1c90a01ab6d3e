/* The pool: every task runs once, the lowest failure wins whatever the timing, and nobody is left waiting. */
#include "base/threads.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "tests/support/testing.h"

static const unsigned worker_counts[] = {1, 2, 3, 4, 8, 17};
enum { WORKER_COUNTS = sizeof worker_counts / sizeof *worker_counts };

static struct pool *make_pool(unsigned workers)
{
    struct error err = {OK, ""};
    struct pool *pool = NULL;

    REQUIRE(pool_create(&pool, workers, &err) == OK, &err);
    return pool;
}

/* ---- every task once ---- */

struct counting {
    atomic_uint runs[1000];
    atomic_uint bad_workers;
    unsigned workers;
};

static enum status count_run(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct counting *counting = context;

    (void)err;
    atomic_fetch_add(&counting->runs[index], 1);
    if (worker >= counting->workers) atomic_fetch_add(&counting->bad_workers, 1);
    return OK;
}

static void test_every_task_runs_once(void)
{
    for (int w = 0; w < WORKER_COUNTS; w++) {
        struct pool *pool = make_pool(worker_counts[w]);
        CU_ASSERT_EQUAL(pool_workers(pool), worker_counts[w]);
        for (uint64_t count = 0; count <= 1000; count = count * 2 + 1) {
            struct counting counting = {.workers = worker_counts[w]};
            uint64_t wrong = 0;
            CU_ASSERT_EQUAL(pool_run(pool, count, count_run, &counting, NULL), OK);
            for (uint64_t i = 0; i < 1000; i++)
                wrong += counting.runs[i] != (i < count);
            CU_ASSERT_EQUAL(wrong, 0);
            CU_ASSERT_EQUAL(counting.bad_workers, 0);
        }
        pool_free(pool);
    }
}

/* Plain memory, written by workers and read by the caller between runs: the pool must order it (thread
 * sanitizer). */
static enum status add_previous(void *context, uint64_t index, unsigned worker, struct error *err)
{
    uint64_t *sums = context;

    (void)worker;
    (void)err;
    sums[index] += index + sums[64];
    return OK;
}

static void test_runs_follow_one_another(void)
{
    struct pool *pool = make_pool(4);
    uint64_t sums[65] = {0}, wrong = 0;

    for (uint64_t round = 0; round < 2000; round++) {
        sums[64] = round;
        pool_run(pool, 64, add_previous, sums, NULL);
    }
    for (uint64_t i = 0; i < 64; i++)
        wrong += sums[i] != 2000 * i + 2000 * 1999 / 2;
    CU_ASSERT_EQUAL(wrong, 0);
    pool_free(pool);
}

/* Two workers at the same worker number at the same time would share scratch memory. */
struct exclusive {
    atomic_int busy[17];
    atomic_int clashes;
};

static enum status use_scratch(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct exclusive *exclusive = context;

    (void)index;
    (void)err;
    if (atomic_fetch_add(&exclusive->busy[worker], 1) != 0) atomic_fetch_add(&exclusive->clashes, 1);
    sched_yield();
    atomic_fetch_sub(&exclusive->busy[worker], 1);
    return OK;
}

static void test_worker_numbers_are_exclusive(void)
{
    struct pool *pool = make_pool(17);
    struct exclusive exclusive = {0};

    for (int round = 0; round < 20; round++)
        pool_run(pool, 200, use_scratch, &exclusive, NULL);
    CU_ASSERT_EQUAL(exclusive.clashes, 0);
    pool_free(pool);
}

/* Two tasks that wait for each other finish only if two workers really run at once. */
static enum status meet(void *context, uint64_t index, unsigned worker, struct error *err)
{
    atomic_int *arrived = context;
    time_t give_up = time(NULL) + 20;

    (void)worker;
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2) {
        if (time(NULL) > give_up) return fail(err, ERR_CHECK, "task %d is alone", (int)index);
        sched_yield();
    }
    return OK;
}

static void test_workers_run_at_once(void)
{
    struct pool *pool = make_pool(2);
    struct error err = {OK, ""};

    for (int round = 0; round < 100; round++) {
        atomic_int arrived = 0;
        CHECK(pool_run(pool, 2, meet, &arrived, &err) == OK, &err);
    }
    pool_free(pool);
}

/* ---- failures ---- */

struct failing {
    uint64_t first_failure, step; /* first_failure, first_failure + step, ... fail */
    uint64_t delay_below;         /* tasks below this number dawdle, so that later failures come first */
    atomic_uint started;
    atomic_uint after; /* tasks that began long after the first failure */
};

static enum status fail_some(void *context, uint64_t index, unsigned worker, struct error *err)
{
    struct failing *failing = context;

    (void)worker;
    atomic_fetch_add(&failing->started, 1);
    if (index < failing->delay_below)
        for (int i = 0; i < 8; i++)
            sched_yield();
    if (index >= failing->first_failure && (index - failing->first_failure) % failing->step == 0)
        return fail(err, index % 2 ? ERR_FORMAT : ERR_NUMERIC, "task %d", (int)index);
    return OK;
}

static void test_lowest_failure_is_returned(void)
{
    for (int w = 0; w < WORKER_COUNTS; w++) {
        struct pool *pool = make_pool(worker_counts[w]);
        for (uint64_t round = 0; round < 2 * 37; round++) {
            uint64_t first = round % 37;
            struct failing failing = {.first_failure = first, .step = 1, .delay_below = first + 1};
            struct error err = {OK, ""};
            char expected[32];
            enum status status = pool_run(pool, 200, fail_some, &failing, &err);
            snprintf(expected, sizeof expected, "task %d", (int)first);
            CU_ASSERT_EQUAL(status, first % 2 ? ERR_FORMAT : ERR_NUMERIC);
            CU_ASSERT_EQUAL(err.code, status);
            CU_ASSERT_STRING_EQUAL(err.text, expected);
            CU_ASSERT_TRUE(failing.started <= first + worker_counts[w]);
        }
        struct counting counting = {.workers = worker_counts[w]};
        CU_ASSERT_EQUAL(pool_run(pool, 100, count_run, &counting, NULL), OK); /* and the pool still works */
        CU_ASSERT_EQUAL(counting.runs[99], 1);
        pool_free(pool);
    }
}

static void test_no_task_starts_after_a_failure(void)
{
    struct pool *pool = make_pool(1);
    struct failing failing = {.first_failure = 5, .step = 1000};

    CU_ASSERT_EQUAL(pool_run(pool, UINT64_MAX, fail_some, &failing, NULL), ERR_FORMAT);
    CU_ASSERT_EQUAL(failing.started, 6);
    pool_free(pool);
    pool = make_pool(4);
    CU_ASSERT_EQUAL(pool_run(pool, UINT64_MAX, fail_some, &failing, NULL), ERR_FORMAT);
    pool_free(pool);
}

/* ---- the pool itself ---- */

static void test_default_workers(void)
{
    struct pool *pool = make_pool(0);
    cpu_set_t allowed;

    REQUIRE(sched_getaffinity(0, sizeof allowed, &allowed) == 0, NULL);
    CU_ASSERT_EQUAL(pool_workers(pool), CPU_COUNT(&allowed) < 64 ? (unsigned)CPU_COUNT(&allowed) : 64);
    pool_free(pool);
}

static void test_affinity_counts(void)
{
    cpu_set_t before, one;
    struct pool *pool;
    int cpu = 0;

    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0, NULL);
    while (!CPU_ISSET(cpu, &before))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0, NULL);
    pool = make_pool(0);
    CU_ASSERT_EQUAL(pool_workers(pool), 1);
    pool_free(pool);
    REQUIRE(sched_setaffinity(0, sizeof before, &before) == 0, NULL);
}

static void test_too_many_workers(void)
{
    struct error err = {OK, ""};
    struct pool *pool = NULL;

    CU_ASSERT_EQUAL(pool_create(&pool, 1025, &err), ERR_USAGE);
    CU_ASSERT_PTR_NULL(pool);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "1025"));
}

static void test_create_without_memory(void)
{
    struct error err = {OK, ""};
    struct pool *pool = NULL;

    for (uint64_t nth = 1;; nth++) {
        memory_fail_at(nth, 0);
        enum status status = pool_create(&pool, 3, &err);
        uint64_t failures = memory_failures();
        memory_fail_at(0, 0);
        if (failures == 0) {
            CU_ASSERT_EQUAL(status, OK);
            break;
        }
        CU_ASSERT_EQUAL(status, ERR_MEMORY);
        CU_ASSERT_PTR_NULL(pool);
    }
    pool_free(pool);
    pool_free(NULL);
}

/* The system refuses threads: those that started are ended again. In a child, because of the limit. */
static void test_create_without_threads(void)
{
    int status;
    pid_t child;

    if (TESTING_SANITIZED) return;
    child = fork();
    if (child == 0) {
        const struct rlimit space = {200 << 20, 200 << 20}; /* some 20 stacks */
        struct error err = {OK, ""};
        struct pool *pool = NULL;
        setrlimit(RLIMIT_AS, &space);
        bool refused = pool_create(&pool, 1000, &err) == ERR_MEMORY && !pool && strstr(err.text, "of 1000");
        _exit(refused && pool_create(&pool, 4, &err) == OK ? 0 : 1);
    }
    CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
    CU_ASSERT_EQUAL(status, 0);
}

static void test_create_and_free_at_once(void)
{
    for (int i = 0; i < 200; i++)
        pool_free(make_pool(4));
}

/* Processor time of a pool that has nothing to do. */
static void test_workers_sleep(void)
{
    struct pool *pool = make_pool(8);
    struct counting counting = {.workers = 8};
    struct timespec before, after, nap = {0, 200000000};
    double used;

    pool_run(pool, 100, count_run, &counting, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&nap, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    used = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    CU_ASSERT_TRUE(used < 0.1);
    pool_free(pool);
}

int main(void)
{
    static const struct test_case cases[] = {
        {"every task runs once", test_every_task_runs_once},
        {"runs follow one another", test_runs_follow_one_another},
        {"worker numbers are exclusive", test_worker_numbers_are_exclusive},
        {"workers run at once", test_workers_run_at_once},
        {"the lowest failure is returned", test_lowest_failure_is_returned},
        {"no task starts after a failure", test_no_task_starts_after_a_failure},
        {"default workers", test_default_workers},
        {"affinity counts", test_affinity_counts},
        {"too many workers", test_too_many_workers},
        {"create without memory", test_create_without_memory},
        {"create without threads", test_create_without_threads},
        {"create and free at once", test_create_and_free_at_once},
        {"workers sleep", test_workers_sleep},
    };

    return TESTING_RUN("threads", cases);
}
