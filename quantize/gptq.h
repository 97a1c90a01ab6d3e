/* One stage of a decoder layer: observe its inputs, find codes for its matrices, put the quantized ones in their places. By the
 * settings this is GPTQ in all its variants, or rounding to nearest with ranges weighted by the Hessian. */
#ifndef NIBBLE_QUANTIZE_GPTQ_H
#define NIBBLE_QUANTIZE_GPTQ_H

#include "quantize/calibrated.h"
#include "tensor/hessian.h"

/* True if the plan quantizes a matrix of this stage. */
bool gptq_has_work(const struct plan *plan, uint32_t layer, enum stage stage);

/* Go to the stage and add up its inputs; finished with hessian_mean. Release with hessian_free, also after an error.
 *   corrected     also sum what aims at the original network, as the settings say
 *   only_current  leave the original stream where it is (then nothing is corrected) */
enum status gptq_observe(struct calibrated *work, struct layer *layer, enum stage stage, bool corrected,
    bool only_current, struct hessian *out, struct error *err);

/* What an error in each column costs, for the range search [cols], in natural order; after hessian_factor. Owner of *out: the
 * caller, memory_free.
 *   order  of the Hessian's columns, or NULL: natural
 *   solve  the columns to come will make up for it as far as they can */
enum status gptq_importance(
    float **out, const struct hessian *hessian, const uint32_t *order, bool solve, struct error *err);

/* Go to the stage and quantize the matrices that the plan quantizes; outcomes go into the plan.
 * ERR_NUMERIC: an activation or weight is not finite; the Hessian cannot be factored. */
enum status gptq_stage(struct calibrated *work, struct layer *layer, enum stage stage, struct error *err);

#endif
