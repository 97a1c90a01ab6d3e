/* See destination_write.h. */
#include "model/destination_write.h"

#include "base/memory.h"
#include "formats/provenance.h"

/* Names that stand for the embedding go where it goes. */
static bool has_aliases(const struct destination_model *model)
{
    const struct checkpoint *input = model->input;
    return !model->slice ||
           slice_has(model->slice, &input->config, &input->tensors, input->tensors.once[ROLE_EMBEDDING]);
}

static enum status fill(struct writer *writer, const struct destination_model *model, uint32_t *crcs,
    struct pool *pool, const struct report *report, struct error *err)
{
    struct container *container = model->input->container;
    enum status status =
        provenance_reserve(writer, container, model->tool, model->options, model->option_count, err);
    if (status == OK)
        status = transfer_run(
            container, writer, model->items, model->count, crcs, pool, report, model->label, err);
    if (status == OK && has_aliases(model)) status = checkpoint_write_aliases(model->input, writer, err);
    if (status == OK && model->slice) status = slice_write(model->slice, writer, err);
    if (status == OK)
        status =
            provenance_attach(writer, container, model->tool, model->options, model->option_count, crcs, err);
    return status;
}

enum status destination_write(struct destination_parts *parts, const struct destination *destination,
    const struct destination_model *model, struct pool *pool, const struct report *report, struct error *err)
{
    struct container *container = model->input->container;
    struct writer *writer = NULL;
    uint32_t *crcs = memory_new(container_count(container), sizeof *crcs, err);
    enum status status =
        crcs ? destination_create(&writer, destination, model->input, report, err) : ERR_MEMORY;
    *parts = (struct destination_parts){0};
    if (status == OK) status = fill(writer, model, crcs, pool, report, err);
    if (status == OK) status = destination_parts_note(parts, writer, container, err);
    if (status == OK)
        status = writer_commit(writer, err);
    else
        writer_abandon(writer);
    memory_free(crcs);
    return status;
}
