/* See checkpoint.h. */
#include "model/checkpoint.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/llama2c.h"
#include "model/gguf/gguf_checkpoint.h"
#include "model/llama2c_checkpoint.h"
#include "model/slice.h"
#include "model/text_part.h"
#include "model/tokenizer/tokenizer_files.h"

enum { DROPPED_LINES = 16 }; /* more tensors dropped for one reason are one line */

enum status checkpoint_read_config(
    struct model_config *out, bool *found, struct container *container, struct error *err)
{
    char *json = NULL, what[512];
    uint64_t bytes = 0;
    enum status status = container_document(container, "config.json", &json, &bytes, err);

    *found = !status && json;
    if (!*found) return status;
    snprintf(what, sizeof what, "%s: config.json%s", container_path(container),
        container_metadata(container)->count ? " made of its metadata" : "");
    status = config_parse(out, what, json, bytes, err);
    memory_free(json);
    return status;
}

/* Files that say by themselves what their tensors are, in words of their own. */
static enum status translate(struct container *container, struct error *err)
{
    if (container_metadata(container)->count == 0) return OK;
    if (strcmp(container_format(container), LLAMA2C_FORMAT) == 0) return llama2c_checkpoint(container, err);
    return gguf_checkpoint(container, err);
}

/* A tokenizer that cannot be made is no fault before somebody needs it. */
static enum status attach_tokenizer(struct checkpoint *out, struct error *err)
{
    enum status status = tokenizer_files_attach(&out->tokenizer_made_of, out->container, &out->no_tokenizer);

    if (!status || status == ERR_UNSUPPORTED) return OK;
    return fail(err, status, "%s", out->no_tokenizer.text);
}

enum status checkpoint_split(struct container *container, struct error *err)
{
    struct model_config config;
    bool found;
    enum status status = text_part_see(container, NULL);

    if (!status) status = checkpoint_read_config(&config, &found, container, NULL);

    if (status == ERR_MEMORY || status == ERR_IO)
        return fail(err, status, "%s: config.json", container_path(container));
    return status || !found ? OK : layers_split(container, &config, err);
}

enum status checkpoint_open(struct checkpoint *out, const char *path, struct error *err)
{
    return checkpoint_open_with(out, path, &(struct checkpoint_options){0}, err);
}

enum status checkpoint_open_with(
    struct checkpoint *out, const char *path, const struct checkpoint_options *options, struct error *err)
{
    bool found = false;
    *out = (struct checkpoint){0};
    enum status status = container_open_with(&out->container, path, &options->container, err);
    if (!status)
        status = options->slice_count ? slice_join(out->container, options->slices, options->slice_count, err)
                                      : slice_refuse(out->container, err);
    if (!status) status = translate(out->container, err);
    if (!status) status = text_part_see(out->container, err);
    if (!status) status = attach_tokenizer(out, err);
    if (!status) status = checkpoint_read_config(&out->config, &found, out->container, err);
    if (!status && !found) status = fail(err, ERR_FORMAT, "%s: no config.json in it or beside it", path);
    if (!status) {
        status =
            layers_bind(&out->tensors, &out->dropped, &out->dropped_count, out->container, &out->config, err);
    }
    return status;
}

enum status checkpoint_bind_again(struct checkpoint *checkpoint, struct error *err)
{
    bool found;

    layers_release(&checkpoint->tensors);
    memory_free(checkpoint->dropped);
    checkpoint->dropped = NULL;
    checkpoint->dropped_count = 0;
    enum status status = container_reindex(checkpoint->container, err);
    if (!status) status = checkpoint_read_config(&checkpoint->config, &found, checkpoint->container, err);
    return status ? status
                  : layers_bind(&checkpoint->tensors, &checkpoint->dropped, &checkpoint->dropped_count,
                        checkpoint->container, &checkpoint->config, err);
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    layers_release(&checkpoint->tensors);
    memory_free(checkpoint->dropped);
    container_close(checkpoint->container);
    *checkpoint = (struct checkpoint){0};
}

enum status checkpoint_tokenizer(struct tokenizer **out, struct container *container, struct error *err)
{
    char *json = NULL, what[512];
    const char *made_of;
    uint64_t bytes;
    enum status status = tokenizer_files_attach(&made_of, container, err);

    *out = NULL;
    if (!status) status = container_document(container, "tokenizer.json", &json, &bytes, err);
    if (status || !json) return status;
    snprintf(what, sizeof what, "%s: tokenizer.json%s", container_path(container),
        container_metadata(container)->count ? " made of its metadata" : "");
    status = tokenizer_create(out, what, json, bytes, err);
    memory_free(json);
    return status;
}

bool checkpoint_is_dropped(const struct checkpoint *checkpoint, const struct tensor *tensor)
{
    for (uint64_t i = 0; i < checkpoint->dropped_count; i++) {
        if (checkpoint->dropped[i].tensor == tensor) return true;
    }
    return false;
}

/* One line for each reason why packed matrices are decoded, at the first of them. */
static void note_decoded(
    const struct container *container, uint64_t first, const char *why, const struct report *report)
{
    uint64_t decoded = 0, packed = 0;
    const char *layout = NULL, *other;

    for (uint64_t i = 0; i < container_count(container); i++) {
        const char *found = container_packed(container, container_tensor(container, i), &other);
        const bool same = found && other && strcmp(other, why) == 0;
        if (same && i < first) return;
        if (found) layout = found;
        packed += found != NULL;
        decoded += same;
    }
    report_note(report, "%s: %s: %" PRIu64 " of %" PRIu64 " %s matrices are decoded to F32",
        container_path(container), why, decoded, packed, layout);
}

void checkpoint_note_made(const struct container *container, const char *made_of, const struct report *report)
{
    const char *why;

    for (uint64_t i = 0; i < container_count(container); i++) {
        if (container_packed(container, container_tensor(container, i), &why) && why)
            note_decoded(container, i, why, report);
    }
    if (made_of) report_note(report, "%s: tokenizer.json made of %s", container_path(container), made_of);
}

/* Everything that is dropped for the reason of number `first`, which no number before it has: a line each, or one where these are many. */
static void note_reason(const struct checkpoint *checkpoint, uint64_t first, const struct report *report)
{
    const struct dropped_tensor *dropped = checkpoint->dropped;
    uint64_t same = 0;

    for (uint64_t i = first; i < checkpoint->dropped_count; i++)
        same += strcmp(dropped[i].why, dropped[first].why) == 0;
    if (same > DROPPED_LINES) {
        report_note(report, "dropped %s and %" PRIu64 " more tensors: %s", dropped[first].tensor->name,
            same - 1, dropped[first].why);
        return;
    }
    for (uint64_t i = first; i < checkpoint->dropped_count; i++)
        if (strcmp(dropped[i].why, dropped[first].why) == 0)
            report_note(report, "dropped %s: %s", dropped[i].tensor->name, dropped[i].why);
}

void checkpoint_note_dropped(const struct checkpoint *checkpoint, const struct report *report)
{
    const struct error *none = &checkpoint->no_tokenizer;
    const char *reasons[16]; /* more than layers_bind has */
    unsigned count = 0;

    checkpoint_note_made(checkpoint->container, none->code ? NULL : checkpoint->tokenizer_made_of, report);
    if (none->code) report_note(report, "no tokenizer: %s", none->text);
    for (uint64_t i = 0; i < checkpoint->dropped_count; i++) {
        unsigned known = 0;
        while (known < count && strcmp(reasons[known], checkpoint->dropped[i].why) != 0)
            known++;
        if (known < count || count == sizeof reasons / sizeof *reasons) continue;
        reasons[count++] = checkpoint->dropped[i].why;
        note_reason(checkpoint, i, report);
    }
}

void checkpoint_write_dropped(const struct checkpoint *checkpoint, struct json_writer *json)
{
    json_write_key(json, "dropped");
    json_open_array(json);
    for (uint64_t i = 0; i < checkpoint->dropped_count; i++) {
        json_open_object(json);
        json_put_text(json, "tensor", checkpoint->dropped[i].tensor->name);
        json_put_text(json, "why", checkpoint->dropped[i].why);
        json_close_object(json);
    }
    json_close_array(json);
}

enum status checkpoint_write_aliases(
    const struct checkpoint *checkpoint, struct writer *writer, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; !status && i < container_alias_count(checkpoint->container); i++) {
        const char *alias, *target;
        container_alias(checkpoint->container, i, &alias, &target);
        if (checkpoint_is_dropped(checkpoint, container_find(checkpoint->container, target))) continue;
        status = writer_alias(writer, alias, target, err);
    }
    return status;
}

/* True if the folder holds a file (or a link to one) that is the file `old` describes. */
static bool folder_holds(const char *path, const struct stat *old)
{
    DIR *folder = opendir(path);
    bool found = false;
    for (struct dirent *entry; folder && !found && (entry = readdir(folder)) != NULL;) {
        struct stat info;
        found = fstatat(dirfd(folder), entry->d_name, &info, 0) == 0 && info.st_dev == old->st_dev &&
                info.st_ino == old->st_ino;
    }
    if (folder) closedir(folder);
    return found;
}

enum status checkpoint_refuse_output(const char *input, const char *output, struct error *err)
{
    struct stat old;
    if (stat(output, &old) != 0) return OK;
    if (!file_same(input, output) && !folder_holds(input, &old)) return OK;
    return fail(err, ERR_USAGE, "%s: is the input, or a file of it; name another output", output);
}

enum status checkpoint_refuse_beside(const char *input, const char *path, struct error *err)
{
    enum status status = checkpoint_refuse_output(input, path, err);
    if (status != OK) return status;
    char *folder = file_parent(path, err);
    if (!folder) return ERR_MEMORY;
    if (file_same(folder, input))
        status = fail(err, ERR_USAGE, "%s: lies in the input's folder; name a file elsewhere", path);
    memory_free(folder);
    return status;
}
