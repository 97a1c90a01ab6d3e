/* Opening a model: container, configuration, tensors, tokenizer and backend, in this order, so that nothing
 * is mapped before everything that the headers say has been checked. */
#include "base/memory.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "model/forward.h"
#include "tensor/linalg.h"

/* A checkpoint whose parts the model takes over. What was dropped on purpose is of no interest here. */
static enum status open_checkpoint(struct model *model, const char *path, struct error *err)
{
    struct checkpoint checkpoint;
    enum status status = checkpoint_open(&checkpoint, path, err);

    model->container = checkpoint.container;
    model->config = checkpoint.config;
    model->tensors = checkpoint.tensors;
    model->tokenizer_made_of = checkpoint.tokenizer_made_of;
    memory_free(checkpoint.dropped);
    return status ? status : container_map_by(model->container, model->pool, err);
}

static enum status open_backend(struct model *model, struct error *err)
{
    return backend_cpu_create(&model->backend, model->pool, decoder_widest(&model->config), err);
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
    model->cache_bits = 32;
    status = open_checkpoint(model, path, err);
    if (!status) status = checkpoint_tokenizer(&model->tokenizer, model->container, err);
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
    return decoder_logits(&model->backend, &model->config, model->tensors.once, logits, hidden, count, err);
}
