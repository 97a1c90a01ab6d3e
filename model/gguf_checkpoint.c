/* See gguf_checkpoint.h. */
#include "model/gguf_checkpoint.h"

#include "base/memory.h"
#include "model/gguf_config.h"
#include "model/gguf_names.h"
#include "model/tokenizer/gguf_tokenizer.h"

static bool is_turned(enum role role)
{
    return role == ROLE_Q || role == ROLE_K || role == ROLE_Q_BIAS || role == ROLE_K_BIAS;
}

/* Names without a role stay; layers_bind will refuse or drop their tensors. */
static enum status rename_tensors(
    struct container *container, const struct gguf_config *config, struct error *err)
{
    enum status status = OK;

    for (uint64_t i = 0; i < container_count(container) && !status; i++) {
        char name[128];
        enum role role;
        uint32_t layer;
        if (!gguf_names_role(container_tensor(container, i)->name, &role, &layer)) continue;
        if (config->interleaved && is_turned(role))
            status = container_interleave(container, i, config->head_size, err);
        if (layers_role_is_gain(role) && config->architecture->gain_offset != 0) /* GGUF has it added */
            status = container_shift(container, i, -config->architecture->gain_offset, err);
        if (!status)
            status = container_rename(
                container, i, layers_name(name, sizeof name, config->architecture, role, layer), err);
    }
    return status ? status : container_reindex(container, err);
}

static enum status see_as_checkpoint(struct container *container, struct error *err)
{
    struct gguf_config config;
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status = gguf_config_write(&text, &bytes, &config, container, err);

    if (!status) status = container_attach(container, "config.json", text, bytes, err);
    if (status) return status;
    status = gguf_tokenizer_write(&text, &bytes, container_metadata(container), err);
    if (!status && text) status = container_attach(container, "tokenizer.json", text, bytes, err);
    return status ? status : rename_tensors(container, &config, err);
}

enum status gguf_checkpoint(struct container *container, struct error *err)
{
    enum status status = see_as_checkpoint(container, err);

    return status ? fail_within(err, status, "%s", container_path(container)) : OK;
}
