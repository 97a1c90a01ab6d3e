/* Opening a model: container, configuration, tensors, tokenizer and backend, in this order, so that nothing
 * is mapped before everything that the headers say has been checked. */
#include "base/memory.h"
#include "model/checkpoint.h"
#include "model/decoder.h"
#include "model/forward.h"
#include "tensor/linalg.h"

/* The model takes the checkpoint's parts over. What was dropped on purpose is of no interest here. */
static void take_over(struct model *model, struct checkpoint *checkpoint)
{
    model->container = checkpoint->container;
    model->config = checkpoint->config;
    model->tensors = checkpoint->tensors;
    model->tokenizer_made_of = checkpoint->tokenizer_made_of;
    memory_free(checkpoint->dropped);
    *checkpoint = (struct checkpoint){0};
}

static enum status open_backend(struct model *model, struct error *err)
{
    return backend_cpu_create(&model->backend, model->pool, decoder_widest(&model->config), err);
}

enum status model_open(struct model **out, const char *path, struct pool *pool, struct error *err)
{
    struct checkpoint checkpoint;
    enum status status = checkpoint_open(&checkpoint, path, err);

    *out = NULL;
    if (!status) return model_of_checkpoint(out, &checkpoint, pool, err);
    checkpoint_close(&checkpoint);
    return status;
}

enum status model_of_checkpoint(
    struct model **out, struct checkpoint *checkpoint, struct pool *pool, struct error *err)
{
    struct model *model = memory_new(1, sizeof *model, err);
    enum status status = model ? linalg_init(err) : ERR_MEMORY;

    *out = NULL;
    if (!model) {
        checkpoint_close(checkpoint);
        return ERR_MEMORY;
    }
    take_over(model, checkpoint);
    model->pool = pool;
    model->cache_bits = 32;
    if (!status) status = container_map_by(model->container, pool, err);
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
