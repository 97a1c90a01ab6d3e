/* Files are known by their names; what has another name makes the folder somebody else's, and it is left alone. */
#include "distill/dataset_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "distill/dataset_document.h"

enum kind { KIND_DOCUMENT = 1, KIND_TOKENIZER = 2, KIND_SHARD = 4, KIND_TEMPORARY = 8, KIND_FOREIGN = 16 };

/* How many bytes at the front of `text` are a name of ours, and what it is; 0: none. */
static size_t own_name(const char *text, enum kind *kind, uint32_t *number)
{
    static const char stem[] = "shard-", end[] = ".nbd";
    const size_t stem_bytes = sizeof stem - 1, digits = 5;
    *kind = KIND_DOCUMENT;
    if (strncmp(text, DATASET_DOCUMENT, strlen(DATASET_DOCUMENT)) == 0) return strlen(DATASET_DOCUMENT);
    *kind = KIND_TOKENIZER;
    if (strncmp(text, DATASET_TOKENIZER, strlen(DATASET_TOKENIZER)) == 0) return strlen(DATASET_TOKENIZER);
    *kind = KIND_SHARD;
    if (strncmp(text, stem, stem_bytes) != 0 || strspn(text + stem_bytes, "0123456789") != digits ||
        strncmp(text + stem_bytes + digits, end, sizeof end - 1) != 0)
        return 0;
    *number = (uint32_t)strtoul(text + stem_bytes, NULL, 10);
    return stem_bytes + digits + sizeof end - 1;
}

static enum kind classify(const char *name, uint32_t *number)
{
    static const char suffix[] = ".tmp.";
    const bool hidden = name[0] == '.';
    enum kind kind;
    const size_t bytes = own_name(name + hidden, &kind, number);
    const char *rest = name + hidden + bytes;
    if (bytes == 0) return KIND_FOREIGN;
    if (!hidden) return *rest ? KIND_FOREIGN : kind;
    if (strncmp(rest, suffix, sizeof suffix - 1) != 0) return KIND_FOREIGN;
    rest += sizeof suffix - 1;
    return *rest && rest[strspn(rest, "0123456789")] == 0 ? KIND_TEMPORARY : KIND_FOREIGN;
}

/* Remove files of `kinds` (shards: from number `first` on) and tell the kinds that are there. */
static enum status sweep(struct dataset_folder *folder, unsigned kinds, uint32_t first, unsigned *there,
    char foreign[128], struct error *err)
{
    DIR *listing = opendir(folder->path);
    enum status status = OK;
    *there = 0;
    if (!listing) return fail_errno(err, errno, "%s: cannot be read", folder->path);
    for (struct dirent *entry; !status && (entry = readdir(listing)) != NULL;) {
        uint32_t number = 0;
        struct stat info;
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        enum kind kind = classify(name, &number);
        if (fstatat(folder->descriptor, name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (!S_ISREG(info.st_mode)) kind = KIND_FOREIGN;
        *there |= kind;
        if (kind == KIND_FOREIGN && foreign) error_quote(foreign, 128, name, strlen(name));
        if (!(kind & kinds) || (kind == KIND_SHARD && number < first)) continue;
        if (unlinkat(folder->descriptor, name, 0) != 0 && errno != ENOENT)
            status = fail_errno(err, errno, "%s/%s: cannot be removed", folder->path, name);
    }
    closedir(listing);
    return status;
}

static enum status make(struct dataset_folder *folder, struct error *err)
{
    struct stat info;
    if (mkdir(folder->path, 0777) == 0)
        folder->created = true;
    else if (errno != EEXIST)
        return fail_errno(err, errno, "%s: cannot be created", folder->path);
    else if (stat(folder->path, &info) != 0 || !S_ISDIR(info.st_mode))
        return fail(err, ERR_USAGE, "%s: exists and is no folder; name a new one", folder->path);
    folder->descriptor = open(folder->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->descriptor < 0) return fail_errno(err, errno, "%s: cannot be opened", folder->path);
    if (flock(folder->descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return OK;
    return fail(err, ERR_USAGE, "%s: another process is at work on it", folder->path);
}

enum status dataset_folder_enter(struct dataset_folder *out, const char *path, struct error *err)
{
    unsigned there;
    char foreign[128];
    *out = (struct dataset_folder){.path = path, .descriptor = -1};
    enum status status = make(out, err);
    if (!status) status = sweep(out, 0, 0, &there, foreign, err);
    if (status) return status;
    if (there & KIND_FOREIGN)
        return fail(
            err, ERR_USAGE, "%s: is no folder of a dataset (it holds %s); name a new one", path, foreign);
    if (there & KIND_SHARD && !(there & KIND_DOCUMENT))
        return fail(err, ERR_USAGE,
            "%s: holds shards but no " DATASET_DOCUMENT "; remove it, or name a new one", path);
    out->begun = there & KIND_DOCUMENT;
    return sweep(out, KIND_TEMPORARY, 0, &there, NULL, err);
}

enum status dataset_folder_remove(struct dataset_folder *folder, struct error *err)
{
    unsigned there;
    enum status status = sweep(folder, KIND_SHARD | KIND_TEMPORARY | KIND_TOKENIZER, 0, &there, NULL, err);
    return status ? status : sweep(folder, KIND_DOCUMENT, 0, &there, NULL, err);
}

enum status dataset_folder_remove_shards(struct dataset_folder *folder, uint32_t first, struct error *err)
{
    unsigned there;
    return sweep(folder, KIND_SHARD, first, &there, NULL, err);
}

void dataset_folder_leave(struct dataset_folder *folder, bool undo)
{
    if (!folder->path) return;
    if (undo && folder->created && folder->descriptor >= 0 && dataset_folder_remove(folder, NULL) == OK)
        rmdir(folder->path);
    if (folder->descriptor >= 0) close(folder->descriptor);
    *folder = (struct dataset_folder){0};
}
