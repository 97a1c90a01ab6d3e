/* Reading files, looking at paths. Writing is in file_output.c, gzip in file_gzip.c, CRC-32 in file_crc.c. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/memory.h"

_Static_assert(sizeof(off_t) == 8, "files above 2 GiB need _FILE_OFFSET_BITS=64");

static int64_t call_pread(int descriptor, void *buffer, size_t count, int64_t offset)
{
    return pread(descriptor, buffer, count, offset);
}

static int64_t call_pwrite(int descriptor, const void *buffer, size_t count, int64_t offset)
{
    return pwrite(descriptor, buffer, count, offset);
}

struct file_calls file_calls = {call_pread, call_pwrite, fsync, close, rename};

/* ---- reading ---- */

static const char *kind_name(mode_t mode)
{
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISFIFO(mode)) return "a FIFO";
    if (S_ISSOCK(mode)) return "a socket";
    return "a device";
}

static enum status check_regular(const struct stat *info, const char *path, struct error *err)
{
    if (S_ISREG(info->st_mode)) return OK;
    return fail(err, ERR_FORMAT, "%s: is %s, not a regular file", path, kind_name(info->st_mode));
}

enum status file_open(struct file **out, const char *path, struct error *err)
{
    struct file *file = NULL;
    enum status status = ERR_MEMORY;
    struct stat info;

    *out = NULL;
    file = memory_new(1, sizeof *file, err);
    if (!file) return ERR_MEMORY;
    file->descriptor = -1;
    file->path = memory_text(path, strlen(path), err);
    if (!file->path) goto done;

    /* Look before opening, because to open a device can do something; look again after, because the name may
     * have changed hands. O_NONBLOCK: a FIFO that slips in between must not make us wait for its writer. */
    status = stat(path, &info) != 0 ? fail_errno(err, errno, "%s", path) : check_regular(&info, path, err);
    if (status) goto done;
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file->descriptor < 0 || fstat(file->descriptor, &info) != 0) {
        status = fail_errno(err, errno, "%s: cannot be opened", path);
        goto done;
    }
    status = check_regular(&info, path, err);
    if (status) goto done;
    file->bytes = (uint64_t)info.st_size;
    *out = file;
    file = NULL;
done:
    file_close(file);
    return status;
}

static enum status too_short(
    const struct file *file, uint64_t end_of_file, uint64_t offset, uint64_t count, struct error *err)
{
    return fail(err, ERR_FORMAT,
        "%s: ends at byte %" PRIu64 ", but %" PRIu64 " bytes are needed at byte %" PRIu64, file->path,
        end_of_file, count, offset);
}

enum status file_read_at(struct file *file, uint64_t offset, void *buffer, uint64_t count, struct error *err)
{
    uint64_t end, done = 0;

    if (checked_add(&end, offset, count) || end > file->bytes)
        return too_short(file, file->bytes, offset, count, err);
    while (done < count) {
        int64_t got =
            file_calls.pread(file->descriptor, (char *)buffer + done, count - done, (int64_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return fail_errno(err, errno, "%s: cannot be read at byte %" PRIu64, file->path, offset + done);
        if (got == 0)
            return too_short(file, offset + done, offset, count, err); /* cut short since it was opened */
        done += (uint64_t)got;
    }
    return OK;
}

enum status file_map(struct file *file, struct error *err)
{
    static const uint8_t nothing[1];
    void *map;

    if (file->map) return OK;
    if (file->bytes == 0) {
        file->map = nothing;
        return OK;
    }
    map = mmap(NULL, file->bytes, PROT_READ, MAP_SHARED, file->descriptor, 0);
    if (map == MAP_FAILED) return fail_errno(err, errno, "%s: cannot be mapped", file->path);
    file->map = map;
    return OK;
}

void file_close(struct file *file)
{
    if (!file) return;
    if (file->map && file->bytes > 0) munmap((void *)(uintptr_t)file->map, file->bytes);
    if (file->descriptor >= 0) close(file->descriptor);
    memory_free(file->path);
    memory_free(file);
}

enum status file_read_all(
    char **out, uint64_t *bytes, const char *path, uint64_t limit_bytes, struct error *err)
{
    struct file *file = NULL;
    char *text = NULL;
    enum status status;

    *out = NULL;
    status = file_open(&file, path, err);
    if (status) goto done;
    if (file->bytes > limit_bytes) {
        status = fail(err, ERR_MEMORY, "%s: has %" PRIu64 " bytes, the limit is %" PRIu64, path, file->bytes,
            limit_bytes);
        goto done;
    }
    text = memory_new(file->bytes + 1, 1, err);
    if (!text) {
        status = fail_within(err, ERR_MEMORY, "%s", path);
        goto done;
    }
    status = file_read_at(file, 0, text, file->bytes, err);
    if (status) goto done;
    *bytes = file->bytes;
    *out = text;
    text = NULL;
done:
    memory_free(text);
    file_close(file);
    return status;
}

/* ---- paths ---- */

enum file_kind file_kind(const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0) return FILE_ABSENT;
    if (S_ISREG(info.st_mode)) return FILE_REGULAR;
    return S_ISDIR(info.st_mode) ? FILE_FOLDER : FILE_OTHER;
}

uint64_t file_size(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

bool file_same(const char *path_a, const char *path_b)
{
    struct stat a, b;

    return stat(path_a, &a) == 0 && stat(path_b, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

char *file_parent(const char *path, struct error *err)
{
    uint64_t bytes = strlen(path);

    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    while (bytes && path[bytes - 1] != '/')
        bytes--;
    if (!bytes) return memory_text(".", 1, err);
    return memory_text(path, bytes > 1 ? bytes - 1 : 1, err);
}

enum status file_join(
    char **out, const char *folder, const char *name, uint64_t name_bytes, struct error *err)
{
    size_t folder_bytes = strlen(folder);
    bool dots = (name_bytes == 1 && name[0] == '.') || (name_bytes == 2 && name[0] == '.' && name[1] == '.');
    uint64_t total;
    char shown[128];

    *out = NULL;
    if (name_bytes == 0 || dots || memchr(name, '/', name_bytes) || memchr(name, 0, name_bytes))
        return fail(err, ERR_FORMAT, "file name '%s': must be a plain name within %s",
            error_quote(shown, sizeof shown, name, name_bytes), folder);
    if (checked_add(&total, name_bytes, folder_bytes + 2))
        return fail(err, ERR_MEMORY, "file name: too long");
    *out = memory_new(total, 1, err);
    if (!*out) return ERR_MEMORY;
    memcpy(*out, folder, folder_bytes);
    if (folder_bytes > 0 && folder[folder_bytes - 1] != '/') (*out)[folder_bytes++] = '/';
    memcpy(*out + folder_bytes, name, name_bytes);
    return OK;
}
