#include "distill/dataset_document.h"

#include <inttypes.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "distill/filters.h"
#include "model/stamp.h"

#define FORMAT "nibble distillation dataset"

enum { DOCUMENT_VERSION = 1, DOCUMENT_LIMIT = 16 * 1024 * 1024, HIDDEN_WIDTH_LIMIT = 1 << 20 };

/* ---- writing ---- */

static void put_record(struct json_writer *json, const struct dataset_document *document)
{
    const struct token_record_shape *shape = &document->layout.shape;
    json_write_key(json, "record");
    json_open_object(json);
    json_put_text(json, "targets", shape->draws ? "draws" : "top-k");
    json_put_u64(json, "vocabulary", shape->vocabulary);
    json_put_u64(json, "count", shape->count);
    json_put_u64(json, "value_bits", shape->value_bits);
    json_put_u64(json, "hidden_width", shape->hidden_width);
    json_write_key(json, "hidden_layers");
    json_open_array(json);
    for (uint32_t i = 0; i < shape->hidden_layers; i++)
        json_write_u64(json, document->hidden_layers[i]);
    json_close_array(json);
    json_put_u64(json, "bytes", document->layout.bytes);
    token_record_write_fields(&document->layout, json);
    json_close_object(json);
}

static void put_shard(struct json_writer *json, const struct shard_info *shard, uint64_t first)
{
    char name[24];
    json_open_object(json);
    json_put_text(json, "file", shard_name(name, shard->number));
    json_put_u64(json, "first_sequence", first);
    json_put_u64(json, "sequences", shard->sequences);
    json_put_u64(json, "tokens", shard->records);
    json_put_u64(json, "bytes", shard->bytes);
    json_put_crc32(json, "crc32", shard->crc);
    json_close_object(json);
}

static void put_index(struct json_writer *json, const struct dataset_document *document)
{
    uint64_t first = 0;
    json_put_u64(json, "sequences", document->sequences);
    json_put_u64(json, "tokens", document->tokens);
    json_put_u64(json, "bytes", document->bytes);
    json_put_u64(json, "sources", document->sources);
    json_write_key(json, "taken_by_filters");
    json_open_object(json);
    for (unsigned i = 0; i < SHARD_COUNTERS; i++)
        json_put_u64(json, filter_name(i), document->counters[i]);
    json_close_object(json);
    json_write_key(json, "shards");
    json_open_array(json);
    for (uint64_t i = 0; i < document->shard_count; i++) {
        put_shard(json, &document->shards[i], first);
        first += document->shards[i].sequences;
    }
    json_close_array(json);
}

static enum status write_text(const char *folder, const char *text, uint64_t bytes, struct error *err)
{
    char *path = NULL;
    enum status status = file_join(&path, folder, DATASET_DOCUMENT, strlen(DATASET_DOCUMENT), err);
    if (!status) status = output_whole(path, true, text, bytes, err);
    memory_free(path);
    return status;
}

enum status dataset_document_write(
    const struct dataset_document *document, const char *folder, struct error *err)
{
    struct json_writer json = {.indent = 2};
    char *text = NULL;
    uint64_t bytes;
    json_open_object(&json);
    json_put_text(&json, "format", FORMAT);
    json_put_u64(&json, "version", DOCUMENT_VERSION);
    json_put_bool(&json, "complete", document->complete);
    json_put_text(&json, "teacher", document->teacher);
    put_record(&json, document);
    if (document->complete) put_index(&json, document);
    json_write_key(&json, "stamp");
    json_write_value(&json, document->stamp);
    json_close_object(&json);
    enum status status = json_writer_take(&json, &text, &bytes, err);
    if (!status) status = write_text(folder, text, bytes, err);
    memory_free(text);
    return status;
}

/* ---- reading ---- */

static enum status get_u32(const struct json_value *object, const char *what, const char *key, uint32_t most,
    uint32_t *out, struct error *err)
{
    uint64_t value = UINT64_MAX;
    enum status status = json_get_u64(object, what, key, 0, most, &value, err);
    if (status) return status;
    if (value == UINT64_MAX) return fail(err, ERR_FORMAT, "%s: %s is missing", what, key);
    *out = (uint32_t)value;
    return OK;
}

static enum status read_hidden(struct dataset_document *out, const struct json_value *record,
    struct token_record_shape *shape, const char *what, struct error *err)
{
    const struct json_value *layers = json_member(record, "hidden_layers");
    if (!layers || layers->kind != JSON_ARRAY || layers->count > DISTILL_HIDDEN_LIMIT)
        return fail(
            err, ERR_FORMAT, "%s: record.hidden_layers is no list of at most %d", what, DISTILL_HIDDEN_LIMIT);
    out->hidden_layers = memory_new(layers->count, sizeof *out->hidden_layers, err);
    if (!out->hidden_layers) return ERR_MEMORY;
    for (const struct json_value *layer = layers->children; layer; layer = layer->next) {
        if (layer->kind != JSON_NUMBER || !layer->is_u64 || layer->u64 > UINT16_MAX)
            return fail(err, ERR_FORMAT, "%s: record.hidden_layers holds what is no layer", what);
        out->hidden_layers[shape->hidden_layers++] = (uint32_t)layer->u64;
    }
    return OK;
}

static enum status read_record(
    struct dataset_document *out, const struct json_value *root, const char *what, struct error *err)
{
    const struct json_value *record = json_member(root, "record");
    struct token_record_shape shape = {0};
    uint32_t bytes;
    enum status status;
    if (!record || record->kind != JSON_OBJECT) return fail(err, ERR_FORMAT, "%s: record is missing", what);
    shape.draws = json_is_text(json_member(record, "targets"), "draws");
    if (!shape.draws && !json_is_text(json_member(record, "targets"), "top-k"))
        return fail(err, ERR_FORMAT, "%s: record.targets is neither top-k nor draws", what);
    if ((status = get_u32(record, what, "vocabulary", UINT32_MAX, &shape.vocabulary, err)) ||
        (status = get_u32(record, what, "count", UINT32_MAX, &shape.count, err)) ||
        (status = get_u32(record, what, "value_bits", 32, &shape.value_bits, err)) ||
        (status = get_u32(record, what, "hidden_width", HIDDEN_WIDTH_LIMIT, &shape.hidden_width, err)) ||
        (status = get_u32(record, what, "bytes", UINT32_MAX, &bytes, err)) ||
        (status = read_hidden(out, record, &shape, what, err)))
        return status;
    status = token_record_plan(&out->layout, &shape, err) ? ERR_FORMAT : OK;
    if (status) return fail_within(err, status, "%s: record", what);
    if (out->layout.bytes == bytes) return OK;
    return fail(err, ERR_FORMAT, "%s: record.bytes is %" PRIu32 ", its fields need %" PRIu64, what, bytes,
        out->layout.bytes);
}

static bool read_crc(uint32_t *out, const struct json_value *value)
{
    uint64_t crc = 0;
    if (!value || value->kind != JSON_STRING || value->text.count != 8) return false;
    for (unsigned i = 0; i < 8; i++) {
        const char digit = value->text.bytes[i];
        if ((digit < '0' || digit > '9') && (digit < 'a' || digit > 'f')) return false;
        crc = crc << 4 | (uint64_t)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
    }
    *out = (uint32_t)crc;
    return true;
}

static enum status read_shard(struct shard_info *out, const struct json_value *entry, uint32_t number,
    const char *what, struct error *err)
{
    char name[24];
    enum status status;
    *out = (struct shard_info){
        .number = number, .sequences = UINT64_MAX, .records = UINT64_MAX, .bytes = UINT64_MAX};
    if (entry->kind != JSON_OBJECT || !json_is_text(json_member(entry, "file"), shard_name(name, number)))
        return fail(err, ERR_FORMAT, "%s: entry %" PRIu32 " of shards is not that of %s", what, number,
            shard_name(name, number));
    if ((status = json_get_u64(entry, what, "sequences", 0, INT64_MAX, &out->sequences, err)) ||
        (status = json_get_u64(entry, what, "tokens", 0, INT64_MAX, &out->records, err)) ||
        (status = json_get_u64(entry, what, "bytes", 0, INT64_MAX, &out->bytes, err)))
        return status;
    if (out->sequences != UINT64_MAX && out->records != UINT64_MAX && out->bytes != UINT64_MAX &&
        read_crc(&out->crc, json_member(entry, "crc32")))
        return OK;
    return fail(err, ERR_FORMAT, "%s: the entry of %s in shards is not whole", what, name);
}

static enum status read_index(
    struct dataset_document *out, const struct json_value *root, const char *what, struct error *err)
{
    const struct json_value *shards = json_member(root, "shards"),
                            *taken = json_member(root, "taken_by_filters");
    uint64_t sequences = 0, records = 0;
    enum status status;
    if (!shards || shards->kind != JSON_ARRAY || shards->count > SHARD_LIMIT || !taken ||
        taken->kind != JSON_OBJECT)
        return fail(err, ERR_FORMAT, "%s: shards or taken_by_filters is missing", what);
    out->shards = memory_new(shards->count, sizeof *out->shards, err);
    if (!out->shards) return ERR_MEMORY;
    for (const struct json_value *entry = shards->children; entry; entry = entry->next) {
        struct shard_info *shard = &out->shards[out->shard_count];
        status = read_shard(shard, entry, (uint32_t)out->shard_count, what, err);
        if (status) return status;
        out->shard_count++;
        sequences += shard->sequences; /* wraps for a hostile one; then the sums differ or do no harm */
        records += shard->records;
    }
    for (unsigned i = 0; i < SHARD_COUNTERS; i++) {
        status = json_get_u64(taken, what, filter_name(i), 0, UINT64_MAX, &out->counters[i], err);
        if (status) return status;
    }
    if ((status = json_get_u64(root, what, "sequences", 0, INT64_MAX, &out->sequences, err)) ||
        (status = json_get_u64(root, what, "tokens", 0, INT64_MAX, &out->tokens, err)) ||
        (status = json_get_u64(root, what, "bytes", 0, INT64_MAX, &out->bytes, err)) ||
        (status = json_get_u64(root, what, "sources", 0, UINT64_MAX, &out->sources, err)))
        return status;
    if (sequences == out->sequences && records == out->tokens) return OK;
    return fail(err, ERR_FORMAT, "%s: sequences and tokens are not the sums of those of the shards", what);
}

static enum status read_root(
    struct dataset_document *out, const struct json_value *root, const char *what, struct error *err)
{
    uint64_t version = 0;
    enum status status;
    if (root->kind != JSON_OBJECT || !json_is_text(json_member(root, "format"), FORMAT))
        return fail(err, ERR_FORMAT, "%s: is not the document of a " FORMAT, what);
    status = json_get_u64(root, what, "version", 1, UINT64_MAX, &version, err);
    if (status) return status;
    if (version != DOCUMENT_VERSION)
        return fail(err, ERR_UNSUPPORTED, "%s: is of version %" PRIu64 "; this program knows %d", what,
            version, DOCUMENT_VERSION);
    out->teacher = "";
    out->stamp = json_member(root, "stamp");
    if (!out->stamp) return fail(err, ERR_FORMAT, "%s: stamp is missing", what);
    if ((status = json_get_bool(root, what, "complete", &out->complete, err)) ||
        (status = json_get_text(root, what, "teacher", &out->teacher, err)) ||
        (status = stamp_check(what, out->stamp, err)) || (status = read_record(out, root, what, err)))
        return status;
    out->stamp_crc = stamp_crc(out->stamp);
    return out->complete ? read_index(out, root, what, err) : OK;
}

enum status dataset_document_parse(
    struct dataset_document *out, const char *what, const char *bytes, uint64_t count, struct error *err)
{
    *out = (struct dataset_document){0};
    enum status status = json_parse(&out->json, what, bytes, count, err);
    return status ? status : read_root(out, json_root(out->json), what, err);
}

enum status dataset_document_read(struct dataset_document *out, const char *folder, struct error *err)
{
    char *path = NULL, *text = NULL;
    uint64_t bytes;
    *out = (struct dataset_document){0};
    enum status status = file_join(&path, folder, DATASET_DOCUMENT, strlen(DATASET_DOCUMENT), err);
    if (!status) status = file_read_all(&text, &bytes, path, DOCUMENT_LIMIT, err);
    if (!status) status = dataset_document_parse(out, path, text, bytes, err);
    memory_free(text);
    memory_free(path);
    return status;
}

void dataset_document_free(struct dataset_document *document)
{
    memory_free(document->hidden_layers);
    memory_free(document->shards);
    json_free(document->json);
    *document = (struct dataset_document){0};
}
