/* How the CPU backend spreads work: over numbered tasks that depend on the shape alone. */
#ifndef NIBBLE_MODEL_BACKENDS_CPU_PARALLEL_H
#define NIBBLE_MODEL_BACKENDS_CPU_PARALLEL_H

#include "base/threads.h"

/* Run task 0 .. count-1. Little work (in float operations, roughly) stays on the calling thread, as worker 0: waking the
 * others would take longer. The results are the same either way. */
enum status cpu_parallel(
    struct pool *pool, uint64_t count, uint64_t work, pool_task task, void *context, struct error *err);

#endif
