/* See residency.h. */
#include "runtime-check/bench/residency.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "runtime-check/bench/sysfs.h"

#define PROCESS_STATUS "/proc/self/status"

enum { PAGES_AT_ONCE = 4096, DROP_ATTEMPTS = 3, DROP_PAUSE = 2000 /* microseconds */ };

enum status residency_of_map(uint64_t *resident, const void *map, uint64_t bytes, struct error *err)
{
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    unsigned char present[PAGES_AT_ONCE];
    const uint8_t *start = map;
    *resident = 0;
    for (uint64_t at = 0; at < bytes; at += page * PAGES_AT_ONCE) {
        const uint64_t length = bytes - at < page * PAGES_AT_ONCE ? bytes - at : page * PAGES_AT_ONCE;
        if (mincore((void *)(uintptr_t)(start + at), length, present) != 0)
            return fail_errno(err, errno, "which pages lie in memory cannot be found out");
        for (uint64_t i = 0; i * page < length; i++) {
            const uint64_t here = length - i * page < page ? length - i * page : page;
            if (present[i] & 1) *resident += here;
        }
    }
    return OK;
}

/* A map of our own, made after the pages were dropped and never touched: it brings nothing in. */
static enum status resident_of_file(uint64_t *resident, const char *path, struct error *err)
{
    struct file *file = NULL;
    enum status status = file_open(&file, path, err);
    *resident = 0;
    if (!status) status = file_map(file, err);
    if (!status) status = residency_of_map(resident, file->map, file->bytes, err);
    file_close(file);
    return status;
}

/* The kernel cannot drop a page that is still to be written, so that comes first. Both are requests: what is left says whether
 * they were granted. Pages that are just passing through a processor's own lists stay too, hence the further attempts. */
enum status residency_drop(uint64_t *resident, const char *path, struct error *err)
{
    enum status status = OK;
    *resident = 1;
    for (unsigned attempt = 0; attempt < DROP_ATTEMPTS && *resident && !status; attempt++) {
        struct file *file = NULL;
        if (attempt) usleep(DROP_PAUSE);
        if ((status = file_open(&file, path, err))) return status;
        (void)fdatasync(file->descriptor);
        (void)posix_fadvise(file->descriptor, 0, 0, POSIX_FADV_DONTNEED);
        file_close(file);
        status = resident_of_file(resident, path, err);
    }
    return status;
}

bool residency_peak(uint64_t *bytes)
{
    return sysfs_kilobytes(bytes, PROCESS_STATUS, "VmHWM");
}

bool residency_anonymous(uint64_t *bytes)
{
    return sysfs_kilobytes(bytes, PROCESS_STATUS, "RssAnon");
}

bool residency_reset_peak(void)
{
    const int descriptor = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (descriptor < 0) return false;
    const bool written = write(descriptor, "5", 1) == 1;
    close(descriptor);
    return written;
}
