/* See cpu_parallel.h. */
#include "model/backends/cpu_parallel.h"

#define SMALL_WORK 65536 /* below it the calling thread does it alone */

enum status cpu_parallel(
    struct pool *pool, uint64_t count, uint64_t work, pool_task task, void *context, struct error *err)
{
    enum status status = OK;

    if (count > 1 && work >= SMALL_WORK) return pool_run(pool, count, task, context, err);
    for (uint64_t i = 0; i < count && !status; i++)
        status = task(context, i, 0, err);
    return status;
}
