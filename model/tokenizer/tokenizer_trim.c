/* See tokenizer_trim.h. Vocabulary and merges pass by in the pull parser; the small sections are trees. */
#include "model/tokenizer/tokenizer_trim.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/utf8.h"
#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/postprocessor.h"
#include "model/tokenizer/tokenizer_json.h"

#define GONE UINT32_MAX

/* ---- the tokenizer ---- */

struct loaded {
    struct json_text sections[SECTION_COUNT];
    struct vocabulary vocabulary; /* added tokens too */
    struct bpe bpe;
    struct added_tokens added;
    const struct bpe_merge **merges; /* [merge_count] by rank; NULL: a pair that came again later */
    uint64_t merge_count;
};

static enum status list_merges(struct loaded *loaded, struct error *err)
{
    const struct bpe *bpe = &loaded->bpe;

    for (uint64_t i = 0; i < bpe->merge_slots; i++) {
        if (bpe->merges[i].left != NO_ENTRY && bpe->merges[i].rank >= loaded->merge_count)
            loaded->merge_count = bpe->merges[i].rank + UINT64_C(1);
    }
    loaded->merges = memory_new(loaded->merge_count, sizeof *loaded->merges, err);
    if (!loaded->merges) return ERR_MEMORY;
    for (uint64_t i = 0; i < bpe->merge_slots; i++) {
        if (bpe->merges[i].left != NO_ENTRY) loaded->merges[bpe->merges[i].rank] = &bpe->merges[i];
    }
    return OK;
}

/* Added tokens under the names they have: how they look once normalized does not matter here. */
static enum status load(
    struct loaded *out, const char *what, const char *json, uint64_t bytes, struct error *err)
{
    struct normalizer *none = NULL;
    enum status status = tokenizer_sections(out->sections, what, json, bytes, err);

    if (!status) status = bpe_read(&out->bpe, &out->vocabulary, &out->sections[SECTION_MODEL], err);
    if (!status) status = normalizer_create(&none, NULL, err);
    if (!status)
        status =
            added_tokens_read(&out->added, &out->vocabulary, none, &out->sections[SECTION_ADDED_TOKENS], err);
    normalizer_free(none);
    return status ? status : list_merges(out, err);
}

static void unload(struct loaded *loaded)
{
    memory_free(loaded->merges);
    added_tokens_free(&loaded->added);
    bpe_free(&loaded->bpe);
    vocabulary_free(&loaded->vocabulary);
}

/* ---- what stays ---- */

struct closing {
    bool *keep; /* by id */
    struct loaded loaded;
    struct bpe_scratch *scratch;
    uint32_t
        *open; /* [open_count] entries that stay and whose halves have not been looked at; room for all */
    uint64_t open_count;
};

static void keep_entry(struct closing *closing, uint32_t entry)
{
    if (entry == NO_ENTRY) return;
    bool *keep = &closing->keep[closing->loaded.vocabulary.entries[entry].id];
    if (!*keep) closing->open[closing->open_count++] = entry;
    *keep = true;
}

/* One character, or one byte by its name. */
static bool is_single(const struct loaded *loaded, uint32_t entry)
{
    uint64_t bytes;
    const char *content = vocabulary_content(&loaded->vocabulary, entry, &bytes);

    for (unsigned i = 0; i < 256; i++) {
        if (loaded->bpe.byte_tokens[i] == entry) return true;
    }
    return bytes && utf8_sequence(content, bytes) == bytes;
}

static void keep_list(struct closing *closing, const struct id_list *list)
{
    for (uint64_t i = 0; i < list->count; i++)
        keep_entry(closing, vocabulary_find_id(&closing->loaded.vocabulary, list->ids[i]));
}

static enum status keep_around(struct closing *closing, struct error *err)
{
    const struct loaded *loaded = &closing->loaded;
    struct postprocessor around = {0};
    struct json_document *document = NULL;
    enum status status = tokenizer_section_parse(&document, &loaded->sections[SECTION_POST_PROCESSOR], err);

    if (!status)
        status = postprocessor_read(&around, &loaded->vocabulary, document ? json_root(document) : NULL, err);
    keep_list(closing, &around.before);
    keep_list(closing, &around.after);
    postprocessor_free(&around);
    json_free(document);
    return status;
}

/* What every text needs, and what stays from the start. */
static enum status keep_basics(struct closing *closing, struct error *err)
{
    const struct loaded *loaded = &closing->loaded;

    for (uint32_t entry = 0; entry < loaded->vocabulary.count; entry++) {
        bool *keep = &closing->keep[loaded->vocabulary.entries[entry].id];
        const bool wanted = *keep || entry >= loaded->vocabulary.model_count || is_single(loaded, entry) ||
                            added_tokens_find(&loaded->added, entry);
        *keep = false;
        if (wanted) keep_entry(closing, entry);
    }
    keep_entry(closing, loaded->bpe.unknown);
    return keep_around(closing, err);
}

/* The halves of the merge that makes a token; none where merges never make it. */
static enum status keep_halves(struct closing *closing, uint32_t entry, struct error *err)
{
    const struct loaded *loaded = &closing->loaded;
    uint64_t bytes, symbols;
    uint32_t rank;
    const char *content = vocabulary_content(&loaded->vocabulary, entry, &bytes);

    if (!loaded->merge_count || !json_valid_utf8(content, bytes) || is_single(loaded, entry)) return OK;
    enum status status = bpe_trace(&loaded->bpe, closing->scratch, content, bytes, &symbols, &rank, err);
    if (status || symbols != 1 || rank >= loaded->merge_count) return status;
    const struct bpe_merge *merge = loaded->merges[rank];
    if (!merge || merge->product != entry) return OK;
    keep_entry(closing, merge->left);
    keep_entry(closing, merge->right);
    return OK;
}

enum status tokenizer_trim_close(
    bool *keep, uint64_t count, const char *what, const char *json, uint64_t bytes, struct error *err)
{
    struct closing closing = {.keep = keep};
    enum status status = load(&closing.loaded, what, json, bytes, err);

    if (!status && closing.loaded.vocabulary.size > count)
        status = fail(
            err, ERR_FORMAT, "id %" PRIu32 " is beyond %" PRIu64, closing.loaded.vocabulary.size - 1, count);
    if (!status) {
        closing.open = memory_new(closing.loaded.vocabulary.count, sizeof *closing.open, err);
        status = closing.open ? keep_basics(&closing, err) : ERR_MEMORY;
    }
    if (!status) status = bpe_scratch_create(&closing.scratch, ADDED_BYTES_LIMIT, err);
    while (!status && closing.open_count)
        status = keep_halves(&closing, closing.open[--closing.open_count], err);
    bpe_scratch_free(closing.scratch);
    memory_free(closing.open);
    unload(&closing.loaded);
    return status ? fail_within(err, status, "%s", what) : OK;
}

/* ---- writing ---- */

struct trimming {
    const uint32_t *ids; /* [count] */
    uint64_t count;
    struct loaded loaded;
    struct json_writer json;
};

static uint32_t new_id_of(const struct trimming *trimming, uint64_t id)
{
    return id < trimming->count ? trimming->ids[id] : GONE;
}

static enum status write_id(struct trimming *trimming, const struct json_value *value, struct error *err)
{
    const bool is_id = value->kind == JSON_NUMBER && value->is_u64;
    const uint32_t id = is_id ? new_id_of(trimming, value->u64) : GONE;

    if (id == GONE) return fail(err, ERR_FORMAT, "an id is none of a token that stays");
    json_write_u64(&trimming->json, id);
    return OK;
}

/* A section as it is but for its ids: "ids" is a list of them, "sep" and "cls" are a token and its id, "id" of an added token and "pad_id"
 * are one. Other members of these names are texts. */
static enum status copy_value(
    struct trimming *trimming, const struct json_value *value, const char *key, struct error *err)
{
    const bool listed = strcmp(key, "ids") == 0 || strcmp(key, "sep") == 0 || strcmp(key, "cls") == 0;
    const bool single = strcmp(key, "id") == 0 || strcmp(key, "pad_id") == 0;
    enum status status = OK;

    if (single && value->kind == JSON_NUMBER) return write_id(trimming, value, err);
    if (value->kind != JSON_ARRAY && value->kind != JSON_OBJECT) {
        json_write_value(&trimming->json, value);
        return OK;
    }
    if (value->kind == JSON_ARRAY)
        json_open_array(&trimming->json);
    else
        json_open_object(&trimming->json);
    for (const struct json_value *child = value->children; child && !status; child = child->next) {
        if (value->kind == JSON_OBJECT) json_write_key(&trimming->json, child->key.bytes);
        if (value->kind == JSON_ARRAY && listed && child->kind == JSON_NUMBER)
            status = write_id(trimming, child, err);
        else
            status = copy_value(trimming, child, value->kind == JSON_OBJECT ? child->key.bytes : "", err);
    }
    if (value->kind == JSON_ARRAY)
        json_close_array(&trimming->json);
    else
        json_close_object(&trimming->json);
    return status;
}

/* A value; with `ids`, those in it are changed. */
static enum status copy_raw(
    struct trimming *trimming, const struct json_text *raw, bool ids, struct error *err)
{
    struct json_document *document = NULL;
    enum status status = json_parse(&document, "section", raw->bytes, raw->count, err);

    if (!status && ids)
        status = copy_value(trimming, json_root(document), "", err);
    else if (!status)
        json_write_value(&trimming->json, json_root(document));
    json_free(document);
    return status;
}

static enum status write_vocab(struct trimming *trimming, struct error *err)
{
    const struct vocabulary *vocabulary = &trimming->loaded.vocabulary;

    json_open_object(&trimming->json);
    for (uint32_t entry = 0; entry < vocabulary->model_count; entry++) {
        const uint32_t id = new_id_of(trimming, vocabulary->entries[entry].id);
        uint64_t bytes;
        const char *content = vocabulary_content(vocabulary, entry, &bytes);
        if (id == GONE) continue;
        if (strlen(content) != bytes)
            return fail(err, ERR_UNSUPPORTED, "the token of id %" PRIu32 " has U+0000 in it",
                vocabulary->entries[entry].id);
        json_put_u64(&trimming->json, content, id);
    }
    json_close_object(&trimming->json);
    return OK;
}

static bool stays(const struct trimming *trimming, uint32_t entry)
{
    return new_id_of(trimming, trimming->loaded.vocabulary.entries[entry].id) != GONE;
}

/* "a b", or ["a", "b"] where that is how the others were written. */
static enum status write_merge(
    struct trimming *trimming, const struct bpe_merge *merge, bool joined, struct error *err)
{
    uint64_t bytes[2];
    const char *left = vocabulary_content(&trimming->loaded.vocabulary, merge->left, &bytes[0]);
    const char *right = vocabulary_content(&trimming->loaded.vocabulary, merge->right, &bytes[1]);
    struct text text = {0};
    enum status status = OK;

    if (joined) {
        status = text_append(&text, left, bytes[0], err);
        if (!status) status = text_append(&text, " ", 1, err);
        if (!status) status = text_append(&text, right, bytes[1], err);
        if (!status) json_write_string(&trimming->json, text.bytes, text.count);
        text_free(&text);
        return status;
    }
    json_open_array(&trimming->json);
    json_write_string(&trimming->json, left, bytes[0]);
    json_write_string(&trimming->json, right, bytes[1]);
    json_close_array(&trimming->json);
    return OK;
}

static enum status write_merges(struct trimming *trimming, const struct json_text *section, struct error *err)
{
    const struct loaded *loaded = &trimming->loaded;
    const bool joined = !memchr(section->bytes + 1, '[', section->count > 64 ? 64 : section->count - 1);
    enum status status = OK;

    json_open_array(&trimming->json);
    for (uint64_t rank = 0; rank < loaded->merge_count && !status; rank++) {
        const struct bpe_merge *merge = loaded->merges[rank];
        if (merge && stays(trimming, merge->left) && stays(trimming, merge->right) &&
            stays(trimming, merge->product))
            status = write_merge(trimming, merge, joined, err);
    }
    json_close_array(&trimming->json);
    return status;
}

static enum status write_model_member(
    struct trimming *trimming, const struct json_text *key, const struct json_text *raw, struct error *err)
{
    if (key->count == 5 && memcmp(key->bytes, "vocab", 5) == 0) return write_vocab(trimming, err);
    if (key->count == 6 && memcmp(key->bytes, "merges", 6) == 0) return write_merges(trimming, raw, err);
    return copy_raw(trimming, raw, false, err);
}

static enum status write_section(
    struct trimming *trimming, const struct json_text *key, const struct json_text *raw, struct error *err);

/* The members of an object, each by `write`. */
static enum status write_object(struct trimming *trimming, const struct json_text *object,
    enum status (*write)(
        struct trimming *, const struct json_text *key, const struct json_text *raw, struct error *),
    struct error *err)
{
    struct json_reader reader;
    bool more = true;

    json_reader_init(&reader, "tokenizer", object->bytes, object->count);
    json_open_object(&trimming->json);
    enum status status = json_enter_object(&reader, err);
    while (!status) {
        struct json_text key, raw;
        char name[64];
        status = json_next_key(&reader, &key, &more, err);
        if (status || !more) break;
        if (key.count >= sizeof name) {
            status = fail(err, ERR_UNSUPPORTED, "a key of %" PRIu64 " bytes", key.count);
            break;
        }
        memcpy(name, key.bytes, key.count);
        name[key.count] = '\0';
        const struct json_text kept = {name, key.count};
        json_write_key(&trimming->json, name);
        status = json_skip(&reader, &raw, err);
        if (!status) status = write(trimming, &kept, &raw, err);
    }
    json_close_object(&trimming->json);
    json_reader_free(&reader);
    return status;
}

static enum status write_section(
    struct trimming *trimming, const struct json_text *key, const struct json_text *raw, struct error *err)
{
    static const char *const with_ids[] = {"added_tokens", "post_processor", "padding"};

    if (key->count == 5 && memcmp(key->bytes, "model", 5) == 0)
        return write_object(trimming, raw, write_model_member, err);
    for (size_t i = 0; i < sizeof with_ids / sizeof *with_ids; i++) {
        if (strcmp(key->bytes, with_ids[i]) != 0) continue;
        enum status status = copy_raw(trimming, raw, true, err);
        return status ? fail_within(err, status, "%s", with_ids[i]) : OK;
    }
    return copy_raw(trimming, raw, false, err);
}

enum status tokenizer_trim_write(char **out, uint64_t *out_bytes, const uint32_t *ids, uint64_t count,
    const char *what, const char *json, uint64_t bytes, struct error *err)
{
    struct trimming trimming = {.ids = ids, .count = count};
    const struct json_text document = {json, bytes};
    enum status status = load(&trimming.loaded, what, json, bytes, err);

    *out = NULL;
    if (!status) status = write_object(&trimming, &document, write_section, err);
    if (!status) status = json_writer_take(&trimming.json, out, out_bytes, err);
    json_writer_free(&trimming.json);
    unload(&trimming.loaded);
    return status ? fail_within(err, status, "%s", what) : OK;
}
