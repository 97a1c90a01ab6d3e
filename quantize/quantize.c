/* From a container to a quantized file: open and account for every tensor, plan, let the method write, attach
 * what belongs to the file, commit. */
#include "quantize/quantize.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/memory.h"
#include "formats/nbl_layout.h"
#include "formats/provenance.h"

/* ---- methods ---- */

static quantize_method find_method(const char *name)
{
#define METHOD_ROW(name, help) {#name, name##_run},
    static const struct {
        const char *name;
        quantize_method run;
    } methods[] = {METHOD_LIST(METHOD_ROW)};
#undef METHOD_ROW
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(methods[i].name, name) == 0) return methods[i].run;
    }
    return NULL;
}

/* ---- the input ---- */

/* True if the output's name leads to the input or to a file of the input's folder, also through links. */
static bool is_input(const char *input, const char *output)
{
    struct stat old, info;
    bool found = false;
    if (stat(output, &old) != 0) return false;
    if (file_same(input, output)) return true;
    DIR *folder = opendir(input);
    for (struct dirent *entry; folder && !found && (entry = readdir(folder)) != NULL;)
        found = fstatat(dirfd(folder), entry->d_name, &info, 0) == 0 && info.st_dev == old.st_dev &&
                info.st_ino == old.st_ino;
    if (folder) closedir(folder);
    return found;
}

/* Open the input and hold its tensors against its configuration: missing, misshapen and unknown ones are
 * errors, and those that are left out on purpose are listed. */
static enum status open_input(struct plan_input *input, const char *path, struct error *err)
{
    char *json = NULL, what[512];
    uint64_t bytes = 0;
    snprintf(what, sizeof what, "%s: config.json", path);
    enum status status = container_open(&input->container, path, err);
    if (status == OK) status = container_document(input->container, "config.json", &json, &bytes, err);
    if (status == OK && !json) status = fail(err, ERR_FORMAT, "%s: no config.json in it or beside it", path);
    if (status == OK) status = config_parse(&input->config, what, json, bytes, err);
    if (status == OK)
        status = layers_bind(
            &input->tensors, &input->dropped, &input->dropped_count, input->container, &input->config, err);
    memory_free(json);
    return status;
}

static void close_input(struct plan_input *input)
{
    layers_release(&input->tensors);
    memory_free(input->dropped);
    container_close(input->container);
}

/* ---- the output ---- */

/* The options that decide the bytes, for the provenance: never threads, paths or times. */
struct recorded {
    const char *(*pairs)[2];
    uint64_t count;
    char (*names)[32]; /* of the numbered ones */
};

static void record(struct recorded *recorded, const char *name, const char *value)
{
    recorded->pairs[recorded->count][0] = name;
    recorded->pairs[recorded->count++][1] = value;
}

static void record_list(struct recorded *recorded, const char *name, const struct option_list *list)
{
    for (uint64_t i = 0; i < list->count; i++) {
        char *numbered = recorded->names[recorded->count];
        snprintf(numbered, sizeof recorded->names[0], "%s %" PRIu64, name, i + 1);
        record(recorded, numbered, list->values[i]);
    }
}

static enum status attach(struct quantize_job *job, const struct quantize_options *options,
    const struct settings *settings, struct error *err)
{
    char group[16] = "row";
    if (settings->linear.group) snprintf(group, sizeof group, "%" PRIu32, settings->linear.group);
    uint64_t capacity = 16 + options->keep.count + options->override.count;
    struct recorded recorded = {.pairs = memory_new(capacity, sizeof *recorded.pairs, err),
        .names = memory_new(capacity, sizeof *recorded.names, err)};
    enum status status = ERR_MEMORY;
    if (!recorded.pairs || !recorded.names) goto done;
    record(&recorded, "method", options->method);
    record(&recorded, "bits", options->bits);
    record(&recorded, "group", group);
    record(&recorded, "symmetry", options->asymmetric ? "asymmetric" : "symmetric");
    record(&recorded, "range", options->range);
    record(&recorded, "embedding", options->embedding);
    if (!job->input->config.tied) record(&recorded, "head", options->head ? options->head : "keep");
    record(&recorded, "type", options->type);
    record(&recorded, "indivisible", options->indivisible);
    record_list(&recorded, "override", &options->override);
    record_list(&recorded, "keep", &options->keep);
    status = provenance_attach(job->writer, job->input->container, settings_command.name,
        (const char *const(*)[2])recorded.pairs, recorded.count, job->source_crcs, err);
done:
    memory_free(recorded.pairs);
    memory_free(recorded.names);
    return status;
}

/* Carry the names that stand for another tensor over, but for those whose tensor was dropped. */
static enum status add_aliases(struct nbl_writer *writer, const struct plan_input *input, struct error *err)
{
    enum status status = OK;
    for (uint64_t i = 0; status == OK && i < container_alias_count(input->container); i++) {
        const char *alias, *target;
        container_alias(input->container, i, &alias, &target);
        if (!plan_is_dropped(input, container_find(input->container, target)))
            status = nbl_writer_alias(writer, alias, target, err);
    }
    return status;
}

static enum status write_output(struct quantize_job *job, const struct quantize_options *options,
    const struct settings *settings, struct error *err)
{
    enum status status = nbl_writer_create(&job->writer, options->output, options->force, err);
    if (status == OK) status = find_method(options->method)(job, err);
    if (status == OK) status = add_aliases(job->writer, job->input, err);
    if (status == OK) status = attach(job, options, settings, err);
    if (status != OK) {
        nbl_writer_abandon(job->writer);
        return status;
    }
    return nbl_writer_commit(job->writer, err);
}

/* What the file will take: tensors, documents, and the page of header and table in front. The rest
 * (provenance, padding) is some kilobytes. */
static enum status predict_size(struct quantize_result *result, struct error *err)
{
    static const char *const documents[] = {"config.json", "tokenizer.json"};
    result->bytes_out = result->plan.bytes + NBL_DATA_ALIGNMENT;
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        char *text = NULL;
        uint64_t bytes = 0;
        enum status status = container_document(result->input.container, documents[i], &text, &bytes, err);
        if (status != OK) return status;
        if (text) result->bytes_out += bytes;
        memory_free(text);
    }
    return OK;
}

/* The bytes of a file that was just written. Nothing here may fail any more: the output stands. */
static uint64_t size_of(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

/* ---- all of it ---- */

static void note_dropped(const struct plan_input *input, const struct report *report)
{
    for (uint64_t i = 0; i < input->dropped_count; i++)
        report_note(report, "dropped %s: %s", input->dropped[i].tensor->name, input->dropped[i].why);
}

static enum status run_job(struct quantize_result *result, const struct quantize_options *options,
    const struct report *report, struct error *err)
{
    struct quantize_job job = {.input = &result->input,
        .plan = &result->plan,
        .report = report,
        .measure_error = options->report_error};
    enum status status = ERR_MEMORY;
    job.source_crcs = memory_new(container_count(result->input.container), sizeof *job.source_crcs, err);
    if (!job.source_crcs) goto done;
    status = pool_create(&job.pool, (unsigned)options->common.threads, err);
    if (status != OK) goto done;
    result->threads = pool_workers(job.pool);
    status = write_output(&job, options, &result->settings, err);
    if (status == OK) result->bytes_out = size_of(options->output);
done:
    pool_free(job.pool);
    memory_free(job.source_crcs);
    return status;
}

enum status quantize_run(
    struct quantize_result *out, const struct quantize_options *options, struct error *err)
{
    struct report report = {options->common.quiet, options->common.verbose};
    double start = report_seconds();
    *out = (struct quantize_result){0};
    if (is_input(options->input, options->output))
        return fail(
            err, ERR_USAGE, "%s: is the input, or a file of it; name another output", options->output);
    enum status status = settings_resolve(&out->settings, options, err);
    if (status == OK) status = open_input(&out->input, options->input, err);
    if (status != OK) return status;
    out->bytes_in = container_bytes(out->input.container);
    note_dropped(&out->input, &report);
    status = plan_create(&out->plan, &out->input, &out->settings, &report, err);
    if (status == OK)
        status = options->dry_run ? predict_size(out, err) : run_job(out, options, &report, err);
    out->seconds = report_seconds() - start;
    return status;
}

void quantize_release(struct quantize_result *result)
{
    plan_free(&result->plan);
    settings_free(&result->settings);
    close_input(&result->input);
    *result = (struct quantize_result){0};
}
