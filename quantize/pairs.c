/* One line per option, in the order of the help. */
#include "quantize/pairs.h"

#include <inttypes.h>

#include "base/memory.h"
#include "model/calibration_request.h"
#include "quantize/uncalibrated.h"

#define FIXED_PAIRS 32

static void add_solver(struct option_pairs *pairs, const struct settings *settings)
{
    const struct method *method = &settings->method;
    option_pairs_add_number(pairs, "damping", settings->method.damping);
    if (!method->solve) return;
    option_pairs_add(pairs, "correction", settings_correction_name(method->correction));
    option_pairs_add_text(pairs, "polish", "%" PRIu64, method->polish);
    option_pairs_add(pairs, "act-order", settings_order_name(settings->method.order));
}

static void add_budget(struct option_pairs *pairs, const struct quantize_options *options)
{
    if (options->target_bits > 0) option_pairs_add_number(pairs, "target bits", options->target_bits);
    if (options->target_size > 0)
        option_pairs_add_text(pairs, "target size", "%" PRIu64, options->target_size);
}

static void add_blocks(struct option_pairs *pairs, const struct quantize_options *options)
{
    option_pairs_add(pairs, "type", options->type);
    if (options->pure) option_pairs_add(pairs, "mix", "pure");
    if (options->fallback) option_pairs_add(pairs, "fallback", options->fallback);
}

static void add_codes(
    struct option_pairs *pairs, const struct quantize_options *options, const struct settings *settings)
{
    option_pairs_add(pairs, "bits", options->bits ? options->bits : "4");
    if (settings->linear.group) option_pairs_add_text(pairs, "group", "%" PRIu32, settings->linear.group);
    if (!settings->linear.group) option_pairs_add(pairs, "group", "row");
    option_pairs_add(pairs, "symmetry", options->asymmetric ? "asymmetric" : "symmetric");
    option_pairs_add(pairs, "indivisible", options->indivisible ? options->indivisible : "stop");
    if (options->fallback) option_pairs_add(pairs, "fallback", options->fallback);
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
    struct option_pairs *all = &out->all;
    out->uncalibrated = NULL;
    enum status status =
        option_pairs_create(all, FIXED_PAIRS + options->keep.count + options->override.count, err);
    if (status != OK) return status;
    option_pairs_add(all, "method", settings->method.name);
    if (settings->mix) add_blocks(all, options);
    if (!settings->mix) add_codes(all, options, settings);
    option_pairs_add(all, "range", settings_range_name(settings->method.range));
    option_pairs_add(all, "embedding", or_default(options->embedding, settings));
    if (!tied) option_pairs_add(all, "head", or_default(options->head, settings));
    option_pairs_add(all, "kept type", options->kept_type ? options->kept_type : "keep");
    if (options->allow_requantize) option_pairs_add(all, "requantize", "allowed");
    if (settings->calibrated) add_solver(all, settings);
    if (calibration->samples) calibration_request_pairs(all, calibration);
    add_budget(all, options);
    option_pairs_add_list(all, "override", &options->override);
    option_pairs_add_list(all, "keep", &options->keep);
    return OK;
}

void pairs_add_imatrix(struct pairs *pairs, uint32_t crc32)
{
    option_pairs_add_text(&pairs->all, "importance matrix crc32", "%08" PRIx32, crc32);
}

enum status pairs_add_uncalibrated(struct pairs *pairs, const struct plan *plan, struct error *err)
{
    enum status status = uncalibrated_text(&pairs->uncalibrated, plan, err);
    if (pairs->uncalibrated) option_pairs_add(&pairs->all, "uncalibrated experts", pairs->uncalibrated);
    return status;
}

void pairs_free(struct pairs *pairs)
{
    memory_free(pairs->uncalibrated);
    option_pairs_free(&pairs->all);
    *pairs = (struct pairs){0};
}
