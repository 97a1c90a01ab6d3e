/* See trim.h. */
#include "prune/trim.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/container_json.h"
#include "formats/container_select.h"
#include "model/calibration.h"
#include "model/tokenizer/tokenizer_trim.h"

struct trim {
    uint32_t *ids; /* [count] by old id */
    uint64_t count;
    uint32_t vocabulary; /* rows that stay */
    uint64_t *rows;      /* [vocabulary] their old ids */
    struct config_ids view;
};

static const char *const with_ids[] = {"config.json", "generation_config.json"};

/* ---- choosing ---- */

/* Every token of the text, one after the other: samples of one token. */
static enum status keep_text(
    bool *keep, uint64_t count, const struct tokenizer *tokenizer, const char *path, struct error *err)
{
    const struct calibration_options options = {
        .path = path, .samples = UINT64_MAX, .length = 1, .pick = CALIBRATION_FIRST};
    struct calibration text;
    enum status status = calibration_load(&text, &options, tokenizer, NULL, err);

    if (status) return fail_within(err, status, "--trim-vocabulary");
    for (uint64_t i = 0; i < text.samples; i++) {
        if (text.tokens[i] < count) keep[text.tokens[i]] = true;
    }
    calibration_free(&text);
    return OK;
}

/* Ids that keys ending in _token_id name. */
static enum status keep_named(
    bool *keep, uint64_t count, struct container *container, const char *name, struct error *err)
{
    struct json_document *document = NULL;
    enum status status = container_json(&document, container, name, err);
    const struct json_value *root = document ? json_root(document) : NULL;

    for (const struct json_value *member = root && root->kind == JSON_OBJECT ? root->children : NULL; member;
         member = member->next) {
        const bool is_id =
            member->key.count >= 9 && memcmp(member->key.bytes + member->key.count - 9, "_token_id", 9) == 0;
        const struct json_value *id = is_id && member->kind == JSON_ARRAY ? member->children : member;
        for (; is_id && id; id = member->kind == JSON_ARRAY ? id->next : NULL) {
            if (id->kind == JSON_NUMBER && id->is_u64 && id->u64 < count) keep[id->u64] = true;
        }
    }
    json_free(document);
    return status;
}

static enum status keep_all(bool *keep, uint64_t count, struct checkpoint *input,
    const struct tokenizer *tokenizer, const char *path, struct error *err)
{
    char *json = NULL;
    uint64_t bytes = 0;
    enum status status = keep_text(keep, count, tokenizer, path, err);

    for (size_t i = 0; i < sizeof with_ids / sizeof *with_ids && !status; i++)
        status = keep_named(keep, count, input->container, with_ids[i], err);
    if (!status) status = container_document(input->container, "tokenizer.json", &json, &bytes, err);
    if (!status) status = tokenizer_trim_close(keep, count, "tokenizer.json", json, bytes, err);
    memory_free(json);
    return status;
}

/* New ids in the order of the old ones. */
static enum status number(struct trim *trim, const bool *keep, uint32_t vocabulary, struct error *err)
{
    uint32_t next = 0;

    trim->ids = memory_new(trim->count, sizeof *trim->ids, err);
    trim->rows = memory_new(vocabulary, sizeof *trim->rows, err);
    if (!trim->ids || !trim->rows) return ERR_MEMORY;
    for (uint64_t id = 0; id < trim->count; id++) {
        trim->ids[id] = keep[id] ? next++ : CONFIG_NO_ID;
        if (keep[id] && id < vocabulary) trim->rows[trim->vocabulary++] = id;
    }
    trim->view = (struct config_ids){trim->ids, trim->count};
    return OK;
}

/* Rows of quantized matrices do not come one by one. */
static enum status refuse_quantized(const struct checkpoint *input, struct error *err)
{
    static const enum role roles[] = {ROLE_EMBEDDING, ROLE_HEAD};
    const char *why;

    for (int i = 0; i < 2; i++) {
        const struct tensor *tensor = input->tensors.once[roles[i]];
        if (tensor->storage == STORAGE_DENSE && !container_packed(input->container, tensor, &why)) continue;
        return fail(err, ERR_UNSUPPORTED,
            "%s: tensor %s is quantized, and rows of it cannot be taken away: trim the original model's "
            "vocabulary, then "
            "quantize it",
            container_path(input->container), tensor->name);
    }
    return OK;
}

enum status trim_choose(struct trim **out, struct checkpoint *input, const char *path, struct error *err)
{
    const uint32_t vocabulary = input->config.vocabulary;
    struct tokenizer *tokenizer = NULL;
    bool *keep = NULL;
    enum status status = refuse_quantized(input, err);

    *out = NULL;
    if (!status) status = checkpoint_tokenizer(&tokenizer, input->container, err);
    if (!status && !tokenizer)
        status = fail(err, ERR_UNSUPPORTED, "%s carries no tokenizer.json, which --trim-vocabulary needs",
            container_path(input->container));
    if (status) return status;
    *out = memory_new(1, sizeof **out, err);
    if (!*out) status = ERR_MEMORY;
    if (!status) {
        (*out)->count = tokenizer_size(tokenizer) > vocabulary ? tokenizer_size(tokenizer) : vocabulary;
        keep = memory_new((*out)->count, sizeof *keep, err);
        status = keep ? keep_all(keep, (*out)->count, input, tokenizer, path, err) : ERR_MEMORY;
    }
    if (!status) status = number(*out, keep, vocabulary, err);
    memory_free(keep);
    tokenizer_free(tokenizer);
    return status;
}

void trim_free(struct trim *trim)
{
    if (!trim) return;
    memory_free(trim->ids);
    memory_free(trim->rows);
    memory_free(trim);
}

const struct config_ids *trim_ids(const struct trim *trim)
{
    return &trim->view;
}

/* ---- seeing ---- */

static enum status attach_tokenizer(struct container *container, const struct trim *trim, struct error *err)
{
    char *json = NULL, *trimmed = NULL;
    uint64_t bytes = 0, trimmed_bytes = 0;
    enum status status = container_document(container, "tokenizer.json", &json, &bytes, err);

    if (!status)
        status = tokenizer_trim_write(
            &trimmed, &trimmed_bytes, trim->ids, trim->count, "tokenizer.json", json, bytes, err);
    memory_free(json);
    if (status) return status;
    container_detach(container, "tokenizer.json");
    return container_attach(container, "tokenizer.json", trimmed, trimmed_bytes, err);
}

/* added_tokens_decoder has ids for keys. */
static enum status write_decoder(
    struct json_writer *json, const struct json_value *decoder, const struct trim *trim, struct error *err)
{
    json_write_key(json, decoder->key.bytes);
    json_open_object(json);
    for (const struct json_value *token = decoder->children; token; token = token->next) {
        uint64_t id = 0;
        char key[24];
        bool is_id = token->key.count > 0 && token->key.count < 10;
        for (uint64_t i = 0; i < token->key.count && is_id; i++) {
            is_id = token->key.bytes[i] >= '0' && token->key.bytes[i] <= '9';
            id = 10 * id + (uint64_t)(token->key.bytes[i] - '0');
        }
        if (!is_id) return fail(err, ERR_FORMAT, "added_tokens_decoder: a key is no id");
        enum status status = config_new_id(&id, &trim->view, "added_tokens_decoder", err);
        if (status) return status;
        snprintf(key, sizeof key, "%" PRIu64, id);
        json_write_key(json, key);
        json_write_value(json, token);
    }
    json_close_object(json);
    return OK;
}

static enum status rewrite_config(struct container *container, const struct trim *trim, struct error *err)
{
    static const char *const left_out[] = {"added_tokens_decoder", NULL};
    const char *name = "tokenizer_config.json";
    struct json_document *document = NULL;
    struct json_writer json = {.indent = 2};
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = container_json(&document, container, name, err);
    const struct json_value *decoder = document ? json_member(json_root(document), left_out[0]) : NULL;

    if (!status && decoder && decoder->kind == JSON_OBJECT) {
        json_open_object(&json);
        json_write_members(&json, json_root(document), left_out);
        status = write_decoder(&json, decoder, trim, err);
        json_close_object(&json);
        if (!status) status = json_writer_take(&json, &text, &bytes, err);
        if (!status) {
            container_detach(container, name);
            status = container_attach(container, name, text, bytes, err);
        }
    }
    json_writer_free(&json);
    json_free(document);
    return status ? fail_within(err, status, "%s", name) : OK;
}

static enum status select_rows(struct checkpoint *input, const struct trim *trim, struct error *err)
{
    const struct container_choice choice = {.rows = trim->rows, .row_count = trim->vocabulary};
    const struct tensor *embedding = input->tensors.once[ROLE_EMBEDDING],
                        *head = input->tensors.once[ROLE_HEAD];
    const uint64_t numbers[] = {
        container_index(input->container, embedding), container_index(input->container, head)};
    enum status status = container_select(input->container, numbers[0], &choice, err);

    return status || numbers[0] == numbers[1] ? status
                                              : container_select(input->container, numbers[1], &choice, err);
}

enum status trim_select(
    struct checkpoint *input, const struct trim *trim, struct model_config *config, struct error *err)
{
    enum status status = select_rows(input, trim, err);

    if (!status) status = attach_tokenizer(input->container, trim, err);
    if (!status) status = rewrite_config(input->container, trim, err);
    if (!status) container_forget_metadata(input->container);
    config->vocabulary = trim->vocabulary;
    return status;
}
