/* A walk through a network layer by layer, with the weights of one decoder layer in memory at a time: calibration
 * samples go through stage by stage, and at every stage the inputs of its weight matrices are shown. Weights may be
 * replaced between stages (quantized ones, or rescaled ones), so that later stages see what they will see in the
 * compressed model; a second stream of activations, through the original weights, can be kept beside it. */
#ifndef NIBBLE_MODEL_WALK_H
#define NIBBLE_MODEL_WALK_H

#include "model/backends/backend.h"
#include "model/calibration.h"
#include "model/checkpoint.h"

/* Where weights meet activations in a decoder layer, in the order in which they are run. */
enum stage {
    WALK_QKV,     /* q, k, v; input: the attention norm's output */
    WALK_O,       /* o; input: the attended values, heads side by side */
    WALK_GATE_UP, /* gate, up; input: the feed-forward norm's output */
    WALK_DOWN,    /* down; input: silu(gate) * up */
    WALK_STAGES
};

/* The stage at which a linear role's matrix is applied (another role: assert). */
enum stage walk_stage_of(enum role role);
/* The width of a stage's inputs in a layer; at WALK_DOWN of a mixture of experts that of the shared expert (0: none). */
uint64_t walk_stage_cols(const struct model_config *config, enum stage stage, uint32_t layer);
/* The same of an expert, at WALK_GATE_UP or WALK_DOWN. */
uint64_t walk_expert_cols(const struct model_config *config, enum stage stage);

/* The tensors of one layer by role, data in memory, dense or tiles; NULL where the configuration has none. Both
 * arrays may hold the same pointers. They are read by walk_to, walk_expert and walk_finish, so that `current` may change
 * between calls; with one stream `original` is never looked at. */
struct walk_layer {
    uint32_t index;
    const struct tensor *original[ROLE_COUNT];
    const struct tensor *current[ROLE_COUNT];
    /* [config.experts]: gate, up, down; NULL if dense */
    const struct tensor *(*original_experts)[EXPERT_ROLES], *(*current_experts)[EXPERT_ROLES];
};

/* What is shown at a stage: some tokens of some samples in order, padding left out. Valid during the call. The
 * residual is what the streams differ by where the output of this stage is added as it is: NULL with one stream, at
 * WALK_QKV and WALK_GATE_UP, and at WALK_DOWN of a mixture of experts, where outputs are weighted before they are
 * added. */
struct walk_inputs {
    uint64_t tokens, cols, hidden;
    const float *x;        /* [tokens][cols] inputs of the stage's matrices in the current stream */
    const float *original; /* [tokens][cols] the same in the original stream; NULL with one stream */
    const float *residual; /* [tokens][hidden] original minus current residual stream; or NULL, see above */
};
typedef enum status (*walk_tap)(void *context, const struct walk_inputs *inputs, struct error *err);

struct walk_options {
    bool original;      /* keep the original stream too */
    bool in_memory;     /* states in memory; else in nameless files in `folder` */
    const char *folder; /* not used when in memory */
};

struct walk;

/* Bytes of memory that a walk takes for itself (states if in memory, activations of a block), without weights and
 * without the backend's own scratch, which grows with the workers (on the CPU about 1.1 KiB per worker and column of
 * the widest weight); and the bytes of its states, in memory or in files (state_bytes may be NULL). UINT64_MAX:
 * beyond counting.
 * A block is as many whole samples as fit 2048 tokens, but at least one: attention needs the whole sample, so
 * activations take memory by the longer of 2048 tokens and one sample. */
uint64_t walk_bytes(const struct model_config *config, uint64_t samples, uint64_t length,
    const struct walk_options *options, uint64_t *state_bytes);

/* Start before the first layer: the samples' embeddings are read from the checkpoint (rows or tiles needed, not the
 * whole matrix; it need not be mapped). The checkpoint, the calibration and the pool must outlive the walk.
 * Errors of reading; ERR_FORMAT: a token beyond the vocabulary; ERR_NUMERIC: an embedding is not finite; ERR_IO: no
 * disk for the states; ERR_MEMORY.
 * What a walk computes depends on weights and samples, not on workers or on where states lie. A sample beside others
 * is what it is alone, but for rounding; samples that are shorter than calibration->length cost as much as long
 * ones. */
enum status walk_create(struct walk **out, struct checkpoint *input, const struct calibration *calibration,
    const struct walk_options *options, struct pool *pool, struct error *err);
void walk_free(struct walk *walk);

/* Go on to the next stage of the layer (they come in order: assert), or back to its first one, which may be entered
 * again at any time before walk_finish (the states at the layer's start are kept until then). Runs what lies between
 * with the layer's tensors, and shows the inputs of `stage` in order, at most 2048 tokens at a time, to `tap` (NULL:
 * nobody; what only needs showing is then skipped). The tap may use the pool.
 * With only_current the original stream stays where it is, and `original` and `residual` are NULL; for both to go on
 * together, the layer has to be entered again from WALK_QKV on.
 * ERR_NUMERIC: an activation is not finite, naming layer, place, stream, channel, position and sample. Errors of the
 * tap are passed on. After an error the streams are before the stage: it may be entered again. */
enum status walk_to(struct walk *walk, enum stage stage, const struct walk_layer *layer, bool only_current,
    walk_tap tap, void *context, struct error *err);

/* Show what one expert of a mixture sees at WALK_GATE_UP (the inputs of its gate and up) or at WALK_DOWN (of its down, by
 * the gate and up that stand there now): once the walk has been to WALK_GATE_UP, until walk_finish, in any order and as
 * often as wanted; nothing goes on by it. The shared expert is shown by walk_to, which shows no inputs at WALK_DOWN where
 * there is none.
 *
 * The tokens are those that the current stream sends to the expert, by the router as it was at WALK_GATE_UP, in order,
 * without padding, at most 2048 at a time; with none the tap is not called. In both streams they are the same tokens, also
 * where the original router would send a token elsewhere: what the expert sees in the compressed model is what it will be
 * used for, and what it would have made of the original input is what it should make of that. There is no residual: an
 * expert's output is weighted, beside others', before it is added.
 * Errors as walk_to; whether inputs are finite is not looked at here, but what comes of them is in walk_finish. */
enum status walk_expert(struct walk *walk, enum stage stage, uint32_t expert, const struct walk_layer *layer,
    bool only_current, walk_tap tap, void *context, struct error *err);

/* After WALK_DOWN: apply it and become the start of the next layer, both streams (the original stream is brought to
 * the end of the layer first if it was left behind, with all of layer->original). After an error the layer can be
 * finished again, or a saved state loaded, but not entered again. */
enum status walk_finish(struct walk *walk, const struct walk_layer *layer, struct error *err);

/* The residual stream (current) of one sample, padding included, at the start of the layer that is under way or comes next:
 * out [calibration->length][hidden]. After the last layer, what the final norm is applied to. */
enum status walk_states(struct walk *walk, uint64_t sample, float *out, struct error *err);

/* Seconds spent in the forward pass so far (without taps). */
double walk_seconds(const struct walk *walk);

/* Save the states at the layer's start to a file (base/file.h output rules; replaces one) and load them again: a
 * finished layer's result, so that an interrupted run does not have to walk all the way again. The file carries a
 * checksum and `stamp`, a text that must agree; it should say which layer and which weights. Loading is for a walk of
 * the same shape, streams and calibration tokens, at a layer's start (what a layer already entered has computed is
 * forgotten).
 * walk_load: ERR_FORMAT if the file is damaged or of another walk; ERR_IO if there is none. The walk is then at the
 * layer's start where it was. */
enum status walk_save(struct walk *walk, const char *path, const char *stamp, struct error *err);
enum status walk_load(struct walk *walk, const char *path, const char *stamp, struct error *err);

#endif
