/* What is there is looked at without following links, and only regular files under names of the journal are its own:
 * a folder of somebody else's under our name must come to no harm. */
#include "model/layerwise/journal_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

#define LOCK_NAME "lock"
#define CHOICE_NAME "allocation.nbl"

enum {
    NAME_BYTES = 64,  /* more than any name of ours */
    NUMBER_DIGITS = 5 /* of a layer in a name */
};

/* ---- names ---- */

enum status folder_init(
    struct journal_folder *out, const char *output, const struct report *report, struct error *err)
{
    static const char suffix[] = ".journal";
    uint64_t bytes = strlen(output) + sizeof suffix;

    *out = (struct journal_folder){.lock = -1, .report = report};
    out->path = memory_new(bytes, 1, err);
    out->file = memory_new(bytes + 1 + NAME_BYTES, 1, err);
    if (!out->path || !out->file) return ERR_MEMORY;
    snprintf(out->path, bytes, "%s%s", output, suffix);
    return OK;
}

void folder_free(struct journal_folder *folder)
{
    if (folder->path && folder->lock >= 0) close(folder->lock);
    memory_free(folder->file);
    memory_free(folder->path);
}

static const char *path_of(struct journal_folder *folder, const char *format, ...) NIBBLE_PRINTF(2, 3);
static const char *path_of(struct journal_folder *folder, const char *format, ...)
{
    size_t count = strlen(folder->path);
    va_list arguments;

    memcpy(folder->file, folder->path, count);
    folder->file[count] = '/';
    va_start(arguments, format);
    vsnprintf(folder->file + count + 1, NAME_BYTES, format, arguments);
    va_end(arguments);
    return folder->file;
}

const char *folder_layer(struct journal_folder *folder, uint32_t layer)
{
    return path_of(folder, "layer-%05" PRIu32 ".nbl", layer);
}

const char *folder_states(struct journal_folder *folder, uint32_t layer)
{
    return path_of(folder, "states-%05" PRIu32, layer);
}

const char *folder_stamp(struct journal_folder *folder)
{
    return path_of(folder, STAMP_NAME);
}

const char *folder_choice(struct journal_folder *folder)
{
    return path_of(folder, CHOICE_NAME);
}

/* How many bytes of name are <stem><five digits><end>, 0 if it is not that. */
static size_t numbered(const char *name, const char *stem, const char *end, uint32_t *number)
{
    size_t stem_bytes = strlen(stem), end_bytes = strlen(end);
    const char *digits = name + stem_bytes;

    if (strncmp(name, stem, stem_bytes) != 0 || strspn(digits, "0123456789") != NUMBER_DIGITS ||
        strncmp(digits + NUMBER_DIGITS, end, end_bytes) != 0)
        return 0;
    *number = (uint32_t)strtoul(digits, NULL, 10);
    return stem_bytes + NUMBER_DIGITS + end_bytes;
}

/* The name that `text` begins with, and how many bytes that is. */
static enum name_kind name_at(const char *text, size_t *bytes, uint32_t *number)
{
    *bytes = numbered(text, "layer-", ".nbl", number);
    if (*bytes) return NAME_LAYER;
    *bytes = numbered(text, "states-", "", number);
    if (*bytes) return NAME_STATES;
    *bytes = strlen(STAMP_NAME);
    if (strncmp(text, STAMP_NAME, *bytes) == 0) return NAME_STAMP;
    *bytes = strlen(CHOICE_NAME);
    if (strncmp(text, CHOICE_NAME, *bytes) == 0) return NAME_CHOICE;
    *bytes = strlen(LOCK_NAME);
    if (strcmp(text, LOCK_NAME) == 0) return NAME_LOCK;
    return NAME_FOREIGN;
}

/* What is called `.<name>.tmp.<number>` is a temporary file of the output rules. number: that of a layer or states. */
static enum name_kind classify(const char *name, uint32_t *number)
{
    static const char suffix[] = ".tmp.";
    bool hidden = name[0] == '.';
    const char *rest = name + hidden;
    size_t bytes;
    enum name_kind kind = name_at(rest, &bytes, number);

    if (kind == NAME_FOREIGN) return kind;
    rest += bytes;
    if (!hidden) return *rest == 0 ? kind : NAME_FOREIGN;
    if (strncmp(rest, suffix, sizeof suffix - 1) != 0) return NAME_FOREIGN;
    rest += sizeof suffix - 1;
    return *rest != 0 && rest[strspn(rest, "0123456789")] == 0 ? NAME_TEMPORARY : NAME_FOREIGN;
}

/* ---- the folder ---- */

/* Look at one file of the folder. */
typedef enum status (*visitor)(struct journal_folder *folder, int descriptor, const char *name,
    enum name_kind kind, uint32_t number, void *context, struct error *err);

static enum status visit_one(struct journal_folder *folder, int descriptor, const char *name, visitor visit,
    void *context, struct error *err)
{
    uint32_t number = 0;
    enum name_kind kind = classify(name, &number);
    struct stat info;

    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return OK;
    if (fstatat(descriptor, name, &info, AT_SYMLINK_NOFOLLOW) != 0) return OK; /* gone meanwhile */
    if (!S_ISREG(info.st_mode)) kind = NAME_FOREIGN; /* nothing that the journal made */
    return visit(folder, descriptor, name, kind, number, context, err);
}

static enum status visit_all(struct journal_folder *folder, visitor visit, void *context, struct error *err)
{
    int descriptor = open(folder->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *stream = descriptor >= 0 ? fdopendir(descriptor) : NULL;
    struct dirent *entry;
    enum status status = OK;

    if (!stream) {
        status = fail_errno(err, errno, "%s: cannot be read", folder->path);
        if (descriptor >= 0) close(descriptor);
        return status;
    }
    while (!status && (entry = readdir(stream)) != NULL)
        status = visit_one(folder, descriptor, entry->d_name, visit, context, err);
    closedir(stream);
    return status;
}

/* What the folder holds. */
struct contents {
    unsigned kinds;
    char foreign[256]; /* the name of one such file, fit for a message */
};

static enum status note_contents(struct journal_folder *folder, int descriptor, const char *name,
    enum name_kind kind, uint32_t number, void *context, struct error *err)
{
    struct contents *contents = context;

    (void)folder, (void)descriptor, (void)number, (void)err;
    contents->kinds |= kind;
    if (kind == NAME_FOREIGN) error_quote(contents->foreign, sizeof contents->foreign, name, strlen(name));
    return OK;
}

enum status folder_holds(struct journal_folder *folder, unsigned kinds, bool *out, struct error *err)
{
    struct contents contents = {0};
    enum status status = visit_all(folder, note_contents, &contents, err);

    *out = contents.kinds & kinds;
    return status;
}

/* What to remove. */
struct removal {
    unsigned kinds;
    uint32_t keep; /* a number that stays */
};

static enum status remove_one(struct journal_folder *folder, int descriptor, const char *name,
    enum name_kind kind, uint32_t number, void *context, struct error *err)
{
    const struct removal *removal = context;

    if (!(kind & removal->kinds) || number == removal->keep) return OK;
    if (unlinkat(descriptor, name, 0) == 0 || errno == ENOENT) return OK;
    return fail_errno(err, errno, "%s/%s: cannot be removed", folder->path, name);
}

enum status folder_remove(struct journal_folder *folder, unsigned kinds, uint32_t keep, struct error *err)
{
    struct removal removal = {kinds, keep};

    return visit_all(folder, remove_one, &removal, err);
}

/* ---- entering ---- */

/* The layers are durable only if their folder is. A hint: what is lost otherwise is work, not data. */
static void sync_parent(struct journal_folder *folder)
{
    char *slash = strrchr(strcpy(folder->file, folder->path), '/');
    int descriptor;

    if (slash) slash[1] = 0;
    descriptor = open(slash ? folder->file : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    file_calls.fsync(descriptor);
    close(descriptor);
}

static enum status make_folder(struct journal_folder *folder, struct error *err)
{
    struct stat info;

    if (mkdir(folder->path, 0777) == 0) {
        folder->created = true;
        sync_parent(folder);
        return OK;
    }
    if (errno != EEXIST) return fail_errno(err, errno, "%s: cannot be created", folder->path);
    if (lstat(folder->path, &info) != 0) return fail_errno(err, errno, "%s", folder->path);
    if (S_ISDIR(info.st_mode)) return OK;
    return fail(err, ERR_USAGE, "%s: exists and is no folder; the journal wants that name", folder->path);
}

/* A folder with files of someone else's is a journal only if it says so. Nothing is written before that is
 * known. */
static enum status check_contents(struct journal_folder *folder, bool restart, struct error *err)
{
    struct contents contents = {0};
    enum status status = visit_all(folder, note_contents, &contents, err);

    if (status || contents.kinds & NAME_STAMP) return status;
    if (contents.kinds & NAME_FOREIGN)
        return fail(err, ERR_USAGE, "%s: is no journal (it holds %s); the journal wants that name",
            folder->path, contents.foreign);
    if (contents.kinds & (NAME_LAYER | NAME_STATES | NAME_CHOICE) && !restart)
        return fail(err, ERR_USAGE,
            "%s: its " STAMP_NAME " is missing, so that what its layers were made with is unknown; "
            "--restart begins anew",
            folder->path);
    return OK;
}

/* Whoever held the lock may have removed it, and the folder, between our opening and locking it. */
static bool lock_in_place(const struct journal_folder *folder)
{
    struct stat held, there;

    return fstat(folder->lock, &held) == 0 && lstat(folder->file, &there) == 0 &&
           held.st_dev == there.st_dev && held.st_ino == there.st_ino;
}

/* The lock ends with the process, however that ends. */
static enum status take_lock(struct journal_folder *folder, struct error *err)
{
    const char *path = path_of(folder, LOCK_NAME);

    folder->lock = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (folder->lock < 0) return fail_errno(err, errno, "%s: cannot be opened", path);
    folder->locked = flock(folder->lock, LOCK_EX | LOCK_NB) == 0;
    if (!folder->locked && errno != EWOULDBLOCK) {
        report_note(folder->report, "note: %s: there are no locks here; let no other run write %s", path,
            folder->path);
        return OK;
    }
    if (folder->locked && lock_in_place(folder)) return OK;
    folder->locked = false;
    return fail(err, ERR_USAGE, "%s: another process is at work on it", folder->path);
}

enum status folder_enter(struct journal_folder *folder, bool restart, struct error *err)
{
    enum status status = make_folder(folder, err);

    if (!status) status = check_contents(folder, restart, err);
    return status ? status : take_lock(folder, err);
}

/* ---- leaving ---- */

enum status folder_leave(struct journal_folder *folder, struct error *err)
{
    struct contents left = {0};
    enum status status = folder_remove(folder, NAME_LOCK, KEEP_NONE, err);
    int fault;

    if (status || rmdir(folder->path) == 0) return status;
    fault = errno;
    if (visit_all(folder, note_contents, &left, NULL) != OK || !(left.kinds & NAME_FOREIGN))
        return fail_errno(err, fault, "%s: cannot be removed", folder->path);
    report_note(folder->report, "note: %s stays: it holds what is not the journal's (%s)", folder->path,
        left.foreign);
    return OK;
}

void folder_undo(struct journal_folder *folder)
{
    if (!folder->created) return;
    if (folder->locked) folder_remove(folder, NAME_TEMPORARY | NAME_STAMP | NAME_LOCK, KEEP_NONE, NULL);
    rmdir(folder->path);
}
