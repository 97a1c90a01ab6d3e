/* See special_ids.h. */
#include "model/tokenizer/special_ids.h"

#include "base/memory.h"

static const struct {
    const char *token, *id;
} names[SPECIAL_COUNT] = {
    [SPECIAL_BOS] = {"bos_token", "bos_token_id"},
    [SPECIAL_EOS] = {"eos_token", "eos_token_id"},
    [SPECIAL_UNKNOWN] = {"unk_token", "unk_token_id"},
    [SPECIAL_PADDING] = {"pad_token", "pad_token_id"},
};

/* "<s>", or {"content": "<s>"} */
static int64_t id_of_token(const struct json_value *value, const struct vocabulary *vocabulary)
{
    const struct json_value *content = json_member(value, "content");

    if (content) value = content;
    if (!value || value->kind != JSON_STRING) return -1;
    const uint32_t entry = vocabulary_find(vocabulary, value->text.bytes, value->text.count);
    return entry == NO_ENTRY ? -1 : (int64_t)vocabulary->entries[entry].id;
}

/* 2, or [2, 32000] */
static int64_t id_of_number(const struct json_value *value)
{
    if (value && value->kind == JSON_ARRAY) value = value->children;
    return value && value->kind == JSON_NUMBER && value->is_u64 && value->u64 < VOCABULARY_ID_LIMIT
               ? (int64_t)value->u64
               : -1;
}

static void take_ids(struct special_ids *out, const struct json_value *root, const struct vocabulary *tokens)
{
    for (unsigned i = 0; i < SPECIAL_COUNT; i++) {
        if (out->id[i] < 0)
            out->id[i] = tokens ? id_of_token(json_member(root, names[i].token), tokens)
                                : id_of_number(json_member(root, names[i].id));
    }
}

/* tokens: the document names tokens; NULL: it has numbers. */
static enum status read_document(struct special_ids *out, struct container *container, const char *name,
    const struct vocabulary *tokens, struct error *err)
{
    struct json_document *document = NULL;
    char *text = NULL;
    uint64_t bytes;
    enum status status = container_document(container, name, &text, &bytes, err);

    if (!status && text) status = json_parse(&document, name, text, bytes, err);
    if (!status && document) take_ids(out, json_root(document), tokens);
    json_free(document);
    memory_free(text);
    return status;
}

enum status special_ids_read(struct special_ids *out, const struct vocabulary *vocabulary,
    struct container *container, struct error *err)
{
    enum status status;

    *out = (struct special_ids){{-1, -1, -1, -1}};
    status = read_document(out, container, "tokenizer_config.json", vocabulary, err);
    if (!status) status = read_document(out, container, "special_tokens_map.json", vocabulary, err);
    return status ? status : read_document(out, container, "config.json", NULL, err);
}
