/* Outputs that appear complete or not at all: a temporary file beside the target, fsync, rename, fsync of the
 * folder; and the signal handlers that take temporary files along. */
#include "base/file_output.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/memory.h"

enum {
    OUTPUTS_LIMIT = 256,
    NAME_SHOWN_LIMIT = 200, /* of the target's name in the temporary's, so that the suffix fits in NAME_MAX */
    WRITE_BACK_BYTES = 8 * 1024 * 1024
};

struct output {
    char *path, *folder, *temporary;
    int descriptor;
    unsigned slot;
    bool registered; /* in `temporaries` at `slot` */
    bool created;    /* the temporary file is ours and exists */
    bool force;
    bool have_mode; /* mode is to be set at the end */
    mode_t mode;
    uint64_t reserved;
    _Atomic uint64_t dirty_bytes; /* written since write-back was last started */
};

/* ---- the temporary files that a signal must remove ---- */

/* Whoever exchanges a slot for NULL owns its path: either the code below, which frees it, or a signal
 * handler, which unlinks it while the process ends. So a handler never reads freed memory, on whichever
 * thread it runs. */
static _Atomic(char *) temporaries[OUTPUTS_LIMIT];

/* Held while a file is created and put into the table; taken for good by a handler, so that no file can slip
 * in behind it. The holder blocks signals: a handler never waits for the thread that it interrupted. */
static atomic_flag creating = ATOMIC_FLAG_INIT;

static void lock_creating(unsigned tries)
{
    const struct timespec nap = {0, 1000 * 1000};

    while (atomic_flag_test_and_set(&creating) && tries-- > 0)
        nanosleep(&nap, NULL);
}

enum status output_remember(char *path, unsigned *slot, struct error *err)
{
    for (unsigned i = 0; i < OUTPUTS_LIMIT; i++) {
        char *expected = NULL;
        if (!atomic_compare_exchange_strong(&temporaries[i], &expected, path)) continue;
        *slot = i;
        return OK;
    }
    return fail(err, ERR_MEMORY, "%s: more than %d outputs are open", path, OUTPUTS_LIMIT);
}

void output_forget(char *path, unsigned slot)
{
    if (atomic_exchange(&temporaries[slot], NULL)) memory_free(path);
}

static enum status register_temporary(struct output *output, struct error *err)
{
    enum status status = output_remember(output->temporary, &output->slot, err);

    output->registered = status == OK;
    return status;
}

static void release_temporary(struct output *output)
{
    if (output->registered)
        output_forget(output->temporary, output->slot);
    else
        memory_free(output->temporary);
}

static void remove_temporaries(void)
{
    char *taken[OUTPUTS_LIMIT];

    lock_creating(1000); /* a second at most: a file system that hangs must not keep us from ending */
    for (unsigned i = 0; i < OUTPUTS_LIMIT; i++) {
        taken[i] = atomic_exchange(&temporaries[i], NULL);
        if (taken[i]) unlink(taken[i]);
    }
    for (unsigned i = 0; i < OUTPUTS_LIMIT; i++) {
        if (taken[i]) rmdir(taken[i]); /* those that are folders, now empty */
    }
}

/* What else there is to say when a signal ends the process. */
static _Atomic(const char *) signal_note;

void file_signal_note(const char *text)
{
    atomic_store(&signal_note, text);
}

/* Once, whichever of several handlers comes first. Nobody may be reading: a pipe that stays full must not keep
 * us from ending. */
static void write_note(void)
{
    const char *text = atomic_exchange(&signal_note, NULL);
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    size_t count = text ? strlen(text) : 0;

    if (count == 0 || poll(&ready, 1, 1000) != 1) return;
    if (write(STDERR_FILENO, text, count) < 0 || text[count - 1] == '\n') return;
    if (write(STDERR_FILENO, "\n", 1) < 0) return;
}

static void on_end_signal(int signal_number)
{
    remove_temporaries();
    write_note();
    signal(signal_number, SIG_DFL);
    raise(signal_number); /* blocked while this handler runs; ends the process when it returns */
}

static void on_bus_error(int signal_number)
{
    static const char line[] =
        "nibble: error: an input file was cut short by someone else while it was mapped\n";

    (void)signal_number;
    remove_temporaries();
    if (write(STDERR_FILENO, line, sizeof line - 1) < 0) _exit(exit_code(ERR_IO));
    _exit(exit_code(ERR_IO));
}

static void handle(int signal_number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};

    sigfillset(&action.sa_mask); /* one handler at a time */
    sigaction(signal_number, &action, NULL);
}

void file_catch_signals(void)
{
    struct sigaction hangup;

    /* SIGINT also where it was ignored: a shell without job control ignores it for its background jobs, and a
     * `kill -INT` sent to one of them is meant. SIGHUP only if not ignored: that is how nohup works. */
    handle(SIGINT, on_end_signal);
    handle(SIGTERM, on_end_signal);
    if (sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN) handle(SIGHUP, on_end_signal);
    handle(SIGBUS, on_bus_error);
    handle(SIGXFSZ, SIG_IGN);
    handle(SIGPIPE, SIG_IGN);
}

/* ---- opening ---- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* May a file be put under this name? Devices and FIFOs are refused even with force: a rename would replace
 * the node itself, /dev/null for example. A link is replaced, not followed. */
static enum status check_target(const char *path, bool force, struct error *err)
{
    struct stat info;

    if (base_name(path)[0] == 0) return fail(err, ERR_USAGE, "'%s': is not the name of a file", path);
    if (lstat(path, &info) != 0) return OK;
    switch (file_kind(path)) {
    case FILE_FOLDER:
        return fail(err, ERR_USAGE, "%s: is a folder", path);
    case FILE_OTHER:
        return fail(err, ERR_USAGE, "%s: is not a regular file and will not be replaced", path);
    case FILE_ABSENT: /* a dangling link */
    case FILE_REGULAR:
        break;
    }
    if (!force) return fail(err, ERR_USAGE, "%s: exists; --force replaces it", path);
    return OK;
}

enum status output_temporary_name(char **temporary, char **folder, const char *path, struct error *err)
{
    const char *name = base_name(path);
    uint64_t folder_bytes = (uint64_t)(name - path); /* with the slash */
    uint64_t temporary_bytes = folder_bytes + NAME_SHOWN_LIMIT + 64;

    *folder = folder_bytes ? memory_text(path, folder_bytes, err) : memory_text(".", 1, err);
    *temporary = memory_new(temporary_bytes, 1, err);
    if (!*folder || !*temporary) return ERR_MEMORY;
    snprintf(*temporary, temporary_bytes, "%.*s.%.*s.tmp.%ld", (int)folder_bytes, path, NAME_SHOWN_LIMIT,
        name, (long)getpid());
    return OK;
}

/* Fill in path, folder and the temporary's name. */
static enum status name_parts(struct output *output, const char *path, struct error *err)
{
    output->path = memory_text(path, strlen(path), err);
    if (!output->path) return ERR_MEMORY;
    return output_temporary_name(&output->temporary, &output->folder, path, err);
}

/* Remove a temporary that a killed process of the same number left behind. A live one (two containers may
 * share a folder and have the same process number) holds a lock and is left alone. */
static bool remove_stale(const char *path)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool live = descriptor >= 0 && flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    bool removed = !live && unlink(path) == 0;

    if (descriptor >= 0) close(descriptor);
    return removed;
}

bool output_is_left_behind(const char *name, const char *temporary)
{
    const char *stem = base_name(temporary);
    const size_t stem_bytes = (size_t)(strrchr(stem, '.') - stem) + 1;
    char *end;
    long process;

    if (strncmp(name, stem, stem_bytes) != 0 || !isdigit((unsigned char)name[stem_bytes])) return false;
    process = strtol(name + stem_bytes, &end, 10);
    return *end == 0 && process > 0 && process <= INT_MAX && kill((pid_t)process, 0) != 0 && errno == ESRCH;
}

/* Killed outright, a process cannot remove its temporary file, which may be as large as the model. The next one that
 * writes the same target does. A hint: nothing depends on it. */
static void remove_left_behind(const struct output *output)
{
    DIR *folder = opendir(output->folder);
    struct dirent *entry;
    char path[PATH_MAX];

    while (folder && (entry = readdir(folder)) != NULL) {
        if (!output_is_left_behind(entry->d_name, output->temporary)) continue;
        if (snprintf(path, sizeof path, "%s/%s", output->folder, entry->d_name) < (int)sizeof path)
            remove_stale(path);
    }
    if (folder) closedir(folder);
}

static enum status create_temporary(void *context, struct error *err)
{
    struct output *output = context;
    const int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
    struct stat info;

    /* Created as any file, so that the system applies umask and the folder's ACL; private until it is
     * complete. */
    output->descriptor = open(output->temporary, flags, 0666);
    if (output->descriptor < 0 && errno == EEXIST) {
        if (!remove_stale(output->temporary))
            return fail(
                err, ERR_IO, "%s: is being written already (%s exists)", output->path, output->temporary);
        output->descriptor = open(output->temporary, flags, 0666);
    }
    if (output->descriptor < 0) return fail_errno(err, errno, "%s: cannot be created", output->temporary);
    output->created = true;
    flock(output->descriptor, LOCK_EX | LOCK_NB); /* for remove_stale; a file system may have no locks */
    if (fstat(output->descriptor, &info) == 0 && fchmod(output->descriptor, 0600) == 0) {
        output->mode = info.st_mode & 0777;
        output->have_mode = true;
    }
    return register_temporary(output, err);
}

enum status output_undisturbed(
    enum status (*create)(void *context, struct error *err), void *context, struct error *err)
{
    enum status status;
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    lock_creating(UINT_MAX);
    status = create(context, err);
    atomic_flag_clear(&creating);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

enum status output_open(struct output **out, const char *path, bool force, struct error *err)
{
    struct output *output = NULL;
    enum status status;

    *out = NULL;
    status = check_target(path, force, err);
    if (status) return status;
    output = memory_new(1, sizeof *output, err);
    if (!output) return ERR_MEMORY;
    output->descriptor = -1;
    output->force = force;
    status = name_parts(output, path, err);
    if (status) goto done;
    remove_left_behind(output);
    status = output_undisturbed(create_temporary, output, err);
    if (status) goto done;
    *out = output;
    output = NULL;
done:
    output_abandon(output);
    return status;
}

enum status output_open_inside(struct output **out, const char *folder, const char *name, struct error *err)
{
    struct output *output = memory_new(1, sizeof *output, err);
    enum status status = ERR_MEMORY;

    *out = NULL;
    if (!output) return ERR_MEMORY;
    output->descriptor = -1;
    output->path = memory_text(name, strlen(name), err);
    if (output->path) status = file_join(&output->temporary, folder, name, strlen(name), err);
    if (!status) status = output_undisturbed(create_temporary, output, err);
    if (!status) *out = output;
    if (status) output_abandon(output);
    return status;
}

/* ---- writing ---- */

enum status output_reserve(struct output *output, uint64_t bytes, struct error *err)
{
    int result;

    if (bytes == 0) return OK;
    if (bytes > INT64_MAX)
        return fail_errno(err, EFBIG, "%s: cannot have %" PRIu64 " bytes", output->path, bytes);
    do {
        result = fallocate(output->descriptor, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes);
    } while (result != 0 && errno == EINTR);
    if (result == 0) {
        if (bytes > output->reserved) output->reserved = bytes;
        return OK;
    }
    if (errno == EOPNOTSUPP || errno == ENOSYS) return OK;
    return fail_errno(err, errno, "%s: cannot reserve %" PRIu64 " bytes", output->path, bytes);
}

/* Let the disk start on what has been written, so that the fsync at the end finds little left to do. It is a
 * hint: an error will be seen by that fsync. */
static void start_write_back(struct output *output, uint64_t count)
{
    if (atomic_fetch_add(&output->dirty_bytes, count) + count < WRITE_BACK_BYTES) return;
    atomic_store(&output->dirty_bytes, 0);
    sync_file_range(output->descriptor, 0, 0, SYNC_FILE_RANGE_WRITE);
}

enum status output_write_at(
    struct output *output, uint64_t offset, const void *buffer, uint64_t count, struct error *err)
{
    uint64_t end, done = 0;

    if (checked_add(&end, offset, count) || end > INT64_MAX)
        return fail_errno(err, EFBIG, "%s: cannot be written at byte %" PRIu64, output->path, offset);
    while (done < count) {
        int64_t put = file_calls.pwrite(
            output->descriptor, (const char *)buffer + done, count - done, (int64_t)(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return fail_errno(err, put < 0 ? errno : EIO, "%s: cannot be written at byte %" PRIu64,
                output->path, offset + done);
        done += (uint64_t)put;
    }
    start_write_back(output, count);
    return OK;
}

/* ---- ending ---- */

static int sync_descriptor(int descriptor)
{
    int result;

    do {
        result = file_calls.fsync(descriptor);
    } while (result != 0 && errno == EINTR);
    return result;
}

/* Give back what was reserved and not used, set the final mode, and get everything to the disk. Any error of
 * fsync is final: the system may have dropped the pages, a second fsync would claim success. */
enum status output_finish(struct output *output, struct error *err)
{
    int descriptor = output->descriptor;
    struct stat info;

    if (fstat(descriptor, &info) != 0) return fail_errno(err, errno, "%s", output->temporary);
    if ((uint64_t)info.st_size < output->reserved && ftruncate(descriptor, info.st_size) != 0)
        return fail_errno(err, errno, "%s: cannot be cut to its length", output->path);
    if (output->have_mode && fchmod(descriptor, output->mode) != 0)
        return fail_errno(err, errno, "%s: cannot set its mode", output->path);
    if (sync_descriptor(descriptor) != 0)
        return fail_errno(err, errno, "%s: cannot be synced to disk", output->path);
    output->descriptor = -1; /* closed even if close reports an error; EINTR after fsync loses nothing */
    if (file_calls.close(descriptor) != 0 && errno != EINTR)
        return fail_errno(err, errno, "%s: cannot be closed", output->path);
    return OK;
}

/* Make the rename itself durable. A folder that may not be read, or a file system that has no such thing, is
 * no error. */
enum status output_sync_folder(const char *folder, const char *path, struct error *err)
{
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int result, fault;

    if (descriptor < 0) return OK;
    result = sync_descriptor(descriptor);
    fault = errno;
    close(descriptor);
    if (result == 0 || fault == EINVAL || fault == EBADF || fault == EROFS) return OK;
    return fail_errno(err, fault, "%s: complete and in place, but its folder cannot be synced to disk", path);
}

void output_keep(struct output *output)
{
    output->created = false;
    output_abandon(output);
}

enum status output_commit(struct output *output, struct error *err)
{
    enum status status = output_finish(output, err);
    if (status) goto done;
    status = check_target(output->path, output->force, err); /* a file may have appeared meanwhile */
    if (status) goto done;
    if (file_calls.rename(output->temporary, output->path) != 0) {
        status = fail_errno(err, errno, "%s: cannot be renamed to %s", output->temporary, output->path);
        goto done;
    }
    output->created = false;
    status = output_sync_folder(output->folder, output->path, err);
done:
    output_abandon(output);
    return status;
}

void output_abandon(struct output *output)
{
    if (!output) return;
    if (output->created) unlink(output->temporary);
    if (output->descriptor >= 0) close(output->descriptor);
    release_temporary(output);
    memory_free(output->folder);
    memory_free(output->path);
    memory_free(output);
}

enum status output_whole(const char *path, bool force, const void *bytes, uint64_t count, struct error *err)
{
    struct output *output = NULL;
    enum status status = output_open(&output, path, force, err);

    if (!status) status = output_write_at(output, 0, bytes, count, err);
    if (!status) return output_commit(output, err);
    output_abandon(output);
    return status;
}
