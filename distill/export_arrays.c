/* Arrays into files: a head, then the columns, each at its place. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "distill/export_columns.h"
#include "distill/export_files.h"
#include "formats/bytes.h"

/* Where the columns lie. */
struct arrays {
    struct output *outputs[COLUMN_COUNT];
    uint64_t begins[COLUMN_COUNT];
    uint64_t bytes; /* of all files */
};

static enum status put(
    void *context, enum column column, uint64_t offset, const void *bytes, uint64_t count, struct error *err)
{
    const struct arrays *arrays = context;
    return output_write_at(arrays->outputs[column], arrays->begins[column] + offset, bytes, count, err);
}

static struct export_result result_of(const struct export_plan *plan, uint64_t bytes)
{
    return (struct export_result){.sequences = plan->sequences, .tokens = plan->tokens, .bytes = bytes};
}

/* ---- safetensors ---- */

static void put_tensor(struct json_writer *json, const struct export_column *column, uint64_t begin)
{
    json_write_key(json, column->name);
    json_open_object(json);
    json_put_text(json, "dtype", column->safetensors);
    json_write_key(json, "shape");
    json_open_array(json);
    for (unsigned i = 0; i < column->rank; i++)
        json_write_u64(json, column->shape[i]);
    json_close_array(json);
    json_write_key(json, "data_offsets");
    json_open_array(json);
    json_write_u64(json, begin);
    json_write_u64(json, begin + column->bytes);
    json_close_array(json);
    json_close_object(json);
}

/* Columns of wide elements first, so that all are aligned. */
static const enum column safetensors_order[COLUMN_COUNT] = {COLUMN_OFFSETS, COLUMN_SOURCES, COLUMN_TOKENS,
    COLUMN_LOG_SUM, COLUMN_REST, COLUMN_IDS, COLUMN_VALUES, COLUMN_PROMPTS, COLUMN_HIDDEN};

/* The header, padded with spaces to a multiple of 8 bytes; begins are set, counted from its end. */
static enum status safetensors_head(
    struct arrays *arrays, const struct export_plan *plan, char **out, uint64_t *count, struct error *err)
{
    struct json_writer json = {0};
    char *text = NULL;
    uint64_t bytes;
    json_open_object(&json);
    for (unsigned i = 0; i < COLUMN_COUNT; i++) {
        const enum column column = safetensors_order[i];
        if (plan->columns[column].rank == 0) continue;
        arrays->begins[column] = arrays->bytes;
        put_tensor(&json, &plan->columns[column], arrays->bytes);
        arrays->bytes += plan->columns[column].bytes;
    }
    json_close_object(&json);
    enum status status = json_writer_take(&json, &text, &bytes, err);
    if (status) return status;
    *count = (bytes + 7) / 8 * 8;
    *out = memory_new(*count + 8, 1, err);
    if (*out) {
        memset(*out, ' ', *count + 8);
        bytes_put((uint8_t *)*out, *count, 8);
        memcpy(*out + 8, text, bytes - 1); /* without the newline */
        *count += 8;
    }
    memory_free(text);
    return *out ? OK : ERR_MEMORY;
}

enum status export_safetensors(
    struct export_result *out, struct dataset *dataset, const char *path, bool force, struct error *err)
{
    struct arrays arrays = {0};
    struct export_plan plan;
    struct output *output = NULL;
    char *head = NULL;
    uint64_t head_bytes = 0;
    enum status status = output_open(&output, path, force, err);
    if (!status) status = export_plan_make(&plan, dataset, err);
    if (!status) status = safetensors_head(&arrays, &plan, &head, &head_bytes, err);
    if (!status) status = output_reserve(output, head_bytes + arrays.bytes, err);
    if (!status) status = output_write_at(output, 0, head, head_bytes, err);
    for (unsigned i = 0; i < COLUMN_COUNT; i++) {
        arrays.outputs[i] = output;
        arrays.begins[i] += head_bytes;
    }
    if (!status) status = export_columns(&plan, dataset, put, &arrays, err);
    memory_free(head);
    if (status) {
        output_abandon(output);
        return status;
    }
    *out = result_of(&plan, head_bytes + arrays.bytes);
    return output_commit(output, err);
}

/* ---- .npy ---- */

enum { NPY_HEAD = 128 }; /* of every file; a multiple of 64, as the format wants it */

/* Version 1.0 (numpy.lib.format): magic, two bytes of version, the length of what follows, a Python literal padded with spaces that ends
 * in a newline. */
static void npy_head(char out[NPY_HEAD], const struct export_column *column)
{
    char shape[80] = "";
    int used = 0;
    for (unsigned i = 0; i < column->rank; i++)
        used += snprintf(shape + used, sizeof shape - (size_t)used, "%" PRIu64 "%s", column->shape[i],
            column->rank == 1      ? ","
            : i + 1 < column->rank ? ", "
                                   : "");
    memset(out, ' ', NPY_HEAD);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    bytes_put((uint8_t *)out + 8, NPY_HEAD - 10, 2);
    used = snprintf(out + 10, NPY_HEAD - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
        column->numpy, shape);
    out[10 + used] = ' ';
    out[NPY_HEAD - 1] = '\n';
}

static enum status add_npy(struct arrays *arrays, struct output_folder *folder,
    const struct export_plan *plan, unsigned index, struct error *err)
{
    const struct export_column *column = &plan->columns[index];
    char head[NPY_HEAD], name[32];
    if (column->rank == 0) return OK;
    snprintf(name, sizeof name, "%s.npy", column->name);
    npy_head(head, column);
    arrays->begins[index] = NPY_HEAD;
    arrays->bytes += NPY_HEAD + column->bytes;
    enum status status = output_folder_add(&arrays->outputs[index], folder, name, err);
    if (!status) status = output_reserve(arrays->outputs[index], NPY_HEAD + column->bytes, err);
    return status ? status : output_write_at(arrays->outputs[index], 0, head, NPY_HEAD, err);
}

enum status export_npy(
    struct export_result *out, struct dataset *dataset, const char *path, struct error *err)
{
    struct arrays arrays = {0};
    struct export_plan plan;
    struct output_folder *folder = NULL;
    enum status status = output_folder_open(&folder, path, err);
    if (!status) status = export_plan_make(&plan, dataset, err);
    for (unsigned i = 0; i < COLUMN_COUNT && !status; i++)
        status = add_npy(&arrays, folder, &plan, i, err);
    if (!status) status = export_columns(&plan, dataset, put, &arrays, err);
    if (status) {
        output_folder_abandon(folder);
        return status;
    }
    *out = result_of(&plan, arrays.bytes);
    return output_folder_commit(folder, err);
}
