/* One line per option, in the order of the help. */
#include "quantize/pairs.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/number.h"
#include "quantize/uncalibrated.h"

#define FIXED_PAIRS 32

static void add(struct pairs *pairs, const char *name, const char *value)
{
    pairs->list[pairs->count][0] = name;
    pairs->list[pairs->count++][1] = value;
}

static void NIBBLE_PRINTF(3, 4) add_text(struct pairs *pairs, const char *name, const char *format, ...)
{
    char *text = pairs->texts[pairs->count];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof pairs->texts[0], format, arguments);
    va_end(arguments);
    add(pairs, name, text);
}

/* The same in every locale, and no two numbers alike. */
static void add_number(struct pairs *pairs, const char *name, double value)
{
    add(pairs, name, number_write(pairs->texts[pairs->count], value));
}

static void add_list(struct pairs *pairs, const char *name, const struct option_list *list)
{
    for (uint64_t i = 0; i < list->count; i++) {
        char *numbered = pairs->texts[pairs->count];
        snprintf(numbered, sizeof pairs->texts[0], "%s %" PRIu64, name, i + 1);
        add(pairs, numbered, list->values[i]);
    }
}

static void add_solver(struct pairs *pairs, const struct settings *settings)
{
    const struct method *method = &settings->method;
    add_number(pairs, "damping", settings->method.damping);
    if (!method->solve) return;
    add(pairs, "correction", settings_correction_name(method->correction));
    add_text(pairs, "polish", "%" PRIu64, method->polish);
    add(pairs, "act-order", settings_order_name(settings->method.order));
}

/* What a person gave first: where two runs differ, the first difference is what they are told. */
static void add_calibration(struct pairs *pairs, const struct calibration *calibration)
{
    add_text(pairs, "calibration crc32", "%08" PRIx32, calibration->file_crc32);
    add_text(pairs, "samples", "%" PRIu64, calibration->samples);
    add_text(pairs, "sample length", "%" PRIu64, calibration->length);
    add_text(pairs, "calibration tokens crc32", "%08" PRIx32, calibration->tokens_crc32);
}

static void add_budget(struct pairs *pairs, const struct quantize_options *options)
{
    if (options->target_bits > 0) add_number(pairs, "target bits", options->target_bits);
    if (options->target_size > 0) add_text(pairs, "target size", "%" PRIu64, options->target_size);
}

static void add_blocks(struct pairs *pairs, const struct quantize_options *options)
{
    add(pairs, "type", options->type);
    if (options->pure) add(pairs, "mix", "pure");
    if (options->fallback) add(pairs, "fallback", options->fallback);
}

static void add_codes(
    struct pairs *pairs, const struct quantize_options *options, const struct settings *settings)
{
    add(pairs, "bits", options->bits ? options->bits : "4");
    if (settings->linear.group) add_text(pairs, "group", "%" PRIu32, settings->linear.group);
    if (!settings->linear.group) add(pairs, "group", "row");
    add(pairs, "symmetry", options->asymmetric ? "asymmetric" : "symmetric");
    add(pairs, "indivisible", options->indivisible ? options->indivisible : "stop");
    if (options->fallback) add(pairs, "fallback", options->fallback);
}

/* What an option that was not given means. */
static const char *or_default(const char *how, const struct settings *settings)
{
    if (how) return how;
    return settings->mix ? "as the type says" : "keep";
}

enum status pairs_create(struct pairs *out, const struct quantize_options *options,
    const struct settings *settings, const struct calibration *calibration, bool tied, struct error *err)
{
    out->capacity = FIXED_PAIRS + options->keep.count + options->override.count;
    out->count = 0;
    out->uncalibrated = NULL;
    out->list = memory_new(out->capacity, sizeof *out->list, err);
    out->texts = memory_new(out->capacity, sizeof *out->texts, err);
    if (!out->list || !out->texts) return ERR_MEMORY;
    add(out, "method", settings->method.name);
    if (settings->mix) add_blocks(out, options);
    if (!settings->mix) add_codes(out, options, settings);
    add(out, "range", settings_range_name(settings->method.range));
    add(out, "embedding", or_default(options->embedding, settings));
    if (!tied) add(out, "head", or_default(options->head, settings));
    add(out, "kept type", options->kept_type ? options->kept_type : "keep");
    if (options->allow_requantize) add(out, "requantize", "allowed");
    if (settings->calibrated) add_solver(out, settings);
    if (calibration->samples) add_calibration(out, calibration);
    add_budget(out, options);
    add_list(out, "override", &options->override);
    add_list(out, "keep", &options->keep);
    return OK;
}

void pairs_add_imatrix(struct pairs *pairs, uint32_t crc32)
{
    add_text(pairs, "importance matrix crc32", "%08" PRIx32, crc32);
}

enum status pairs_add_uncalibrated(struct pairs *pairs, const struct plan *plan, struct error *err)
{
    enum status status = uncalibrated_text(&pairs->uncalibrated, plan, err);
    if (pairs->uncalibrated) add(pairs, "uncalibrated experts", pairs->uncalibrated);
    return status;
}

void pairs_free(struct pairs *pairs)
{
    memory_free(pairs->uncalibrated);
    memory_free(pairs->list);
    memory_free(pairs->texts);
    *pairs = (struct pairs){0};
}
