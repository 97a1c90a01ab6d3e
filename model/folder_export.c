/* See folder_export.h. */
#include "model/folder_export.h"

#include <stdio.h>

/* Where the rows of a role lie in the matrix that it is part of. */
static void place_in_fused(struct folder_place *place, const struct fused_rows *fused, enum role role,
    uint32_t layer, const struct model_config *config)
{
    uint64_t shape[2], before = 0;
    uint32_t rank;
    unsigned part = 0;

    for (unsigned i = 0; i < fused->count; i++) {
        layers_role_shape(config, fused->parts[i], layer, &rank, shape);
        if (fused->parts[i] == role) {
            part = i;
            before = place->rows;
            place->run = shape[0];
        }
        place->rows += shape[0];
    }
    place->first_row = before;
    if (fused->by_heads) { /* all parts are equal: layers_split saw to it */
        place->run = config->head_size;
        place->first_row = part * place->run;
        place->step = fused->count * place->run;
    }
    place->transposed = fused->transposed;
    layers_fused_name(place->name, sizeof place->name, config->architecture, fused, layer);
}

static enum status place_tensor(
    const void *context, struct folder_place *place, const struct tensor *tensor, struct error *err)
{
    const struct model_config *config = context;
    const struct fused_rows *fused = NULL;
    enum role role;
    uint32_t layer;

    if (layers_role_of(config, tensor->name, &role, &layer))
        fused = layers_fused(config->architecture, role, FUSED_IN_FOLDERS);
    if (fused) {
        place_in_fused(place, fused, role, layer, config);
        return OK;
    }
    if ((size_t)snprintf(place->name, sizeof place->name, "%s", tensor->name) < sizeof place->name) return OK;
    return fail(err, ERR_FORMAT, "its name is longer than those of %s", config->architecture->name);
}

enum status folder_export_create(struct writer **out, const struct checkpoint *input, const char *path,
    enum packed_kind kind, uint64_t shard_bytes, struct error *err)
{
    const struct architecture *known = input->config.architecture;
    const struct folder_naming naming = {.name = place_tensor, .context = &input->config};

    *out = NULL;
    for (unsigned i = 0; kind != PACKED_KINDS && i < known->fused_count; i++) {
        if (known->fused[i].transposed)
            return fail(err, ERR_UNSUPPORTED,
                "%s: %s stores its matrices column by column, for which readers of %s folders have no common "
                "form; write --format gguf or nbl",
                container_path(input->container), known->name, packed_layout(kind)->name);
    }
    return folder_writer_create(out, path, kind, shard_bytes, known->fused_count ? &naming : NULL, err);
}
