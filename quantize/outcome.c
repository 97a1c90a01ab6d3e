/* One table of fields serves writing and reading. */
#include "quantize/outcome.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#define DOCUMENT "layer.json"

/* ---- fields ---- */

static const struct {
    const char *name;
    size_t offset;
} numbers[] = {
    {"weight_error", offsetof(struct outcome, error)},
    {"weight_power", offsetof(struct outcome, power)},
    {"output_error", offsetof(struct outcome, output_error)},
    {"output_power", offsetof(struct outcome, output_power)},
    {"nearest_error", offsetof(struct outcome, nearest_error)},
    {"unpolished_error", offsetof(struct outcome, unpolished_error)},
    {"damping", offsetof(struct outcome, damping)},
    {"scale_ratio", offsetof(struct outcome, scale_ratio)},
    {"seconds", offsetof(struct outcome, seconds)},
};
static const struct {
    const char *name;
    size_t offset;
} counts[] = {
    {"rows_nearest", offsetof(struct outcome, rows_nearest)},
    {"dead_inputs", offsetof(struct outcome, dead)},
    {"tokens", offsetof(struct outcome, tokens)},
    {"uncalibrated", offsetof(struct outcome, uncalibrated)},
};
#define COUNT(table) (sizeof(table) / sizeof *(table))

void outcome_put(struct json_writer *json, const struct outcome *outcome)
{
    const char *base = (const char *)outcome;
    for (size_t i = 0; i < COUNT(numbers); i++)
        json_put_number(json, numbers[i].name, *(const double *)(const void *)(base + numbers[i].offset));
    for (size_t i = 0; i < COUNT(counts); i++)
        json_put_u64(json, counts[i].name, *(const uint64_t *)(const void *)(base + counts[i].offset));
}

static enum status get(
    struct outcome *outcome, const struct json_value *object, const char *what, struct error *err)
{
    char *base = (char *)outcome;
    enum status status = OK;
    for (size_t i = 0; status == OK && i < COUNT(numbers); i++)
        status = json_get_number(object, what, numbers[i].name, -INFINITY, INFINITY,
            (double *)(void *)(base + numbers[i].offset), err);
    for (size_t i = 0; status == OK && i < COUNT(counts); i++)
        status = json_get_u64(
            object, what, counts[i].name, 0, UINT64_MAX, (uint64_t *)(void *)(base + counts[i].offset), err);
    outcome->calibrated = true;
    return status;
}

/* ---- a layer's document ---- */

static bool has_outcome(const struct plan_tensor *planned)
{
    return planned && !planned->recipe.keep;
}

enum status outcome_write(
    char **out, uint64_t *bytes, const struct plan *plan, uint32_t layer, struct error *err)
{
    struct json_writer json = {.indent = 2};
    json_open_object(&json);
    for (uint32_t place = ROLE_PER_LAYER; place < plan->places; place++) {
        const struct plan_tensor *planned = plan_at(plan, layer, place);
        if (!has_outcome(planned)) continue;
        json_write_key(&json, planned->target.name);
        json_open_object(&json);
        outcome_put(&json, &planned->outcome);
        json_close_object(&json);
    }
    json_close_object(&json);
    enum status status = json_writer_take(&json, out, bytes, err);
    json_writer_free(&json);
    return status;
}

static enum status read_document(
    struct plan *plan, uint32_t layer, const struct json_value *root, const char *what, struct error *err)
{
    enum status status = OK;
    for (uint32_t place = ROLE_PER_LAYER; status == OK && place < plan->places; place++) {
        struct plan_tensor *planned = plan_at(plan, layer, place);
        if (has_outcome(planned))
            status = get(&planned->outcome, json_member(root, planned->target.name), what, err);
    }
    return status;
}

enum status outcome_read(struct plan *plan, uint32_t layer, struct container *from, struct error *err)
{
    struct json_document *document = NULL;
    char *text = NULL, what[300];
    uint64_t bytes;
    snprintf(what, sizeof what, "%s: " DOCUMENT, container_path(from));
    enum status status = container_document(from, DOCUMENT, &text, &bytes, err);
    if (status == OK && !text) status = fail(err, ERR_FORMAT, "%s is missing", what);
    if (status == OK) status = json_parse(&document, what, text, bytes, err);
    if (status == OK) status = read_document(plan, layer, json_root(document), what, err);
    json_free(document);
    memory_free(text);
    return status;
}

/* ---- for people ---- */

static double relative(double error, double power)
{
    return power > 0 ? sqrt(error / power) : 0;
}

double outcome_relative(const struct outcome *outcome)
{
    return relative(outcome->output_error, outcome->output_power);
}

double outcome_relative_nearest(const struct outcome *outcome)
{
    return relative(outcome->nearest_error, outcome->output_power);
}

void outcome_add(struct outcome *sum, const struct outcome *outcome)
{
    sum->calibrated = sum->calibrated || outcome->calibrated;
    sum->error += outcome->error;
    sum->power += outcome->power;
    sum->output_error += outcome->output_error;
    sum->output_power += outcome->output_power;
    sum->nearest_error += outcome->nearest_error;
    sum->unpolished_error += outcome->unpolished_error;
    sum->rows_nearest += outcome->rows_nearest;
    sum->dead += outcome->dead;
    if (outcome->damping > sum->damping) sum->damping = outcome->damping;
    sum->seconds += outcome->seconds;
}

/* "  q 0.0123" after what is there. */
static size_t put_error(char *out, size_t bytes, size_t used, const char *name, const struct outcome *outcome)
{
    if (used >= bytes) return used;
    return used + (size_t)snprintf(out + used, bytes - used, "  %.*s %.4f", (int)strcspn(name, "_"), name,
                      outcome_relative(outcome));
}

/* The errors of a layer's matrices, those of all experts together. */
static void put_errors(char *out, size_t bytes, const struct plan *plan, uint32_t layer)
{
    struct outcome experts = {0};
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t place = ROLE_PER_LAYER; place < plan->places; place++) {
        const struct plan_tensor *planned = plan_at(plan, layer, place);
        if (!has_outcome(planned)) continue;
        if (place >= ROLE_COUNT && !planned->outcome.uncalibrated) outcome_add(&experts, &planned->outcome);
        if (place < ROLE_COUNT)
            used = put_error(out, bytes, used, layers_role_name((enum role)place), &planned->outcome);
    }
    if (experts.calibrated) put_error(out, bytes, used, "experts", &experts);
}

void outcome_note(const struct report *report, const struct plan *plan, uint32_t layer, uint32_t layers,
    double seconds, double seconds_left)
{
    char took[24], left[24], errors[200];
    put_errors(errors, sizeof errors, plan, layer);
    report_note(report, "layer %*" PRIu32 "/%" PRIu32 "%s  %s, %s left",
        layers > 99  ? 3
        : layers > 9 ? 2
                     : 1,
        layer + 1, layers, errors, report_duration(took, seconds), report_duration(left, seconds_left));
}
