/* See special_ids.h. */
#include "model/tokenizer/special_ids.h"

#include "formats/container_json.h"
#include "model/tokenizer/token_extras.h"

static const struct {
    const char *token, *id;
} names[SPECIAL_COUNT] = {
    [SPECIAL_BOS] = {"bos_token", "bos_token_id"},
    [SPECIAL_EOS] = {"eos_token", "eos_token_id"},
    [SPECIAL_UNKNOWN] = {"unk_token", "unk_token_id"},
    [SPECIAL_PADDING] = {"pad_token", "pad_token_id"},
};

/* 2, or [2, 32000] */
static int64_t id_of_number(const struct json_value *value)
{
    if (value && value->kind == JSON_ARRAY) value = value->children;
    return value && value->kind == JSON_NUMBER && value->is_u64 && value->u64 < VOCABULARY_ID_LIMIT
               ? (int64_t)value->u64
               : -1;
}

static enum status read_numbers(struct special_ids *out, struct container *container, struct error *err)
{
    struct json_document *document = NULL;
    enum status status = container_json(&document, container, "config.json", err);

    for (unsigned i = 0; i < SPECIAL_COUNT && !status && document; i++) {
        if (out->id[i] < 0) out->id[i] = id_of_number(json_member(json_root(document), names[i].id));
    }
    json_free(document);
    return status;
}

enum status special_ids_read(struct special_ids *out, const struct vocabulary *vocabulary,
    struct container *container, struct error *err)
{
    struct token_extras extras = {0};
    enum status status = token_extras_read(&extras, container, err);

    for (unsigned i = 0; i < SPECIAL_COUNT; i++) {
        const uint32_t entry = status ? NO_ENTRY : token_extras_special(&extras, names[i].token, vocabulary);
        out->id[i] = entry == NO_ENTRY ? -1 : (int64_t)vocabulary->entries[entry].id;
    }
    token_extras_free(&extras);
    return status ? status : read_numbers(out, container, err);
}
