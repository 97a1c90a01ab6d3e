/* One stage of a decoder layer: observe its inputs, find codes for its matrices, put the quantized ones in their places. By the
 * settings this is GPTQ in all its variants, or rounding to nearest with ranges weighted by the Hessian. */
#ifndef NIBBLE_QUANTIZE_GPTQ_H
#define NIBBLE_QUANTIZE_GPTQ_H

#include "model/layerwise/observe.h"
#include "quantize/calibrated.h"

/* Matrices that share their inputs: those of a stage, or those of one expert at that stage. */
struct gptq_group {
    enum stage stage;
    uint32_t expert; /* GPTQ_LAYER: the layer's own, the shared expert's included */
};
#define GPTQ_LAYER OBSERVE_LAYER

/* What is known of a group's inputs. */
enum gptq_known {
    GPTQ_NOTHING,  /* no token was sent to the expert, or its inputs are all 0 */
    GPTQ_CHANNELS, /* how large each channel is; so few tokens (below gptq_least_tokens) say nothing about how they go together */
    GPTQ_ALL
};

/* An expert that saw fewer tokens is not calibrated, but rounded to nearest, and reported: half as many as its inputs have
 * columns. Below that errors carried over to other columns do more harm than good in the model's predictions
 * (docs/methods/gptq.md). */
uint64_t gptq_least_tokens(uint64_t cols);

/* True if the plan quantizes a matrix of this group. */
bool gptq_has_work(const struct plan *plan, uint32_t layer, struct gptq_group group);

/* Add up a group's inputs, finished with hessian_mean: with the layer's own, go to the stage; an expert's are looked at once the
 * walk is there. Release with hessian_free, also after an error.
 *   corrected     also sum what aims at the original network, as the settings say
 *   only_current  leave the original stream where it is (then nothing is corrected)
 *   known         GPTQ_ALL for the layer's own (or ERR_NUMERIC). With GPTQ_CHANNELS out->second is diagonal, with GPTQ_NOTHING the
 *                 identity matrix, and nothing is aimed at; out->tokens is what was seen */
enum status gptq_observe(struct calibrated *work, struct layer *layer, struct gptq_group group,
    bool corrected, bool only_current, struct hessian *out, enum gptq_known *known, struct error *err);

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
