/* Names: rules, storage in bulk, sorted index. */
#include "formats/names.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "formats/container.h"

enum { BLOCK_BYTES = 64 * 1024, FILE_NAME_LIMIT = 255 };

/* ---- rules ---- */

enum status names_check(const char *bytes, uint64_t count, struct error *err)
{
    char shown[64];

    if (count == 0) return fail(err, ERR_FORMAT, "a tensor's name is empty");
    if (count > CONTAINER_NAME_LIMIT)
        return fail(err, ERR_FORMAT, "name %s: has %" PRIu64 " bytes, the limit is %d",
            error_quote(shown, sizeof shown, bytes, count), count, CONTAINER_NAME_LIMIT);
    if (memchr(bytes, 0, count))
        return fail(
            err, ERR_FORMAT, "name %s: has U+0000 inside", error_quote(shown, sizeof shown, bytes, count));
    if (!json_valid_utf8(bytes, count))
        return fail(err, ERR_FORMAT, "name %s: is not UTF-8", error_quote(shown, sizeof shown, bytes, count));
    return OK;
}

static bool has_control_or_slash(const char *bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        uint8_t byte = (uint8_t)bytes[i];
        if (byte < 0x20 || byte == 0x7F || byte == '/') return true;
    }
    return false;
}

enum status names_check_file(const char *bytes, uint64_t count, struct error *err)
{
    bool dots = count > 0 && count <= 2 && memcmp(bytes, "..", count) == 0;
    char shown[64];

    if (count == 0 || count > FILE_NAME_LIMIT)
        return fail(err, ERR_FORMAT, "a file's name has %" PRIu64 " bytes, must have 1 to %d", count,
            FILE_NAME_LIMIT);
    if (dots || has_control_or_slash(bytes, count) || !json_valid_utf8(bytes, count))
        return fail(err, ERR_FORMAT, "'%s' cannot be the name of a file",
            error_quote(shown, sizeof shown, bytes, count));
    return OK;
}

/* ---- strings in bulk ---- */

struct names_block {
    struct names_block *next;
    uint64_t used, capacity;
    char bytes[];
};

static struct names_block *new_block(struct names_pool *pool, uint64_t needed, struct error *err)
{
    uint64_t capacity = needed > BLOCK_BYTES ? needed : BLOCK_BYTES;
    struct names_block *block = memory_new(sizeof *block + capacity, 1, err);

    if (!block) return NULL;
    block->capacity = capacity;
    block->next = pool->blocks;
    pool->blocks = block;
    return block;
}

const char *names_keep(struct names_pool *pool, const char *bytes, uint64_t count, struct error *err)
{
    struct names_block *block = pool->blocks;
    char *copy;

    if (!block || block->capacity - block->used < count + 1) block = new_block(pool, count + 1, err);
    if (!block) return NULL;
    copy = block->bytes + block->used;
    if (count > 0) memcpy(copy, bytes, count);
    copy[count] = 0;
    block->used += count + 1;
    return copy;
}

void names_pool_free(struct names_pool *pool)
{
    while (pool->blocks) {
        struct names_block *next = pool->blocks->next;
        memory_free(pool->blocks);
        pool->blocks = next;
    }
}

void names_pool_join(struct names_pool *pool, struct names_pool *from)
{
    struct names_block **end = &pool->blocks;

    while (*end)
        end = &(*end)->next;
    *end = from->blocks;
    from->blocks = NULL;
}

/* ---- the index ---- */

enum status names_add(struct names_index *index, const char *name, uint64_t number, struct error *err)
{
    enum status status =
        memory_grow(&index->entries, &index->capacity, index->count + 1, sizeof *index->entries, err);

    if (status) return status;
    index->entries[index->count++] = (struct names_entry){name, number};
    return OK;
}

static int compare_entries(const void *left, const void *right)
{
    const struct names_entry *a = left, *b = right;
    int order = strcmp(a->name, b->name);

    if (order != 0) return order;
    return (a->number > b->number) - (a->number < b->number);
}

const struct names_entry *names_sort(struct names_index *index)
{
    if (index->count < 2) return NULL;
    qsort(index->entries, index->count, sizeof *index->entries, compare_entries);
    for (uint64_t i = 0; i + 1 < index->count; i++) {
        if (strcmp(index->entries[i].name, index->entries[i + 1].name) == 0) return &index->entries[i];
    }
    return NULL;
}

bool names_find(const struct names_index *index, const char *name, uint64_t *number)
{
    uint64_t low = 0, high = index->count;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        int order = strcmp(name, index->entries[middle].name);
        if (order == 0) {
            *number = index->entries[middle].number;
            return true;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}

void names_index_free(struct names_index *index)
{
    memory_free(index->entries);
    *index = (struct names_index){0};
}
