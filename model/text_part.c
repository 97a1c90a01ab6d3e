/* See text_part.h. */
#include "model/text_part.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "formats/container_json.h"
#include "model/layers.h"

enum { NAMES_MOST = 4, DEFAULTS_MOST = 10 };

/* One row per architecture of text and images. */
static const struct composite {
    const char *name, *text;             /* the whole, and its text part */
    const char *prefixes[NAMES_MOST][2]; /* of its tensors: as stored, as seen */
    const char *others[NAMES_MOST + 1];  /* prefixes of tensors that are dropped; NULL ends them */
    struct {
        const char *key;
        double value;
    } defaults[DEFAULTS_MOST];
} composites[] = {
    {.name = "Gemma3ForConditionalGeneration",
        .text = "Gemma3ForCausalLM",
        .prefixes = {{"language_model.model.", "model."}, {"language_model.lm_head.", "lm_head."},
            {"model.language_model.", "model."}},
        .others = {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
            "model.multi_modal_projector."},
        .defaults = {{"vocab_size", 262208}, {"hidden_size", 2304}, {"intermediate_size", 9216},
            {"num_hidden_layers", 26}, {"num_attention_heads", 8}, {"num_key_value_heads", 4},
            {"head_dim", 256}, {"max_position_embeddings", 131072}, {"rms_norm_eps", 1e-6}}},
};

/* What the whole says goes before what the text part says. */
static const char *const of_the_whole[] = {
    "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "torch_dtype", "dtype", NULL};

static bool is_given(const struct json_value *object, const char *key)
{
    const struct json_value *value = json_member(object, key);

    return value && value->kind != JSON_NULL;
}

static const struct composite *find(const struct json_value *root)
{
    const struct json_value *names = json_member(root, "architectures");

    if (!names || names->kind != JSON_ARRAY || names->count != 1) return NULL;
    for (size_t i = 0; i < sizeof composites / sizeof *composites; i++) {
        if (json_is_text(names->children, composites[i].name)) return &composites[i];
    }
    return NULL;
}

/* config.json of the text part. */
static void write_config(struct json_writer *json, const struct composite *composite,
    const struct json_value *root, const struct json_value *text)
{
    const struct architecture *known = layers_architecture(composite->text, strlen(composite->text));
    const char *left_out[16] = {"architectures", "model_type"};
    unsigned count = 2;

    for (unsigned i = 0; of_the_whole[i]; i++)
        if (is_given(root, of_the_whole[i])) left_out[count++] = of_the_whole[i];
    json_open_object(json);
    json_write_key(json, "architectures");
    json_open_array(json);
    json_write_text(json, composite->text);
    json_close_array(json);
    json_put_text(json, "model_type", known->model_type);
    for (unsigned i = 2; i < count; i++) {
        json_write_key(json, left_out[i]);
        json_write_value(json, json_member(root, left_out[i]));
    }
    json_write_members(json, text, left_out);
    for (unsigned i = 0; i < DEFAULTS_MOST && composite->defaults[i].key; i++)
        if (!json_member(text, composite->defaults[i].key))
            json_put_number(json, composite->defaults[i].key, composite->defaults[i].value);
    json_close_object(json);
}

static enum status attach_config(struct container *container, const struct composite *composite,
    const struct json_value *root, struct error *err)
{
    const struct json_value *text = json_member(root, "text_config");
    struct json_writer json = {.indent = 2};
    char *config = NULL;
    uint64_t bytes = 0;
    enum status status;

    if (!text || text->kind != JSON_OBJECT)
        return fail(err, ERR_FORMAT, "%s: config.json: %s without text_config", container_path(container),
            composite->name);
    write_config(&json, composite, root, text);
    status = json_writer_take(&json, &config, &bytes, err);
    json_writer_free(&json);
    if (status) return status;
    container_detach(container, "config.json");
    return container_attach(container, "config.json", config, bytes, err);
}

static enum status rename_tensors(
    struct container *container, const struct composite *composite, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < container_count(container) && !status; i++) {
        const char *old = container_tensor(container, i)->name;
        char name[CONTAINER_NAME_LIMIT + 64];
        for (unsigned k = 0; k < NAMES_MOST && composite->prefixes[k][0]; k++) {
            const size_t bytes = strlen(composite->prefixes[k][0]);
            if (strncmp(old, composite->prefixes[k][0], bytes) != 0) continue;
            snprintf(name, sizeof name, "%s%s", composite->prefixes[k][1], old + bytes);
            status = container_rename(container, i, name, err);
            break;
        }
    }
    return status ? status : container_reindex(container, err);
}

enum status text_part_see(struct container *container, struct error *err)
{
    struct json_document *document = NULL;
    const struct composite *composite = NULL;
    enum status status = container_json(&document, container, "config.json", err);

    if (!status && document) composite = find(json_root(document));
    if (composite) status = attach_config(container, composite, json_root(document), err);
    if (composite && !status) status = rename_tensors(container, composite, err);
    json_free(document);
    return status;
}

bool text_part_is_other(const struct model_config *config, const char *name)
{
    for (size_t i = 0; i < sizeof composites / sizeof *composites; i++) {
        const struct composite *composite = &composites[i];
        if (strcmp(composite->text, config->architecture->name) != 0) continue;
        for (unsigned k = 0; composite->others[k]; k++) {
            if (strncmp(name, composite->others[k], strlen(composite->others[k])) == 0) return true;
        }
    }
    return false;
}
