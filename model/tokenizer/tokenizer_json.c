/* One pass that checks the syntax of everything and remembers where the sections are. */
#include "model/tokenizer/tokenizer_json.h"

#include <string.h>

/* The sections that become a tree; a pre-tokenizer with long patterns has some 10 kB, a charsmap half a MB. */
enum { TREE_BYTES_LIMIT = 1 << 22 };

const char *const tokenizer_section_names[SECTION_COUNT] = {
    "model", "normalizer", "added_tokens", "pre_tokenizer", "post_processor", "decoder"};

static enum status read_version(struct json_reader *reader, struct error *err)
{
    struct json_text version;
    char quoted[40];
    enum status status = json_read_string(reader, &version, err);

    if (status != OK || (version.count == 3 && memcmp(version.bytes, "1.0", 3) == 0)) return status;
    return fail(err, ERR_UNSUPPORTED, "%s: unknown version \"%s\"", reader->what,
        error_quote(quoted, sizeof quoted, version.bytes, version.count));
}

static enum status read_section(struct json_text sections[SECTION_COUNT], struct json_reader *reader,
    const struct json_text *key, struct error *err)
{
    for (unsigned i = 0; i < SECTION_COUNT; i++) {
        if (key->count != strlen(tokenizer_section_names[i]) ||
            memcmp(key->bytes, tokenizer_section_names[i], key->count) != 0)
            continue;
        if (sections[i].count > 0)
            return fail(err, ERR_FORMAT, "%s: %s is there twice", reader->what, tokenizer_section_names[i]);
        return json_skip(reader, &sections[i], err);
    }
    if (key->count == 7 && memcmp(key->bytes, "version", 7) == 0) return read_version(reader, err);
    return json_skip(reader, NULL, err);
}

enum status tokenizer_sections(struct json_text sections[SECTION_COUNT], const char *what, const char *json,
    uint64_t bytes, struct error *err)
{
    struct json_reader reader;
    enum status status;
    bool more = true;

    json_reader_init(&reader, what, json, bytes);
    status = json_enter_object(&reader, err);
    while (status == OK) {
        struct json_text key;
        status = json_next_key(&reader, &key, &more, err);
        if (status != OK || !more) break;
        status = read_section(sections, &reader, &key, err);
    }
    if (status == OK) status = json_finish(&reader, err);
    json_reader_free(&reader);
    if (status == OK && sections[SECTION_MODEL].count == 0)
        return fail(err, ERR_FORMAT, "%s: model is missing", what);
    return status;
}

enum status tokenizer_model_is(bool *is, const struct json_text *section, const char *type, struct error *err)
{
    struct json_reader reader;
    struct json_text key, found = {"BPE", 3};
    bool more = true;
    enum status status;

    json_reader_init(&reader, "value", section->bytes, section->count);
    status = json_enter_object(&reader, err);
    while (!status) {
        status = json_next_key(&reader, &key, &more, err);
        if (status || !more) break;
        const bool here = key.count == 4 && memcmp(key.bytes, "type", 4) == 0;
        status = here ? json_read_string(&reader, &found, err) : json_skip(&reader, NULL, err);
        if (here) break;
    }
    if (!status) *is = found.count == strlen(type) && memcmp(found.bytes, type, found.count) == 0;
    json_reader_free(&reader);
    return status;
}

enum status tokenizer_section_parse(
    struct json_document **out, const struct json_text *section, struct error *err)
{
    *out = NULL;
    if (section->count == 0) return OK;
    if (section->count > TREE_BYTES_LIMIT)
        return fail(err, ERR_MEMORY, "longer than %d bytes", TREE_BYTES_LIMIT);
    return json_parse(out, "section", section->bytes, section->count, err);
}
