/* Where a compressed model is damaged: what every tensor lost, what every decoder layer does to the residual stream, and what each of
 * them alone costs in predictions. */
#ifndef NIBBLE_RUNTIME_CHECK_DAMAGE_H
#define NIBBLE_RUNTIME_CHECK_DAMAGE_H

#include "model/forward.h"
#include "runtime-check/judge/estimate.h"
#include "runtime-check/judge/perplexity.h"
#include "runtime-check/inspect/verify.h"

/* Which parts of the model are put into the base one at a time, to measure the KL divergence that each alone causes. */
enum damage_swap { DAMAGE_SWAP_NONE, DAMAGE_SWAP_LAYERS, DAMAGE_SWAP_MATRICES };

/* A part that runs as one: parts[0] is the embedding (with final norm and head, where these are tied), then the decoder layers in
 * order, and last the final norm and head of a model that is not tied. */
struct damage_part {
    uint32_t layer;   /* number of the decoder layer; UINT32_MAX: embedding or head */
    const char *name; /* "embedding", "head"; NULL for a layer */
    double bits_per_weight;
    bool exact;  /* all its tensors are the base's, number by number */
    bool traced; /* error, own and share are known (trace.h); not of the head, and not without a text */
    double error, own, share;
    bool swapped; /* kld is known: with DAMAGE_SWAP_LAYERS */
    struct estimate
        kld; /* mean KL divergence of the base with only this part from the model; 0 where exact */
};

/* One tensor of the model (verify.h), and where it stands. */
struct damage_tensor {
    struct verify_difference difference;
    bool exact;
    bool swapped; /* likewise, with DAMAGE_SWAP_MATRICES */
    struct estimate kld;
};

struct damage {
    struct damage_part *parts;     /* [part_count] */
    struct damage_tensor *tensors; /* [tensor_count], in the model's order */
    uint64_t part_count, tensor_count;
    bool rescaled;       /* a norm is not the base's: scales were moved between tensors, as AWQ does */
    struct estimate kld; /* with a swap: of the whole model */
    uint64_t tokens, windows, context; /* traced tokens; of the text */
};

struct damage_options {
    struct perplexity_options text; /* how it is cut */
    enum damage_swap swap;          /* needs a text */
};

/* Measure `model` against `base`, of one architecture and shape.
 *   text  [text_bytes]  NULL: tensors only
 * With a text base and model read it once, and the model once more for what each layer adds by itself; each swap reads it once
 * more, and the base again for every eight.
 * ERR_USAGE: other shapes, another vocabulary or tokenizer, too little text; ERR_UNSUPPORTED: matrices cannot be swapped in a model
 * whose scales were moved; the base carries no tokenizer; ERR_NUMERIC: weights or logits are not finite. Memory: TRACE_BYTES at most
 * for layer outputs, and that of compare_models. Independent of the number of threads.
 * Release *out with damage_free, also after an error. */
enum status damage_measure(struct damage *out, struct model *base, struct model *model, const char *text,
    uint64_t text_bytes, const struct damage_options *options, const struct report *report,
    struct error *err);
void damage_free(struct damage *damage);

#endif
