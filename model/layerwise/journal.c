/* The journal is a folder of files that each appear complete or not at all, so there is no log to replay: what is there
 * and whole is done. A layer file says which stamp and which layer it is of, so that one from another journal, or under
 * another number, is noticed. Files are recognised by their names; others are never touched. */
#include "model/layerwise/journal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/transfer.h"
#include "model/layerwise/journal_folder.h"
#include "model/stamp.h"

#define MARK_DOCUMENT "journal.json" /* in a layer file: stamp and number */
#define NOTES_DOCUMENT "layer.json"
#define CHOICE_DOCUMENT "allocation.json"
#define CHOICE_NUMBER UINT32_MAX /* in its mark, where a layer says its own */

enum {
    MARK_BYTES = 64,       /* more than any mark has */
    STAMP_LIMIT = 1 << 20, /* bytes of journal.json */
    CHECK_BYTES = 1 << 20  /* read at once while checking */
};

struct journal {
    struct journal_folder folder;
    char *states; /* what journal_states_path returned last */
    uint32_t stamp_crc, layers;
    struct container **files; /* [layers], NULL: not finished */
    struct pool *pool;
    const struct report *report;
};

/* ---- opening: the stamp ---- */

static enum status write_stamp(struct journal *journal, const char *stamp, struct error *err)
{
    return output_whole(folder_stamp(&journal->folder), true, stamp, strlen(stamp), err);
}

/* The stamp that was left here. A damaged one is an error, not an invitation to begin anew: hours of work may hang on it. */
static enum status read_stamp(struct journal *journal, struct json_document **out, struct error *err)
{
    const char *path = folder_stamp(&journal->folder);
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

    if (!status) status = stamp_compare(journal->folder.path, json_root(before), json_root(stamp), err);
    json_free(before);
    return status;
}

/* After it the folder is a journal of this stamp, and nobody else's. One without any layer is begun anew whatever its stamp:
 * there is nothing to lose. */
static enum status settle_stamp(struct journal *journal, const char *stamp, bool restart, struct error *err)
{
    struct json_document *document = NULL;
    bool found, begun = true;
    enum status status = stamp_parse(&document, "stamp", stamp, strlen(stamp), err);

    if (!status) journal->stamp_crc = stamp_crc(json_root(document));
    if (!status) status = folder_enter(&journal->folder, restart, err);
    if (!status) status = folder_holds(&journal->folder, NAME_LAYER | NAME_STATES, &begun, err);
    if (status) goto done;
    found = file_kind(folder_stamp(&journal->folder)) != FILE_ABSENT; /* now that nobody else writes it */
    if (!begun && !restart) restart = !found || compare_stamp(journal, document, NULL) != OK;
    if (found && !restart) status = compare_stamp(journal, document, err);
    if (!status && journal->folder.locked) /* what killed runs left */
        status = folder_remove(&journal->folder, NAME_TEMPORARY, KEEP_NONE, err);
    if (!status && restart)
        status = folder_remove(&journal->folder, NAME_LAYER | NAME_STATES | NAME_CHOICE, KEEP_NONE, err);
    if (!status && (!found || restart)) status = write_stamp(journal, stamp, err);
done:
    json_free(document);
    return status;
}

/* ---- opening: the layers ---- */

/* What every file of a layer says of itself. */
static void mark_text(char out[MARK_BYTES], const struct journal *journal, uint32_t layer)
{
    snprintf(out, MARK_BYTES, "{\"stamp\": \"%08" PRIx32 "\", \"layer\": %" PRIu32 "}\n", journal->stamp_crc,
        layer);
}

static enum status check_mark(
    const struct journal *journal, struct container *file, uint32_t layer, struct error *err)
{
    char expected[MARK_BYTES], *mark = NULL;
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
    const char *path = folder_layer(&journal->folder, layer);
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

/* Is it a file that may hold something of ours? A link or a folder is not what the journal made. */
static bool is_regular(const char *path, uint64_t *bytes)
{
    struct stat info;

    if (lstat(path, &info) != 0 || !S_ISREG(info.st_mode)) return false;
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

    for (; present < journal->layers && is_regular(folder_layer(&journal->folder, present), &bytes);
         present++)
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
    enum status status = folder_init(&journal->folder, output, journal->report, err);

    if (status) return status;
    if (journal->layers >= LAYERS_LIMIT)
        return fail(err, ERR_UNSUPPORTED, "a journal has at most %d layers", LAYERS_LIMIT - 1);
    journal->states = memory_new(strlen(folder_states(&journal->folder, UINT32_MAX)) + 1, 1, err);
    journal->files = memory_new(journal->layers, sizeof *journal->files, err);
    return journal->states && journal->files ? OK : ERR_MEMORY;
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
    *journal = (struct journal){.layers = layers, .pool = pool, .report = report};
    if (!err) err = &trouble;
    status = allocate(journal, output, err);
    if (!status) status = settle_stamp(journal, stamp, restart, err);
    if (!status) status = find_layers(journal, finished, err);
    if (!status) {
        *out = journal;
        return OK;
    }
    folder_undo(&journal->folder);
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
    folder_free(&journal->folder);
    memory_free(journal->files);
    memory_free(journal->states);
    memory_free(journal);
}

const char *journal_folder(const struct journal *journal)
{
    return journal->folder.path;
}

/* ---- layers ---- */

static enum status write_tensors(
    struct writer *writer, const struct tensor *tensors, uint64_t count, struct error *err)
{
    uint64_t index;
    enum status status = OK;

    for (uint64_t i = 0; i < count && !status; i++)
        status = writer_add(writer, &tensors[i], &index, err); /* index == i */
    if (!status) status = writer_begin(writer, err);
    for (uint64_t i = 0; i < count && !status; i++) {
        uint64_t bytes = transfer_target_bytes(&tensors[i]);
        status = writer_write(writer, i, 0, tensors[i].data, bytes, err);
        writer_checksum(writer, i, file_crc32(0, tensors[i].data, bytes));
    }
    return status;
}

enum status journal_add(struct journal *journal, uint32_t layer, const struct tensor *tensors, uint64_t count,
    const char *notes, uint64_t notes_bytes, struct error *err)
{
    struct writer *writer = NULL;
    char mark[MARK_BYTES];
    enum status status;

    if (layer >= journal->layers)
        return fail(err, ERR_USAGE, "%s: layer %" PRIu32 " of %" PRIu32, journal->folder.path, layer,
            journal->layers);
    container_close(journal->files[layer]);
    journal->files[layer] = NULL;
    mark_text(mark, journal, layer);
    status = nbl_writer_create(&writer, folder_layer(&journal->folder, layer), true, err);
    if (!status) status = write_tensors(writer, tensors, count, err);
    if (!status) status = writer_document(writer, NOTES_DOCUMENT, notes, notes_bytes, err);
    if (!status) status = writer_document(writer, MARK_DOCUMENT, mark, strlen(mark), err);
    if (status) {
        writer_abandon(writer);
        return status;
    }
    status = writer_commit(writer, err);
    return status ? status
                  : container_open(&journal->files[layer], folder_layer(&journal->folder, layer), err);
}

struct container *journal_layer(const struct journal *journal, uint32_t layer)
{
    return layer < journal->layers ? journal->files[layer] : NULL;
}

/* ---- a choice ---- */

enum status journal_put_choice(struct journal *journal, const char *text, uint64_t bytes, struct error *err)
{
    struct writer *writer = NULL;
    char mark[MARK_BYTES];
    enum status status = nbl_writer_create(&writer, folder_choice(&journal->folder), true, err);

    mark_text(mark, journal, CHOICE_NUMBER);
    if (!status) status = writer_begin(writer, err);
    if (!status) status = writer_document(writer, CHOICE_DOCUMENT, text, bytes, err);
    if (!status) status = writer_document(writer, MARK_DOCUMENT, mark, strlen(mark), err);
    if (!status) return writer_commit(writer, err);
    writer_abandon(writer);
    return status;
}

enum status journal_get_choice(struct journal *journal, char **text, uint64_t *bytes, struct error *err)
{
    const char *path = folder_choice(&journal->folder);
    struct container *file = NULL;
    struct error trouble;
    enum status status;

    *text = NULL;
    *bytes = 0;
    if (!err) err = &trouble;
    if (!is_regular(path, bytes)) return OK;
    status = container_open(&file, path, err);
    if (!status) status = check_mark(journal, file, CHOICE_NUMBER, err);
    if (!status) status = container_document(file, CHOICE_DOCUMENT, text, bytes, err);
    container_close(file);
    if (status != ERR_FORMAT && status != ERR_UNSUPPORTED) return status;
    report_note(journal->report, "note: %s; the choice is made again", err->text);
    return OK;
}

/* ---- states ---- */

const char *journal_states_path(struct journal *journal, uint32_t layer)
{
    return strcpy(journal->states, folder_states(&journal->folder, layer));
}

uint32_t journal_latest_states(struct journal *journal, uint32_t finished)
{
    uint32_t layer = finished < journal->layers ? finished : journal->layers;

    while (layer > 0 && file_kind(folder_states(&journal->folder, layer)) != FILE_REGULAR)
        layer--;
    return layer;
}

void journal_drop_states(struct journal *journal, uint32_t keep)
{
    folder_remove(&journal->folder, NAME_STATES, keep, NULL); /* what stays takes disk, no more */
}

/* ---- the end ---- */

/* The stamp goes after what it speaks of: a journal that was half removed is still one. */
enum status journal_remove(struct journal *journal, struct error *err)
{
    struct journal_folder *folder = &journal->folder;
    enum status status;

    close_layers(journal);
    status = folder_remove(folder, NAME_LAYER | NAME_STATES | NAME_CHOICE | NAME_TEMPORARY, KEEP_NONE, err);
    if (!status) status = folder_remove(folder, NAME_STAMP, KEEP_NONE, err);
    if (!status) status = folder_leave(folder, err);
    journal_close(journal);
    return status;
}
