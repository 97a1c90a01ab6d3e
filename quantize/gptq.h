/* One stage of a decoder layer: observe its inputs, find codes for its matrices, put the quantized ones in their places. By the
 * settings this is GPTQ in all its variants, or rounding to nearest with ranges weighted by the Hessian. */
#ifndef NIBBLE_QUANTIZE_GPTQ_H
#define NIBBLE_QUANTIZE_GPTQ_H

#include "quantize/calibrated.h"
#include "tensor/hessian.h"

/* Matrices that share their inputs: those of a stage, or those of one expert at that stage. */
struct gptq_group {
    enum stage stage;
    uint32_t expert; /* GPTQ_LAYER: the layer's own, the shared expert's included */
};
#define GPTQ_LAYER UINT32_MAX

/* An expert that fewer tokens were sent to is not calibrated, but rounded to nearest, and reported. */
#define GPTQ_LEAST_TOKENS 1

/* True if the plan quantizes a matrix of this group. */
bool gptq_has_work(const struct plan *plan, uint32_t layer, struct gptq_group group);

/* Add up a group's inputs, finished with hessian_mean: with the layer's own, go to the stage; an expert's are looked at once the
 * walk is there. Release with hessian_free, also after an error. An expert may have seen nothing (out->tokens below
 * GPTQ_LEAST_TOKENS, or inputs that are all 0): out->tokens is then what it saw, out->second the identity matrix, by which
 * all directions are alike, and *seen is false.
 *   corrected     also sum what aims at the original network, as the settings say
 *   only_current  leave the original stream where it is (then nothing is corrected)
 *   seen          may be NULL for the layer's own, which are always seen: ERR_NUMERIC else */
enum status gptq_observe(struct calibrated *work, struct layer *layer, struct gptq_group group,
    bool corrected, bool only_current, struct hessian *out, bool *seen, struct error *err);

/* True if what is missing in the stream is a target of this stage's rows: where their output is added as it is. What experts, and
 * the shared one, give is weighted first. */
bool gptq_adds_to_stream(const struct model_config *config, enum stage stage);

/* What an error in each column costs, for the range search [cols], in natural order; after hessian_factor. Owner of *out: the
 * caller, memory_free.
 *   order  of the Hessian's columns, or NULL: natural
 *   solve  the columns to come will make up for it as far as they can */
enum status gptq_importance(
    float **out, const struct hessian *hessian, const uint32_t *order, bool solve, struct error *err);

/* Go to the stage and quantize the matrices that the plan quantizes, then those of each expert; outcomes go into the plan.
 * ERR_NUMERIC: an activation or weight is not finite; the Hessian cannot be factored. */
enum status gptq_stage(struct calibrated *work, struct layer *layer, enum stage stage, struct error *err);

#endif
