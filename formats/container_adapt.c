/* Seeing a container in another way: other names, documents that were made, rows in another order, other numbers. The functions are declared
 * in container.h. */
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "formats/reader.h"

enum status container_rename(struct container *container, uint64_t index, const char *name, struct error *err)
{
    const uint64_t bytes = strlen(name);
    enum status status = names_check(name, bytes, err);
    const char *kept = status ? NULL : names_keep(&container->names, name, bytes, err);

    if (status) return status;
    if (!kept) return ERR_MEMORY;
    container->entries[index].tensor.name = kept;
    return OK;
}

enum status container_reindex(struct container *container, struct error *err)
{
    enum status status;

    names_index_free(&container->index);
    container->index = (struct names_index){0};
    status = reader_index_tensors(container, err);
    return status ? status : reader_index_aliases(container, err);
}

enum status container_attach(
    struct container *container, const char *name, char *text, uint64_t bytes, struct error *err)
{
    struct reader_document document = {.bytes = bytes, .text = text};
    enum status status = OK;

    if (bytes > CONTAINER_DOCUMENT_LIMIT)
        status = fail(
            err, ERR_MEMORY, "%s: %" PRIu64 " bytes are more than %u", name, bytes, CONTAINER_DOCUMENT_LIMIT);
    if (!status) {
        document.name = names_keep(&container->names, name, strlen(name), err);
        if (!document.name) status = ERR_MEMORY;
    }
    if (!status)
        status = memory_grow(&container->documents, &container->document_capacity,
            container->document_count + 1, sizeof document, err);
    if (status) {
        memory_free(text);
        return status;
    }
    container->documents[container->document_count++] = document;
    return OK;
}

enum status container_interleave(
    struct container *container, uint64_t index, uint64_t head, struct error *err)
{
    struct reader_entry *entry = &container->entries[index];
    const struct tensor *tensor = &entry->tensor;
    const bool dense = tensor->storage == STORAGE_DENSE;

    if (tensor->rank < 1 || tensor->rank > 2 || tensor->storage == STORAGE_TILES ||
        (!dense && tensor->rank != 2))
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: rank %" PRIu32 " and this storage have no interleaved rows", tensor->name,
            tensor->rank);
    if (head == 0 || head % 2 || tensor->shape[0] % head)
        return fail(err, ERR_FORMAT, "tensor %s: %" PRIu64 " rows are not whole heads of %" PRIu64,
            tensor->name, tensor->shape[0], head);
    if (tensor->bytes) entry->head = head; /* nothing has no order */
    return OK;
}

enum status container_shift(struct container *container, uint64_t index, float addend, struct error *err)
{
    struct reader_entry *entry = &container->entries[index];
    const struct tensor *tensor = &entry->tensor;

    if (tensor->storage != STORAGE_DENSE || tensor->dtype != DTYPE_F32)
        return fail(err, ERR_UNSUPPORTED, "tensor %s: is not F32", tensor->name);
    entry->addend = addend;
    return OK;
}
