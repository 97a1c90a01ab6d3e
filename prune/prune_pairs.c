/* One line per option, in the order of the help. */
#include "prune/prune_pairs.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/number.h"

enum { FIXED_PAIRS = 20 };

static void add(struct prune_pairs *pairs, const char *name, const char *value)
{
    pairs->list[pairs->count][0] = name;
    pairs->list[pairs->count++][1] = value;
}

static void NIBBLE_PRINTF(3, 4) add_text(struct prune_pairs *pairs, const char *name, const char *format, ...)
{
    char *text = pairs->texts[pairs->count];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof pairs->texts[0], format, arguments);
    va_end(arguments);
    add(pairs, name, text);
}

/* The same in every locale, and no two numbers alike. */
static void add_number(struct prune_pairs *pairs, const char *name, double value)
{
    add(pairs, name, number_write(pairs->texts[pairs->count], value));
}

static void add_amount(struct prune_pairs *pairs, const struct weights *work)
{
    const struct prune_settings *settings = work->job->settings;
    const struct prune_pattern *pattern = &settings->pattern;
    if (pattern->of) add_text(pairs, "pattern", "%" PRIu32 ":%" PRIu32, pattern->keep, pattern->of);
    if (pattern->of) return;
    add_number(pairs, "sparsity", settings->sparsity);
    add(pairs, "pattern", "unstructured");
    add(pairs, "ratios", settings->owl ? "owl" : "uniform");
    if (!settings->owl) return;
    add_number(pairs, "owl spread", work->job->options->owl_spread);
    add_number(pairs, "owl threshold", work->job->options->owl_threshold);
}

static void add_solver(struct prune_pairs *pairs, const struct weights *work)
{
    add_number(pairs, "damping", work->damping);
    add(pairs, "correction", work->aim.residual ? "residual" : work->aim.inputs ? "inputs" : "none");
    add_text(pairs, "polish", "%u", work->rounds);
}

/* What a person gave first: where two runs differ, the first difference is what they are told. */
static void add_calibration(struct prune_pairs *pairs, const struct calibration *calibration)
{
    add_text(pairs, "calibration crc32", "%08" PRIx32, calibration->file_crc32);
    add_text(pairs, "samples", "%" PRIu64, calibration->samples);
    add_text(pairs, "sample length", "%" PRIu64, calibration->length);
    add_text(pairs, "calibration tokens crc32", "%08" PRIx32, calibration->tokens_crc32);
}

static void add_keeps(struct prune_pairs *pairs, const struct option_list *keep)
{
    for (uint64_t i = 0; i < keep->count; i++) {
        char *numbered = pairs->texts[pairs->count];
        snprintf(numbered, sizeof pairs->texts[0], "keep %" PRIu64, i + 1);
        add(pairs, numbered, keep->values[i]);
    }
}

enum status prune_pairs_create(struct prune_pairs *out, const struct weights *work, struct error *err)
{
    const struct prune_settings *settings = work->job->settings;
    const struct option_list *keep = &work->job->options->keep;
    *out = (struct prune_pairs){.list = memory_new(FIXED_PAIRS + keep->count, sizeof *out->list, err),
        .texts = memory_new(FIXED_PAIRS + keep->count, sizeof *out->texts, err)};
    if (!out->list || !out->texts) return ERR_MEMORY;
    add(out, "method", settings->method->name);
    add_amount(out, work);
    if (settings->bits) add_text(out, "bits", "%" PRIu32, settings->bits);
    if (settings->group && settings->bits) add_text(out, "group", "%" PRIu32, settings->group);
    add(out, "storage", work->sparse ? "sparse" : "dense");
    if (settings->method->solve) add_solver(out, work);
    if (work->calibration.samples) add_calibration(out, &work->calibration);
    add_keeps(out, keep);
    return OK;
}

void prune_pairs_free(struct prune_pairs *pairs)
{
    memory_free(pairs->list);
    memory_free(pairs->texts);
    *pairs = (struct prune_pairs){0};
}
