/* One line per option, in the order of the help. */
#include "prune/prune_pairs.h"

#include <inttypes.h>

enum { FIXED_PAIRS = 20 };

static void add_amount(struct option_pairs *pairs, const struct weights *work)
{
    const struct prune_settings *settings = work->job->settings;
    const struct prune_pattern *pattern = &settings->pattern;
    if (pattern->of)
        option_pairs_add_text(pairs, "pattern", "%" PRIu32 ":%" PRIu32, pattern->keep, pattern->of);
    if (pattern->of) return;
    option_pairs_add_number(pairs, "sparsity", settings->sparsity);
    option_pairs_add(pairs, "pattern", "unstructured");
    option_pairs_add(pairs, "ratios", settings->owl ? "owl" : "uniform");
    if (!settings->owl) return;
    option_pairs_add_number(pairs, "owl spread", work->job->options->owl_spread);
    option_pairs_add_number(pairs, "owl threshold", work->job->options->owl_threshold);
}

static void add_solver(struct option_pairs *pairs, const struct weights *work)
{
    option_pairs_add_number(pairs, "damping", work->damping);
    option_pairs_add(pairs, "correction",
        work->aim.residual ? "residual"
        : work->aim.inputs ? "inputs"
                           : "none");
    option_pairs_add_text(pairs, "polish", "%u", work->rounds);
}

enum status prune_pairs_create(struct option_pairs *out, const struct weights *work, struct error *err)
{
    const struct prune_settings *settings = work->job->settings;
    const struct option_list *keep = &work->job->options->keep;
    enum status status = option_pairs_create(out, FIXED_PAIRS + keep->count, err);
    if (status != OK) return status;
    option_pairs_add(out, "method", settings->method->name);
    add_amount(out, work);
    if (settings->bits) option_pairs_add_text(out, "bits", "%" PRIu32, settings->bits);
    if (settings->group && settings->bits) option_pairs_add_text(out, "group", "%" PRIu32, settings->group);
    option_pairs_add(out, "storage", work->sparse ? "sparse" : "dense");
    if (settings->method->solve) add_solver(out, work);
    if (work->calibration.samples) calibration_request_pairs(out, &work->calibration);
    option_pairs_add_list(out, "keep", keep);
    return OK;
}
