/* One table of fields serves writing and reading. */
#include "prune/weights_outcome.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define DOCUMENT "layer.json"

static const struct {
    const char *name;
    size_t offset;
} numbers[] = {
    {"share", offsetof(struct prune_tensor, share)},
    {"squares_gone", offsetof(struct prune_tensor, gone)},
    {"squares", offsetof(struct prune_tensor, power)},
    {"output_error", offsetof(struct prune_tensor, output_error)},
    {"output_power", offsetof(struct prune_tensor, output_power)},
    {"solved_error", offsetof(struct prune_tensor, solved_error)},
    {"damping", offsetof(struct prune_tensor, damping)},
    {"seconds", offsetof(struct prune_tensor, seconds)},
};
static const struct {
    const char *name;
    size_t offset;
} counts[] = {
    {"zeros", offsetof(struct prune_tensor, zeros)},
    {"exchanged", offsetof(struct prune_tensor, exchanged)},
    {"dead_inputs", offsetof(struct prune_tensor, dead)},
};
#define COUNT(table) (sizeof(table) / sizeof *(table))

void weights_outcome_put(struct json_writer *json, const struct prune_tensor *matrix)
{
    const char *base = (const char *)matrix;
    for (size_t i = 0; i < COUNT(counts); i++)
        json_put_u64(json, counts[i].name, *(const uint64_t *)(const void *)(base + counts[i].offset));
    for (size_t i = 0; i < COUNT(numbers); i++)
        json_put_number(json, numbers[i].name, *(const double *)(const void *)(base + numbers[i].offset));
}

static enum status get(
    struct prune_tensor *matrix, const struct json_value *object, const char *what, struct error *err)
{
    char *base = (char *)matrix;
    enum status status = OK;
    for (size_t i = 0; status == OK && i < COUNT(numbers); i++)
        status = json_get_number(object, what, numbers[i].name, -INFINITY, INFINITY,
            (double *)(void *)(base + numbers[i].offset), err);
    for (size_t i = 0; status == OK && i < COUNT(counts); i++)
        status = json_get_u64(
            object, what, counts[i].name, 0, UINT64_MAX, (uint64_t *)(void *)(base + counts[i].offset), err);
    if (status == OK && matrix->zeros > matrix->weights)
        return fail(err, ERR_FORMAT, "%s: tensor %s: more zeros than weights", what, matrix->name);
    return status;
}

enum status weights_outcome_write(
    char **out, uint64_t *bytes, const struct weights *work, uint32_t layer, struct error *err)
{
    struct json_writer json = {.indent = 2};
    json_open_object(&json);
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        const struct prune_tensor *matrix = work->layer[layer][role];
        if (!matrix) continue;
        json_write_key(&json, matrix->name);
        json_open_object(&json);
        weights_outcome_put(&json, matrix);
        json_close_object(&json);
    }
    json_close_object(&json);
    enum status status = json_writer_take(&json, out, bytes, err);
    json_writer_free(&json);
    return status;
}

enum status weights_outcome_read(
    struct weights *work, uint32_t layer, struct container *from, struct error *err)
{
    struct json_document *document = NULL;
    char *text = NULL, what[300];
    uint64_t bytes;
    snprintf(what, sizeof what, "%s: " DOCUMENT, container_path(from));
    enum status status = container_document(from, DOCUMENT, &text, &bytes, err);
    if (status == OK && !text) status = fail(err, ERR_FORMAT, "%s is missing", what);
    if (status == OK) status = json_parse(&document, what, text, bytes, err);
    for (enum role role = ROLE_PER_LAYER; status == OK && role < ROLE_COUNT; role++) {
        struct prune_tensor *matrix = work->layer[layer][role];
        if (matrix) status = get(matrix, json_member(json_root(document), matrix->name), what, err);
    }
    json_free(document);
    memory_free(text);
    return status;
}

double weights_outcome_relative(const struct prune_tensor *matrix)
{
    if (matrix->output_power > 0) return sqrt(matrix->output_error / matrix->output_power);
    return matrix->power > 0 ? sqrt(matrix->gone / matrix->power) : 0;
}

void weights_outcome_note(const struct weights *work, uint32_t layer, double seconds, double seconds_left)
{
    char took[24], left[24], errors[200] = "";
    uint32_t layers = work->job->input->config.layers;
    size_t used = 0;
    for (enum role role = ROLE_PER_LAYER; role < ROLE_COUNT; role++) {
        const struct prune_tensor *matrix = work->layer[layer][role];
        if (!matrix || used >= sizeof errors) continue;
        const char *name = layers_role_name(role);
        used += (size_t)snprintf(errors + used, sizeof errors - used, "  %.*s %.4f", (int)strcspn(name, "_"),
            name, weights_outcome_relative(matrix));
    }
    report_note(work->job->report, "layer %*" PRIu32 "/%" PRIu32 "%s  %s, %s left",
        layers > 99  ? 3
        : layers > 9 ? 2
                     : 1,
        layer + 1, layers, errors, report_duration(took, seconds), report_duration(left, seconds_left));
}
