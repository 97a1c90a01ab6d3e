/* The configuration of a network, from config.json: every number checked, every name known or refused. */
#ifndef NIBBLE_MODEL_CONFIG_H
#define NIBBLE_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/activation.h"

#define CONFIG_LAYER_LIMIT 1024
#define CONFIG_STOP_LIMIT 16
#define CONFIG_EXPERT_LIMIT 1024

/* Rope scaling: how rotation frequencies are stretched beyond the trained context. */
enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN, ROPE_LONGROPE };

#define CONFIG_ROTARY_LIMIT 256 /* divisors of a LongRoPE */

struct rope_config {
    enum rope_kind kind;
    double theta;
    double factor;
    double original_context;       /* llama3, yarn, longrope */
    double low_freq_factor;        /* llama3 */
    double high_freq_factor;       /* llama3 */
    double beta_fast, beta_slow;   /* yarn */
    double attention_factor;       /* yarn, longrope; 0: derived from factor */
    double mscale, mscale_all_dim; /* yarn; 0: absent */
    bool truncate;                 /* yarn: round the correction range (default true) */
    float short_divisors
        [CONFIG_ROTARY_LIMIT]; /* longrope: of the frequencies [rotary / 2], up to the original context */
    float long_divisors[CONFIG_ROTARY_LIMIT]; /* beyond it */
};

/* One model. Sizes are elements. */
struct model_config {
    const struct architecture *architecture; /* the row of the table in model/layers.c */
    uint32_t layers, hidden, heads, kv_heads, head_size, vocabulary, context;
    uint32_t ffn;     /* of gate, up and down; beside experts: of the shared one, 0 if there is none */
    uint32_t experts; /* of every layer's mixture; 0: dense */
    uint32_t experts_per_token; /* 1 .. experts */
    uint32_t expert_ffn;        /* of each expert */
    uint32_t
        dense_ffn; /* beside experts: of layers without them, which no model here has; told in GGUF files */
    bool parallel_residual; /* both halves of a layer see the stream as it was before either */
    bool shared_norm;       /* and the same norm serves both */
    bool normed_routing;    /* the weights of a token's experts are made to sum to 1 */
    double norm_epsilon;
    bool tied;           /* the output head is the embedding */
    bool attention_bias; /* q, k, v (and o where the architecture has it) carry biases */
    bool output_bias;    /* o carries a bias */
    bool mlp_bias;
    bool down_bias; /* down carries a bias; with mlp_bias all matrices of the feed-forward block do */
    /* A model pruned layer by layer: heads, kv_heads and ffn above are the largest of any layer, these are each one's (config_widths). */
    bool varied;
    uint32_t layer_kv_heads[CONFIG_LAYER_LIMIT], layer_ffn[CONFIG_LAYER_LIMIT];
    enum activation activation;
    float embedding_scale;                           /* embeddings are multiplied by it */
    float score_scale;                               /* queries times keys are multiplied by it */
    float score_softcap;                             /* scores become c tanh(score / c); 0: they stay */
    float logit_softcap;                             /* logits likewise */
    uint32_t rotary;                                 /* channels of a head that rotate: its first; even */
    uint32_t window;                                 /* sliding window in tokens; 0: none */
    uint32_t window_layers[CONFIG_LAYER_LIMIT / 32]; /* bit i: layer i slides */
    struct rope_config rope;
    struct rope_config sliding_rope;  /* of layers that slide, where they rotate otherwise */
    int64_t bos;                      /* token id, or -1 */
    int64_t stops[CONFIG_STOP_LIMIT]; /* end-of-sequence ids */
    uint32_t stop_count;
};

/* Parse config.json; `what` names it in messages. Accepts the classic spelling (rope_theta, rope_scaling with type or
 * rope_type, torch_dtype) and the newer one (rope_parameters, dtype).
 * Absent keys that have a default: num_key_value_heads (as many as heads), head_dim (the architecture's, else hidden_size /
 * heads), tie_word_embeddings, hidden_act, rope_theta (the architecture's: false, silu, 10000 for most), sliding_window where the architecture slides (4096; null means none), bos_token_id and eos_token_id (none).
 * An object "nibble" says what no other reader knows: layer_key_value_heads and layer_intermediate_sizes, a number per layer, output_bias and
 * down_bias.
 * ERR_UNSUPPORTED names an unknown architecture, activation or rope type, and the tool of a quantization_config;
 * ERR_FORMAT a missing or impossible number (zero heads, heads not a multiple of kv_heads, an odd head size, a
 * non-positive theta or epsilon ...). */
enum status config_parse(
    struct model_config *out, const char *what, const char *json, uint64_t bytes, struct error *err);

/* The widths of one layer: the configuration's, unless it is varied. A group of heads that share keys is as large in every layer. */
struct config_widths {
    uint32_t heads, kv_heads, ffn;
};
struct config_widths config_widths(const struct model_config *config, uint32_t layer);

/* What only our own readers know of a configuration ("nibble" in config.json, docs/methods/structured-pruning.md): ERR_UNSUPPORTED, saying what, if
 * there is anything; `format` names who cannot say it. */
enum status config_refuse_own(const struct model_config *config, const char *format, struct error *err);

/* What config.json of an architecture calls its activation, and what one is called there. */
const char *config_activation_key(const struct architecture *architecture);
const char *config_activation_name(enum activation activation);

/* True if layer `layer` attends within the sliding window only. */
bool config_slides(const struct model_config *config, uint32_t layer);

#endif
