/* The plan of a quantization: what becomes of every tensor, settled before any work starts. */
#ifndef NIBBLE_QUANTIZE_PLAN_H
#define NIBBLE_QUANTIZE_PLAN_H

#include "base/report.h"
#include "model/checkpoint.h"
#include "quantize/settings.h"

/* One tensor of the file to be. */
struct plan_tensor {
    const struct tensor *source; /* of the container */
    struct tensor target;        /* STORAGE_TILES with its scheme if quantized */
    struct recipe recipe;        /* keep: not quantized */
    uint64_t bytes;              /* of the target */
    double error;                /* sum of squares of what quantization changed; 0 if not measured */
    double power;                /* sum of squares of the weights, likewise */
};

/* All of them, in the container's order. */
struct plan {
    struct plan_tensor *tensors; /* [count] */
    uint64_t count, quantized;
    uint64_t indivisible; /* those whose row the group did not divide, settled as --indivisible says */
    uint64_t weights, weights_quantized; /* elements */
    uint64_t bytes, bytes_quantized;     /* of tensor data */
};

/* Decide for every tensor of the input but the dropped ones. What cannot be decided is told to report, one
 * line per tensor. Release with plan_free, also after an error. ERR_USAGE: a rule matches no matrix or
 * changes nothing; --head beside a tied embedding; a group does not divide a row and --indivisible says stop
 * (or knows no way). ERR_UNSUPPORTED: a matrix to quantize is quantized already. */
enum status plan_create(struct plan *out, const struct checkpoint *input, const struct settings *settings,
    const struct report *report, struct error *err);
void plan_free(struct plan *plan);

#endif
