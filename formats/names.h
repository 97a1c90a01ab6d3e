/* Names of tensors and documents: their rules, strings kept in bulk, and an index from name to number. */
#ifndef NIBBLE_FORMATS_NAMES_H
#define NIBBLE_FORMATS_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* What a tensor's name must be: 1 to CONTAINER_NAME_LIMIT bytes of UTF-8 without U+0000 (which would hide the
 * rest of the name from every tool that uses C strings). ERR_FORMAT otherwise. */
enum status names_check(const char *bytes, uint64_t count, struct error *err);

/* What the name of a document or a shard must be: 1 to 255 bytes of UTF-8 that can be a file's name: no '/',
 * no control characters, not "." and not "..". ERR_FORMAT otherwise. */
enum status names_check_file(const char *bytes, uint64_t count, struct error *err);

/* ---- strings in bulk ---- */

/* Many short strings that live and die together, in a few large blocks. Zero-initialise. */
struct names_pool {
    struct names_block *blocks; /* newest first */
};

/* A terminated copy whose address never changes, or NULL with ERR_MEMORY. Owner: the pool. */
const char *names_keep(struct names_pool *pool, const char *bytes, uint64_t count, struct error *err);
void names_pool_free(struct names_pool *pool);
/* All strings of `from` live on in `pool`; `from` is empty afterwards. */
void names_pool_join(struct names_pool *pool, struct names_pool *from);

/* ---- an index ---- */

/* Names and their numbers, sorted by name once all are in. A sorted array and not a hash table: no choice of
 * names makes it slow, and duplicates end up beside each other. Zero-initialise. */
struct names_index {
    struct names_entry *entries;
    uint64_t count, capacity;
};

struct names_entry {
    const char *name; /* not owned */
    uint64_t number;
};

enum status names_add(struct names_index *index, const char *name, uint64_t number, struct error *err);

/* Sort, by name and equal names by number. Returns the first entry that has the same name as the one after
 * it, or NULL if all names differ. */
const struct names_entry *names_sort(struct names_index *index);

/* The number of a name in a sorted index of distinct names; false if it is not there. */
bool names_find(const struct names_index *index, const char *name, uint64_t *number);
void names_index_free(struct names_index *index);

#endif
