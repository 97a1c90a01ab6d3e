/* The calibrated methods: decoder layers one after the other, each stage of a layer quantized on the inputs that it will really
 * see, finished layers in a journal. What all steps work with; the steps are in gptq.c, rescale.c and budget.c. */
#ifndef NIBBLE_QUANTIZE_CALIBRATED_H
#define NIBBLE_QUANTIZE_CALIBRATED_H

#include "model/layerwise/journal.h"
#include "model/layerwise/layer.h"
#include "quantize/quantize.h"

struct calibrated {
    struct checkpoint *input;
    struct plan *plan;
    const struct settings *settings;
    struct pool *pool;
    const struct report *report;
    struct calibration calibration;
    struct walk *walk;
    struct phases phases;
};

/* Quantize every layer, then write all tensors. job->journal is left open for
 * quantize_run to remove once the output is complete. */
enum status calibrated_run(struct quantize_job *job, struct error *err);

/* Without writing anything: load calibration, settle the budget, estimate memory. */
enum status calibrated_dry_run(struct quantize_job *job, struct error *err);

#endif
