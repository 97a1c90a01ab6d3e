/* The journal is a folder of files that each appear complete or not at all, so there is no log to replay: what is there
 * and whole is done. A layer file says which stamp and which layer it is of, so that one from another journal, or under
 * another number, is noticed. Files are recognised by their names; others are never touched. */
#include "quantize/journal.h"

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
#include "formats/nbl.h"
#include "quantize/journal_stamp.h"

#define STAMP_NAME "journal.json"
#define LOCK_NAME "lock"
#define MARK_DOCUMENT "journal.json" /* in a layer file: stamp and number */
#define NOTES_DOCUMENT "layer.json"

enum {
    NAME_BYTES = 64,       /* more than any name below */
    NUMBER_DIGITS = 5,     /* of a layer in a name */
    LAYERS_LIMIT = 100000, /* so that they suffice */
    STAMP_LIMIT = 1 << 20, /* bytes of journal.json */
    CHECK_BYTES = 1 << 20  /* read at once while checking */
};

struct journal {
    char *folder;
    char *path;   /* of the file spoken of last */
    char *states; /* what journal_states_path returned last */
    int lock;
    bool locked;
    bool created; /* this run made the folder */
    uint32_t stamp_crc, layers;
    struct container **files; /* [layers], NULL: not finished */
    struct pool *pool;
    const struct report *report;
};

/* ---- names ---- */

/* What a file in the folder is, by its name; bits, so that several can be asked for. */
enum name_kind {
    NAME_FOREIGN = 1,
    NAME_LAYER = 2,
    NAME_STATES = 4,
    NAME_STAMP = 8,
    NAME_LOCK = 16,
    NAME_TEMPORARY = 32 /* of one of the above */
};

static const char *path_of(struct journal *journal, const char *format, ...) NIBBLE_PRINTF(2, 3);
static const char *path_of(struct journal *journal, const char *format, ...)
{
    size_t count = strlen(journal->folder);
    va_list arguments;

    memcpy(journal->path, journal->folder, count);
    journal->path[count] = '/';
    va_start(arguments, format);
    vsnprintf(journal->path + count + 1, NAME_BYTES, format, arguments);
    va_end(arguments);
    return journal->path;
}

static const char *layer_path(struct journal *journal, uint32_t layer)
{
    return path_of(journal, "layer-%05" PRIu32 ".nbl", layer);
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
typedef enum status (*visitor)(struct journal *journal, int folder, const char *name, enum name_kind kind,
    uint32_t number, void *context, struct error *err);

static enum status visit_one(
    struct journal *journal, int folder, const char *name, visitor visit, void *context, struct error *err)
{
    uint32_t number = 0;
    enum name_kind kind = classify(name, &number);
    struct stat info;

    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return OK;
    if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) != 0) return OK; /* gone meanwhile */
    if (!S_ISREG(info.st_mode)) kind = NAME_FOREIGN;                       /* nothing that the journal made */
    return visit(journal, folder, name, kind, number, context, err);
}

static enum status visit_all(struct journal *journal, visitor visit, void *context, struct error *err)
{
    int descriptor = open(journal->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = descriptor >= 0 ? fdopendir(descriptor) : NULL;
    struct dirent *entry;
    enum status status = OK;

    if (!folder) {
        status = fail_errno(err, errno, "%s: cannot be read", journal->folder);
        if (descriptor >= 0) close(descriptor);
        return status;
    }
    while (!status && (entry = readdir(folder)) != NULL)
        status = visit_one(journal, descriptor, entry->d_name, visit, context, err);
    closedir(folder);
    return status;
}

/* What the folder holds. */
struct contents {
    unsigned kinds;
    char foreign[256]; /* the name of one such file, fit for a message */
};

static enum status note_contents(struct journal *journal, int folder, const char *name, enum name_kind kind,
    uint32_t number, void *context, struct error *err)
{
    struct contents *contents = context;

    (void)journal, (void)folder, (void)number, (void)err;
    contents->kinds |= kind;
    if (kind == NAME_FOREIGN) error_quote(contents->foreign, sizeof contents->foreign, name, strlen(name));
    return OK;
}

/* What to remove. */
struct removal {
    unsigned kinds;
    uint32_t keep; /* a number that stays */
};

#define KEEP_NONE UINT32_MAX

static enum status remove_one(struct journal *journal, int folder, const char *name, enum name_kind kind,
    uint32_t number, void *context, struct error *err)
{
    const struct removal *removal = context;

    if (!(kind & removal->kinds) || number == removal->keep) return OK;
    if (unlinkat(folder, name, 0) == 0 || errno == ENOENT) return OK;
    return fail_errno(err, errno, "%s/%s: cannot be removed", journal->folder, name);
}

static enum status remove_kinds(struct journal *journal, unsigned kinds, struct error *err)
{
    struct removal removal = {kinds, KEEP_NONE};

    return visit_all(journal, remove_one, &removal, err);
}

/* Everything but the lock, the stamp last: a journal that was half removed is still one. */
static enum status remove_contents(struct journal *journal, struct error *err)
{
    enum status status = remove_kinds(journal, NAME_LAYER | NAME_STATES | NAME_TEMPORARY, err);

    return status ? status : remove_kinds(journal, NAME_STAMP, err);
}

/* ---- opening: the folder and its lock ---- */

/* The layers are durable only if their folder is. A hint: what is lost otherwise is work, not data. */
static void sync_parent(struct journal *journal)
{
    char *slash = strrchr(strcpy(journal->path, journal->folder), '/');
    int descriptor;

    if (slash) slash[1] = 0;
    descriptor = open(slash ? journal->path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    file_calls.fsync(descriptor);
    close(descriptor);
}

static enum status make_folder(struct journal *journal, struct error *err)
{
    struct stat info;

    if (mkdir(journal->folder, 0777) == 0) {
        journal->created = true;
        sync_parent(journal);
        return OK;
    }
    if (errno != EEXIST) return fail_errno(err, errno, "%s: cannot be created", journal->folder);
    if (lstat(journal->folder, &info) != 0) return fail_errno(err, errno, "%s", journal->folder);
    if (S_ISDIR(info.st_mode)) return OK;
    return fail(err, ERR_USAGE, "%s: exists and is no folder; the journal wants that name", journal->folder);
}

/* A folder with files of someone else's is a journal only if it says so. Nothing is written before that is
 * known. */
static enum status check_contents(
    struct journal *journal, struct contents *contents, bool restart, struct error *err)
{
    enum status status = visit_all(journal, note_contents, contents, err);

    if (status || contents->kinds & NAME_STAMP) return status;
    if (contents->kinds & NAME_FOREIGN)
        return fail(err, ERR_USAGE, "%s: is no journal (it holds %s); the journal wants that name",
            journal->folder, contents->foreign);
    if (contents->kinds & (NAME_LAYER | NAME_STATES) && !restart)
        return fail(err, ERR_USAGE,
            "%s: its " STAMP_NAME " is missing, so that what its layers were made with is unknown; "
            "--restart begins anew",
            journal->folder);
    return OK;
}

/* Whoever held the lock may have removed it, and the folder, between our opening and locking it. */
static bool lock_in_place(const struct journal *journal)
{
    struct stat held, there;

    return fstat(journal->lock, &held) == 0 && lstat(journal->path, &there) == 0 &&
           held.st_dev == there.st_dev && held.st_ino == there.st_ino;
}

/* The lock ends with the process, however that ends. */
static enum status take_lock(struct journal *journal, struct error *err)
{
    const char *path = path_of(journal, LOCK_NAME);

    journal->lock = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (journal->lock < 0) return fail_errno(err, errno, "%s: cannot be opened", path);
    journal->locked = flock(journal->lock, LOCK_EX | LOCK_NB) == 0;
    if (!journal->locked && errno != EWOULDBLOCK) {
        report_note(journal->report, "note: %s: there are no locks here; let no other run write %s", path,
            journal->folder);
        return OK;
    }
    if (journal->locked && lock_in_place(journal)) return OK;
    journal->locked = false;
    return fail(err, ERR_USAGE, "%s: another process is at work on it", journal->folder);
}

/* ---- opening: the stamp ---- */

static enum status write_stamp(struct journal *journal, const char *stamp, struct error *err)
{
    struct output *output = NULL;
    enum status status = output_open(&output, path_of(journal, STAMP_NAME), true, err);

    if (!status) status = output_write_at(output, 0, stamp, strlen(stamp), err);
    if (!status) return output_commit(output, err);
    output_abandon(output);
    return status;
}

/* The stamp that was left here. A damaged one is an error, not an invitation to begin anew: hours of work may hang on it. */
static enum status read_stamp(struct journal *journal, struct json_document **out, struct error *err)
{
    const char *path = path_of(journal, STAMP_NAME);
    char *text = NULL;
    uint64_t bytes;
    enum status status = OK;

    if (file_size(path) > STAMP_LIMIT) status = fail(err, ERR_FORMAT, "%s: is too large", path);
    if (!status) status = file_read_all(&text, &bytes, path, STAMP_LIMIT, err);
    if (!status) status = stamp_parse(out, path, text, bytes, err);
    memory_free(text);
    if (status != ERR_FORMAT) return status;
    return fail_within(err, status, "the journal cannot be continued, --restart begins anew");
}

static enum status compare_stamp(
    struct journal *journal, const struct json_document *stamp, struct error *err)
{
    struct json_document *before = NULL;
    enum status status = read_stamp(journal, &before, err);

    if (!status) status = stamp_compare(journal->folder, before, stamp, err);
    json_free(before);
    return status;
}

/* After it the folder is a journal of this stamp, and nobody else's. */
static enum status settle_stamp(struct journal *journal, const char *stamp, bool restart, struct error *err)
{
    struct contents contents = {0};
    struct json_document *document = NULL;
    bool found;
    enum status status = stamp_parse(&document, "stamp", stamp, strlen(stamp), err);

    if (!status) journal->stamp_crc = stamp_crc(document);
    if (!status) status = make_folder(journal, err);
    if (!status) status = check_contents(journal, &contents, restart, err);
    if (!status) status = take_lock(journal, err);
    if (status) goto done;
    found = file_kind(path_of(journal, STAMP_NAME)) != FILE_ABSENT; /* now that nobody else writes it */
    if (found && !restart) status = compare_stamp(journal, document, err);
    if (!status && journal->locked) status = remove_kinds(journal, NAME_TEMPORARY, err); /* of the killed */
    if (!status && restart) status = remove_kinds(journal, NAME_LAYER | NAME_STATES, err);
    if (!status && (!found || restart)) status = write_stamp(journal, stamp, err);
done:
    json_free(document);
    return status;
}

/* ---- opening: the layers ---- */

/* What every file of a layer says of itself. */
static void mark_text(char out[NAME_BYTES], const struct journal *journal, uint32_t layer)
{
    snprintf(out, NAME_BYTES, "{\"stamp\": \"%08" PRIx32 "\", \"layer\": %" PRIu32 "}\n", journal->stamp_crc,
        layer);
}

static enum status check_mark(
    const struct journal *journal, struct container *file, uint32_t layer, struct error *err)
{
    char expected[NAME_BYTES], *mark = NULL;
    uint64_t bytes;
    enum status status = container_document(file, MARK_DOCUMENT, &mark, &bytes, err);

    mark_text(expected, journal, layer);
    if (!status && (!mark || bytes != strlen(expected) || memcmp(mark, expected, bytes) != 0))
        status = fail(err, ERR_FORMAT, "%s: is of another journal or another layer", container_path(file));
    memory_free(mark);
    return status;
}

/* All bytes of a file, a tensor being a task. */
struct check {
    struct container *file;
    uint8_t *buffers; /* [workers][CHECK_BYTES] */
    struct progress *progress;
};

static enum status check_tensor(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct check *check = context;
    const struct tensor *tensor = container_tensor(check->file, index);
    uint8_t *buffer = check->buffers + (uint64_t)worker * CHECK_BYTES;
    uint32_t crc = 0, recorded;

    for (uint64_t done = 0, count; done < tensor->bytes; done += count) {
        count = tensor->bytes - done < CHECK_BYTES ? tensor->bytes - done : CHECK_BYTES;
        enum status status = container_read(check->file, tensor, done, buffer, count, err);
        if (status) return status;
        crc = file_crc32(crc, buffer, count);
        progress_add(check->progress, count);
    }
    if (container_checksum(check->file, tensor, &recorded) && crc == recorded) return OK;
    return fail(
        err, ERR_FORMAT, "%s: tensor %s: its bytes are damaged", container_path(check->file), tensor->name);
}

static enum status check_layer(
    struct journal *journal, uint32_t layer, struct check *check, struct error *err)
{
    const char *path = layer_path(journal, layer);
    struct container *file = NULL;
    enum status status = container_open(&file, path, err);

    if (!status) status = check_mark(journal, file, layer, err);
    check->file = file;
    if (!status) status = pool_run(journal->pool, container_count(file), check_tensor, check, err);
    if (status) {
        container_close(file);
        return status;
    }
    journal->files[layer] = file;
    return OK;
}

/* Is it a file that may hold a layer? A link or a folder is not what the journal made. */
static bool layer_present(struct journal *journal, uint32_t layer, uint64_t *bytes)
{
    struct stat info;

    if (lstat(layer_path(journal, layer), &info) != 0 || !S_ISREG(info.st_mode)) return false;
    *bytes = (uint64_t)info.st_size;
    return true;
}

/* Open the leading layers that are there and whole. Trouble that is not the file's (memory, a disk that fails) is
 * an error: the work is not thrown away for it. */
static enum status find_layers(struct journal *journal, uint32_t *finished, struct error *err)
{
    struct check check = {0};
    uint32_t present = 0, layer = 0;
    uint64_t total = 0, bytes;
    enum status status = OK;

    for (; present < journal->layers && layer_present(journal, present, &bytes); present++)
        total += bytes;
    if (present == 0) return OK;
    check.buffers = memory_new(pool_workers(journal->pool), CHECK_BYTES, err);
    if (!check.buffers) return ERR_MEMORY;
    check.progress = progress_start(journal->report, "checking the journal", total, PROGRESS_BYTES);
    for (; layer < present && !status; layer += !status)
        status = check_layer(journal, layer, &check, err);
    progress_end(check.progress);
    memory_free(check.buffers);
    *finished = layer;
    if (status != ERR_FORMAT && status != ERR_UNSUPPORTED) return status;
    report_note(journal->report, "note: %s; the work goes on at layer %" PRIu32, err->text, layer);
    return OK;
}

/* ---- opening: all of it ---- */

static enum status allocate(struct journal *journal, const char *output, struct error *err)
{
    static const char suffix[] = ".journal";
    uint64_t bytes = strlen(output) + sizeof suffix;

    if (journal->layers >= LAYERS_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "a journal has at most %d layers", LAYERS_LIMIT - 1);
    journal->folder = memory_new(bytes, 1, err);
    journal->path = memory_new(bytes + 1 + NAME_BYTES, 1, err);
    journal->states = memory_new(bytes + 1 + NAME_BYTES, 1, err);
    journal->files = memory_new(journal->layers, sizeof *journal->files, err);
    if (!journal->folder || !journal->path || !journal->states || !journal->files) return ERR_MEMORY;
    snprintf(journal->folder, bytes, "%s%s", output, suffix);
    return OK;
}

/* Take back a folder that was made for nothing. */
static void undo(struct journal *journal)
{
    if (!journal->created) return;
    if (journal->locked) remove_kinds(journal, NAME_TEMPORARY | NAME_STAMP | NAME_LOCK, NULL);
    rmdir(journal->folder);
}

enum status journal_open(struct journal **out, const char *output, const char *stamp, uint32_t layers,
    bool restart, struct pool *pool, const struct report *report, uint32_t *finished, struct error *err)
{
    struct journal *journal = memory_new(1, sizeof *journal, err);
    struct error trouble; /* a damaged layer is told of, also to a caller that wants no text */
    enum status status;

    *out = NULL;
    *finished = 0;
    if (!journal) return ERR_MEMORY;
    *journal = (struct journal){.lock = -1, .layers = layers, .pool = pool, .report = report};
    if (!err) err = &trouble;
    status = allocate(journal, output, err);
    if (!status) status = settle_stamp(journal, stamp, restart, err);
    if (!status) status = find_layers(journal, finished, err);
    if (!status) {
        *out = journal;
        return OK;
    }
    undo(journal);
    journal_close(journal);
    return status;
}

static void close_layers(struct journal *journal)
{
    for (uint32_t i = 0; journal->files && i < journal->layers; i++) {
        container_close(journal->files[i]);
        journal->files[i] = NULL;
    }
}

void journal_close(struct journal *journal)
{
    if (!journal) return;
    close_layers(journal);
    if (journal->lock >= 0) close(journal->lock);
    memory_free(journal->files);
    memory_free(journal->states);
    memory_free(journal->path);
    memory_free(journal->folder);
    memory_free(journal);
}

const char *journal_folder(const struct journal *journal)
{
    return journal->folder;
}

/* ---- layers ---- */

static enum status write_tensors(
    struct nbl_writer *writer, const struct tensor *tensors, uint64_t count, struct error *err)
{
    uint64_t index;
    enum status status = OK;

    for (uint64_t i = 0; i < count && !status; i++)
        status = nbl_writer_add(writer, &tensors[i], &index, err); /* index == i */
    if (!status) status = nbl_writer_begin(writer, err);
    for (uint64_t i = 0; i < count && !status; i++) {
        uint64_t bytes = nbl_writer_tensor_bytes(writer, i);
        status = nbl_writer_write(writer, i, 0, tensors[i].data, bytes, err);
        nbl_writer_checksum(writer, i, file_crc32(0, tensors[i].data, bytes));
    }
    return status;
}

enum status journal_add(struct journal *journal, uint32_t layer, const struct tensor *tensors, uint64_t count,
    const char *notes, uint64_t notes_bytes, struct error *err)
{
    struct nbl_writer *writer = NULL;
    char mark[NAME_BYTES];
    enum status status;

    if (layer >= journal->layers)
        return fail(
            err, ERR_USAGE, "%s: layer %" PRIu32 " of %" PRIu32, journal->folder, layer, journal->layers);
    container_close(journal->files[layer]);
    journal->files[layer] = NULL;
    mark_text(mark, journal, layer);
    status = nbl_writer_create(&writer, layer_path(journal, layer), true, err);
    if (!status) status = write_tensors(writer, tensors, count, err);
    if (!status) status = nbl_writer_document(writer, NOTES_DOCUMENT, notes, notes_bytes, err);
    if (!status) status = nbl_writer_document(writer, MARK_DOCUMENT, mark, strlen(mark), err);
    if (status) {
        nbl_writer_abandon(writer);
        return status;
    }
    status = nbl_writer_commit(writer, err);
    return status ? status : container_open(&journal->files[layer], layer_path(journal, layer), err);
}

struct container *journal_layer(const struct journal *journal, uint32_t layer)
{
    return layer < journal->layers ? journal->files[layer] : NULL;
}

/* ---- states ---- */

const char *journal_states_path(struct journal *journal, uint32_t layer)
{
    return strcpy(journal->states, path_of(journal, "states-%05" PRIu32, layer));
}

uint32_t journal_latest_states(struct journal *journal, uint32_t finished)
{
    uint32_t layer = finished < journal->layers ? finished : journal->layers;

    while (layer > 0 && file_kind(path_of(journal, "states-%05" PRIu32, layer)) != FILE_REGULAR)
        layer--;
    return layer;
}

void journal_drop_states(struct journal *journal, uint32_t keep)
{
    struct removal removal = {NAME_STATES, keep};

    visit_all(journal, remove_one, &removal, NULL); /* what stays takes disk, no more */
}

/* ---- the end ---- */

enum status journal_remove(struct journal *journal, struct error *err)
{
    struct contents left = {0};
    enum status status;

    close_layers(journal);
    status = remove_contents(journal, err);
    if (!status) status = remove_kinds(journal, NAME_LOCK, err);
    if (!status && rmdir(journal->folder) != 0) {
        int fault = errno;
        if (visit_all(journal, note_contents, &left, NULL) == OK && left.kinds & NAME_FOREIGN)
            report_note(journal->report, "note: %s stays: it holds what is not the journal's (%s)",
                journal->folder, left.foreign);
        else
            status = fail_errno(err, fault, "%s: cannot be removed", journal->folder);
    }
    journal_close(journal);
    return status;
}
