/* What the matrices of a stage see, added up: those that share their inputs share one Hessian (tensor/hessian.h). */
#ifndef NIBBLE_MODEL_OBSERVE_H
#define NIBBLE_MODEL_OBSERVE_H

#include "model/walk.h"
#include "tensor/hessian.h"

/* Whose inputs, and what else is summed beside their squares. */
struct observe_options {
    enum stage stage;
    uint32_t expert;   /* one expert's, at a stage where the walk has been; OBSERVE_LAYER: the layer's own */
    bool inputs;       /* also what aims at the original network's outputs (cross) */
    bool residual;     /* also what is missing in the stream (residual), where observe_adds_to_stream */
    bool only_current; /* leave the original stream where it is; then neither of these two */
};
#define OBSERVE_LAYER UINT32_MAX

/* True if what is missing in the stream is a target of this stage's rows: where their output is added as it is. What experts, and
 * the shared one, give is weighted first. */
bool observe_adds_to_stream(const struct model_config *config, enum stage stage);

/* Go to the stage (walk_to), or look at the expert (walk_expert), and add up what is shown: *out is ready for hessian_mean. With one
 * stream, and at the very first stage, where both streams are still the same, nothing is aimed at.
 *   config   of the walk's model
 *   layer    as for walk_to
 *   seconds  += what adding up took, without the forward pass; NULL: nobody asks
 * Errors as walk_to, hessian_create and hessian_add. Release *out with hessian_free, also after an error. */
enum status observe_inputs(struct hessian *out, const struct observe_options *options, struct walk *walk,
    const struct model_config *config, const struct walk_layer *layer, struct pool *pool, double *seconds,
    struct error *err);

#endif
