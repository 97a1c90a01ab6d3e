/* The pool: workers sleep on a condition until a run offers seats, take tasks by number, and sleep again. A
 * run waits for the workers that took a seat, never for one that has not woken up yet, so a short run costs
 * no full round of wake-ups. */
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

enum { WORKERS_LIMIT = 1024, WORKERS_DEFAULT_LIMIT = 64 };

struct worker {
    struct pool *pool;
    pthread_t thread;
    unsigned number; /* 1 .. workers - 1; the thread that calls pool_run is 0 */
};

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* seats became free, or the pool is closing */
    pthread_cond_t idle; /* the last seated worker stood up */
    struct worker *workers;
    unsigned worker_count, started;
    bool closing;

    /* The present run. task, context and count change only while no worker is seated. */
    pool_task task;
    void *context;
    uint64_t count;
    _Atomic uint64_t next; /* the first task that nobody has taken */
    unsigned seats;        /* how many more workers may join */
    unsigned seated;
    uint64_t failed_index; /* the lowest so far, if failed_status is not OK */
    enum status failed_status;
    struct error failed;
};

static unsigned default_workers(void)
{
    cpu_set_t allowed;
    long count;

    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        count = CPU_COUNT(&allowed);
    else
        count = sysconf(_SC_NPROCESSORS_ONLN); /* more processors than a cpu_set_t holds */
    if (count < 1) return 1;
    return count > WORKERS_DEFAULT_LIMIT ? WORKERS_DEFAULT_LIMIT : (unsigned)count;
}

/* Take the next task in order; false when none is left. A compare-and-swap, not an addition, so that the
 * counter never passes `count` and cannot wrap. */
static bool take_task(struct pool *pool, uint64_t *index)
{
    uint64_t next = atomic_load(&pool->next);

    while (next < pool->count) {
        if (atomic_compare_exchange_weak(&pool->next, &next, next + 1)) {
            *index = next;
            return true;
        }
    }
    return false;
}

/* Tasks start in order, so every task below a failed one has started and will report before the run ends: the
 * lowest failure is the same whatever the number of workers. */
static void record_failure(struct pool *pool, uint64_t index, enum status status, const struct error *error)
{
    atomic_store(&pool->next, pool->count);
    pthread_mutex_lock(&pool->lock);
    if (pool->failed_status == OK || index < pool->failed_index) {
        pool->failed_index = index;
        pool->failed_status = status;
        pool->failed = *error;
    }
    pthread_mutex_unlock(&pool->lock);
}

static void run_tasks(struct pool *pool, unsigned worker)
{
    struct error error;
    uint64_t index;

    error.code = OK;
    error.text[0] = 0;
    while (take_task(pool, &index)) {
        enum status status = pool->task(pool->context, index, worker, &error);
        if (status != OK) {
            record_failure(pool, index, status, &error);
            return;
        }
    }
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->seats == 0 && !pool->closing)
            pthread_cond_wait(&pool->wake, &pool->lock);
        if (pool->closing) break;
        pool->seats--;
        pool->seated++;
        pthread_mutex_unlock(&pool->lock);
        run_tasks(pool, worker->number);
        pthread_mutex_lock(&pool->lock);
        if (--pool->seated == 0) pthread_cond_signal(&pool->idle);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

enum status pool_create(struct pool **out, unsigned workers, struct error *err)
{
    struct pool *pool = NULL;
    enum status status = ERR_MEMORY;

    *out = NULL;
    if (workers > WORKERS_LIMIT)
        return fail(
            err, ERR_USAGE, "threads: %u workers asked for, at most %d are possible", workers, WORKERS_LIMIT);
    if (workers == 0) workers = default_workers();
    pool = memory_new(1, sizeof *pool, err);
    if (!pool) return ERR_MEMORY;
    pthread_mutex_init(&pool->lock, NULL); /* on Linux these three cannot fail */
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->idle, NULL);
    pool->worker_count = workers;
    pool->workers = memory_new(workers, sizeof *pool->workers, err);
    if (!pool->workers) goto done;
    while (pool->started < workers - 1) {
        struct worker *worker = &pool->workers[pool->started];
        worker->pool = pool;
        worker->number = pool->started + 1;
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0) {
            fail(err, ERR_MEMORY, "threads: the system refused to start worker %u of %u", worker->number + 1,
                workers);
            goto done;
        }
        pool->started++;
    }
    *out = pool;
    pool = NULL;
    status = OK;
done:
    pool_free(pool);
    return status;
}

/* Offer seats to as many sleeping workers as there are tasks for. */
static void wake_workers(struct pool *pool)
{
    unsigned wanted = pool->started;

    if (pool->count - 1 < wanted) wanted = (unsigned)(pool->count - 1);
    pthread_mutex_lock(&pool->lock);
    pool->seats = wanted;
    if (wanted == pool->started)
        pthread_cond_broadcast(&pool->wake);
    else
        for (unsigned i = 0; i < wanted; i++)
            pthread_cond_signal(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

enum status pool_run(struct pool *pool, uint64_t count, pool_task task, void *context, struct error *err)
{
    if (count == 0) return OK;
    pool->task = task;
    pool->context = context;
    pool->count = count;
    pool->failed_status = OK;
    atomic_store(&pool->next, 0);
    if (pool->started > 0 && count > 1) wake_workers(pool);
    run_tasks(pool, 0);

    pthread_mutex_lock(&pool->lock);
    pool->seats = 0; /* whoever wakes up only now goes back to sleep */
    while (pool->seated > 0)
        pthread_cond_wait(&pool->idle, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    if (pool->failed_status != OK && err) *err = pool->failed;
    return pool->failed_status;
}

unsigned pool_workers(const struct pool *pool)
{
    return pool->worker_count;
}

void pool_free(struct pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    memory_free(pool->workers);
    memory_free(pool);
}
