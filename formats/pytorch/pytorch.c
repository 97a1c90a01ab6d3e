/* See pytorch.h. */
#include "formats/pytorch/pytorch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "formats/measure.h"
#include "formats/pytorch/pickle.h"
#include "formats/transposed.h"
#include "formats/pytorch/zip_archive.h"

enum { PATH_BYTES = 1024 }; /* of an entry: two names and a few letters */

/* A tensor and its number in the state dict. */
struct view {
    struct reader_entry entry;
    uint64_t number;
};

/* One file on its way into the container. */
struct pass {
    struct container *container;
    struct file *file;
    struct zip_archive archive;
    const char *root; /* the folder of all entries, with its slash */
    int root_bytes;
    char *text; /* of data.pkl */
    struct pickle pickle;
    struct view *views; /* [pickle.count] */
};

/* ---- the archive ---- */

static const struct zip_entry *find(const struct pass *pass, const char *name, int name_bytes)
{
    char path[PATH_BYTES];

    snprintf(path, sizeof path, "%.*s%.*s", pass->root_bytes, pass->root, name_bytes, name);
    return zip_archive_find(&pass->archive, path);
}

/* The folder is the one that holds data.pkl. */
static enum status find_root(struct pass *pass, struct error *err)
{
    for (uint64_t i = 0; i < pass->archive.count; i++) {
        const char *name = pass->archive.entries[i].name, *slash = strchr(name, '/');
        if (!slash || strcmp(slash, "/data.pkl") != 0) continue;
        if (pass->root)
            return fail(err, ERR_FORMAT, "entries %.*sdata.pkl and %s: a checkpoint has one",
                pass->root_bytes, pass->root, name);
        pass->root = name;
        pass->root_bytes = (int)(slash - name) + 1;
    }
    if (!pass->root)
        return fail(err, ERR_UNSUPPORTED, "is a zip archive without data.pkl: no PyTorch checkpoint");
    if (find(pass, "constants.pkl", 13))
        return fail(err, ERR_UNSUPPORTED,
            "is a TorchScript archive, which holds a program; save the model's state dict with torch.save");
    return OK;
}

static enum status check_byte_order(struct pass *pass, struct error *err)
{
    const struct zip_entry *entry = find(pass, "byteorder", 9);
    char text[8] = "";

    if (!entry) return OK;
    if (entry->bytes < sizeof text) {
        enum status status = file_read_at(pass->file, entry->offset, text, entry->bytes, err);
        if (status) return status;
    }
    if (strcmp(text, "little") == 0) return OK;
    return fail(err, ERR_UNSUPPORTED,
        "entry %s: is not 'little'; a file written on a big-endian machine is not read", entry->name);
}

/* data.pkl is small: its checksum is compared here, those of the storages by pytorch_verify. */
static enum status read_pickle(struct pass *pass, struct error *err)
{
    const struct zip_entry *entry = find(pass, "data.pkl", 8);
    enum status status;

    if (entry->bytes > PICKLE_BYTES_LIMIT)
        return fail(err, ERR_MEMORY, "entry %s: %" PRIu64 " bytes are more than %u", entry->name,
            entry->bytes, PICKLE_BYTES_LIMIT);
    status = zip_archive_check(entry, pass->file, err);
    if (status) return status;
    pass->text = memory_new(entry->bytes, 1, err);
    if (!pass->text) return ERR_MEMORY;
    status = file_read_at(pass->file, entry->offset, pass->text, entry->bytes, err);
    if (!status) status = pickle_read(&pass->pickle, pass->text, entry->bytes, err);
    return status ? fail_within(err, status, "entry %s", entry->name) : OK;
}

/* ---- one tensor ---- */

/* Row-major without gaps; the stride of a dimension of one element says nothing. */
static bool is_contiguous(const struct pickle_tensor *tensor, uint64_t elements)
{
    uint64_t expected = 1;

    for (uint32_t i = tensor->rank; i-- > 0 && elements;) {
        if (tensor->shape[i] != 1 && tensor->stride[i] != expected) return false;
        expected *= tensor->shape[i]; /* at most the elements */
    }
    return true;
}

static bool is_transposed(const struct pickle_tensor *tensor)
{
    return tensor->rank == 2 && tensor->stride[0] == 1 && tensor->stride[1] == tensor->shape[0];
}

static enum status check_strides(
    struct reader_entry *entry, const struct pickle_tensor *tensor, struct error *err)
{
    char shape[MEASURE_SHAPE_TEXT], stride[MEASURE_SHAPE_TEXT];

    if (is_contiguous(tensor, entry->tensor.elements)) return OK;
    if (is_transposed(tensor)) {
        entry->compute = transposed_compute;
        return OK;
    }
    return fail(err, ERR_UNSUPPORTED, "shape %s with strides %s is not row-major; save its .contiguous()",
        measure_shape_text(shape, tensor->rank, tensor->shape),
        measure_shape_text(stride, tensor->rank, tensor->stride));
}

/* Both kinds of view cover as many elements as they have, from the offset on. */
static enum status place(
    struct pass *pass, struct reader_entry *entry, const struct pickle_tensor *tensor, struct error *err)
{
    const uint64_t size = tensor->type->bytes;
    char path[PATH_BYTES];
    uint64_t end;
    enum status status = names_check(tensor->key, tensor->key_bytes, err);

    if (status) return status;
    snprintf(path, sizeof path, "data/%.*s", (int)tensor->key_bytes, tensor->key);
    const struct zip_entry *storage = find(pass, path, (int)strlen(path));
    if (!storage) return fail(err, ERR_FORMAT, "its storage %s is not in the archive", path);
    if (storage->bytes != tensor->storage_bytes)
        return fail(err, ERR_FORMAT, "its storage %s has %" PRIu64 " bytes, must have %" PRIu64,
            storage->name, storage->bytes, tensor->storage_bytes);
    if (checked_add(&end, tensor->offset, entry->tensor.elements) || end > storage->bytes / size)
        return fail(err, ERR_FORMAT, "elements %" PRIu64 " to %" PRIu64 " of storage %s, which has %" PRIu64,
            tensor->offset, end, storage->name, storage->bytes / size);
    entry->offset = storage->offset + tensor->offset * size;
    return OK;
}

static enum status read_tensor(
    struct pass *pass, struct reader_entry *entry, const struct pickle_tensor *tensor, struct error *err)
{
    enum status status;

    if (!tensor->type->known)
        return fail(err, ERR_UNSUPPORTED, "type torch.%s is not supported", tensor->type->name);
    entry->tensor.dtype = tensor->type->dtype;
    entry->tensor.rank = tensor->rank;
    memcpy(entry->tensor.shape, tensor->shape, tensor->rank * sizeof *tensor->shape);
    status = measure_tensor(&entry->tensor, err);
    if (!status) status = check_strides(entry, tensor, err);
    return status ? status : place(pass, entry, tensor, err);
}

/* ---- all tensors ---- */

static int compare_numbers(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

/* The order of the data; equal for two names of the same view. */
static int compare_places(const struct view *a, const struct view *b)
{
    const struct tensor *left = &a->entry.tensor, *right = &b->entry.tensor;
    int order = compare_numbers(a->entry.offset, b->entry.offset);

    if (!order) order = compare_numbers(left->bytes, right->bytes);
    if (!order) order = compare_numbers(left->dtype, right->dtype);
    if (!order) order = compare_numbers(a->entry.compute != NULL, b->entry.compute != NULL);
    if (!order) order = compare_numbers(left->rank, right->rank);
    for (uint32_t i = 0; i < left->rank && !order; i++)
        order = compare_numbers(left->shape[i], right->shape[i]);
    return order;
}

static int compare_views(const void *left, const void *right)
{
    const struct view *a = left, *b = right;
    const int order = compare_places(a, b);

    return order ? order : compare_numbers(a->number, b->number);
}

static enum status read_views(struct pass *pass, struct error *err)
{
    if (pass->pickle.count > CONTAINER_TENSOR_LIMIT)
        return fail(err, ERR_MEMORY, "more than %d tensors", CONTAINER_TENSOR_LIMIT);
    pass->views = memory_new(pass->pickle.count, sizeof *pass->views, err);
    if (!pass->views) return ERR_MEMORY;
    for (uint64_t i = 0; i < pass->pickle.count; i++) {
        const struct pickle_tensor *tensor = &pass->pickle.tensors[i];
        struct view *view = &pass->views[i];
        enum status status = names_check(tensor->name, tensor->name_bytes, err);
        if (status) return status;
        view->number = i;
        view->entry.tensor.name = names_keep(&pass->container->names, tensor->name, tensor->name_bytes, err);
        if (!view->entry.tensor.name) return ERR_MEMORY;
        status = read_tensor(pass, &view->entry, tensor, err);
        if (status) return fail_within(err, status, "tensor %s", view->entry.tensor.name);
    }
    qsort(pass->views, pass->pickle.count, sizeof *pass->views, compare_views);
    return OK;
}

/* The first name of a view is the tensor, the others are aliases. */
static enum status add_views(struct pass *pass, struct error *err)
{
    const struct view *kept = NULL;
    enum status status = OK;

    for (uint64_t i = 0; i < pass->pickle.count && !status; i++) {
        const struct view *view = &pass->views[i];
        if (kept && compare_places(kept, view) == 0) {
            status = reader_add_alias(pass->container, view->entry.tensor.name, kept->entry.tensor.name, err);
            continue;
        }
        kept = view;
        status = reader_add_entry(pass->container, &view->entry, err);
    }
    return status;
}

/* ---- files ---- */

static enum status check_age(struct pass *pass, struct error *err)
{
    char head[sizeof PYTORCH_OLD_MAGIC - 1];
    enum status status = OK;

    if (pass->file->bytes < sizeof head) return OK;
    status = file_read_at(pass->file, 0, head, sizeof head, err);
    if (status || memcmp(head, PYTORCH_OLD_MAGIC, sizeof head) != 0) return status;
    return fail(err, ERR_UNSUPPORTED,
        "was written before PyTorch 1.6, or with _use_new_zipfile_serialization=False: load it in PyTorch "
        "and "
        "save it again with torch.save, or as safetensors");
}

static enum status read_file(struct pass *pass, struct error *err)
{
    enum status status = check_age(pass, err);

    if (!status) status = zip_archive_read(&pass->archive, pass->file, err);
    if (!status) status = find_root(pass, err);
    if (!status) status = check_byte_order(pass, err);
    if (!status) status = read_pickle(pass, err);
    if (!status) status = read_views(pass, err);
    return status ? status : add_views(pass, err);
}

static enum status add_file(
    struct container *container, const char *path, const char *name, struct error *err)
{
    struct pass pass = {.container = container};
    enum status status = reader_add_file(container, path, name, err);

    if (status) return status; /* names the path itself */
    container->has_gaps = true;
    pass.file = container->files[container->file_count - 1].file;
    status = read_file(&pass, err);
    zip_archive_free(&pass.archive);
    pickle_free(&pass.pickle);
    memory_free(pass.text);
    memory_free(pass.views);
    return status ? fail_within(err, status, "%s", path) : OK;
}

static enum status finish(struct container *container, struct error *err)
{
    enum status status = reader_index_tensors(container, err);

    return status ? status : reader_index_aliases(container, err);
}

const struct shard_format pytorch_shards = {PYTORCH_FORMAT, add_file, finish};

enum status pytorch_read(struct container *container, const char *path, struct error *err)
{
    enum status status = add_file(container, path, reader_base_name(path), err);

    if (status) return status;
    status = finish(container, err);
    return status ? fail_within(err, status, "%s", path) : OK;
}

enum status pytorch_verify(struct container *container, void (*fault)(void *context, const char *text),
    void *context, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < container->file_count && !status; i++) {
        struct file *file = container->files[i].file;
        struct zip_archive archive = {0};
        status = zip_archive_read(&archive, file, err);
        for (uint64_t e = 0; e < archive.count && !status; e++) {
            struct error found;
            status = zip_archive_check(&archive.entries[e], file, &found);
            if (status) fail(err, fail_within(&found, status, "%s", file->path), "%s", found.text);
            if (status != ERR_FORMAT) continue;
            fault(context, found.text);
            status = OK;
        }
        zip_archive_free(&archive);
    }
    return status;
}
