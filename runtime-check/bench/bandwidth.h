/* The memory's read bandwidth as this pool can use it, and the size of the caches that hide it. */
#ifndef NIBBLE_RUNTIME_CHECK_BANDWIDTH_H
#define NIBBLE_RUNTIME_CHECK_BANDWIDTH_H

#include <stdint.h>

#include "base/error.h"
#include "base/threads.h"

#define BANDWIDTH_CPU_ROOT "/sys/devices/system/cpu"

/* Bytes of last-level cache of the whole machine, all of its instances together, from
 * <root>/cpu<N>/cache/index<M>/{level,type,size,shared_cpu_list}; 0: the system does not say. */
uint64_t bandwidth_cache_bytes(const char *root);

/* How large an array to read: four times the cache, at least 256 MiB and at most 4 GiB; 0 if that is more than half of the
 * memory that is free, for then the number would be one of a cache or of a machine that swaps. */
uint64_t bandwidth_array_bytes(uint64_t cache_bytes, uint64_t available_bytes);

enum { BANDWIDTH_PASSES = 3 };

/* Bytes per second of the fastest of BANDWIDTH_PASSES passes in which the pool's workers together sum up an array of `bytes`
 * bytes (rounded down to whole MiB, at least one). The best, because everything else that happens on a machine only takes
 * away. ERR_MEMORY; ERR_NUMERIC: the sum is not what was written. */
enum status bandwidth_measure(double *bytes_per_second, struct pool *pool, uint64_t bytes, struct error *err);

#endif
