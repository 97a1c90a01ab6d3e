/* A folder of shards: model.safetensors.index.json (pytorch_model.bin.index.json) says in which file each tensor is.
 *
 *   {"metadata": {...}, "weight_map": {"tensor": "model-00001-of-00002.safetensors", ...}}
 *
 * Its file names are untrusted: each must be one path component, so nothing outside the folder is ever opened
 * through it (a link inside the folder is its owner's business; the Hugging Face cache is made of links). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "formats/reader.h"

/* One entry of the weight map. */
struct listing {
    const char *tensor, *shard;
};

struct weight_map {
    struct names_pool names;
    struct listing *listings;
    uint64_t count, capacity;
    struct names_index by_tensor; /* numbers of listings */
    const char **shards;          /* every file once, in name order */
    uint64_t shard_count;
};

static void free_map(struct weight_map *map)
{
    names_pool_free(&map->names);
    names_index_free(&map->by_tensor);
    memory_free(map->listings);
    memory_free(map->shards);
}

/* ---- reading the index ---- */

static enum status read_listing(
    struct weight_map *map, struct json_reader *json, struct json_text key, struct error *err)
{
    enum status status = names_check(key.bytes, key.count, err);
    struct listing listing;
    struct json_text file;

    if (status) return status;
    if (map->count == CONTAINER_TENSOR_LIMIT)
        return fail(err, ERR_MEMORY, "more than %d tensors", CONTAINER_TENSOR_LIMIT);
    listing.tensor = names_keep(&map->names, key.bytes, key.count, err);
    if (!listing.tensor) return ERR_MEMORY;
    status = json_read_string(json, &file, err);
    if (!status) status = names_check_file(file.bytes, file.count, err);
    if (status) return fail_within(err, status, "tensor %s", listing.tensor);
    listing.shard = names_keep(&map->names, file.bytes, file.count, err);
    if (!listing.shard) return ERR_MEMORY;
    status = memory_grow(&map->listings, &map->capacity, map->count + 1, sizeof *map->listings, err);
    if (status) return status;
    map->listings[map->count++] = listing;
    return OK;
}

static enum status read_weight_map(struct weight_map *map, struct json_reader *json, struct error *err)
{
    enum status status = json_enter_object(json, err);
    struct json_text key;
    bool more;

    while (!status) {
        status = json_next_key(json, &key, &more, err);
        if (status || !more) break;
        status = read_listing(map, json, key, err);
    }
    return status;
}

static enum status read_members(struct weight_map *map, struct json_reader *json, struct error *err)
{
    enum status status = json_enter_object(json, err);
    bool found = false, more;
    struct json_text key;

    while (!status) {
        status = json_next_key(json, &key, &more, err);
        if (status || !more) break;
        if (key.count != strlen("weight_map") || memcmp(key.bytes, "weight_map", key.count) != 0) {
            status = json_skip(json, NULL, err);
        } else if (found) {
            return fail(err, ERR_FORMAT, "duplicate key weight_map");
        } else {
            found = true;
            status = read_weight_map(map, json, err);
            if (status) return fail_within(err, status, "weight_map");
        }
    }
    if (!status) status = json_finish(json, err);
    if (!status && !found) return fail(err, ERR_FORMAT, "weight_map is missing");
    return status;
}

static enum status index_tensors(struct weight_map *map, struct error *err)
{
    const struct names_entry *twice;
    enum status status;

    for (uint64_t i = 0; i < map->count; i++) {
        status = names_add(&map->by_tensor, map->listings[i].tensor, i, err);
        if (status) return status;
    }
    twice = names_sort(&map->by_tensor);
    return twice ? fail(err, ERR_FORMAT, "weight_map: duplicate tensor %s", twice->name) : OK;
}

static int compare_texts(const void *left, const void *right)
{
    const char *const *a = left, *const *b = right;

    return strcmp(*a, *b);
}

/* Every shard once, in name order, whatever the order of the listings: it decides the order of tensors. */
static enum status list_shards(struct weight_map *map, struct error *err)
{
    uint64_t kept = 0;

    if (map->count == 0) return fail(err, ERR_FORMAT, "weight_map names no tensors");
    map->shards = memory_new(map->count, sizeof *map->shards, err);
    if (!map->shards) return ERR_MEMORY;
    for (uint64_t i = 0; i < map->count; i++)
        map->shards[i] = map->listings[i].shard;
    qsort(map->shards, map->count, sizeof *map->shards, compare_texts);
    for (uint64_t i = 0; i < map->count; i++) {
        if (i == 0 || strcmp(map->shards[i], map->shards[i - 1]) != 0) map->shards[kept++] = map->shards[i];
    }
    map->shard_count = kept;
    return OK;
}

static enum status load_map(struct weight_map *map, const char *path, struct error *err)
{
    struct json_reader json;
    char *text = NULL;
    uint64_t bytes;
    enum status status = file_read_all(&text, &bytes, path, CONTAINER_DOCUMENT_LIMIT, err);

    if (status) return status; /* names the path itself */
    json_reader_init(&json, "index", text, bytes);
    status = read_members(map, &json, err);
    if (!status) status = index_tensors(map, err);
    if (!status) status = list_shards(map, err);
    json_reader_free(&json);
    memory_free(text);
    return status ? fail_within(err, status, "%s", path) : OK;
}

/* ---- opening the shards ---- */

static enum status add_shard(struct container *container, const char *folder, const char *index,
    const struct shard_format *format, const char *shard, struct error *err)
{
    char *path = NULL;
    enum status status = file_join(&path, folder, shard, strlen(shard), err);

    if (status) return status;
    if (file_kind(path) == FILE_ABSENT)
        status = fail(err, ERR_FORMAT, "%s: this shard is missing; %s names it", path, index);
    else
        status = format->add(container, path, shard, err);
    memory_free(path);
    return status;
}

/* Index and shards must agree: each tensor is where it is listed, and no shard has one that is not listed. */
static enum status compare_with_map(
    const struct container *container, const struct weight_map *map, struct error *err)
{
    uint64_t number;

    for (uint64_t i = 0; i < map->count; i++) {
        const struct listing *listing = &map->listings[i];
        if (!names_find(&container->index, listing->tensor, &number))
            return fail(err, ERR_FORMAT, "tensor %s: listed in %s, but it is not there", listing->tensor,
                listing->shard);
        const char *shard = container->files[container->entries[number].file].name;
        if (strcmp(shard, listing->shard) != 0)
            return fail(err, ERR_FORMAT, "tensor %s: listed in %s, but it is in %s", listing->tensor,
                listing->shard, shard);
    }
    for (uint64_t i = 0; i < container->entry_count; i++) {
        const struct reader_entry *entry = &container->entries[i];
        if (!names_find(&map->by_tensor, entry->tensor.name, &number))
            return fail(err, ERR_FORMAT, "tensor %s: is in %s, but not listed", entry->tensor.name,
                container->files[entry->file].name);
    }
    return OK;
}

enum status shards_read(struct container *container, const char *folder, const char *index,
    const struct shard_format *format, struct error *err)
{
    struct weight_map map = {0};
    char *path = NULL;
    enum status status = file_join(&path, folder, index, strlen(index), err);

    if (!status) status = load_map(&map, path, err);
    for (uint64_t i = 0; i < map.shard_count && !status; i++)
        status = add_shard(container, folder, index, format, map.shards[i], err);
    if (status) goto done;
    status = format->finish(container, err);
    if (!status) status = compare_with_map(container, &map, err);
    if (status) fail_within(err, status, "%s", path);
done:
    free_map(&map);
    memory_free(path);
    return status;
}
