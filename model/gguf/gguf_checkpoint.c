/* See gguf_checkpoint.h. */
#include "model/gguf/gguf_checkpoint.h"

#include <string.h>

#include "base/memory.h"
#include "formats/gguf/gguf_writer.h"
#include "formats/provenance.h"
#include "model/gguf/gguf_config.h"
#include "model/gguf/gguf_names.h"
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
        const char *old = container_tensor(container, i)->name;
        const struct fused_rows *fused = gguf_names_fused(container, config->architecture, old, &layer);
        if (fused) {
            layers_fused_name(name, sizeof name, config->architecture, fused, layer);
            status = container_rename(container, i, name, err);
            continue;
        }
        if (!gguf_names_role(old, &role, &layer)) continue;
        gguf_names_write(name, sizeof name, config->architecture, role, layer);
        if (strcmp(name, old) != 0) continue; /* another architecture's */
        if (role == ROLE_SHARED_ROUTER && container_tensor(container, i)->rank == 1)
            status = container_reshape(container, i, 1, container_tensor(container, i)->shape[0], err);
        if (!status && config->interleaved && is_turned(role))
            status = container_interleave(container, i, config->head_size, err);
        if (!status && layers_role_is_gain(role) &&
            config->architecture->gain_offset != 0) /* GGUF has it added */
            status = container_shift(container, i, -config->architecture->gain_offset, err);
        if (!status)
            status = container_rename(
                container, i, layers_name(name, sizeof name, config->architecture, role, layer), err);
    }
    return status ? status : container_reindex(container, err);
}

/* A string among the metadata as a document; the spaces at the end of what was reserved are taken off. */
static enum status attach_provenance(struct container *container, struct error *err)
{
    const char *text = NULL;
    uint64_t bytes = 0;
    char *copy;
    enum status status =
        metadata_get_string(container_metadata(container), GGUF_WRITER_PROVENANCE, &text, &bytes, err);

    if (status || !text) return status;
    while (bytes && text[bytes - 1] == ' ')
        bytes--;
    copy = memory_text(text, bytes, err);
    return copy ? container_attach(container, PROVENANCE_DOCUMENT, copy, bytes, err) : ERR_MEMORY;
}

/* The chat template, which is carried as inert text and never evaluated, in its place in a Hugging Face folder. */
static enum status attach_template(struct container *container, struct error *err)
{
    struct json_writer json = {.indent = 2};
    const char *template = NULL;
    char *text = NULL;
    uint64_t bytes = 0;
    enum status status =
        metadata_get_string(container_metadata(container), "tokenizer.chat_template", &template, &bytes, err);

    if (status || !template) return status;
    json_open_object(&json);
    json_write_key(&json, "chat_template");
    json_write_string(&json, template, bytes);
    json_close_object(&json);
    status = json_writer_take(&json, &text, &bytes, err);
    json_writer_free(&json);
    return status ? status : container_attach(container, "tokenizer_config.json", text, bytes, err);
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
    if (!status) status = attach_template(container, err);
    if (!status) status = attach_provenance(container, err);
    return status ? status : rename_tensors(container, &config, err);
}

enum status gguf_checkpoint(struct container *container, struct error *err)
{
    enum status status = see_as_checkpoint(container, err);

    return status ? fail_within(err, status, "%s", container_path(container)) : OK;
}
