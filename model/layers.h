/* What the tensors of a checkpoint mean: one table of names per architecture, tensor names <-> roles. */
#ifndef NIBBLE_MODEL_LAYERS_H
#define NIBBLE_MODEL_LAYERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/report.h"
#include "formats/container.h"
#include "model/config.h"

/* What a GGUF file calls the divisors of its rotation's frequencies [head_size / 2]; they say what the configuration says. */
#define LAYERS_ROTARY_FACTORS "rope_freqs.weight"
/* And those of LongRoPE, for long and for short contexts [rotary / 2]. */
#define LAYERS_ROTARY_LONG "rope_factors_long.weight"
#define LAYERS_ROTARY_SHORT "rope_factors_short.weight"

/* How the name of a decoder layer's tensor begins, before its number. */
#define LAYERS_PREFIX "model.layers."

/* The part a tensor plays. Those before ROLE_PER_LAYER exist once. */
enum role {
    ROLE_EMBEDDING,
    ROLE_POSITIONS, /* learned embeddings of positions, added to those of tokens */
    ROLE_HEAD,
    ROLE_FINAL_NORM,
    ROLE_FINAL_NORM_BIAS,
    ROLE_PER_LAYER,
    ROLE_ATTENTION_NORM = ROLE_PER_LAYER, /* before attention */
    ROLE_ATTENTION_NORM_BIAS,
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_O,
    ROLE_Q_BIAS,
    ROLE_K_BIAS,
    ROLE_V_BIAS,
    ROLE_O_BIAS,
    ROLE_Q_NORM,
    ROLE_K_NORM,
    ROLE_ATTENTION_POST_NORM, /* after o, before its output is added to the stream */
    ROLE_MLP_NORM,            /* before the feed-forward block */
    ROLE_MLP_NORM_BIAS,
    ROLE_GATE,
    ROLE_UP,
    ROLE_DOWN,
    ROLE_GATE_BIAS,
    ROLE_UP_BIAS,
    ROLE_DOWN_BIAS,
    ROLE_MLP_POST_NORM, /* after down, before its output is added to the stream */
    ROLE_ROUTER,        /* a mixture of experts: which of them a token goes to [experts][hidden] */
    ROLE_SHARED_ROUTER, /* how much of the shared expert (gate, up, down) is added [1][hidden] */
    ROLE_EXPERT_GATE,   /* one per expert, from here on (struct model_tensors) */
    ROLE_EXPERT_UP,
    ROLE_EXPERT_DOWN,
    ROLE_COUNT
};

/* The matrices of one expert. */
enum { EXPERT_ROLES = ROLE_EXPERT_DOWN - ROLE_EXPERT_GATE + 1 };

/* A stored matrix whose rows are those of several roles, one after the other; seen as separate tensors (layers_split). */
struct fused_rows {
    const char *tensor; /* after "model.layers.N." */
    const char *
        gguf; /* what GGUF calls it, after "blk.N."; alone if a file has no GGUF tensor of the first part; NULL: not fused there */
    enum role parts[3];
    unsigned count;
    bool transposed; /* the matrix is stored column by column */
    bool by_heads;   /* the rows of a head of each part, then those of the next head */
    bool gguf_only;  /* folders do not have it like this; `tensor` is what a GGUF file's is renamed to */
};

/* Where matrices are fused. */
enum fused_in { FUSED_NOWHERE, FUSED_IN_FOLDERS, FUSED_IN_GGUF };

/* How queries and keys are normalised before they are rotated. */
enum qk_norm { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_PROJECTION };

/* One architecture: its name in config.json and what distinguishes it from Llama. */
struct architecture {
    const char *name;       /* "LlamaForCausalLM" */
    const char *model_type; /* "llama" */
    const char *prefix;     /* of the names of a layer's tensors, before its number; NULL: LAYERS_PREFIX */
    const char *const *
        names; /* [ROLE_COUNT] tensors' names where they differ from Llama's, NULL entries: nowhere; or NULL */

    const struct fused_rows *fused; /* [fused_count] */
    unsigned fused_count;

    bool tied_by_default;  /* without tie_word_embeddings */
    bool scaled_embedding; /* Gemma: embeddings are multiplied by sqrt(hidden) */

    bool
        centered_norm; /* StableLM: LayerNorm with biases, and layer_norm_eps; else RMSNorm and rms_norm_eps */
    bool learned_positions; /* GPT-2: in place of rotation */
    bool short_keys;        /* GPT-2: n_embd, n_layer ... in config.json */
    bool bare_names;        /* GPT-2: names may lack what comes before the first dot of the prefix */
    bool
        parallel_residual; /* GPT-NeoX: both halves of a layer may see the same stream (use_parallel_residual) */
    bool shared_norm;  /* StableLM: use_parallel_residual may be true, and one norm then serves both halves */
    bool ungated;      /* GPT-NeoX: down(activation(up(x))), no gate */
    bool no_pre_norm;  /* OLMo2: attention and the feed-forward block see the stream as it is */
    bool post_norm;    /* Gemma, OLMo2: what they give is normed before it is added */
    float gain_offset; /* Gemma: norms multiply by their gain plus this (1); 0 elsewhere */

    bool
        biases; /* GPT-NeoX: of all matrices of the feed-forward block, and of attention unless attention_bias is false */
    bool qkv_bias_always; /* Qwen2: q, k, v carry biases whatever the configuration says */
    bool attention_bias_option, mlp_bias_option; /* attention_bias, mlp_bias may be true */
    bool qkv_bias_option;                        /* StableLM: use_qkv_bias, of q, k and v alone */
    enum qk_norm qk_norm;
    uint32_t default_head_size; /* without head_dim; 0: hidden / heads */
    double
        default_query_scalar; /* Gemma: scores are divided by the root of query_pre_attn_scalar; 0: of the heads' size */
    bool score_softcap,
        logit_softcap; /* Gemma: attn_logit_softcapping, final_logit_softcapping mean something */
    double default_score_softcap, default_logit_softcap; /* without them; 0: none */
    uint32_t default_window;                             /* without sliding_window; 0: none */
    bool window_by_default; /* Mistral: sliding_window applies to every layer when set */
    bool window_option;     /* Qwen: use_sliding_window and max_window_layers or layer_types decide */
    uint32_t
        default_window_period; /* Gemma: each so many layers the last does not slide; layer_types may say otherwise */
    bool sliding_rope;         /* Gemma 3: layers that slide rotate by rope_local_base_freq */
    bool partial_rotary;   /* partial_rotary_factor may be below 1 */
    double default_rotary; /* without it; 0: 1 */
    double default_theta;  /* without rope_theta; 0: 10000 */
    bool fixed_head_size;  /* other readers take heads to be hidden / heads wide, whatever config.json says */
    const char *theta_key, *rotary_key; /* what config.json may call these two; NULL: as Llama */

    const char *experts_key;    /* what config.json calls the number of experts; NULL: dense */
    const char *expert_ffn_key; /* and the width of one */
    bool shared_expert;         /* Qwen2-MoE: one more, for every token, by shared_expert_intermediate_size */
    bool normed_routing;        /* Mixtral: always; else norm_topk_prob says so */
    bool qkv_bias_switch;       /* Qwen2-MoE: qkv_bias may be false, beside qkv_bias_always */

    bool activation_apart; /* Gemma: hidden_activation, not hidden_act */
    enum activation default_activation;
};

/* Find an architecture by its name; NULL if unknown. layers_architectures writes the known names, comma separated, and returns
 * out. */
const struct architecture *layers_architecture(const char *name, uint64_t bytes);
char *layers_architectures(char *out, uint64_t out_bytes);

/* The short name of a role: "q_proj", "embedding", for tables. */
const char *layers_role_name(enum role role);

/* True for the weight matrices of a decoder layer, which quantization is about (q, k, v, o, gate, up, down, and those of experts). */
bool layers_role_is_linear(enum role role);

/* True for a matrix of which every expert has its own. */
bool layers_role_is_expert(enum role role);

/* True for what a norm multiplies by. */
bool layers_role_is_gain(enum role role);

/* Whether this configuration has the role at all, and its shape in a layer (ignored for roles that exist once): rank 1 or 2, shape[0] rows,
 * shape[1] cols. Every model has a ROLE_HEAD; that of a tied one is bound to the embedding's tensor. */
bool layers_role_shape(
    const struct model_config *config, enum role role, uint32_t layer, uint32_t *rank, uint64_t shape[2]);

/* The role (and layer) that a tensor name has in this configuration; false if none. Of an expert's matrix any expert's. */
bool layers_role_of(const struct model_config *config, const char *name, enum role *role, uint32_t *layer);

/* What follows "model.layers.N." in a name, with the number below config->layers in *layer; NULL: the tensor is of no layer. */
const char *layers_suffix(const struct model_config *config, const char *name, uint32_t *layer);
/* The bytes of a name before that number. */
uint64_t layers_prefix_bytes(const struct architecture *architecture);

/* The tensor name of a role in an architecture; layer is ignored for roles that exist once. Of an expert's matrix the name of those of all
 * experts, one below the other: "model.layers.0.mlp.experts.*.up_proj.weight" (layers_split). Returns out. */
char *layers_name(
    char *out, uint64_t out_bytes, const struct architecture *architecture, enum role role, uint32_t layer);

/* The name of a matrix of one expert (layers_role_is_expert). Returns out. */
char *layers_expert_name(char *out, uint64_t out_bytes, const struct architecture *architecture,
    enum role role, uint32_t layer, uint32_t expert);

/* Which expert's matrix a tensor name is in this configuration; UINT32_MAX: none's. */
uint32_t layers_expert_of(const struct model_config *config, const char *name);

/* Whether a fused matrix is one in folders, or in GGUF files. */
bool layers_is_fused(const struct fused_rows *fused, enum fused_in where);

/* The fused matrix that a role is rows of there, in an architecture, or NULL. */
const struct fused_rows *layers_fused(
    const struct architecture *architecture, enum role role, enum fused_in where);

/* The tensor name of a fused matrix in a layer. Returns out. */
char *layers_fused_name(char *out, uint64_t out_bytes, const struct architecture *architecture,
    const struct fused_rows *fused, uint32_t layer);

/* The tensors of one model, bound to their roles. A tied model has one tensor in ROLE_EMBEDDING and ROLE_HEAD. */
struct model_tensors {
    const struct tensor *once[ROLE_PER_LAYER];
    const struct tensor *(*layer)[ROLE_COUNT]; /* [layers]; NULL where the configuration has none */
    const struct tensor *(
        *experts)[EXPERT_ROLES]; /* [layers][config.experts]: gate, up, down; NULL if dense */
};

/* Bytes of the experts' matrices that one token needs in a layer: as many experts as it goes to, of mean size. */
uint64_t layers_routed_bytes(
    const struct model_tensors *tensors, const struct model_config *config, uint32_t layer);

/* Where a tensor lies in a layer, as one number: that of its role, and from ROLE_COUNT on the matrices of the experts, expert after
 * expert. layers_places: one beyond the last of a configuration. */
uint32_t layers_place(enum role role, uint32_t expert);
uint32_t layers_places(const struct model_config *config);
/* Back: the role, and (of an expert's matrix) the expert. */
enum role layers_place_role(uint32_t place);
uint32_t layers_place_expert(uint32_t place);

/* layers_role_of, with the place (that of the role for what exists once). */
bool layers_place_of(const struct model_config *config, const char *name, uint32_t *place, uint32_t *layer);

/* The tensor in a place of a layer; NULL where there is none. */
const struct tensor *layers_at(
    const struct model_tensors *tensors, const struct model_config *config, uint32_t layer, uint32_t place);

/* What becomes of a tensor that no role names. */
struct dropped_tensor {
    const struct tensor *tensor;
    const char *why; /* "rotary table, recomputed", "tied to the embedding" */
};

/* See the fused matrices of the architecture as one tensor per role, under the names that Llama has for them, and those of all experts,
 * [experts][rows][cols] under the name with a star, as one per expert. Before the container is mapped or bound. ERR_FORMAT: rows that are not those of the parts. ERR_UNSUPPORTED: as container_split. */
enum status layers_split(struct container *container, const struct model_config *config, struct error *err);

/* Account for every tensor of a container: split fused matrices, bind all roles, check every shape. ERR_FORMAT: a tensor is missing, has another
 * shape, or is not part of the architecture; ERR_UNSUPPORTED: it has no floating type. Tensors dropped on purpose (rotary
 * inv_freq buffers; what a model of text and images has for images; an output head stored beside a tied embedding; a bias of
 * zeros that belongs to a packed matrix and that the architecture has not) are listed in *dropped. An embedding stored only under the head's name (tied, as safetensors
 * aliases do) is found either way.
 *   out      [config.layers] arrays owned by the caller, layers_release
 *   dropped  [*dropped_count], owner: the caller, memory_free */
enum status layers_bind(struct model_tensors *out, struct dropped_tensor **dropped, uint64_t *dropped_count,
    struct container *container, const struct model_config *config, struct error *err);
void layers_release(struct model_tensors *tensors);

#endif
