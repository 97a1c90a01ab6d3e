/* What of a file lies in memory (mincore), how to get it out again, and what this process holds. */
#ifndef NIBBLE_RUNTIME_CHECK_RESIDENCY_H
#define NIBBLE_RUNTIME_CHECK_RESIDENCY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Bytes of a mapped file that lie in the page cache, in whole pages but never more than `bytes`. The kernel tells only those who
 * own the file or may write it; to others all pages seem to be there (mincore(2)). ERR_IO, ERR_MEMORY. */
enum status residency_of_map(uint64_t *resident, const void *map, uint64_t bytes, struct error *err);

/* Ask the kernel to forget the pages of a file (fdatasync, then posix_fadvise DONTNEED) and look what is left: *resident bytes.
 * Pages stay where a process has them mapped, in a file system that lies in memory, and (or so it seems, see above) if the file
 * is someone else's. ERR_IO: the file cannot be opened. */
enum status residency_drop(uint64_t *resident, const char *path, struct error *err);

/* The process's highest resident set since residency_reset_peak, and its anonymous memory now, in bytes. False: the system
 * does not say. */
bool residency_peak(uint64_t *bytes);
bool residency_anonymous(uint64_t *bytes);

/* Start the peak anew at what is resident now (/proc/self/clear_refs). False: not possible here, and residency_peak then speaks
 * of the whole life of the process. */
bool residency_reset_peak(void);

#endif
