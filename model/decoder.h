/* The steps a decoder layer is made of, on blocks of tokens in the caller's buffers. The forward pass (sessions with
 * a cache) and the walk (one stage at a time) are both written in them, so that they cannot drift apart. */
#ifndef NIBBLE_MODEL_DECODER_H
#define NIBBLE_MODEL_DECODER_H

#include <stdbool.h>

#include "model/backends/backend.h"
#include "model/layers.h"

/* A layer as it is run: who computes it, and its tensors. */
struct decoder_layer {
    const struct backend *backend;
    const struct model_config *config;
    const struct tensor *const *tensors; /* [ROLE_COUNT], data in memory; NULL where there is none */
    uint32_t index; /* decides whether attention slides, and the widths where they vary */
    const struct tensor *(*experts)[EXPERT_ROLES]; /* [config.experts]: gate, up, down; NULL if dense */
};

/* The wider of the dense feed-forward block and of an expert. */
uint64_t decoder_ffn(const struct model_config *config);

/* The widest weight of a configuration, for backend_cpu_create. */
uint64_t decoder_widest(const struct model_config *config);

/* x [tokens][hidden]: embeddings of ids [tokens], scaled as the configuration says, and of their positions where those are learned:
 * token i is at position past + i % length. scratch [tokens][hidden]; once as decoder_final_norm. */
enum status decoder_embed(const struct backend *backend, const struct model_config *config,
    const struct tensor *const *once, float *x, float *scratch, const uint32_t *ids, uint64_t tokens,
    uint64_t past, uint64_t length, struct error *err);

/* y = norm(x) by the gain (and bias) of role `gain`; x and y [tokens][hidden], may be the same. Where the layer has no such
 * norm, y = x. */
enum status decoder_norm(const struct decoder_layer *layer, float *y, const float *x, uint64_t tokens,
    enum role gain, struct error *err);

/* y [tokens][rows] = weight x + its bias, if it has one; x [tokens][cols]. `weight`: a linear role. */
enum status decoder_linear(const struct decoder_layer *layer, float *y, const float *x, uint64_t tokens,
    enum role weight, struct error *err);

/* One attention, from the normed residual stream to what o is applied to. Positions past .. past + length - 1 of
 * every sequence. */
struct decoder_attention {
    uint64_t sequences, length, past, capacity;
    const float *cosine, *sine; /* rope_tables of the positions: [rope_count][length][rotary / 2] */
    float *keys,
        *values; /* [sequences][kv_heads of the layer][capacity][head_size]: read, and the new positions added */
    const struct cache *cache; /* keys and values in few bits, in place of the two above; NULL: floats */
    float *q, *k, *v; /* scratch, [sequences * length][heads * head_size], [][kv_heads * head_size] */
    float *out;       /* [sequences * length][heads * head_size] */
};

/* out = softmax(scores of q k^T) v with q, k, v of `normed` [sequences * length][hidden]; q and k normed where the
 * architecture does that, then rotated; scores scaled and bent as the configuration says. */
enum status decoder_attend(const struct decoder_layer *layer, const struct decoder_attention *call,
    const float *normed, struct error *err);

/* What down is applied to: gate = activation(gate(normed)) * up(normed), or activation(up(normed)) where there is no gate; gate
 * and up (scratch) [tokens][ffn of the layer] */
enum status decoder_gate(const struct decoder_layer *layer, float *gate, float *up, const float *normed,
    uint64_t tokens, struct error *err);

/* x += norm(weight input), what ends either half of a layer: `weight` is ROLE_O or ROLE_DOWN, the norm the one that follows it
 * where the architecture has one. input [tokens][cols], x [tokens][hidden], scratch [tokens][hidden]. */
enum status decoder_add_output(const struct decoder_layer *layer, float *x, const float *input,
    float *scratch, uint64_t tokens, enum role weight, struct error *err);

/* What a layer works on: x [tokens][hidden] is the residual stream, the rest scratch. */
struct decoder_buffers {
    float *x, *normed; /* [tokens][hidden] */
    float *gate, *up;  /* [tokens][decoder_ffn(config)] */
    float *routed;     /* [tokens][experts_scratch(config)] (model/experts.h); NULL if dense */
};

/* A whole layer: x += o(attention(norm(x))), then x += down(activation(gate(norm(x))) * up(norm(x))), or what experts give; both
 * of the same x where the residual is parallel. Tokens: sequences * length of the attention. */
enum status decoder_run(const struct decoder_layer *layer, const struct decoder_attention *call,
    const struct decoder_buffers *buffers, struct error *err);

/* What follows the last layer: y = norm(x), and logits [tokens][vocabulary] = head y, bent as the configuration says.
 *   once  [ROLE_PER_LAYER] the tensors that exist once, data in memory; only those needed are looked at */
enum status decoder_final_norm(const struct backend *backend, const struct model_config *config,
    const struct tensor *const *once, float *y, const float *x, uint64_t tokens, struct error *err);
enum status decoder_logits(const struct backend *backend, const struct model_config *config,
    const struct tensor *const *once, float *logits, const float *y, uint64_t tokens, struct error *err);

/* True if all are finite; else *bad is the first that is not. */
bool decoder_finite(const float *x, uint64_t count, uint64_t *bad);

#endif
