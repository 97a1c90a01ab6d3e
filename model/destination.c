/* See destination.h. */
#include "model/destination.h"

#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "model/folder_export.h"
#include "model/gguf/gguf_export.h"
#include "tensor/sparse.h"

static enum status create_nbl(struct writer **out, const struct destination *destination,
    const struct checkpoint *input, const struct report *report, struct error *err)
{
    (void)input, (void)report;
    return nbl_writer_create(out, destination->path, destination->force, err);
}

static enum status create_gguf(struct writer **out, const struct destination *destination,
    const struct checkpoint *input, const struct report *report, struct error *err)
{
    const enum status status = config_refuse_own(&input->config, "GGUF", err);

    if (status) return status;
    return gguf_export_create(out, input, destination->path, destination->force, destination->split_bytes,
        destination->file_type, report, err);
}

static enum status create_folder(struct writer **out, const struct destination *destination,
    const struct checkpoint *input, const struct report *report, struct error *err);

/* Folders know nothing of sparse matrices. */
static enum status spread_target(struct tensor *target, const struct model_config *config, struct error *err)
{
    (void)config, (void)err;
    sparse_describe_spread(target);
    return OK;
}

static const struct format {
    const char *name, *ending; /* ending: of the paths that mean it; NULL: none */
    enum packed_kind packed;   /* folders: how quantized matrices are stored; PACKED_KINDS: not */
    bool splits;               /* may be written in parts */
    bool slices;               /* can say that it has some layers only */
    enum fused_in fuses;       /* how fused matrices are kept as one */
    enum status (*create)(struct writer **out, const struct destination *destination,
        const struct checkpoint *input, const struct report *report, struct error *err);
    enum status (*target)(struct tensor *target, const struct model_config *config,
        struct error *err); /* NULL: takes every tensor as it is */
} formats[] = {
    {"nbl", ".nbl", PACKED_KINDS, false, true, FUSED_NOWHERE, create_nbl, NULL},
    {"gguf", ".gguf", PACKED_KINDS, true, false, FUSED_IN_GGUF, create_gguf, gguf_export_target},
    {"safetensors", NULL, PACKED_KINDS, true, false, FUSED_IN_FOLDERS, create_folder, spread_target},
    {"gptq", NULL, PACKED_GPTQ, true, false, FUSED_IN_FOLDERS, create_folder, spread_target},
    {"gptq-v2", NULL, PACKED_GPTQ_V2, true, false, FUSED_IN_FOLDERS, create_folder, spread_target},
    {"awq", NULL, PACKED_AWQ, true, false, FUSED_IN_FOLDERS, create_folder, spread_target},
    {"compressed-tensors", NULL, PACKED_COMPRESSED, true, false, FUSED_IN_FOLDERS, create_folder,
        spread_target},
    {"mlx", NULL, PACKED_MLX, true, false, FUSED_IN_FOLDERS, create_folder, spread_target},
};

/* The first row where nothing says otherwise. */
static const struct format *format_of(const struct destination *destination)
{
    const size_t bytes = strlen(destination->path);

    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const size_t ending = formats[i].ending ? strlen(formats[i].ending) : bytes;
        if (destination->format
                ? strcmp(destination->format, formats[i].name) == 0
                : bytes > ending && strcmp(destination->path + bytes - ending, formats[i].ending) == 0)
            return &formats[i];
    }
    return &formats[0];
}

static enum status create_folder(struct writer **out, const struct destination *destination,
    const struct checkpoint *input, const struct report *report, struct error *err)
{
    const enum status status = config_refuse_own(&input->config, "folders for other tools", err);

    (void)report;
    if (status) return status;
    return folder_export_create(
        out, input, destination->path, format_of(destination)->packed, destination->split_bytes, err);
}

enum status destination_check(const struct destination *destination, struct error *err)
{
    const struct format *format = format_of(destination);

    if (destination->split_bytes && !format->splits)
        return fail(err, ERR_USAGE,
            "--split-size: %s files are written whole; --format gguf, safetensors and their kin have parts",
            format->name);
    if (destination->slice && !format->slices)
        return fail(err, ERR_USAGE, "--layers: a %s file cannot be a slice of a model; --format nbl can",
            format->name);
    return OK;
}

bool destination_is_own(const struct destination *destination)
{
    return format_of(destination)->create == create_nbl;
}

enum fused_in destination_fuses(const struct destination *destination)
{
    return format_of(destination)->fuses;
}

enum status destination_target(const struct destination *destination, const struct model_config *config,
    struct tensor *target, struct error *err)
{
    const struct format *format = format_of(destination);

    return format->target ? format->target(target, config, err) : OK;
}

enum status destination_certain(
    const struct destination *destination, const struct tensor *target, struct error *err)
{
    const struct format *format = format_of(destination);

    if (format->packed == PACKED_KINDS || !packed_layout(format->packed)->zero_less ||
        target->storage != STORAGE_TILES || !target->scheme.asymmetric)
        return OK;
    return fail(err, ERR_USAGE,
        "tensor %s: --format %s has no place for the zero-point 0, and whether an asymmetric matrix gets one "
        "shows only when the work is done; use --format gptq-v2, or leave --asymmetric out",
        target->name, format->name);
}

enum status destination_create(struct writer **out, const struct destination *destination,
    const struct checkpoint *input, const struct report *report, struct error *err)
{
    return format_of(destination)->create(out, destination, input, report, err);
}

/* ---- the files ---- */

enum status destination_refuse_input(const struct container *input, const char *path, struct error *err)
{
    for (uint64_t i = 0; i < container_file_count(input); i++) {
        if (file_same(container_file(input, i).path, path))
            return fail(err, ERR_USAGE, "%s: is a file of the input; name another output", path);
    }
    return OK;
}

enum status destination_parts_note(struct destination_parts *parts, const struct writer *writer,
    const struct container *input, struct error *err)
{
    for (const char *path; (path = writer_file(writer, parts->count)) != NULL;) {
        enum status status = destination_refuse_input(input, path, err);
        if (!status)
            status =
                memory_grow(&parts->paths, &parts->capacity, parts->count + 1, sizeof *parts->paths, err);
        if (status) return status;
        parts->paths[parts->count] = memory_text(path, strlen(path), err);
        if (!parts->paths[parts->count++]) return ERR_MEMORY;
    }
    return OK;
}

uint64_t destination_parts_bytes(const struct destination_parts *parts, const char *path)
{
    uint64_t bytes = parts->count ? 0 : file_size(path);

    for (uint64_t i = 0; i < parts->count; i++)
        bytes += file_size(parts->paths[i]);
    return bytes;
}

void destination_parts_free(struct destination_parts *parts)
{
    for (uint64_t i = 0; i < parts->count; i++)
        memory_free(parts->paths[i]);
    memory_free(parts->paths);
    *parts = (struct destination_parts){0};
}
