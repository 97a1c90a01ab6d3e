/* Folders that appear complete or not at all. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file_output.h"
#include "base/memory.h"

enum { FILES_LIMIT = 200 };

struct output_folder {
    char *path, *parent, *temporary;
    unsigned slot;
    bool registered, created;
    int lock; /* the temporary folder, open and locked while it is being written; -1: not */
    struct output *files[FILES_LIMIT];
    unsigned count;
};

/* May a folder be put under this name? */
static enum status check_target(const char *path, struct error *err)
{
    struct stat info;
    struct dirent *entry;
    bool empty = true;
    DIR *folder;

    if (!path[0]) return fail(err, ERR_USAGE, "'': is not the name of a folder");
    if (lstat(path, &info) != 0) return OK;
    if (!S_ISDIR(info.st_mode))
        return fail(err, ERR_USAGE, "%s: exists and is no folder; name a new one", path);
    folder = opendir(path);
    if (!folder) return fail_errno(err, errno, "%s: cannot be looked into", path);
    while ((entry = readdir(folder)) != NULL)
        empty &= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(folder);
    if (empty) return OK;
    return fail(err, ERR_USAGE, "%s: is a folder with files in it; remove it first, or name a new one", path);
}

/* Remove a temporary folder of a process that no longer exists: only files are in it. A live one is locked. */
static void remove_stale(const char *path)
{
    int descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *folder = NULL;
    struct dirent *entry;

    if (descriptor < 0) return;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) folder = fdopendir(descriptor);
    while (folder && (entry = readdir(folder)) != NULL)
        unlinkat(descriptor, entry->d_name, 0); /* "." and ".." refuse */
    if (folder) rmdir(path);
    if (folder)
        closedir(folder);
    else
        close(descriptor);
}

static void remove_left_behind(const struct output_folder *folder)
{
    DIR *parent = opendir(folder->parent);
    struct dirent *entry;
    char path[PATH_MAX];

    while (parent && (entry = readdir(parent)) != NULL) {
        if (!output_is_left_behind(entry->d_name, folder->temporary)) continue;
        if (snprintf(path, sizeof path, "%s/%s", folder->parent, entry->d_name) < (int)sizeof path)
            remove_stale(path);
    }
    if (parent) closedir(parent);
}

static enum status create(void *context, struct error *err)
{
    struct output_folder *folder = context;
    enum status status;

    if (mkdir(folder->temporary, 0777) != 0) {
        if (errno == EEXIST) remove_stale(folder->temporary);
        if (mkdir(folder->temporary, 0777) != 0)
            return fail_errno(err, errno, "%s: cannot be created", folder->temporary);
    }
    folder->created = true;
    status = output_remember(folder->temporary, &folder->slot, err);
    folder->registered = status == OK;
    return status;
}

enum status output_folder_open(struct output_folder **out, const char *path, struct error *err)
{
    struct output_folder *folder = memory_new(1, sizeof *folder, err);
    uint64_t bytes = strlen(path);
    enum status status = ERR_MEMORY;

    *out = NULL;
    if (!folder) return ERR_MEMORY;
    folder->lock = -1;
    while (bytes > 1 && path[bytes - 1] == '/')
        bytes--;
    folder->path = memory_text(path, bytes, err);
    if (!folder->path) goto done;
    status = check_target(folder->path, err);
    if (!status) status = output_temporary_name(&folder->temporary, &folder->parent, folder->path, err);
    if (status) goto done;
    remove_left_behind(folder);
    status = output_undisturbed(create, folder, err);
    if (status) goto done;
    folder->lock = open(folder->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->lock >= 0) flock(folder->lock, LOCK_EX | LOCK_NB); /* a file system may have no locks */
    *out = folder;
    folder = NULL;
done:
    output_folder_abandon(folder);
    return status;
}

enum status output_folder_add(
    struct output **out, struct output_folder *folder, const char *name, struct error *err)
{
    enum status status;

    *out = NULL;
    if (folder->count == FILES_LIMIT)
        return fail(err, ERR_USAGE, "%s: more than %d files", folder->path, FILES_LIMIT);
    status = output_open_inside(out, folder->temporary, name, err);
    if (!status) folder->files[folder->count++] = *out;
    return status ? fail_within(err, status, "%s", folder->path) : OK;
}

/* Everything up to the rename. */
static enum status finish(struct output_folder *folder, struct error *err)
{
    enum status status = OK;

    for (unsigned i = 0; i < folder->count && !status; i++)
        status = output_finish(folder->files[i], err);
    if (!status) status = output_sync_folder(folder->temporary, folder->path, err);
    if (status) return fail_within(err, status, "%s", folder->path);
    status = check_target(folder->path, err); /* something may have appeared meanwhile */
    if (status) return status;
    if (file_calls.rename(folder->temporary, folder->path) == 0) return OK;
    return fail_errno(err, errno, "%s: cannot be renamed to %s", folder->temporary, folder->path);
}

enum status output_folder_commit(struct output_folder *folder, struct error *err)
{
    enum status status = finish(folder, err);

    if (!status) {
        for (unsigned i = 0; i < folder->count; i++)
            output_keep(folder->files[i]);
        folder->count = 0;
        folder->created = false;
        status = output_sync_folder(folder->parent, folder->path, err);
    }
    output_folder_abandon(folder);
    return status;
}

void output_folder_abandon(struct output_folder *folder)
{
    if (!folder) return;
    for (unsigned i = 0; i < folder->count; i++)
        output_abandon(folder->files[i]);
    if (folder->created) rmdir(folder->temporary);
    if (folder->lock >= 0) close(folder->lock);
    if (folder->registered)
        output_forget(folder->temporary, folder->slot);
    else
        memory_free(folder->temporary);
    memory_free(folder->parent);
    memory_free(folder->path);
    memory_free(folder);
}
