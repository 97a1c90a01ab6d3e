/* Source: what llama.cpp's gguf-split writes and its loader checks: split.no (from 0), split.count, split.tensors.count (of all parts). */
#include "formats/gguf/gguf_parts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define NO "split.no"
#define COUNT "split.count"
#define TENSORS "split.tensors.count"

enum {
    COUNT_LIMIT = 65535, /* split.count is a u16 */
    ENDING_BYTES = 32    /* "-00001-of-00003.gguf" */
};

/* A number that must be there. */
static enum status get(
    uint64_t *value, const struct metadata *metadata, const char *key, uint64_t most, struct error *err)
{
    if (!metadata_find(metadata, key)) return fail(err, ERR_FORMAT, "%s is missing", key);
    return metadata_get_u64(metadata, key, 0, most, value, err);
}

static const char *ending_of(char ending[ENDING_BYTES], uint64_t number, uint64_t count)
{
    snprintf(ending, ENDING_BYTES, "-%05" PRIu64 "-of-%05" PRIu64 ".gguf", number, count);
    return ending;
}

/* The bytes of a path before "-00001-of-00003.gguf", which it must end in. */
static enum status stem_of(size_t *stem, const char *path, uint64_t count, struct error *err)
{
    char ending[ENDING_BYTES];
    const size_t bytes = strlen(path), tail = strlen(ending_of(ending, 1, count));

    if (bytes <= tail || strcmp(path + bytes - tail, ending) != 0)
        return fail(err, ERR_FORMAT,
            COUNT ": is the first of %" PRIu64
                  " parts; its name must end in %s, so that the others are found",
            count, ending);
    *stem = bytes - tail;
    return OK;
}

/* What a part says of itself must be what the first says. */
static enum status check_part(
    const struct metadata *metadata, uint64_t number, uint64_t count, struct error *err)
{
    uint64_t its_number = 0, its_count = 0;
    enum status status = get(&its_number, metadata, NO, COUNT_LIMIT, err);

    if (!status) status = get(&its_count, metadata, COUNT, COUNT_LIMIT, err);
    if (!status && its_number != number)
        status = fail(err, ERR_FORMAT, NO ": is %" PRIu64 ", must be %" PRIu64, its_number, number);
    if (!status && its_count != count)
        status =
            fail(err, ERR_FORMAT, COUNT ": is %" PRIu64 ", the first part says %" PRIu64, its_count, count);
    return status;
}

/* number: from 1, as in the path. */
static enum status read_part(struct container *container, const char *first, size_t stem, uint64_t number,
    uint64_t count, struct error *err)
{
    struct metadata metadata = {0};
    char ending[ENDING_BYTES];
    char *path = memory_new(stem + ENDING_BYTES, 1, err);
    enum status status = OK;

    if (!path) return ERR_MEMORY;
    snprintf(path, stem + ENDING_BYTES, "%.*s%s", (int)stem, first, ending_of(ending, number, count));
    if (file_kind(path) == FILE_ABSENT) {
        status =
            fail(err, ERR_FORMAT, "%s: this part is missing; %s says there are %" PRIu64, path, first, count);
    } else {
        status = gguf_parts_file(container, path, &metadata, err);
        if (!status) {
            status = check_part(&metadata, number - 1, count, err);
            if (status) fail_within(err, status, "%s", path);
        }
    }
    metadata_free(&metadata);
    memory_free(path);
    return status;
}

/* *count 1: a file that is whole. */
static enum status begin(uint64_t *count, uint64_t *tensors, size_t *stem, const struct metadata *metadata,
    const char *path, struct error *err)
{
    uint64_t number = 0;
    char ending[ENDING_BYTES];
    enum status status;

    *count = 1;
    status = metadata_get_u64(metadata, COUNT, 0, COUNT_LIMIT, count, err);
    if (status || *count <= 1) return status;
    status = get(&number, metadata, NO, COUNT_LIMIT, err);
    if (!status) status = get(tensors, metadata, TENSORS, CONTAINER_TENSOR_LIMIT, err);
    if (!status && number != 0)
        status = fail(err, ERR_FORMAT,
            NO ": is part %" PRIu64 " of %" PRIu64 "; open the first, whose name ends in %s", number + 1,
            *count, ending_of(ending, 1, *count));
    return status ? status : stem_of(stem, path, *count, err);
}

enum status gguf_parts_read(struct container *container, const char *path, struct error *err)
{
    uint64_t count, tensors = 0;
    size_t stem = 0;
    enum status status = begin(&count, &tensors, &stem, &container->metadata, path, err);

    if (status) return fail_within(err, status, "%s", path);
    if (count <= 1) return OK;
    for (uint64_t number = 2; number <= count && !status; number++)
        status = read_part(container, path, stem, number, count, err);
    if (!status && container->entry_count != tensors)
        status = fail(err, ERR_FORMAT, "%s: " TENSORS ": is %" PRIu64 ", the parts have %" PRIu64 " tensors",
            path, tensors, container->entry_count);
    return status;
}
