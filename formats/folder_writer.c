/* See folder_writer.h. Everything is laid out at begin: which tensors a file holds, in which order, and its header. */
#include "formats/folder_writer.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "formats/bytes.h"
#include "formats/container.h"
#include "formats/measure.h"
#include "formats/names.h"
#include "formats/packed/packed_config.h"
#include "formats/packed/packed_parts.h"
#include "formats/safetensors.h"
#include "tensor/tiles.h"

/* A tensor of a file. */
struct stored {
    const char *name, *type;
    uint32_t rank, element_bytes, shard;
    uint64_t shape[TENSOR_RANK_LIMIT], bytes;
    uint64_t number; /* as declared: what the index by place gives back */
    uint64_t offset; /* in the file */
};

/* A tensor as it was declared. */
struct declared {
    struct tensor tensor;
    uint64_t first;               /* of its stored ones */
    struct packed_parts parts;    /* TILES */
    _Atomic(uint8_t *) collected; /* TILES: its bytes, until they are complete */
    _Atomic uint64_t written;     /* TILES: bytes of the parts that are there, gaps left out */
};

struct shard {
    struct output *output; /* the folder's */
    char *path;            /* where it will appear */
    char name[64];
    uint64_t first, count; /* of `stored` */
};

struct document {
    const char *name;
    char *bytes;
    uint64_t count;
};

struct folder_writer {
    struct writer base; /* first */
    struct output_folder *folder;
    char *path;
    enum packed_kind kind;
    uint64_t shard_bytes;
    struct names_pool names;
    struct json_keys taken, document_names;
    struct declared *declared;
    struct stored *stored;
    struct shard *shards;
    struct document *documents;
    uint64_t declared_count, declared_capacity, stored_count, stored_capacity;
    uint64_t shard_count, shard_capacity, document_count, document_capacity;
    bool begun;
};

static struct folder_writer *own(struct writer *writer)
{
    return (struct folder_writer *)writer;
}

static void folder_writer_free(struct folder_writer *writer)
{
    output_folder_abandon(writer->folder);
    for (uint64_t i = 0; i < writer->declared_count; i++)
        memory_free(writer->declared[i].collected);
    for (uint64_t i = 0; i < writer->shard_count; i++)
        memory_free(writer->shards[i].path);
    for (uint64_t i = 0; i < writer->document_count; i++)
        memory_free(writer->documents[i].bytes);
    memory_free(writer->documents);
    memory_free(writer->shards);
    memory_free(writer->stored);
    memory_free(writer->declared);
    json_keys_free(&writer->document_names);
    json_keys_free(&writer->taken);
    names_pool_free(&writer->names);
    memory_free(writer->path);
    memory_free(writer);
}

/* ---- declaring ---- */

static enum status keep_name(
    const char **out, struct folder_writer *writer, const char *name, struct error *err)
{
    const uint64_t count = strlen(name);
    bool added;
    enum status status = names_check(name, count, err);

    if (!status) status = json_keys_add(&writer->taken, name, count, &added, err);
    if (status) return status;
    if (!added) return fail(err, ERR_FORMAT, "name %s is in use already", name);
    *out = names_keep(&writer->names, name, count, err);
    return *out ? OK : ERR_MEMORY;
}

static enum status add_stored(struct folder_writer *writer, const char *name, const char *type,
    uint32_t element_bytes, uint32_t rank, const uint64_t *shape, uint64_t bytes, struct error *err)
{
    struct stored stored = {.type = type,
        .rank = rank,
        .element_bytes = element_bytes,
        .bytes = bytes,
        .number = writer->stored_count};
    enum status status = keep_name(&stored.name, writer, name, err);

    if (!status)
        status = memory_grow(
            &writer->stored, &writer->stored_capacity, writer->stored_count + 1, sizeof *writer->stored, err);
    if (status) return status;
    memcpy(stored.shape, shape, rank * sizeof *shape);
    writer->stored[writer->stored_count++] = stored;
    return OK;
}

static enum status add_packed(struct folder_writer *writer, struct declared *declared, struct error *err)
{
    const struct tensor *tensor = &declared->tensor;
    char name[CONTAINER_NAME_LIMIT + 32];
    enum status status;

    if (writer->kind == PACKED_KINDS)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s is quantized; --type f16, bf16 or f32 decodes it, and --format gptq, gptq-v2, awq, "
            "compressed-tensors or mlx stores it as it is",
            tensor->name);
    status = packed_parts_plan(&declared->parts, writer->kind, tensor, err);
    for (unsigned i = 0; i < declared->parts.count && !status; i++) {
        const struct packed_part *part = &declared->parts.list[i];
        snprintf(name, sizeof name, "%.*s.%s", (int)packed_stem(tensor->name), tensor->name, part->suffix);
        status = add_stored(
            writer, name, part->type, part->element_bytes, part->rank, part->shape, part->bytes, err);
    }
    return status;
}

static enum status add(struct writer *base, const struct tensor *tensor, uint64_t *index, struct error *err)
{
    struct folder_writer *writer = own(base);
    struct declared declared = {.tensor = *tensor, .first = writer->stored_count};
    const struct dtype_info *info = dtype_info(tensor->dtype);
    enum status status;

    if (writer->begun) return fail(err, ERR_USAGE, "tensor %s: the layout is fixed already", tensor->name);
    if (tensor->storage == STORAGE_BLOCKS)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: a Hugging Face folder has no %s blocks; --type f16, bf16 or f32 decodes them",
            tensor->name, block_info(tensor->block)->name);
    status = names_check(tensor->name, strlen(tensor->name), err);
    if (!status) status = measure_tensor(&declared.tensor, err);
    if (status) return fail_within(err, status, "tensor %s", tensor->name);
    declared.tensor.name = names_keep(&writer->names, tensor->name, strlen(tensor->name), err);
    if (!declared.tensor.name) return ERR_MEMORY;
    status = memory_grow(&writer->declared, &writer->declared_capacity, writer->declared_count + 1,
        sizeof *writer->declared, err);
    if (!status && tensor->storage == STORAGE_TILES)
        status = add_packed(writer, &declared, err);
    else if (!status)
        status = add_stored(writer, tensor->name, info->name, info->bytes, tensor->rank, tensor->shape,
            declared.tensor.bytes, err);
    if (status) return status;
    *index = writer->declared_count;
    memcpy(&writer->declared[writer->declared_count++], &declared, sizeof declared);
    return OK;
}

static enum status add_alias(struct writer *base, const char *alias, const char *target, struct error *err)
{
    (void)base, (void)alias, (void)target, (void)err;
    return OK;
}

static enum status add_document(
    struct writer *base, const char *name, const char *bytes, uint64_t count, struct error *err)
{
    struct folder_writer *writer = own(base);
    struct document added = {.count = count};
    bool fresh;
    enum status status = names_check_file(name, strlen(name), err);

    if (!status) status = json_keys_add(&writer->document_names, name, strlen(name), &fresh, err);
    if (!status && !fresh) status = fail(err, ERR_FORMAT, "document %s is in use already", name);
    if (!status)
        status = memory_grow(&writer->documents, &writer->document_capacity, writer->document_count + 1,
            sizeof *writer->documents, err);
    if (status) return status;
    added.name = names_keep(&writer->names, name, strlen(name), err);
    added.bytes = added.name ? memory_text(bytes, count, err) : NULL;
    if (!added.bytes) return ERR_MEMORY;
    writer->documents[writer->document_count++] = added;
    return OK;
}

/* ---- which modules are quantized, and how ---- */

/* A whole row is a group of that many columns where others have such groups, else a group of its own kind. */
static uint64_t said_group(const struct folder_writer *writer, const struct tensor *tensor)
{
    const struct scheme *scheme = &tensor->scheme;

    if (scheme->group != tensor->shape[1] || writer->kind == PACKED_MLX) return scheme->group;
    for (uint64_t i = 0; i < writer->declared_count; i++) {
        const struct tensor *other = &writer->declared[i].tensor;
        if (other->storage == STORAGE_TILES && other->scheme.bits == scheme->bits &&
            other->scheme.group == scheme->group && other->shape[1] > scheme->group)
            return scheme->group;
    }
    return 0;
}

/* All matrices but the embedding, which no configuration lists. The head is among them also where it is the embedding: readers make
 * one before they tie it. */
static enum status list_modules(
    struct packed_module **out, uint64_t *count, const struct folder_writer *writer, struct error *err)
{
    static const struct packed_module tied_head = {.name = "lm_head", .name_bytes = 7};
    bool head = false;

    *count = 0;
    *out = memory_new(writer->declared_count + 1, sizeof **out, err);
    if (!*out) return ERR_MEMORY;
    for (uint64_t i = 0; i < writer->declared_count; i++) {
        const struct tensor *tensor = &writer->declared[i].tensor;
        const bool packed = tensor->storage == STORAGE_TILES,
                   embedding = strstr(tensor->name, "embed_tokens");
        if (tensor->rank != 2 || !packed_stem(tensor->name) || (embedding && !packed)) continue;
        head |= strcmp(tensor->name, "lm_head.weight") == 0;
        (*out)[(*count)++] = (struct packed_module){.name = tensor->name,
            .name_bytes = packed_stem(tensor->name),
            .packed = packed,
            .scheme = {.bits = tensor->scheme.bits,
                .group = packed ? said_group(writer, tensor) : 0,
                .asymmetric = packed && tensor->scheme.asymmetric}};
    }
    if (!head) (*out)[(*count)++] = tied_head;
    return OK;
}

/* What the configuration could not say. */
static enum status check_modules(const struct folder_writer *writer, struct error *err)
{
    const struct packed_module *one = NULL;
    struct packed_module *modules;
    uint64_t count;
    enum status status = list_modules(&modules, &count, writer, err);

    for (uint64_t i = 0; i < count && !status; i++) {
        if (!modules[i].packed) continue;
        if (one && writer->kind == PACKED_AWQ && one->scheme.group != modules[i].scheme.group)
            status = fail(err, ERR_UNSUPPORTED,
                "%s: awq has one group size for all matrices; %.*s and %.*s have groups of %" PRIu64
                " and %" PRIu64,
                writer->path, (int)one->name_bytes, one->name, (int)modules[i].name_bytes, modules[i].name,
                one->scheme.group, modules[i].scheme.group);
        one = &modules[i];
    }
    if (!status && !one)
        status = fail(err, ERR_UNSUPPORTED,
            "%s: nothing in the model is quantized; nibble-quantize --format %s does that, --format "
            "safetensors "
            "writes it as it is",
            writer->path, packed_layout(writer->kind)->name);
    memory_free(modules);
    return status;
}

/* ---- the layout ---- */

/* Larger elements first, so that each lies at a multiple of its size; else as declared. */
static int compare_places(const void *left, const void *right)
{
    const struct stored *a = left, *b = right;

    if (a->shard != b->shard) return a->shard < b->shard ? -1 : 1;
    if (a->element_bytes != b->element_bytes) return a->element_bytes > b->element_bytes ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

static int compare_numbers(const void *left, const void *right)
{
    const struct stored *a = left, *b = right;

    return a->number < b->number ? -1 : a->number > b->number;
}

/* The parts of a tensor stay together. */
static enum status choose_shards(struct folder_writer *writer, struct error *err)
{
    uint64_t filled = 0, shards = 0;

    for (uint64_t i = 0; i < writer->declared_count; i++) {
        const uint64_t end =
            i + 1 < writer->declared_count ? writer->declared[i + 1].first : writer->stored_count;
        uint64_t bytes = 0;
        for (uint64_t j = writer->declared[i].first; j < end; j++) {
            if (checked_add(&bytes, bytes, writer->stored[j].bytes) || bytes > INT64_MAX / 2)
                return fail(err, ERR_FORMAT, "tensor %s: is too large", writer->declared[i].tensor.name);
        }
        if (!shards || (filled && (filled > writer->shard_bytes || bytes > writer->shard_bytes - filled))) {
            shards++;
            filled = 0;
        }
        filled += bytes;
        for (uint64_t j = writer->declared[i].first; j < end; j++)
            writer->stored[j].shard = (uint32_t)shards - 1;
    }
    writer->shards = memory_new(shards ? shards : 1, sizeof *writer->shards, err);
    if (!writer->shards) return ERR_MEMORY;
    writer->shard_count = shards ? shards : 1;
    return OK;
}

static void describe(struct json_writer *json, const struct stored *stored, uint64_t begin)
{
    json_write_key(json, stored->name);
    json_open_object(json);
    json_put_text(json, "dtype", stored->type);
    json_write_key(json, "shape");
    json_open_array(json);
    for (uint32_t i = 0; i < stored->rank; i++)
        json_write_u64(json, stored->shape[i]);
    json_close_array(json);
    json_write_key(json, "data_offsets");
    json_open_array(json);
    json_write_u64(json, begin);
    json_write_u64(json, begin + stored->bytes);
    json_close_array(json);
    json_close_object(json);
}

/* The header of one file: its length, JSON, and spaces up to a multiple of 8. *end: of the file. */
static enum status build_header(char **out, uint64_t *bytes, uint64_t *end, struct folder_writer *writer,
    const struct shard *shard, struct error *err)
{
    struct json_writer json = {0};
    uint64_t at = 0, count;
    char *text = NULL;
    enum status status;

    json_open_object(&json);
    json_write_key(&json, "__metadata__");
    json_open_object(&json);
    json_put_text(&json, "format", writer->kind == PACKED_MLX ? "mlx" : "pt");
    json_close_object(&json);
    for (uint64_t i = shard->first; i < shard->first + shard->count; i++) {
        describe(&json, &writer->stored[i], at);
        writer->stored[i].offset = at;
        at += writer->stored[i].bytes;
    }
    json_close_object(&json);
    status = json_writer_take(&json, &text, &count, err);
    if (status) return status;
    *bytes = 8 + (count + 7) / 8 * 8;
    if (*bytes - 8 > SAFETENSORS_HEADER_LIMIT) {
        memory_free(text);
        return fail(err, ERR_UNSUPPORTED, "%s: the names of its tensors exceed a header's %d bytes",
            writer->path, SAFETENSORS_HEADER_LIMIT);
    }
    *end = *bytes + at;
    *out = memory_new(*bytes, 1, err);
    if (*out) {
        memset(*out, ' ', *bytes);
        bytes_put((uint8_t *)*out, *bytes - 8, 8);
        memcpy(*out + 8, text, count);
    }
    memory_free(text);
    for (uint64_t i = shard->first; i < shard->first + shard->count; i++)
        writer->stored[i].offset += *bytes;
    return *out ? OK : ERR_MEMORY;
}

static enum status open_shard(struct folder_writer *writer, uint64_t index, struct error *err)
{
    struct shard *shard = &writer->shards[index];
    char *header = NULL;
    uint64_t bytes = 0, end = 0;
    enum status status = build_header(&header, &bytes, &end, writer, shard, err);

    if (writer->shard_count == 1)
        snprintf(shard->name, sizeof shard->name, "model.safetensors");
    else
        snprintf(shard->name, sizeof shard->name, "model-%05" PRIu64 "-of-%05" PRIu64 ".safetensors",
            index + 1, writer->shard_count);
    if (!status) status = file_join(&shard->path, writer->path, shard->name, strlen(shard->name), err);
    if (!status) status = output_folder_add(&shard->output, writer->folder, shard->name, err);
    if (!status) status = output_reserve(shard->output, end, err);
    if (!status) status = output_write_at(shard->output, 0, header, bytes, err);
    memory_free(header);
    return status;
}

/* Shards, and the stored tensors in their order there. */
static enum status lay_out(struct folder_writer *writer, struct error *err)
{
    enum status status = writer->kind == PACKED_KINDS ? OK : check_modules(writer, err);

    if (!status) status = choose_shards(writer, err);
    if (status) return status;
    qsort(writer->stored, writer->stored_count, sizeof *writer->stored, compare_places);
    for (uint64_t i = writer->stored_count; i-- > 0;) {
        struct shard *shard = &writer->shards[writer->stored[i].shard];
        shard->first = i;
        shard->count++;
    }
    return OK;
}

static enum status count_bytes(struct writer *base, uint64_t *bytes, struct error *err)
{
    struct folder_writer *writer = own(base);
    enum status status = lay_out(writer, err);

    *bytes = 0;
    for (uint64_t i = 0; i < writer->shard_count && !status; i++) {
        char *header = NULL;
        uint64_t head, end = 0;
        status = build_header(&header, &head, &end, writer, &writer->shards[i], err);
        memory_free(header);
        *bytes += end;
    }
    return status;
}

static enum status begin(struct writer *base, struct error *err)
{
    struct folder_writer *writer = own(base);
    enum status status = lay_out(writer, err);

    if (status) return status;
    for (uint64_t i = 0; i < writer->shard_count && !status; i++)
        status = open_shard(writer, i, err);
    qsort(writer->stored, writer->stored_count, sizeof *writer->stored, compare_numbers);
    writer->begun = true;
    return status;
}

/* ---- data ---- */

static enum status write_stored(struct folder_writer *writer, uint64_t index, uint64_t offset,
    const void *bytes, uint64_t count, struct error *err)
{
    const struct stored *stored = &writer->stored[index];

    return output_write_at(writer->shards[stored->shard].output, stored->offset + offset, bytes, count, err);
}

/* All bytes of a matrix are there: pack it and let it go. */
static enum status write_packed(struct folder_writer *writer, struct declared *declared, struct error *err)
{
    const struct packed_parts *parts = &declared->parts;
    void *bytes[PACKED_PARTS_MOST] = {0};
    enum status status = OK;

    for (unsigned i = 0; i < parts->count && !status; i++) {
        bytes[i] = memory_new(parts->list[i].bytes, 1, err);
        if (!bytes[i]) status = ERR_MEMORY;
    }
    if (!status)
        status = packed_parts_fill(bytes, parts, writer->kind, &declared->tensor, declared->collected, err);
    for (unsigned i = 0; i < parts->count; i++) {
        if (!status)
            status = write_stored(writer, declared->first + i, 0, bytes[i], parts->list[i].bytes, err);
        memory_free(bytes[i]);
    }
    memory_free(atomic_exchange(&declared->collected, NULL));
    return status;
}

/* How many of `count` bytes at `offset` are of one of the three parts of tiles, and not of the gaps between them. */
static uint64_t of_parts(const struct tiles_layout *tiles, uint64_t offset, uint64_t count)
{
    const uint64_t parts[3][2] = {{0, tiles->tiles * tiles->tile_code_bytes},
        {tiles->scales_offset, tiles->tiles * tiles->tile_scale_bytes},
        {tiles->zeros_offset, tiles->tiles * tiles->tile_zero_bytes}};
    uint64_t sum = 0;

    for (unsigned i = 0; i < 3; i++) {
        const uint64_t part_end = parts[i][0] + parts[i][1], end = offset + count;
        const uint64_t from = parts[i][0] > offset ? parts[i][0] : offset,
                       to = part_end < end ? part_end : end;
        sum += from < to ? to - from : 0;
    }
    return sum;
}

/* The buffer of a matrix: whoever needs it first makes it. */
static uint8_t *collected_of(struct declared *declared, struct error *err)
{
    uint8_t *buffer = atomic_load(&declared->collected), *made;

    if (buffer) return buffer;
    made = memory_new(declared->tensor.bytes, 1, err);
    if (!made || atomic_compare_exchange_strong(&declared->collected, &buffer, made)) return made;
    memory_free(made);
    return buffer;
}

static enum status write_part(struct writer *base, uint64_t index, uint64_t offset, const void *bytes,
    uint64_t count, struct error *err)
{
    struct folder_writer *writer = own(base);
    struct declared *declared = &writer->declared[index];
    const struct tensor *tensor = &declared->tensor;
    struct tiles_layout tiles;
    uint64_t end, before, some, all;
    uint8_t *buffer;
    enum status status;

    if (checked_add(&end, offset, count) || end > tensor->bytes)
        return fail(err, ERR_USAGE,
            "tensor %s: %" PRIu64 " bytes written at byte %" PRIu64 ", it has %" PRIu64, tensor->name, count,
            offset, tensor->bytes);
    if (tensor->storage == STORAGE_DENSE)
        return write_stored(writer, declared->first, offset, bytes, count, err);
    status = tiles_layout(&tiles, tensor->shape[0], tensor->shape[1], tensor->scheme, err);
    if (status || !count) return status;
    buffer = collected_of(declared, err);
    if (!buffer) return ERR_MEMORY;
    memcpy(buffer + offset, bytes, count);
    all = of_parts(&tiles, 0, tiles.bytes);
    some = of_parts(&tiles, offset, count);
    before = atomic_fetch_add(&declared->written, some);
    return some && before < all && before + some >= all ? write_packed(writer, declared, err) : OK;
}

static void set_checksum(struct writer *base, uint64_t index, uint32_t crc)
{
    (void)base, (void)index, (void)crc; /* the format records none */
}

static const char *file_of(const struct writer *base, uint64_t index)
{
    const struct folder_writer *writer = (const struct folder_writer *)base;

    return index < writer->shard_count ? writer->shards[index].path : NULL;
}

/* ---- documents ---- */

static enum status write_file(
    struct folder_writer *writer, const char *name, const char *bytes, uint64_t count, struct error *err)
{
    struct output *output;
    enum status status = output_folder_add(&output, writer->folder, name, err);

    return status ? status : output_write_at(output, 0, bytes, count, err);
}

/* config.json as it was attached, with the quantization put in, or taken out. */
static enum status write_config(
    struct folder_writer *writer, const struct document *document, struct error *err)
{
    struct json_document *config = NULL;
    struct packed_module *modules = NULL;
    char *text = NULL, *beside = NULL;
    uint64_t count, bytes, beside_bytes;
    enum status status = json_parse(&config, document->name, document->bytes, document->count, err);

    if (!status && json_root(config)->kind != JSON_OBJECT)
        status = fail(err, ERR_FORMAT, "%s: not a JSON object", document->name);
    if (!status) status = list_modules(&modules, &count, writer, err);
    if (!status && writer->kind == PACKED_KINDS)
        status = packed_config_plain(&text, &bytes, json_root(config), err);
    else if (!status)
        status = packed_config_write(
            &text, &bytes, &beside, &beside_bytes, json_root(config), writer->kind, modules, count, err);
    if (!status) status = write_file(writer, document->name, text, bytes, err);
    if (!status && beside) status = write_file(writer, "quantize_config.json", beside, beside_bytes, err);
    memory_free(beside);
    memory_free(text);
    memory_free(modules);
    json_free(config);
    return status;
}

static enum status write_documents(struct folder_writer *writer, struct error *err)
{
    bool configured = writer->kind == PACKED_KINDS;
    enum status status = OK;

    for (uint64_t i = 0; i < writer->document_count && !status; i++) {
        const struct document *document = &writer->documents[i];
        const bool config = strcmp(document->name, "config.json") == 0;
        status = config ? write_config(writer, document, err)
                        : write_file(writer, document->name, document->bytes, document->count, err);
        configured |= config;
    }
    if (!status && !configured)
        status = fail(err, ERR_FORMAT, "%s: no config.json to say how it is quantized", writer->path);
    return status;
}

/* model.safetensors.index.json */
static enum status write_index(struct folder_writer *writer, struct error *err)
{
    struct json_writer json = {.indent = 2};
    uint64_t total = 0, count;
    char *text = NULL;
    enum status status;

    for (uint64_t i = 0; i < writer->stored_count; i++)
        total += writer->stored[i].bytes;
    json_open_object(&json);
    json_write_key(&json, "metadata");
    json_open_object(&json);
    json_put_u64(&json, "total_size", total);
    json_close_object(&json);
    json_write_key(&json, "weight_map");
    json_open_object(&json);
    for (uint64_t i = 0; i < writer->stored_count; i++)
        json_put_text(&json, writer->stored[i].name, writer->shards[writer->stored[i].shard].name);
    json_close_object(&json);
    json_close_object(&json);
    status = json_writer_take(&json, &text, &count, err);
    if (!status) status = write_file(writer, "model.safetensors.index.json", text, count, err);
    memory_free(text);
    return status;
}

/* ---- ending ---- */

static enum status check_complete(const struct folder_writer *writer, struct error *err)
{
    for (uint64_t i = 0; i < writer->declared_count; i++) {
        const struct declared *declared = &writer->declared[i];
        const struct tensor *tensor = &declared->tensor;
        struct tiles_layout tiles;
        if (tensor->storage != STORAGE_TILES) continue;
        if (tiles_layout(&tiles, tensor->shape[0], tensor->shape[1], tensor->scheme, err)) return ERR_FORMAT;
        if (declared->written != of_parts(&tiles, 0, tiles.bytes))
            return fail(err, ERR_USAGE, "tensor %s: was not written whole", tensor->name);
    }
    return OK;
}

static enum status commit(struct writer *base, struct error *err)
{
    struct folder_writer *writer = own(base);
    enum status status = writer->begun ? OK : begin(base, err);

    if (!status) status = check_complete(writer, err);
    if (!status && writer->shard_count > 1) status = write_index(writer, err);
    if (!status) status = write_documents(writer, err);
    if (!status) {
        status = output_folder_commit(writer->folder, err);
        writer->folder = NULL; /* freed in any case */
    }
    folder_writer_free(writer);
    return status;
}

static void abandon(struct writer *base)
{
    folder_writer_free(own(base));
}

static const struct writer_kind kind_of_folders = {
    .name = "safetensors",
    .add = add,
    .alias = add_alias,
    .begin = begin,
    .bytes = count_bytes,
    .write = write_part,
    .checksum = set_checksum,
    .document = add_document,
    .file = file_of,
    .commit = commit,
    .abandon = abandon,
};

enum status folder_writer_create(
    struct writer **out, const char *path, enum packed_kind kind, uint64_t shard_bytes, struct error *err)
{
    struct folder_writer *writer = memory_new(1, sizeof *writer, err);
    enum status status = ERR_MEMORY;

    *out = NULL;
    if (!writer) return ERR_MEMORY;
    writer->base.kind = &kind_of_folders;
    writer->kind = kind;
    writer->shard_bytes = shard_bytes ? shard_bytes : FOLDER_WRITER_SHARD_BYTES;
    writer->path = memory_text(path, strlen(path), err);
    if (!writer->path) goto done;
    status = output_folder_open(&writer->folder, path, err);
    if (status) goto done;
    *out = &writer->base;
    writer = NULL;
done:
    if (writer) folder_writer_free(writer);
    return status;
}
