/* The plan of a quantization: what becomes of every tensor, settled before any work starts. */
#ifndef NIBBLE_QUANTIZE_PLAN_H
#define NIBBLE_QUANTIZE_PLAN_H

#include "base/report.h"
#include "model/layers.h"
#include "quantize/settings.h"

/* One tensor of the file to be. */
struct plan_tensor {
    const struct tensor *source; /* of the container */
    struct tensor target;        /* STORAGE_TILES with its scheme if quantized */
    struct recipe recipe;        /* keep: not quantized */
    uint64_t bytes;              /* of the target */
    double error, power;         /* sums of squares, of what quantization changed and of the weights; 0 if not measured */
};

/* All of them, in the container's order. */
struct plan {
    struct plan_tensor *tensors; /* [count] */
    uint64_t count, quantized;
    uint64_t weights, weights_quantized; /* elements */
    uint64_t bytes, bytes_quantized;     /* of tensor data */
};

/* Decide for every tensor of a bound container but the dropped ones. What cannot be decided is told to report, one line
 * per tensor. Release with plan_free, also after an error.
 * ERR_USAGE: a rule matches no matrix; --head beside a tied embedding; a group does not divide a row and --indivisible says
 * stop (or knows no way). ERR_UNSUPPORTED: a matrix to quantize is quantized already, or not floating point. */
enum status plan_create(struct plan *out, const struct container *container, const struct model_config *config,
    const struct model_tensors *tensors, const struct dropped_tensor *dropped, uint64_t dropped_count,
    const struct settings *settings, const struct report *report, struct error *err);
void plan_free(struct plan *plan);

/* True if a tensor of this name will be written. */
bool plan_has(const struct plan *plan, const char *name);

#endif
