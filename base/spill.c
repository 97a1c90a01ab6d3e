/* Spilled arrays: memory, or a file that has no name from the start, so that nothing is left behind however the
 * process ends. */
#include "base/spill.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"

struct spill {
    uint64_t rows, row_bytes;
    uint8_t *memory; /* NULL: in the file */
    int descriptor;
    char *folder;
};

/* ---- life ---- */

/* For file systems without O_TMPFILE: a name for as long as it takes to remove it again. */
static int create_named(const char *folder)
{
    char *path = NULL;
    int descriptor;

    if (asprintf(&path, "%s/.spill-XXXXXX", folder) < 0) {
        errno = ENOMEM;
        return -1;
    }
    descriptor = mkostemp(path, O_CLOEXEC);
    if (descriptor >= 0) unlink(path);
    free(path);
    return descriptor;
}

static int create_nameless(const char *folder)
{
    int descriptor = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    /* EISDIR: a kernel that does not know O_TMPFILE took it for its O_DIRECTORY part. */
    if (descriptor < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) descriptor = create_named(folder);
    return descriptor;
}

/* All of it at once; on file systems that cannot, as a hole, and the disk may then be full later. */
static int reserve(int descriptor, uint64_t bytes)
{
    int result;

    do {
        result = fallocate(descriptor, 0, 0, (off_t)bytes);
    } while (result != 0 && errno == EINTR);
    if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) result = ftruncate(descriptor, (off_t)bytes);
    return result;
}

static enum status create_file(struct spill *spill, uint64_t bytes, const char *folder, struct error *err)
{
    spill->folder = memory_text(folder, strlen(folder), err);
    if (!spill->folder) return ERR_MEMORY;
    spill->descriptor = create_nameless(folder);
    if (spill->descriptor < 0)
        return fail_errno(err, errno, "%s: a temporary file cannot be created", folder);
    if (bytes > INT64_MAX) errno = EFBIG;
    if (bytes > INT64_MAX || (bytes > 0 && reserve(spill->descriptor, bytes) != 0))
        return fail_errno(
            err, errno, "%s: a temporary file of %" PRIu64 " bytes cannot be reserved", folder, bytes);
    return OK;
}

enum status spill_create(struct spill **out, uint64_t rows, uint64_t row_bytes, bool in_memory,
    const char *folder, struct error *err)
{
    struct spill *spill;
    uint64_t bytes;
    enum status status = OK;

    *out = NULL;
    if (checked_multiply(&bytes, rows, row_bytes))
        return fail(err, ERR_MEMORY, "%" PRIu64 " rows of %" PRIu64 " bytes", rows, row_bytes);
    spill = memory_new(1, sizeof *spill, err);
    if (!spill) return ERR_MEMORY;
    *spill = (struct spill){.rows = rows, .row_bytes = row_bytes, .descriptor = -1};
    if (!in_memory)
        status = create_file(spill, bytes, folder, err);
    else if (!(spill->memory = memory_new(bytes, 1, err)))
        status = ERR_MEMORY;
    if (status)
        spill_free(spill);
    else
        *out = spill;
    return status;
}

void spill_free(struct spill *spill)
{
    if (!spill) return;
    if (spill->descriptor >= 0) close(spill->descriptor);
    memory_free(spill->memory);
    memory_free(spill->folder);
    memory_free(spill);
}

/* ---- rows ---- */

/* Where rows lie: their first byte, and how many bytes they are. */
static uint64_t locate(const struct spill *spill, uint64_t first, uint64_t count, uint64_t *bytes)
{
    assert(first <= spill->rows && count <= spill->rows - first);
    *bytes = count * spill->row_bytes;
    return first * spill->row_bytes;
}

enum status spill_read(struct spill *spill, uint64_t first, uint64_t count, void *rows, struct error *err)
{
    uint64_t bytes, offset = locate(spill, first, count, &bytes), done = 0;

    if (spill->memory) {
        if (bytes) memcpy(rows, spill->memory + offset, bytes);
        return OK;
    }
    while (done < bytes) {
        int64_t got =
            file_calls.pread(spill->descriptor, (char *)rows + done, bytes - done, (int64_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return fail_errno(
                err, got < 0 ? errno : EIO, "%s: a temporary file cannot be read", spill->folder);
        done += (uint64_t)got;
    }
    return OK;
}

enum status spill_write(
    struct spill *spill, uint64_t first, uint64_t count, const void *rows, struct error *err)
{
    uint64_t bytes, offset = locate(spill, first, count, &bytes), done = 0;

    if (spill->memory) {
        if (bytes) memcpy(spill->memory + offset, rows, bytes);
        return OK;
    }
    while (done < bytes) {
        int64_t put = file_calls.pwrite(
            spill->descriptor, (const char *)rows + done, bytes - done, (int64_t)(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return fail_errno(
                err, put < 0 ? errno : EIO, "%s: a temporary file cannot be written", spill->folder);
        done += (uint64_t)put;
    }
    return OK;
}
