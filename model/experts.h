/* A mixture of experts: every token goes to the few experts that a router likes best (Shazeer et al. 2017, arXiv:1701.06538;
 * Mixtral, arXiv:2401.04088), and to the shared one where there is one (Qwen2-MoE). */
#ifndef NIBBLE_MODEL_EXPERTS_H
#define NIBBLE_MODEL_EXPERTS_H

#include "model/decoder.h"

/* Floats of scratch per token; 0 for a dense configuration. */
uint64_t experts_scratch(const struct model_config *config);

/* Router logits to weights, in place: softmax over all experts, then 0 but for the `chosen` largest (of equal ones the first),
 * which are made to sum to 1 if `normed`. logits [experts], chosen 1 .. experts, experts at most CONFIG_EXPERT_LIMIT. */
void experts_route(float *logits, uint32_t experts, uint32_t chosen, bool normed);

/* The same for many tokens: weights [tokens][experts] of `normed` [tokens][hidden], as the layer's router gives them. */
enum status experts_weigh(const struct decoder_layer *layer, float *weights, const float *normed,
    uint64_t tokens, struct error *err);

/* The tokens that an expert sees: their rows of x [tokens][cols] to out, in order, and how many they are. A token is seen if its
 * weight [tokens][experts] is not 0. */
uint64_t experts_gather(float *out, const float *x, uint64_t tokens, uint64_t cols, const float *weights,
    uint32_t experts, uint32_t expert);

/* What an expert's down is applied to: gate = activation(gate(inputs)) * up(inputs).
 *   gate, up (scratch)  [count][expert_ffn]
 *   inputs              [count][hidden] */
enum status experts_gate(const struct decoder_layer *layer, uint32_t expert, float *gate, float *up,
    const float *inputs, uint64_t count, struct error *err);

/* x += the weighted sum of what the experts give for `normed`; both [tokens][hidden].
 *   gate, up  scratch [tokens][widest of an expert and the shared one]
 *   scratch   [tokens][experts_scratch(config)]
 * A token's result does not depend on the others but for rounding: experts are summed in their order. */
enum status experts_add(const struct decoder_layer *layer, float *x, const float *normed, float *gate,
    float *up, float *scratch, uint64_t tokens, struct error *err);

#endif
