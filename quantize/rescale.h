/* AWQ applied to a decoder layer: which pairs of tensors can share a scale, and the search and folding for all of them. The search
 * itself is in awq.c, the arithmetic of folding in fold.c. */
#ifndef NIBBLE_QUANTIZE_RESCALE_H
#define NIBBLE_QUANTIZE_RESCALE_H

#include "quantize/gptq.h"

/* True if the inputs of a group can be scaled: all its matrices are quantized, and so is the matrix that produces them (v for o, up
 * for down). A matrix that is kept stays as it is, so nothing can be folded into it. At WALK_GATE_UP of a mixture of experts the
 * layer's own group is all that reads the norm: the matrices of all experts and of the shared one, and the routers, which
 * are not quantized but scaled all the same; the scales are searched on what all tokens give, and an expert's own Hessian
 * is the business of WALK_DOWN, where its up and down share scales of their own. */
bool rescale_possible(const struct plan *plan, uint32_t layer, struct gptq_group group);

/* Norms, biases and routers that scales will be folded into are stored in single precision, so that folding does not round them. */
void rescale_plan(struct plan *plan, uint32_t layers);

/* Find scales for every possible stage of the layer on the current stream with unquantized weights, and fold them into both streams'
 * tensors (which compute the same network as before, but for rounding). The walk is then at WALK_DOWN of the current stream and
 * must enter the layer again. */
enum status rescale_layer(struct calibrated *work, struct layer *layer, struct error *err);

/* The scales that were folded, as tensors for the layer's file, and folded once more from there: the original stream has to go
 * through the very same numbers when a finished layer is walked through again.
 *   out  data stays the layer's; returns how many
 * ERR_FORMAT: the file lacks one, or it is of another shape. */
enum { RESCALE_TENSORS = WALK_STAGES + 1 };
uint64_t rescale_tensors(
    struct tensor out[RESCALE_TENSORS], const struct layer *layer, const struct model_config *config);
enum status rescale_again(
    struct calibrated *work, struct layer *layer, struct container *from, struct error *err);

#endif
