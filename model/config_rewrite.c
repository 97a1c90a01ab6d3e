/* See config_rewrite.h. What is replaced is left out of the copy and written at its end. */
#include "model/config_rewrite.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "formats/container_json.h"
#include "model/layers.h"

enum { REPLACED_LIMIT = 24, NAME_BYTES = 32 };

/* The copy under way: keys of the old document that are not copied, NULL-terminated. */
struct copy {
    const struct json_value *root;
    const struct architecture *architecture;
    const char *left_out[REPLACED_LIMIT + 1];
    unsigned left_out_count;
    struct json_writer tail; /* the members that take their places */
};

static void replace(struct copy *copy, const char *key)
{
    copy->left_out[copy->left_out_count++] = key;
    json_write_key(&copy->tail, key);
}

/* GPT-2 has short names for some. */
static void put_size(struct copy *copy, uint32_t was, uint32_t wanted, const char *key, const char *brief)
{
    if (was == wanted) return;
    replace(copy, copy->architecture->short_keys && brief ? brief : key);
    json_write_u64(&copy->tail, wanted);
}

static void put_truth(struct copy *copy, bool was, bool wanted, const char *key)
{
    if (was == wanted) return;
    replace(copy, key);
    json_write_bool(&copy->tail, wanted);
}

/* Where layers slide by a rule that counts them, the layers that are left no longer follow it: they are listed. */
static void put_layer_types(
    struct copy *copy, const struct model_config *was, const struct model_config *wanted)
{
    const struct architecture *known = copy->architecture;
    const bool counted = wanted->window && (known->window_option || known->default_window_period);
    const struct json_value *types = json_member(copy->root, "layer_types");

    if (was->layers == wanted->layers || (!counted && (!types || types->kind != JSON_ARRAY))) return;
    replace(copy, "layer_types");
    json_open_array(&copy->tail);
    for (uint32_t layer = 0; layer < wanted->layers; layer++)
        json_write_text(&copy->tail, config_slides(wanted, layer) ? "sliding_attention" : "full_attention");
    json_close_array(&copy->tail);
}

static void put_list(struct json_writer *json, const char *key, const uint32_t *list, uint32_t count)
{
    json_write_key(json, key);
    json_open_array(json);
    for (uint32_t i = 0; i < count; i++)
        json_write_u64(json, list[i]);
    json_close_array(json);
}

/* Biases that the architecture's own keys do not say. */
static bool own_output_bias(const struct copy *copy, const struct model_config *config)
{
    return config->output_bias && !copy->architecture->biases &&
           !(copy->architecture->attention_bias_option && config->attention_bias);
}

static void put_own(struct copy *copy, const struct model_config *wanted)
{
    const bool output = own_output_bias(copy, wanted), down = wanted->down_bias && !wanted->mlp_bias;

    if (json_member(copy->root, "nibble")) copy->left_out[copy->left_out_count++] = "nibble";
    if (!wanted->varied && !output && !down) return;
    json_write_key(&copy->tail, "nibble");
    json_open_object(&copy->tail);
    if (wanted->varied) {
        put_list(&copy->tail, "layer_key_value_heads", wanted->layer_kv_heads, wanted->layers);
        put_list(&copy->tail, "layer_intermediate_sizes", wanted->layer_ffn, wanted->layers);
    }
    if (output) json_put_bool(&copy->tail, "output_bias", true);
    if (down) json_put_bool(&copy->tail, "down_bias", true);
    json_close_object(&copy->tail);
}

static void put_changes(struct copy *copy, const struct model_config *was, const struct model_config *wanted)
{
    const struct architecture *known = copy->architecture;

    put_size(copy, was->layers, wanted->layers, "num_hidden_layers", "n_layer");
    put_size(copy, was->heads, wanted->heads, "num_attention_heads", "n_head");
    put_size(copy, was->kv_heads, wanted->kv_heads, "num_key_value_heads", NULL);
    if (was->heads != wanted->heads) { /* no longer hidden / heads */
        replace(copy, "head_dim");
        json_write_u64(&copy->tail, wanted->head_size);
    }
    put_size(copy, was->ffn, wanted->ffn, "intermediate_size", "n_inner");
    put_size(copy, was->vocabulary, wanted->vocabulary, "vocab_size", NULL);
    if (known->attention_bias_option)
        put_truth(copy, was->output_bias, wanted->output_bias && wanted->attention_bias, "attention_bias");
    if (known->mlp_bias_option) put_truth(copy, was->mlp_bias, wanted->mlp_bias, "mlp_bias");
    put_layer_types(copy, was, wanted);
    put_own(copy, wanted);
}

/* ---- ids ---- */

enum status config_new_id(uint64_t *id, const struct config_ids *ids, const char *what, struct error *err)
{
    if (*id >= ids->count || ids->ids[*id] == CONFIG_NO_ID)
        return fail(
            err, ERR_FORMAT, "%s: id %" PRIu64 " is no token of the vocabulary that is left", what, *id);
    *id = ids->ids[*id];
    return OK;
}

static bool ends_in(const struct json_text *key, const char *ending)
{
    const size_t bytes = strlen(ending);

    return key->count >= bytes && memcmp(key->bytes + key->count - bytes, ending, bytes) == 0;
}

static enum status write_id(
    struct json_writer *json, const struct json_value *id, const struct config_ids *ids, struct error *err)
{
    uint64_t number = id->kind == JSON_NUMBER && id->is_u64 ? id->u64 : UINT64_MAX;

    if (id->kind == JSON_NULL) {
        json_write_value(json, id);
        return OK;
    }
    enum status status = config_new_id(&number, ids, "a key that ends in _token_id", err);
    json_write_u64(json, number);
    return status;
}

/* Ids in a list, or one. */
static enum status put_ids(
    struct json_writer *json, const struct json_value *value, const struct config_ids *ids, struct error *err)
{
    enum status status = OK;

    json_write_key(json, value->key.bytes);
    if (value->kind != JSON_ARRAY) return write_id(json, value, ids, err);
    json_open_array(json);
    for (const struct json_value *id = value->children; id && !status; id = id->next)
        status = write_id(json, id, ids, err);
    json_close_array(json);
    return status;
}

static enum status refuse_lists(const struct json_value *root, struct error *err)
{
    static const char *const lists[] = {"suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
        "force_words_ids", "forced_decoder_ids", "sequence_bias"};

    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const struct json_value *list = json_member(root, lists[i]);
        if (!list || list->kind == JSON_NULL || (list->kind == JSON_ARRAY && !list->count)) continue;
        return fail(err, ERR_UNSUPPORTED,
            "generation_config.json: %s: its ids would be those of other tokens", lists[i]);
    }
    return OK;
}

/* ---- documents ---- */

/* Write the document's copy: all but what is left out, ids anew, and the tail's members. The tail is an open object; ours ends it. */
static enum status finish(struct copy *copy, struct container *container, const char *name,
    const struct config_ids *ids, struct error *err)
{
    struct json_writer json = {.indent = 2};
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = OK;

    json_open_object(&json);
    for (const struct json_value *member = copy->root->children; member && !status; member = member->next) {
        const bool is_id = ids && ends_in(&member->key, "_token_id");
        bool skip = false;
        for (unsigned i = 0; i < copy->left_out_count; i++)
            skip |= strcmp(copy->left_out[i], member->key.bytes) == 0;
        if (skip) continue;
        if (is_id) {
            status = put_ids(&json, member, ids, err);
        } else {
            json_write_key(&json, member->key.bytes);
            json_write_value(&json, member);
        }
    }
    if (!status) {
        struct json_document *tail = NULL;
        json_close_object(&copy->tail);
        status = json_writer_take(&copy->tail, &text, &bytes, err);
        if (!status) status = json_parse(&tail, name, text, bytes, err);
        static const char *const nothing[] = {NULL};
        if (!status) json_write_members(&json, json_root(tail), nothing);
        json_free(tail);
        memory_free(text);
        text = NULL;
    }
    json_close_object(&json);
    if (!status) status = json_writer_take(&json, &text, &bytes, err);
    json_writer_free(&json);
    if (status) return fail_within(err, status, "%s", name);
    container_detach(container, name);
    return container_attach(container, name, text, bytes, err);
}

enum status config_rewrite_ids(
    struct container *container, const char *name, const struct config_ids *ids, struct error *err)
{
    struct json_document *document = NULL;
    struct copy copy = {0};
    enum status status = container_json(&document, container, name, err);

    if (status || !document) return status;
    copy.root = json_root(document);
    if (copy.root->kind != JSON_OBJECT) status = fail(err, ERR_FORMAT, "%s: not a JSON object", name);
    if (!status) status = refuse_lists(copy.root, err);
    json_open_object(&copy.tail);
    if (!status) status = finish(&copy, container, name, ids, err);
    json_writer_free(&copy.tail);
    json_free(document);
    return status;
}

enum status config_rewrite(struct container *container, const struct model_config *was,
    const struct model_config *wanted, const struct config_ids *ids, struct error *err)
{
    struct json_document *document = NULL;
    struct copy copy = {.architecture = was->architecture};
    enum status status = container_json(&document, container, "config.json", err);

    if (status) return status;
    if (!document) return fail(err, ERR_FORMAT, "%s: no config.json", container_path(container));
    copy.root = json_root(document);
    json_open_object(&copy.tail);
    put_changes(&copy, was, wanted);
    status = finish(&copy, container, "config.json", ids, err);
    json_writer_free(&copy.tail);
    json_free(document);
    if (!status && ids) status = config_rewrite_ids(container, "generation_config.json", ids, err);
    return status;
}

void config_keep_layers(struct model_config *config, const uint32_t *layers, uint32_t count)
{
    const struct model_config was = *config;

    memset(config->window_layers, 0, sizeof config->window_layers);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t from = layers[i];
        if (was.window_layers[from / 32] >> from % 32 & 1)
            config->window_layers[i / 32] |= UINT32_C(1) << i % 32;
        config->layer_kv_heads[i] = was.layer_kv_heads[from];
        config->layer_ffn[i] = was.layer_ffn[from];
    }
    config->layers = count;
    if (was.varied) config_set_widths(config, config->layer_kv_heads, config->layer_ffn);
}

void config_set_widths(struct model_config *config, const uint32_t *kv_heads, const uint32_t *ffn)
{
    const uint32_t group = config->heads / config->kv_heads;
    uint32_t most_heads = 0, most_ffn = 0;

    for (uint32_t i = 0; i < config->layers; i++) {
        if (kv_heads[i] > most_heads) most_heads = kv_heads[i];
        if (ffn[i] > most_ffn) most_ffn = ffn[i];
    }
    config->varied = false;
    for (uint32_t i = 0; i < config->layers; i++) {
        config->varied |= kv_heads[i] != most_heads || ffn[i] != most_ffn;
        config->layer_kv_heads[i] = kv_heads[i];
        config->layer_ffn[i] = ffn[i];
    }
    config->kv_heads = most_heads;
    config->heads = most_heads * group;
    config->ffn = most_ffn;
}
