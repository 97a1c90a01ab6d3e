/* See llama2c_checkpoint.h. */
#include "model/llama2c_checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "formats/llama2c.h"
#include "model/layers.h"
#include "model/tokenizer/llama2c_tokenizer.h"

/* Meta's names: whole for what exists once, else what follows "layers.N.". */
static const char *const names[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = "tok_embeddings.weight",
    [ROLE_HEAD] = "output.weight",
    [ROLE_FINAL_NORM] = "norm.weight",
    [ROLE_ATTENTION_NORM] = "attention_norm.weight",
    [ROLE_Q] = "attention.wq.weight",
    [ROLE_K] = "attention.wk.weight",
    [ROLE_V] = "attention.wv.weight",
    [ROLE_O] = "attention.wo.weight",
    [ROLE_MLP_NORM] = "ffn_norm.weight",
    [ROLE_GATE] = "feed_forward.w1.weight",
    [ROLE_UP] = "feed_forward.w3.weight",
    [ROLE_DOWN] = "feed_forward.w2.weight",
};

/* One of the header's numbers: formats/llama2c.c has put it there and checked it. */
static uint64_t number(const struct container *container, const char *key)
{
    const struct metadata_item *item = metadata_find(container_metadata(container), key);

    return item ? (uint64_t)metadata_value(item) : 0;
}

/* ---- names ---- */

static enum status rename_tensor(
    struct container *container, enum role role, uint32_t layer, uint64_t head, struct error *err)
{
    char name[128];
    enum status status = OK;

    if (role < ROLE_PER_LAYER)
        snprintf(name, sizeof name, "%s", names[role]);
    else
        snprintf(name, sizeof name, "layers.%" PRIu32 ".%s", layer, names[role]);
    const struct tensor *tensor = container_find(container, name);
    if (!tensor) return OK; /* the classifier that is the embedding */
    const uint64_t index = container_index(container, tensor);
    if (role == ROLE_Q || role == ROLE_K) status = container_interleave(container, index, head, err);
    if (status) return status;
    return container_rename(container, index, layers_name(name, sizeof name, NULL, role, layer), err);
}

static enum status rename_tensors(struct container *container, struct error *err)
{
    const uint64_t head = number(container, LLAMA2C_DIM) / number(container, LLAMA2C_HEADS);
    const uint32_t layers = (uint32_t)number(container, LLAMA2C_LAYERS);
    enum status status = OK;

    for (int role = 0; role < ROLE_COUNT && !status; role++) {
        const uint32_t times = role < ROLE_PER_LAYER ? 1 : layers;
        for (uint32_t layer = 0; layer < times && names[role] && !status; layer++)
            status = rename_tensor(container, (enum role)role, layer, head, err);
    }
    return status ? status : container_reindex(container, err);
}

/* ---- documents ---- */

static enum status attach_config(struct container *container, struct error *err)
{
    static const struct {
        const char *name, *key;
    } sizes[] = {{"hidden_size", LLAMA2C_DIM}, {"intermediate_size", LLAMA2C_HIDDEN_DIM},
        {"num_hidden_layers", LLAMA2C_LAYERS}, {"num_attention_heads", LLAMA2C_HEADS},
        {"num_key_value_heads", LLAMA2C_KV_HEADS}, {"vocab_size", LLAMA2C_VOCABULARY},
        {"max_position_embeddings", LLAMA2C_CONTEXT}, {"bos_token_id", NULL}, {"eos_token_id", NULL}};
    struct json_writer json = {.indent = 2};
    char *text;
    uint64_t bytes, id = 0;

    json_open_object(&json);
    json_write_key(&json, "architectures");
    json_open_array(&json);
    json_write_text(&json, "LlamaForCausalLM");
    json_close_array(&json);
    json_put_text(&json, "model_type", "llama");
    json_put_text(&json, "hidden_act", "silu");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        json_put_u64(&json, sizes[i].name, sizes[i].key ? number(container, sizes[i].key) : ++id);
    json_put_number(&json, "rms_norm_eps", 1e-5);
    json_put_number(&json, "rope_theta", 10000);
    json_put_bool(&json, "tie_word_embeddings", number(container, LLAMA2C_SHARED) != 0);
    json_close_object(&json);
    const enum status status = json_writer_take(&json, &text, &bytes, err);
    json_writer_free(&json);
    return status ? status : container_attach(container, "config.json", text, bytes, err);
}

static enum status attach_tokenizer(struct container *container, struct error *err)
{
    char *tokens = NULL, *text = NULL;
    uint64_t count, bytes;
    enum status status = container_document(container, LLAMA2C_TOKENIZER, &tokens, &count, err);

    if (status || !tokens) return status;
    status = llama2c_tokenizer_write(
        &text, &bytes, (const uint8_t *)tokens, count, number(container, LLAMA2C_VOCABULARY), err);
    memory_free(tokens);
    if (status) return fail_within(err, status, LLAMA2C_TOKENIZER " beside it");
    return container_attach(container, "tokenizer.json", text, bytes, err);
}

enum status llama2c_checkpoint(struct container *container, struct error *err)
{
    enum status status = attach_config(container, err);

    if (!status) status = attach_tokenizer(container, err);
    if (!status) status = rename_tensors(container, err);
    return status ? fail_within(err, status, "%s", container_path(container)) : OK;
}
