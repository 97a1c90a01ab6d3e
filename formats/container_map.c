/* Mapping a container: tensors lie in the maps of their files, or in copies where those cannot show them. Copies are made in chunks
 * of bytes, by as many threads as there are. */
#include "base/memory.h"
#include "base/threads.h"
#include "formats/reader.h"

enum { CHUNK_BYTES = 4 << 20 };

/* The copies to make: copy i is of entries[i], and its chunks are the tasks first[i] to first[i + 1] - 1. */
struct copying {
    struct container *container;
    struct reader_entry **entries; /* [count] */
    uint64_t *first;               /* [count + 1] */
    uint64_t count;
};

/* What a program may expect of tensor->data: tiles are read in 64-byte lines, elements one by one. */
static uint64_t alignment_of(const struct tensor *tensor)
{
    if (tensor->storage == STORAGE_BLOCKS) return 1; /* blocks are read byte by byte */
    const bool parts = tensor->storage == STORAGE_TILES || tensor->storage == STORAGE_SPARSE;
    return parts ? 64 : dtype_info(tensor->dtype)->bytes;
}

static const uint8_t *mapped(const struct container *container, const struct reader_entry *entry)
{
    return (const uint8_t *)container->files[entry->file].file->map + entry->offset;
}

static bool needs_copy(const struct container *container, const struct reader_entry *entry)
{
    return entry->head || entry->compute ||
           (uintptr_t)mapped(container, entry) % alignment_of(&entry->tensor) != 0;
}

/* List the copies that are not there yet. */
static enum status plan(struct copying *out, struct container *container, struct error *err)
{
    out->container = container;
    out->entries = memory_new(container->entry_count, sizeof *out->entries, err);
    out->first = out->entries ? memory_new(container->entry_count + 1, sizeof *out->first, err) : NULL;
    if (!out->first) return ERR_MEMORY;
    for (uint64_t i = 0; i < container->entry_count; i++) {
        struct reader_entry *entry = &container->entries[i];
        if (!needs_copy(container, entry) || entry->copy) continue;
        out->entries[out->count++] = entry;
        out->first[out->count] =
            out->first[out->count - 1] + (entry->tensor.bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
    }
    return OK;
}

static enum status copy_chunk(void *context, uint64_t index, unsigned worker, struct error *err)
{
    const struct copying *work = context;
    uint64_t low = 0, high = work->count - 1;

    (void)worker;
    while (low < high) { /* the last entry whose chunks do not begin behind this one */
        const uint64_t middle = (low + high + 1) / 2;
        if (work->first[middle] > index)
            high = middle - 1;
        else
            low = middle;
    }
    const struct reader_entry *entry = work->entries[low];
    const uint64_t offset = (index - work->first[low]) * CHUNK_BYTES, left = entry->tensor.bytes - offset;
    return container_read(work->container, &entry->tensor, offset, (uint8_t *)entry->copy + offset,
        left < CHUNK_BYTES ? left : CHUNK_BYTES, err);
}

static enum status copy_all(struct copying *work, struct pool *pool, struct error *err)
{
    const uint64_t chunks = work->first[work->count];
    enum status status = OK;

    for (uint64_t i = 0; i < work->count; i++) {
        work->entries[i]->copy = memory_new(work->entries[i]->tensor.bytes, 1, err);
        if (!work->entries[i]->copy) return ERR_MEMORY;
    }
    if (pool) return chunks ? pool_run(pool, chunks, copy_chunk, work, err) : OK;
    for (uint64_t i = 0; i < chunks && !status; i++)
        status = copy_chunk(work, i, 0, err);
    return status;
}

static void drop_copies(const struct copying *work)
{
    for (uint64_t i = 0; i < work->count; i++) {
        memory_free(work->entries[i]->copy);
        work->entries[i]->copy = NULL;
    }
}

enum status container_map_by(struct container *container, struct pool *pool, struct error *err)
{
    struct copying work = {0};
    enum status status = OK;

    for (uint64_t i = 0; i < container->file_count && !status; i++)
        status = file_map(container->files[i].file, err);
    if (!status) status = plan(&work, container, err);
    if (!status) status = copy_all(&work, pool, err);
    if (status) drop_copies(&work);
    for (uint64_t i = 0; i < container->entry_count && !status; i++) {
        struct reader_entry *entry = &container->entries[i];
        entry->tensor.data = entry->copy ? entry->copy : mapped(container, entry);
    }
    memory_free(work.first);
    memory_free(work.entries);
    return status;
}

enum status container_map(struct container *container, struct error *err)
{
    return container_map_by(container, NULL, err);
}
