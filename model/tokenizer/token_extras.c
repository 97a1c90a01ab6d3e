/* See token_extras.h. */
#include "model/tokenizer/token_extras.h"

#include <inttypes.h>

#include "formats/container_json.h"

#define CONFIG "tokenizer_config.json"
#define ADDED "added_tokens.json"
#define MAP "special_tokens_map.json"

/* ---- reading ---- */

enum status token_extras_read(struct token_extras *out, struct container *container, struct error *err)
{
    enum status status = container_json(&out->config, container, CONFIG, err);

    if (!status) status = container_json(&out->added, container, ADDED, err);
    return status ? status : container_json(&out->map, container, MAP, err);
}

void token_extras_free(struct token_extras *extras)
{
    json_free(extras->config);
    json_free(extras->added);
    json_free(extras->map);
    *extras = (struct token_extras){0};
}

static const struct json_value *root_of(const struct json_document *document)
{
    return document ? json_root(document) : NULL;
}

enum status token_extras_flag(
    const struct token_extras *extras, const char *name, bool *flag, struct error *err)
{
    return json_get_bool(root_of(extras->config), CONFIG, name, flag, err);
}

const char *token_extras_class(const struct token_extras *extras)
{
    const struct json_value *value = json_member(root_of(extras->config), "tokenizer_class");

    return value && value->kind == JSON_STRING ? value->text.bytes : "";
}

/* ---- special tokens ---- */

/* "<s>", or {"content": "<s>"} */
static uint32_t find_named(const struct json_value *value, const struct vocabulary *vocabulary)
{
    const struct json_value *content = json_member(value, "content");

    if (content) value = content;
    if (!value || value->kind != JSON_STRING) return NO_ENTRY;
    return vocabulary_find(vocabulary, value->text.bytes, value->text.count);
}

uint32_t token_extras_special(
    const struct token_extras *extras, const char *name, const struct vocabulary *vocabulary)
{
    const uint32_t entry = find_named(json_member(root_of(extras->config), name), vocabulary);

    if (entry != NO_ENTRY) return entry;
    return find_named(json_member(root_of(extras->map), name), vocabulary);
}

static void make_special(struct token_list *list, uint32_t entry)
{
    struct token *token = entry == NO_ENTRY ? NULL : &list->tokens[entry];

    if (!token || token->type == TOKEN_UNKNOWN || token->type == TOKEN_CONTROL) return;
    token->type = TOKEN_CONTROL;
    token->normalized = false;
}

static void make_named_special(struct token_list *list, const struct json_value *root)
{
    static const char *const names[] = {
        "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
    const struct json_value *more = json_member(root, "additional_special_tokens");

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        make_special(list, find_named(json_member(root, names[i]), &list->vocabulary));
    if (!more || more->kind != JSON_ARRAY) return;
    for (const struct json_value *one = more->children; one; one = one->next)
        make_special(list, find_named(one, &list->vocabulary));
}

/* ---- added tokens ---- */

/* The token's entry, made if it is not there. */
static enum status place(struct token_list *list, const struct json_text *content, uint64_t id,
    struct token *token, struct error *err)
{
    const uint32_t entry = vocabulary_find(&list->vocabulary, content->bytes, content->count);
    char quoted[80];

    if (entry == NO_ENTRY) return token_list_add(list, content->bytes, content->count, id, token, err);
    if (list->vocabulary.entries[entry].id != id)
        return fail(err, ERR_FORMAT,
            "the token \"%s\" has the id %" PRIu64 ", but %" PRIu32 " in the vocabulary",
            error_quote(quoted, sizeof quoted, content->bytes, content->count), id,
            list->vocabulary.entries[entry].id);
    token->score = list->tokens[entry].score;
    if (list->tokens[entry].type == TOKEN_UNKNOWN) token->type = TOKEN_UNKNOWN;
    list->tokens[entry] = *token;
    return OK;
}

/* "32000", as JSON has it for a key. */
static bool read_id(const struct json_text *key, uint64_t *id)
{
    *id = 0;
    for (uint64_t i = 0; i < key->count; i++) {
        if (key->bytes[i] < '0' || key->bytes[i] > '9' || i == 9) return false;
        *id = *id * 10 + (uint64_t)(key->bytes[i] - '0');
    }
    return key->count > 0;
}

/* "32000": {"content": "<x>", "special": true, "lstrip": ...} */
static enum status add_decoded(struct token_list *list, const struct json_value *one, struct error *err)
{
    const struct json_value *content = json_member(one, "content");
    struct token token = {.type = TOKEN_USER_DEFINED};
    bool special = false;
    uint64_t id;
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"special", &special}, {"single_word", &token.single_word}, {"lstrip", &token.lstrip},
        {"rstrip", &token.rstrip}, {"normalized", &token.normalized}};
    enum status status = OK;

    if (!read_id(&one->key, &id) || !content || content->kind != JSON_STRING)
        return fail(err, ERR_FORMAT, "is no id with a content");
    for (size_t i = 0; i < sizeof flags / sizeof *flags && !status; i++)
        status = json_get_bool(one, "the token", flags[i].name, flags[i].flag, err);
    if (special) token.type = TOKEN_CONTROL;
    return status || content->text.count == 0 ? status : place(list, &content->text, id, &token, err);
}

/* "<x>": 32000; what added_tokens_decoder says of it counts more. */
static enum status add_plain(struct token_list *list, const struct json_value *one, struct error *err)
{
    struct token token = {.type = TOKEN_USER_DEFINED, .normalized = true};
    const uint32_t entry = vocabulary_find(&list->vocabulary, one->key.bytes, one->key.count);

    if (one->kind != JSON_NUMBER || !one->is_u64) return fail(err, ERR_FORMAT, "is no id");
    if (entry != NO_ENTRY && token_is_added(&list->tokens[entry]) &&
        list->vocabulary.entries[entry].id == one->u64)
        return OK;
    return one->key.count == 0 ? OK : place(list, &one->key, one->u64, &token, err);
}

static enum status add_all(struct token_list *list, const struct json_value *tokens, const char *what,
    enum status (*add)(struct token_list *, const struct json_value *, struct error *), struct error *err)
{
    enum status status = OK;
    char quoted[80];

    if (!tokens || tokens->kind == JSON_NULL) return OK;
    if (tokens->kind != JSON_OBJECT) return fail(err, ERR_FORMAT, "%s: is no object", what);
    for (const struct json_value *one = tokens->children; one && !status; one = one->next) {
        status = add(list, one, err);
        if (status)
            fail_within(err, status, "%s: \"%s\"", what,
                error_quote(quoted, sizeof quoted, one->key.bytes, one->key.count));
    }
    return status;
}

enum status token_extras_add(const struct token_extras *extras, struct token_list *list, struct error *err)
{
    enum status status = add_all(list, json_member(root_of(extras->config), "added_tokens_decoder"),
        CONFIG ": added_tokens_decoder", add_decoded, err);

    if (!status) status = add_all(list, root_of(extras->added), ADDED, add_plain, err);
    if (status) return status;
    make_named_special(list, root_of(extras->config));
    make_named_special(list, root_of(extras->map));
    return OK;
}
