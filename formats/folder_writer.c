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

/* A tensor of the model, declared as such or joined of rows. */
struct declared {
    struct tensor tensor;
    uint64_t first;               /* of its stored ones */
    uint64_t missing;             /* rows that are not declared yet */
    bool transposed;              /* DENSE: stored column by column */
    struct packed_parts parts;    /* TILES */
    _Atomic(uint8_t *) collected; /* TILES, transposed: its bytes, until they are complete */
    _Atomic uint64_t written;     /* TILES, transposed: bytes that are there, gaps between parts left out */
};

/* What writer_add declared: some rows of a tensor, or all. */
struct piece {
    struct tensor tensor; /* measured */
    uint64_t declared;    /* of which tensor */
    uint64_t first_row, run, step;
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
    struct folder_naming naming;
    struct names_pool names;
    struct json_keys taken, document_names;
    struct piece *pieces;
    uint64_t piece_count, piece_capacity;
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
    memory_free(writer->pieces);
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

/* A whole tensor under `name`. */
static enum status declare(
    struct folder_writer *writer, struct declared *declared, const char *name, struct error *err)
{
    struct tensor *tensor = &declared->tensor;
    const struct dtype_info *info = dtype_info(tensor->dtype);
    const uint64_t turned[2] = {tensor->shape[1], tensor->shape[0]};
    enum status status = names_check(name, strlen(name), err);

    if (!status) status = measure_tensor(tensor, err);
    if (status) return fail_within(err, status, "tensor %s", name);
    tensor->name = names_keep(&writer->names, name, strlen(name), err);
    if (!tensor->name) return ERR_MEMORY;
    status = memory_grow(&writer->declared, &writer->declared_capacity, writer->declared_count + 1,
        sizeof *writer->declared, err);
    declared->first = writer->stored_count;
    if (!status && tensor->storage == STORAGE_TILES)
        status = add_packed(writer, declared, err);
    else if (!status)
        status = add_stored(writer, tensor->name, info->name, info->bytes, tensor->rank,
            declared->transposed ? turned : tensor->shape, tensor->bytes, err);
    if (status) return status;
    memcpy(&writer->declared[writer->declared_count++], declared, sizeof *declared);
    return OK;
}

/* The tensor that is joined under a name, or as many as there are; its parts come close to one another. */
static uint64_t find_joined(const struct folder_writer *writer, const char *name)
{
    for (uint64_t i = writer->declared_count; i > 0; i--) {
        const struct declared *declared = &writer->declared[i - 1];
        if (declared->missing && strcmp(declared->tensor.name, name) == 0) return i - 1;
    }
    return writer->declared_count;
}

static bool same_kind(const struct tensor *a, const struct tensor *b)
{
    return a->storage == b->storage && a->dtype == b->dtype && a->rank == b->rank &&
           a->shape[1] == b->shape[1] && a->scheme.bits == b->scheme.bits &&
           a->scheme.group == b->scheme.group && a->scheme.asymmetric == b->scheme.asymmetric;
}

/* Some rows of a tensor, which is declared with the first of them. */
static enum status add_rows(
    struct folder_writer *writer, struct piece *piece, const struct folder_place *place, struct error *err)
{
    const struct tensor *tensor = &piece->tensor;
    struct declared whole = {
        .tensor = *tensor, .missing = place->rows, .transposed = place->transposed && tensor->rank == 2};
    const bool tiles = tensor->storage == STORAGE_TILES;
    enum status status = OK;

    if (tiles && (place->first_row % TILE_ROWS || place->run % TILE_ROWS || place->step % TILE_ROWS))
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: its rows in %s do not fill tiles of %d; --type f16 decodes them", tensor->name,
            place->name, TILE_ROWS);
    whole.tensor.shape[0] = place->rows;
    piece->declared = find_joined(writer, place->name);
    if (piece->declared == writer->declared_count) status = declare(writer, &whole, place->name, err);
    if (status) return status;
    struct declared *joined = &writer->declared[piece->declared];
    if (!same_kind(&joined->tensor, tensor))
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: has another type than other rows of %s: in folders of this architecture they are one "
            "matrix, of one type",
            tensor->name, place->name);
    if (tensor->shape[0] > joined->missing)
        return fail(err, ERR_FORMAT, "tensor %s: does not fit into the %" PRIu64 " rows of %s", tensor->name,
            place->rows, place->name);
    joined->missing -= tensor->shape[0];
    piece->first_row = place->first_row;
    piece->run = place->run;
    piece->step = place->step;
    return OK;
}

static enum status add(struct writer *base, const struct tensor *tensor, uint64_t *index, struct error *err)
{
    struct folder_writer *writer = own(base);
    struct piece piece = {.tensor = *tensor, .declared = writer->declared_count};
    struct declared whole = {.tensor = *tensor};
    struct folder_place place = {0};
    enum status status = OK;

    if (writer->begun) return fail(err, ERR_USAGE, "tensor %s: the layout is fixed already", tensor->name);
    if (tensor->storage == STORAGE_BLOCKS)
        return fail(err, ERR_UNSUPPORTED,
            "tensor %s: a Hugging Face folder has no %s blocks; --type f16, bf16 or f32 decodes them",
            tensor->name, block_info(tensor->block)->name);
    if (writer->naming.name) status = writer->naming.name(writer->naming.context, &place, tensor, err);
    if (!status) status = measure_tensor(&piece.tensor, err);
    if (!status)
        status = memory_grow(
            &writer->pieces, &writer->piece_capacity, writer->piece_count + 1, sizeof *writer->pieces, err);
    if (status) return fail_within(err, status, "tensor %s", tensor->name);
    status = place.rows ? add_rows(writer, &piece, &place, err)
                        : declare(writer, &whole, writer->naming.name ? place.name : tensor->name, err);
    if (status) return status;
    piece.tensor.name = writer->declared[piece.declared].tensor.name;
    *index = writer->piece_count;
    writer->pieces[writer->piece_count++] = piece;
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

static enum status check_joined(const struct folder_writer *writer, struct error *err)
{
    for (uint64_t i = 0; i < writer->declared_count; i++) {
        if (writer->declared[i].missing)
            return fail(err, ERR_FORMAT, "tensor %s: %" PRIu64 " of its rows are missing",
                writer->declared[i].tensor.name, writer->declared[i].missing);
    }
    return OK;
}

/* Shards, and the stored tensors in their order there. */
static enum status lay_out(struct folder_writer *writer, struct error *err)
{
    enum status status = check_joined(writer, err);

    if (!status && writer->kind != PACKED_KINDS) status = check_modules(writer, err);
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

/* All bytes of a matrix are there that is stored column by column. */
static enum status write_turned(struct folder_writer *writer, struct declared *declared, struct error *err)
{
    const struct tensor *tensor = &declared->tensor;
    const uint64_t rows = tensor->shape[0], cols = tensor->shape[1], size = dtype_info(tensor->dtype)->bytes;
    uint8_t *turned = memory_new(tensor->bytes, 1, err);
    const uint8_t *from = declared->collected;
    enum status status = turned ? OK : ERR_MEMORY;

    for (uint64_t i = 0; i < rows && !status; i++) {
        for (uint64_t j = 0; j < cols; j++)
            memcpy(turned + (j * rows + i) * size, from + (i * cols + j) * size, size);
    }
    if (!status) status = write_stored(writer, declared->first, 0, turned, tensor->bytes, err);
    memory_free(turned);
    memory_free(atomic_exchange(&declared->collected, NULL));
    return status;
}

/* Bytes of a tensor that must come, gaps between the parts of tiles left out. */
static enum status bytes_wanted(uint64_t *out, const struct tensor *tensor, struct error *err)
{
    struct tiles_layout tiles;
    enum status status;

    *out = tensor->bytes;
    if (tensor->storage != STORAGE_TILES) return OK;
    status = tiles_layout(&tiles, tensor->shape[0], tensor->shape[1], tensor->scheme, err);
    if (!status)
        *out = tiles.tiles * (tiles.tile_code_bytes + tiles.tile_scale_bytes + tiles.tile_zero_bytes);
    return status;
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

/* Bytes of a piece on their way: rows, or one of the three parts of tiles. */
struct stretch {
    uint64_t unit;          /* bytes of a row, or of that part of a tile */
    uint64_t rows;          /* of a unit: 1, or TILE_ROWS */
    uint64_t begin, target; /* where it begins in the piece, and in the whole tensor */
    uint64_t bytes;         /* of the piece's */
};

/* The rows of DENSE storage, or the three parts of TILES. Returns how many. */
static unsigned stretches_of(
    struct stretch out[3], const struct tensor *piece, const struct tensor *whole, struct error *err)
{
    struct tiles_layout from, to;

    if (piece->storage == STORAGE_DENSE) {
        const uint64_t row = piece->shape[0] ? piece->bytes / piece->shape[0] : 0;
        out[0] = (struct stretch){row, 1, 0, 0, piece->bytes};
        return piece->bytes ? 1 : 0;
    }
    if (tiles_layout(&from, piece->shape[0], piece->shape[1], piece->scheme, err) ||
        tiles_layout(&to, whole->shape[0], whole->shape[1], whole->scheme, err))
        return 0; /* writer_add has measured both */
    out[0] = (struct stretch){from.tile_code_bytes, TILE_ROWS, 0, 0, 0};
    out[1] = (struct stretch){from.tile_scale_bytes, TILE_ROWS, from.scales_offset, to.scales_offset, 0};
    out[2] = (struct stretch){from.tile_zero_bytes, TILE_ROWS, from.zeros_offset, to.zeros_offset, 0};
    for (unsigned i = 0; i < 3; i++)
        out[i].bytes = out[i].unit * from.tiles;
    return from.asymmetric ? 3 : 2;
}

/* Where byte `at` of a stretch lies in the whole tensor, and how many of the bytes after it lie behind it there. */
static uint64_t place_of(
    uint64_t *together, const struct piece *piece, const struct stretch *stretch, uint64_t at)
{
    const uint64_t run = piece->run / stretch->rows * stretch->unit,
                   step = piece->step / stretch->rows * stretch->unit;

    if (!piece->run) {
        *together = stretch->bytes - at;
        return stretch->target + at;
    }
    *together = run - at % run;
    return stretch->target + piece->first_row / stretch->rows * stretch->unit + at / run * step + at % run;
}

/* Bytes [at, at + count) of one stretch to the file, or to the buffer where there is one. */
static enum status put_stretch(struct folder_writer *writer, const struct piece *piece,
    const struct stretch *stretch, uint64_t at, uint8_t *buffer, const uint8_t *bytes, uint64_t count,
    struct error *err)
{
    const uint64_t stored = writer->declared[piece->declared].first;
    enum status status = OK;

    for (uint64_t done = 0, some; done < count && !status; done += some) {
        const uint64_t place = place_of(&some, piece, stretch, at + done);
        some = some < count - done ? some : count - done;
        if (buffer)
            memcpy(buffer + place, bytes + done, some);
        else
            status = write_stored(writer, stored, place, bytes + done, some, err);
    }
    return status;
}

static enum status write_part(struct writer *base, uint64_t index, uint64_t offset, const void *bytes,
    uint64_t count, struct error *err)
{
    struct folder_writer *writer = own(base);
    const struct piece *piece = &writer->pieces[index];
    struct declared *declared = &writer->declared[piece->declared];
    const bool tiles = declared->tensor.storage == STORAGE_TILES, collects = tiles || declared->transposed;
    struct stretch stretches[3];
    uint64_t end, some = 0, all = 0;
    uint8_t *buffer = NULL;
    enum status status = OK;

    if (checked_add(&end, offset, count) || end > piece->tensor.bytes)
        return fail(err, ERR_USAGE,
            "tensor %s: %" PRIu64 " bytes written at byte %" PRIu64 ", it has %" PRIu64, piece->tensor.name,
            count, offset, piece->tensor.bytes);
    if (collects && count) status = bytes_wanted(&all, &declared->tensor, err);
    if (status || !count) return status;
    if (collects && !(buffer = collected_of(declared, err))) return ERR_MEMORY;
    const unsigned parts = stretches_of(stretches, &piece->tensor, &declared->tensor, err);
    for (unsigned i = 0; i < parts && !status; i++) {
        const struct stretch *stretch = &stretches[i];
        const uint64_t from = stretch->begin > offset ? stretch->begin : offset,
                       past = stretch->begin + stretch->bytes, to = past < end ? past : end;
        if (from >= to) continue;
        some += to - from;
        status = put_stretch(writer, piece, stretch, from - stretch->begin, buffer,
            (const uint8_t *)bytes + (from - offset), to - from, err);
    }
    if (status || !collects || !some) return status;
    const uint64_t before = atomic_fetch_add(&declared->written, some);
    if (before >= all || before + some < all) return OK;
    return tiles ? write_packed(writer, declared, err) : write_turned(writer, declared, err);
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
        uint64_t all;
        if (declared->tensor.storage != STORAGE_TILES && !declared->transposed) continue;
        if (bytes_wanted(&all, &declared->tensor, err)) return ERR_FORMAT;
        if (declared->written != all)
            return fail(err, ERR_USAGE, "tensor %s: was not written whole", declared->tensor.name);
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

enum status folder_writer_create(struct writer **out, const char *path, enum packed_kind kind,
    uint64_t shard_bytes, const struct folder_naming *naming, struct error *err)
{
    struct folder_writer *writer = memory_new(1, sizeof *writer, err);
    enum status status = ERR_MEMORY;

    *out = NULL;
    if (!writer) return ERR_MEMORY;
    writer->base.kind = &kind_of_folders;
    writer->kind = kind;
    if (naming) writer->naming = *naming;
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
