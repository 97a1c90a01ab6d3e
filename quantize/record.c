/* One line per option, in the order of the help. */
#include "quantize/record.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/number.h"

#define FIXED_PAIRS 32

static void add(struct record *record, const char *name, const char *value)
{
    record->pairs[record->count][0] = name;
    record->pairs[record->count++][1] = value;
}

static void NIBBLE_PRINTF(3, 4) add_text(struct record *record, const char *name, const char *format, ...)
{
    char *text = record->texts[record->count];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof record->texts[0], format, arguments);
    va_end(arguments);
    add(record, name, text);
}

/* The same in every locale, and no two numbers alike. */
static void add_number(struct record *record, const char *name, double value)
{
    add(record, name, number_write(record->texts[record->count], value));
}

static void add_list(struct record *record, const char *name, const struct option_list *list)
{
    for (uint64_t i = 0; i < list->count; i++) {
        char *numbered = record->texts[record->count];
        snprintf(numbered, sizeof record->texts[0], "%s %" PRIu64, name, i + 1);
        add(record, numbered, list->values[i]);
    }
}

static void add_solver(struct record *record, const struct settings *settings)
{
    const struct method *method = &settings->method;
    add_number(record, "damping", settings->method.damping);
    if (!method->solve) return;
    add(record, "correction", settings_correction_name(method->correction));
    add_text(record, "polish", "%" PRIu64, method->polish);
    add(record, "act-order", settings_order_name(settings->method.order));
}

/* What a person gave first: where two runs differ, the first difference is what they are told. */
static void add_calibration(struct record *record, const struct calibration *calibration)
{
    add_text(record, "calibration crc32", "%08" PRIx32, calibration->file_crc32);
    add_text(record, "samples", "%" PRIu64, calibration->samples);
    add_text(record, "sample length", "%" PRIu64, calibration->length);
    add_text(record, "calibration tokens crc32", "%08" PRIx32, calibration->tokens_crc32);
}

static void add_budget(struct record *record, const struct quantize_options *options)
{
    if (options->target_bits > 0) add_number(record, "target bits", options->target_bits);
    if (options->target_size > 0) add_text(record, "target size", "%" PRIu64, options->target_size);
}

enum status record_create(struct record *out, const struct quantize_options *options,
    const struct settings *settings, const struct calibration *calibration, bool tied, struct error *err)
{
    out->capacity = FIXED_PAIRS + options->keep.count + options->override.count;
    out->count = 0;
    out->pairs = memory_new(out->capacity, sizeof *out->pairs, err);
    out->texts = memory_new(out->capacity, sizeof *out->texts, err);
    if (!out->pairs || !out->texts) return ERR_MEMORY;
    add(out, "method", settings->method.name);
    add(out, "bits", options->bits);
    if (settings->linear.group) add_text(out, "group", "%" PRIu32, settings->linear.group);
    if (!settings->linear.group) add(out, "group", "row");
    add(out, "symmetry", options->asymmetric ? "asymmetric" : "symmetric");
    add(out, "range", settings_range_name(settings->method.range));
    add(out, "embedding", options->embedding);
    if (!tied) add(out, "head", options->head ? options->head : "keep");
    add(out, "type", options->type);
    add(out, "indivisible", options->indivisible);
    if (settings->calibrated) add_solver(out, settings);
    if (calibration->samples) add_calibration(out, calibration);
    add_budget(out, options);
    add_list(out, "override", &options->override);
    add_list(out, "keep", &options->keep);
    return OK;
}

void record_free(struct record *record)
{
    memory_free(record->pairs);
    memory_free(record->texts);
    *record = (struct record){0};
}
