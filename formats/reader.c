/* Filling in a container: what all formats share. */
#include "formats/reader.h"

#include <string.h>

#include "base/memory.h"

const char *reader_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

enum status reader_add_file(
    struct container *container, const char *path, const char *name, struct error *err)
{
    struct reader_file file = {0};
    enum status status;

    status = memory_grow(&container->files, &container->file_capacity, container->file_count + 1,
        sizeof *container->files, err);
    if (status) return status;
    file.name = names_keep(&container->names, name, strlen(name), err);
    if (!file.name) return ERR_MEMORY;
    status = file_open(&file.file, path, err);
    if (status) return status;
    container->files[container->file_count++] = file;
    return OK;
}

enum status reader_add_entry(struct container *container, const struct reader_entry *entry, struct error *err)
{
    enum status status;

    if (container->entry_count == CONTAINER_TENSOR_LIMIT)
        return fail(err, ERR_MEMORY, "more than %d tensors", CONTAINER_TENSOR_LIMIT);
    status = memory_grow(&container->entries, &container->entry_capacity, container->entry_count + 1,
        sizeof *container->entries, err);
    if (status) return status;
    container->entries[container->entry_count] = *entry;
    container->entries[container->entry_count++].file = (uint32_t)container->file_count - 1;
    return OK;
}

enum status reader_add_alias(
    struct container *container, const char *alias, const char *target, struct error *err)
{
    enum status status = memory_grow(&container->aliases, &container->alias_capacity,
        container->alias_count + 1, sizeof *container->aliases, err);

    if (status) return status;
    container->aliases[container->alias_count++] =
        (struct reader_alias){alias, target, 0, (uint32_t)container->file_count - 1};
    return OK;
}

static const char *file_name_of(const struct container *container, uint64_t entry)
{
    return container->files[container->entries[entry].file].name;
}

enum status reader_index_tensors(struct container *container, struct error *err)
{
    const struct names_entry *twice;
    enum status status;

    for (uint64_t i = 0; i < container->entry_count; i++) {
        status = names_add(&container->index, container->entries[i].tensor.name, i, err);
        if (status) return status;
    }
    twice = names_sort(&container->index);
    if (!twice) return OK;
    return fail(err, ERR_FORMAT, "duplicate tensor %s: in %s and in %s", twice->name,
        file_name_of(container, twice[0].number), file_name_of(container, twice[1].number));
}

/* All targets are found first, while the index is sorted. */
static enum status find_targets(struct container *container, struct error *err)
{
    for (uint64_t i = 0; i < container->alias_count; i++) {
        struct reader_alias *alias = &container->aliases[i];
        if (!names_find(&container->index, alias->target, &alias->number))
            return fail(err, ERR_FORMAT, "alias %s: its target %s is no tensor", alias->alias, alias->target);
    }
    return OK;
}

enum status reader_index_aliases(struct container *container, struct error *err)
{
    const struct names_entry *twice;
    enum status status = find_targets(container, err);

    for (uint64_t i = 0; i < container->alias_count && !status; i++)
        status = names_add(&container->index, container->aliases[i].alias, container->aliases[i].number, err);
    if (status) return status;
    twice = names_sort(&container->index);
    if (!twice) return OK;
    return fail(err, ERR_FORMAT, "alias %s: the name is in use already", twice->name);
}
