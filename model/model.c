/* Opening a model: container, configuration, tensors, tokenizer and backend, in this order, so that nothing
 * is mapped before everything that the headers say has been checked. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/forward.h"
#include "tensor/linalg.h"

static enum status open_config(struct model *model, struct error *err)
{
    const char *path = container_path(model->container);
    char *json = NULL, what[512];
    uint64_t bytes;
    enum status status = container_document(model->container, "config.json", &json, &bytes, err);

    if (status) return status;
    if (!json) return fail(err, ERR_FORMAT, "%s: no config.json in it or beside it", path);
    snprintf(what, sizeof what, "%s: config.json", path);
    status = config_parse(&model->config, what, json, bytes, err);
    memory_free(json);
    return status;
}

static enum status open_tensors(struct model *model, struct error *err)
{
    struct dropped_tensor *dropped = NULL;
    uint64_t dropped_count;
    enum status status =
        layers_bind(&model->tensors, &dropped, &dropped_count, model->container, &model->config, err);

    memory_free(dropped);
    return status ? status : container_map(model->container, err);
}

static enum status open_tokenizer(struct model *model, struct error *err)
{
    char *json = NULL, what[512];
    uint64_t bytes;
    enum status status = container_document(model->container, "tokenizer.json", &json, &bytes, err);

    if (status || !json) return status;
    snprintf(what, sizeof what, "%s: tokenizer.json", container_path(model->container));
    status = tokenizer_create(&model->tokenizer, what, json, bytes, err);
    memory_free(json);
    return status;
}

static enum status open_backend(struct model *model, struct error *err)
{
    const struct model_config *config = &model->config;
    uint64_t widest = (uint64_t)config->heads * config->head_size;

    if (widest < config->hidden) widest = config->hidden;
    if (widest < config->ffn) widest = config->ffn;
    return backend_cpu_create(&model->backend, model->pool, widest, err);
}

enum status model_open(struct model **out, const char *path, struct pool *pool, struct error *err)
{
    struct model *model;
    enum status status = linalg_init(err);

    *out = NULL;
    if (status) return status;
    model = memory_new(1, sizeof *model, err);
    if (!model) return ERR_MEMORY;
    model->pool = pool;
    status = container_open(&model->container, path, err);
    if (!status) status = open_config(model, err);
    if (!status) status = open_tensors(model, err);
    if (!status) status = open_tokenizer(model, err);
    if (!status) status = open_backend(model, err);
    if (status)
        model_close(model);
    else
        *out = model;
    return status;
}

void model_close(struct model *model)
{
    if (!model) return;
    if (model->backend.release) model->backend.release(model->backend.state);
    tokenizer_free(model->tokenizer);
    layers_release(&model->tensors);
    container_close(model->container);
    memory_free(model);
}

enum status model_logits(
    struct model *model, float *logits, const float *hidden, uint64_t count, struct error *err)
{
    return model->backend.linear(
        model->backend.state, logits, hidden, count, model->tensors.once[ROLE_HEAD], NULL, err);
}
