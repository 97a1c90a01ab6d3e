/* Threads: one pool per process that runs numbered tasks. What a task computes may depend on its number only, never on
 * the worker that runs it or on how many there are: that is what makes every output the same for any --threads. */
#ifndef NIBBLE_BASE_THREADS_H
#define NIBBLE_BASE_THREADS_H

#include <stdint.h>

#include "base/error.h"

struct pool;

/* One numbered piece of work. `worker` is below pool_workers and serves only to pick scratch memory. */
typedef enum status (*pool_task)(void *context, uint64_t index, unsigned worker, struct error *err);

/* Start a pool of `workers` workers (the calling thread counts as one; 0 = the processors this process may use, at most
 * 64 chosen by default; at most 1024 may be asked for). */
enum status pool_create(struct pool **out, unsigned workers, struct error *err);

/* Run task(context, 0 .. count-1) and wait for all. Tasks are handed out in order. On failure no further tasks start
 * and the error of the lowest-numbered failed task is returned. Workers sleep when there is nothing to do. Not
 * reentrant: a task may not call pool_run. */
enum status pool_run(struct pool *pool, uint64_t count, pool_task task, void *context, struct error *err);

unsigned pool_workers(const struct pool *pool);
void pool_free(struct pool *pool);

#endif
