/* Tensor names and roles. The architectures share most tensor names (those of transformers' Llama family) and differ in
 * which roles they have; one table of names and one of architectures say all of it. */
#include "model/layers.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "model/text_part.h"

/* Four norms a layer, two of them under names that mean something else in Llama. */
static const char *const gemma_names[ROLE_COUNT] = {
    [ROLE_MLP_NORM] = "pre_feedforward_layernorm.weight",
};

/* Experts have a number where the star stands. */
static const char *const mixtral_names[ROLE_COUNT] = {
    [ROLE_ROUTER] = "block_sparse_moe.gate.weight",
    [ROLE_EXPERT_GATE] = "block_sparse_moe.experts.*.w1.weight",
    [ROLE_EXPERT_UP] = "block_sparse_moe.experts.*.w3.weight",
    [ROLE_EXPERT_DOWN] = "block_sparse_moe.experts.*.w2.weight",
};

static const char *const qwen2_moe_names[ROLE_COUNT] = {
    [ROLE_GATE] = "mlp.shared_expert.gate_proj.weight",
    [ROLE_UP] = "mlp.shared_expert.up_proj.weight",
    [ROLE_DOWN] = "mlp.shared_expert.down_proj.weight",
};

static const char *const neox_names[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = "gpt_neox.embed_in.weight",
    [ROLE_HEAD] = "embed_out.weight",
    [ROLE_FINAL_NORM] = "gpt_neox.final_layer_norm.weight",
    [ROLE_FINAL_NORM_BIAS] = "gpt_neox.final_layer_norm.bias",
    [ROLE_O] = "attention.dense.weight",
    [ROLE_O_BIAS] = "attention.dense.bias",
    [ROLE_UP] = "mlp.dense_h_to_4h.weight",
    [ROLE_UP_BIAS] = "mlp.dense_h_to_4h.bias",
    [ROLE_DOWN] = "mlp.dense_4h_to_h.weight",
    [ROLE_DOWN_BIAS] = "mlp.dense_4h_to_h.bias",
};

/* All of q, then k, then v, as GGUF has them whatever folders do. */
#define GGUF_QKV                                                                                             \
    {"attn_qkv.weight", "attn_qkv.weight", {ROLE_Q, ROLE_K, ROLE_V}, 3, .gguf_only = true},                  \
    {                                                                                                        \
        "attn_qkv.bias", "attn_qkv.bias", {ROLE_Q_BIAS, ROLE_K_BIAS, ROLE_V_BIAS}, 3, .gguf_only = true      \
    }

static const struct fused_rows neox_fused[] = {
    {"attention.query_key_value.weight", NULL, {ROLE_Q, ROLE_K, ROLE_V}, 3, .by_heads = true},
    {"attention.query_key_value.bias", NULL, {ROLE_Q_BIAS, ROLE_K_BIAS, ROLE_V_BIAS}, 3, .by_heads = true},
    GGUF_QKV,
};

/* Matrices as they are seen, in rows, have names of their own: those of columns mean something else. */
static const char *const gpt2_names[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = "transformer.wte.weight",
    [ROLE_POSITIONS] = "transformer.wpe.weight",
    [ROLE_FINAL_NORM] = "transformer.ln_f.weight",
    [ROLE_FINAL_NORM_BIAS] = "transformer.ln_f.bias",
    [ROLE_ATTENTION_NORM] = "ln_1.weight",
    [ROLE_ATTENTION_NORM_BIAS] = "ln_1.bias",
    [ROLE_MLP_NORM] = "ln_2.weight",
    [ROLE_MLP_NORM_BIAS] = "ln_2.bias",
    [ROLE_O_BIAS] = "attn.c_proj.bias",
    [ROLE_UP_BIAS] = "mlp.c_fc.bias",
    [ROLE_DOWN_BIAS] = "mlp.c_proj.bias",
};

static const struct fused_rows gpt2_fused[] = {
    {"attn.c_attn.weight", NULL, {ROLE_Q, ROLE_K, ROLE_V}, 3, .transposed = true},
    {"attn.c_attn.bias", NULL, {ROLE_Q_BIAS, ROLE_K_BIAS, ROLE_V_BIAS}, 3, .transposed = false},
    {"attn.c_proj.weight", NULL, {ROLE_O}, 1, .transposed = true},
    {"mlp.c_fc.weight", NULL, {ROLE_UP}, 1, .transposed = true},
    {"mlp.c_proj.weight", NULL, {ROLE_DOWN}, 1, .transposed = true},
    GGUF_QKV,
};

static const struct fused_rows phi3_fused[] = {
    {"self_attn.qkv_proj.weight", "attn_qkv.weight", {ROLE_Q, ROLE_K, ROLE_V}, 3, .by_heads = false},
    {"mlp.gate_up_proj.weight", "ffn_up.weight", {ROLE_GATE, ROLE_UP}, 2, .by_heads = false},
};

static const struct architecture architectures[] = {
    {.name = "LlamaForCausalLM",
        .model_type = "llama",
        .attention_bias_option = true,
        .mlp_bias_option = true},
    {.name = "MistralForCausalLM",
        .model_type = "mistral",
        .default_window = 4096,
        .window_by_default = true},
    {.name = "Qwen2ForCausalLM",
        .model_type = "qwen2",
        .qkv_bias_always = true,
        .default_window = 4096,
        .window_option = true},
    {.name = "Qwen3ForCausalLM",
        .model_type = "qwen3",
        .qk_norm = QK_NORM_HEAD,
        .default_window = 4096,
        .window_option = true,
        .attention_bias_option = true,
        .default_head_size = 128},
    {.name = "Gemma2ForCausalLM",
        .model_type = "gemma2",
        .names = gemma_names,
        .tied_by_default = true,
        .scaled_embedding = true,
        .post_norm = true,
        .gain_offset = 1,
        .attention_bias_option = true,
        .default_head_size = 256,
        .default_query_scalar = 256,
        .score_softcap = true,
        .logit_softcap = true,
        .default_score_softcap = 50,
        .default_logit_softcap = 30,
        .default_window = 4096,
        .window_by_default = true,
        .default_window_period = 2,
        .activation_apart = true,
        .default_activation = ACTIVATION_GELU_TANH},
    {.name = "Gemma3ForCausalLM",
        .model_type = "gemma3_text",
        .names = gemma_names,
        .tied_by_default = true,
        .scaled_embedding = true,
        .logit_softcap = true,
        .post_norm = true,
        .gain_offset = 1,
        .attention_bias_option = true,
        .qk_norm = QK_NORM_HEAD,
        .default_head_size = 256,
        .default_query_scalar = 256,
        .default_window = 4096,
        .window_by_default = true,
        .default_window_period = 6,
        .sliding_rope = true,
        .default_theta = 1e6,
        .activation_apart = true,
        .default_activation = ACTIVATION_GELU_TANH},
    {.name = "Phi3ForCausalLM",
        .model_type = "phi3",
        .fused = phi3_fused,
        .fused_count = sizeof phi3_fused / sizeof *phi3_fused,
        .window_by_default = true,
        .partial_rotary = true},
    {.name = "Olmo2ForCausalLM",
        .model_type = "olmo2",
        .no_pre_norm = true,
        .post_norm = true,
        .attention_bias_option = true,
        .qk_norm = QK_NORM_PROJECTION},
    {.name = "StableLmForCausalLM",
        .model_type = "stablelm",
        .fixed_head_size = true,
        .centered_norm = true,
        .shared_norm = true,
        .qkv_bias_option = true,
        .partial_rotary = true,
        .default_rotary = 0.25},
    {.name = "MixtralForCausalLM",
        .model_type = "mixtral",
        .names = mixtral_names,
        .experts_key = "num_local_experts",
        .expert_ffn_key = "intermediate_size",
        .normed_routing = true,
        .window_by_default = true,
        .default_theta = 1e6},
    {.name = "Qwen2MoeForCausalLM",
        .model_type = "qwen2_moe",
        .names = qwen2_moe_names,
        .experts_key = "num_experts",
        .expert_ffn_key = "moe_intermediate_size",
        .shared_expert = true,
        .qkv_bias_always = true,
        .qkv_bias_switch = true},
    {.name = "Qwen3MoeForCausalLM",
        .model_type = "qwen3_moe",
        .experts_key = "num_experts",
        .expert_ffn_key = "moe_intermediate_size",
        .qk_norm = QK_NORM_HEAD,
        .attention_bias_option = true},
    {.name = "GPTNeoXForCausalLM",
        .model_type = "gpt_neox",
        .fixed_head_size = true,
        .prefix = "gpt_neox.layers.",
        .names = neox_names,
        .fused = neox_fused,
        .fused_count = sizeof neox_fused / sizeof *neox_fused,
        .centered_norm = true,
        .parallel_residual = true,
        .ungated = true,
        .biases = true,
        .attention_bias_option = true,
        .partial_rotary = true,
        .default_rotary = 0.25,
        .theta_key = "rotary_emb_base",
        .rotary_key = "rotary_pct",
        .default_activation = ACTIVATION_GELU},
    {.name = "GPT2LMHeadModel",
        .model_type = "gpt2",
        .fixed_head_size = true,
        .prefix = "transformer.h.",
        .names = gpt2_names,
        .fused = gpt2_fused,
        .fused_count = sizeof gpt2_fused / sizeof *gpt2_fused,
        .tied_by_default = true,
        .centered_norm = true,
        .learned_positions = true,
        .short_keys = true,
        .bare_names = true,
        .ungated = true,
        .biases = true,
        .default_activation = ACTIVATION_GELU_TANH},
};

/* The short name of a role, and the name of its tensor: whole for what exists once, else after
 * "model.layers.N.". */
static const struct role_row {
    const char *name, *tensor;
} roles[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = {"embedding", "model.embed_tokens.weight"},
    [ROLE_POSITIONS] = {"positions", "model.embed_positions.weight"},
    [ROLE_HEAD] = {"head", "lm_head.weight"},
    [ROLE_FINAL_NORM] = {"final_norm", "model.norm.weight"},
    [ROLE_FINAL_NORM_BIAS] = {"final_norm_bias", "model.norm.bias"},
    [ROLE_ATTENTION_NORM] = {"attention_norm", "input_layernorm.weight"},
    [ROLE_ATTENTION_NORM_BIAS] = {"attention_norm_bias", "input_layernorm.bias"},
    [ROLE_Q] = {"q_proj", "self_attn.q_proj.weight"},
    [ROLE_K] = {"k_proj", "self_attn.k_proj.weight"},
    [ROLE_V] = {"v_proj", "self_attn.v_proj.weight"},
    [ROLE_O] = {"o_proj", "self_attn.o_proj.weight"},
    [ROLE_Q_BIAS] = {"q_bias", "self_attn.q_proj.bias"},
    [ROLE_K_BIAS] = {"k_bias", "self_attn.k_proj.bias"},
    [ROLE_V_BIAS] = {"v_bias", "self_attn.v_proj.bias"},
    [ROLE_O_BIAS] = {"o_bias", "self_attn.o_proj.bias"},
    [ROLE_Q_NORM] = {"q_norm", "self_attn.q_norm.weight"},
    [ROLE_K_NORM] = {"k_norm", "self_attn.k_norm.weight"},
    [ROLE_ATTENTION_POST_NORM] = {"attention_post_norm", "post_attention_layernorm.weight"},
    [ROLE_MLP_NORM] = {"mlp_norm", "post_attention_layernorm.weight"},
    [ROLE_MLP_NORM_BIAS] = {"mlp_norm_bias", "post_attention_layernorm.bias"},
    [ROLE_GATE] = {"gate_proj", "mlp.gate_proj.weight"},
    [ROLE_UP] = {"up_proj", "mlp.up_proj.weight"},
    [ROLE_DOWN] = {"down_proj", "mlp.down_proj.weight"},
    [ROLE_GATE_BIAS] = {"gate_bias", "mlp.gate_proj.bias"},
    [ROLE_UP_BIAS] = {"up_bias", "mlp.up_proj.bias"},
    [ROLE_DOWN_BIAS] = {"down_bias", "mlp.down_proj.bias"},
    [ROLE_MLP_POST_NORM] = {"mlp_post_norm", "post_feedforward_layernorm.weight"},
    [ROLE_ROUTER] = {"router", "mlp.gate.weight"},
    [ROLE_SHARED_ROUTER] = {"shared_router", "mlp.shared_expert_gate.weight"},
    [ROLE_EXPERT_GATE] = {"expert_gate_proj", "mlp.experts.*.gate_proj.weight"},
    [ROLE_EXPERT_UP] = {"expert_up_proj", "mlp.experts.*.up_proj.weight"},
    [ROLE_EXPERT_DOWN] = {"expert_down_proj", "mlp.experts.*.down_proj.weight"},
};

/* What a role's tensor is called in an architecture. */
static const char *tensor_name(const struct architecture *architecture, enum role role)
{
    const char *other = architecture->names ? architecture->names[role] : NULL;

    return other ? other : roles[role].tensor;
}

const struct architecture *layers_architecture(const char *name, uint64_t bytes)
{
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (strlen(architectures[i].name) == bytes && memcmp(architectures[i].name, name, bytes) == 0)
            return &architectures[i];
    }
    return NULL;
}

char *layers_architectures(char *out, uint64_t out_bytes)
{
    uint64_t used = 0;

    for (size_t i = 0; i < sizeof architectures / sizeof *architectures && used < out_bytes; i++)
        used +=
            (uint64_t)snprintf(out + used, out_bytes - used, "%s%s", i ? ", " : "", architectures[i].name);
    return out;
}

const char *layers_role_name(enum role role)
{
    return roles[role].name;
}

bool layers_role_is_linear(enum role role)
{
    return (role >= ROLE_Q && role <= ROLE_O) || (role >= ROLE_GATE && role <= ROLE_DOWN) ||
           layers_role_is_expert(role);
}

bool layers_role_is_expert(enum role role)
{
    return role >= ROLE_EXPERT_GATE && role <= ROLE_EXPERT_DOWN;
}

bool layers_role_is_gain(enum role role)
{
    return role == ROLE_FINAL_NORM || role == ROLE_ATTENTION_NORM || role == ROLE_Q_NORM ||
           role == ROLE_K_NORM || role == ROLE_ATTENTION_POST_NORM || role == ROLE_MLP_NORM ||
           role == ROLE_MLP_POST_NORM;
}

/* ---- shapes ---- */

/* A role of rank 2 if cols is not 0, else of rank 1. */
static bool set_shape(uint32_t *rank, uint64_t shape[2], uint64_t rows, uint64_t cols)
{
    *rank = cols ? 2 : 1;
    shape[0] = rows;
    shape[1] = cols;
    return true;
}

/* A matrix, if there is anything of it. */
static bool set_matrix(uint32_t *rank, uint64_t shape[2], uint64_t rows, uint64_t cols)
{
    return rows && cols && set_shape(rank, shape, rows, cols);
}

static bool set_shape_if(bool present, uint32_t *rank, uint64_t shape[2], uint64_t rows)
{
    return present && set_shape(rank, shape, rows, 0);
}

bool layers_role_shape(
    const struct model_config *config, enum role role, uint32_t layer, uint32_t *rank, uint64_t shape[2])
{
    const struct config_widths widths = config_widths(config, role < ROLE_PER_LAYER ? 0 : layer);
    uint64_t hidden = config->hidden, ffn = widths.ffn, head = config->head_size;
    uint64_t q = widths.heads * head, kv = widths.kv_heads * head;
    const struct architecture *known = config->architecture;

    switch (role) {
    case ROLE_EMBEDDING:
    case ROLE_HEAD:
        return set_shape(rank, shape, config->vocabulary, hidden);
    case ROLE_POSITIONS:
        return known->learned_positions && set_shape(rank, shape, config->context, hidden);
    case ROLE_FINAL_NORM:
        return set_shape(rank, shape, hidden, 0);
    case ROLE_ATTENTION_NORM:
        return set_shape_if(!known->no_pre_norm, rank, shape, hidden);
    case ROLE_MLP_NORM:
        return set_shape_if(!known->no_pre_norm && !config->shared_norm, rank, shape, hidden);
    case ROLE_FINAL_NORM_BIAS:
    case ROLE_ATTENTION_NORM_BIAS:
        return set_shape_if(known->centered_norm, rank, shape, hidden);
    case ROLE_MLP_NORM_BIAS:
        return set_shape_if(known->centered_norm && !config->shared_norm, rank, shape, hidden);
    case ROLE_ATTENTION_POST_NORM:
    case ROLE_MLP_POST_NORM:
        return set_shape_if(known->post_norm, rank, shape, hidden);
    case ROLE_Q:
        return set_shape(rank, shape, q, hidden);
    case ROLE_K:
    case ROLE_V:
        return set_shape(rank, shape, kv, hidden);
    case ROLE_O:
        return set_shape(rank, shape, hidden, q);
    case ROLE_Q_BIAS:
        return set_shape_if(config->attention_bias, rank, shape, q);
    case ROLE_K_BIAS:
    case ROLE_V_BIAS:
        return set_shape_if(config->attention_bias, rank, shape, kv);
    case ROLE_O_BIAS:
        return set_shape_if(config->output_bias, rank, shape, hidden);
    case ROLE_Q_NORM:
    case ROLE_K_NORM:
        if (known->qk_norm == QK_NORM_PROJECTION) head = role == ROLE_Q_NORM ? q : kv;
        return set_shape_if(known->qk_norm != QK_NORM_NONE, rank, shape, head);
    case ROLE_GATE:
        return !known->ungated && set_matrix(rank, shape, ffn, hidden);
    case ROLE_UP:
        return set_matrix(rank, shape, ffn, hidden);
    case ROLE_DOWN:
        return set_matrix(rank, shape, hidden, ffn);
    case ROLE_ROUTER:
        return set_matrix(rank, shape, config->experts, hidden);
    case ROLE_SHARED_ROUTER:
        return set_matrix(rank, shape, config->experts && ffn ? 1 : 0, hidden);
    case ROLE_EXPERT_GATE:
    case ROLE_EXPERT_UP:
        return set_matrix(rank, shape, config->expert_ffn, hidden);
    case ROLE_EXPERT_DOWN:
        return set_matrix(rank, shape, hidden, config->expert_ffn);
    case ROLE_GATE_BIAS:
        return set_shape_if(config->mlp_bias && !known->ungated, rank, shape, ffn);
    case ROLE_UP_BIAS:
        return set_shape_if(config->mlp_bias, rank, shape, ffn);
    case ROLE_DOWN_BIAS:
        return set_shape_if(config->mlp_bias || config->down_bias, rank, shape, hidden);
    case ROLE_COUNT:
        break;
    }
    return false;
}

/* ---- names ---- */

static const char *prefix_of(const struct architecture *architecture)
{
    return architecture->prefix ? architecture->prefix : LAYERS_PREFIX;
}

uint64_t layers_prefix_bytes(const struct architecture *architecture)
{
    return strlen(prefix_of(architecture));
}

/* N is a plain decimal number. */
const char *layers_suffix(const struct model_config *config, const char *name, uint32_t *layer)
{
    const char *start = prefix_of(config->architecture);
    const size_t prefix = strlen(start);
    const char *digit;
    uint32_t number = 0;

    if (strncmp(name, start, prefix) != 0) return NULL;
    for (digit = name + prefix; *digit >= '0' && *digit <= '9'; digit++) {
        if (digit > name + prefix && number == 0) return NULL; /* a leading zero */
        number = number * 10 + (uint32_t)(*digit - '0');
        if (number >= config->layers) return NULL;
    }
    if (digit == name + prefix || *digit != '.') return NULL;
    *layer = number;
    return digit + 1;
}

/* The number that stands for the star of a pattern in a name; UINT32_MAX: the name is not of the pattern, or it is no plain decimal
 * number below `experts`. */
static uint32_t match_expert(const char *name, const char *pattern, uint32_t experts)
{
    const char *star = strchr(pattern, '*');
    const size_t before = (size_t)(star - pattern);
    const char *digit = name + before;
    uint32_t number = 0;

    if (strncmp(name, pattern, before) != 0) return UINT32_MAX;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        if (digit > name + before && number == 0) return UINT32_MAX; /* a leading zero */
        number = number * 10 + (uint32_t)(*digit - '0');
        if (number >= experts) return UINT32_MAX;
    }
    return digit > name + before && strcmp(digit, star + 1) == 0 ? number : UINT32_MAX;
}

static bool is_named(const struct model_config *config, enum role role, const char *name)
{
    const char *tensor = tensor_name(config->architecture, role);

    if (layers_role_is_expert(role)) return match_expert(name, tensor, config->experts) != UINT32_MAX;
    return strcmp(name, tensor) == 0;
}

bool layers_role_of(const struct model_config *config, const char *name, enum role *role, uint32_t *layer)
{
    const char *suffix;
    uint32_t rank;
    uint64_t shape[2];

    *layer = 0;
    suffix = layers_suffix(config, name, layer);
    for (int i = suffix ? ROLE_PER_LAYER : 0; i < (suffix ? ROLE_COUNT : ROLE_PER_LAYER); i++) {
        *role = (enum role)i;
        if (is_named(config, *role, suffix ? suffix : name) &&
            layers_role_shape(config, *role, *layer, &rank, shape))
            return true;
    }
    return false;
}

/* ---- places ---- */

uint32_t layers_place(enum role role, uint32_t expert)
{
    if (!layers_role_is_expert(role)) return role;
    return ROLE_COUNT + expert * EXPERT_ROLES + (role - ROLE_EXPERT_GATE);
}

uint32_t layers_places(const struct model_config *config)
{
    return ROLE_COUNT + config->experts * EXPERT_ROLES;
}

enum role layers_place_role(uint32_t place)
{
    return (enum role)(place < ROLE_COUNT ? place : ROLE_EXPERT_GATE + (place - ROLE_COUNT) % EXPERT_ROLES);
}

uint32_t layers_place_expert(uint32_t place)
{
    return place < ROLE_COUNT ? 0 : (place - ROLE_COUNT) / EXPERT_ROLES;
}

bool layers_place_of(const struct model_config *config, const char *name, uint32_t *place, uint32_t *layer)
{
    enum role role;

    if (!layers_role_of(config, name, &role, layer)) return false;
    *place = layers_place(role, layers_role_is_expert(role) ? layers_expert_of(config, name) : 0);
    return true;
}

const struct tensor *layers_at(
    const struct model_tensors *tensors, const struct model_config *config, uint32_t layer, uint32_t place)
{
    const uint32_t expert = layers_place_expert(place);

    if (place < ROLE_COUNT) return tensors->layer[layer][place];
    return tensors->experts[(uint64_t)layer * config->experts + expert][(place - ROLE_COUNT) % EXPERT_ROLES];
}

/* ---- names ---- */

char *layers_name(
    char *out, uint64_t out_bytes, const struct architecture *architecture, enum role role, uint32_t layer)
{
    const char *tensor = tensor_name(architecture, role);

    if (role < ROLE_PER_LAYER)
        snprintf(out, out_bytes, "%s", tensor);
    else
        snprintf(out, out_bytes, "%s%" PRIu32 ".%s", prefix_of(architecture), layer, tensor);
    return out;
}

char *layers_expert_name(char *out, uint64_t out_bytes, const struct architecture *architecture,
    enum role role, uint32_t layer, uint32_t expert)
{
    const char *tensor = tensor_name(architecture, role), *star = strchr(tensor, '*');

    snprintf(out, out_bytes, "%s%" PRIu32 ".%.*s%" PRIu32 "%s", prefix_of(architecture), layer,
        (int)(star - tensor), tensor, expert, star + 1);
    return out;
}

uint32_t layers_expert_of(const struct model_config *config, const char *name)
{
    uint32_t layer, expert = UINT32_MAX;
    const char *suffix = layers_suffix(config, name, &layer);

    for (int role = ROLE_EXPERT_GATE; suffix && role <= ROLE_EXPERT_DOWN && expert == UINT32_MAX; role++)
        expert = match_expert(suffix, tensor_name(config->architecture, (enum role)role), config->experts);
    return expert;
}

/* ---- fused matrices ---- */

bool layers_is_fused(const struct fused_rows *fused, enum fused_in where)
{
    return (where == FUSED_IN_GGUF && fused->gguf) || (where == FUSED_IN_FOLDERS && !fused->gguf_only);
}

char *layers_fused_name(char *out, uint64_t out_bytes, const struct architecture *architecture,
    const struct fused_rows *fused, uint32_t layer)
{
    snprintf(out, out_bytes, "%s%" PRIu32 ".%s", prefix_of(architecture), layer, fused->tensor);
    return out;
}

const struct fused_rows *layers_fused(
    const struct architecture *architecture, enum role role, enum fused_in where)
{
    for (unsigned i = 0; i < architecture->fused_count; i++) {
        const struct fused_rows *fused = &architecture->fused[i];
        for (unsigned k = 0; k < fused->count && layers_is_fused(fused, where); k++) {
            if (fused->parts[k] == role) return fused;
        }
    }
    return NULL;
}

/* "[4096, 256]" for messages. Returns out. */
static const char *shape_text(char out[64], uint32_t rank, const uint64_t *shape)
{
    size_t used = (size_t)snprintf(out, 64, "[");

    for (uint32_t i = 0; i < rank && used < 64; i++)
        used += (size_t)snprintf(out + used, 64 - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
    if (used < 64) snprintf(out + used, 64 - used, "]");
    return out;
}

static enum status split(struct container *container, uint64_t index, const struct model_config *config,
    const struct fused_rows *fused, uint32_t layer, struct error *err)
{
    char names[3][128];
    struct container_part parts[3];
    uint32_t rank;

    enum status status = fused->transposed ? container_transpose(container, index, err) : OK;
    for (unsigned i = 0; i < fused->count && !status; i++) {
        uint64_t shape[2];
        if (!layers_role_shape(config, fused->parts[i], layer, &rank, shape))
            return OK; /* layers_bind will refuse it */
        parts[i].name = layers_name(names[i], sizeof names[i], config->architecture, fused->parts[i], layer);
        parts[i].rows = shape[0];
    }
    return status ? status
                  : container_split(
                        container, index, parts, fused->count, fused->by_heads ? config->head_size : 0, err);
}

/* "h.0.ln_1.weight" to "transformer.h.0.ln_1.weight", as newer files have it. */
static enum status complete_names(
    struct container *container, const struct model_config *config, struct error *err)
{
    const char *prefix = config->architecture->prefix;
    const int bytes = (int)(strchr(prefix, '.') + 1 - prefix);
    enum status status = OK;

    for (uint64_t i = 0; i < container_count(container) && !status; i++) {
        const char *old = container_tensor(container, i)->name;
        char name[CONTAINER_NAME_LIMIT + 64];
        if (strncmp(old, prefix, (size_t)bytes) == 0 || strncmp(old, "lm_head.", 8) == 0) continue;
        snprintf(name, sizeof name, "%.*s%s", bytes, prefix, old);
        status = container_rename(container, i, name, err);
    }
    return status ? status : container_reindex(container, err);
}

/* Where the parts of one tensor for all experts are written down. */
struct stack_part {
    char name[128];
};

/* [experts][rows][cols] as one matrix per expert. */
static enum status split_stack(struct container *container, uint64_t index, const struct model_config *config,
    enum role role, uint32_t layer, struct error *err)
{
    const struct tensor *tensor = container_tensor(container, index);
    uint64_t shape[3] = {config->experts};
    char found[64], expected[64];
    uint32_t rank;
    enum status status;

    layers_role_shape(config, role, layer, &rank, shape + 1);
    if (tensor->rank != 3 || memcmp(tensor->shape, shape, sizeof shape) != 0)
        return fail(err, ERR_FORMAT, "tensor %s has the shape %s, config.json says %s", tensor->name,
            shape_text(found, tensor->rank, tensor->shape), shape_text(expected, 3, shape));
    struct container_part *parts = memory_new(config->experts, sizeof *parts, err);
    struct stack_part *names = memory_new(config->experts, sizeof *names, err);
    status =
        parts && names ? container_reshape(container, index, shape[0] * shape[1], shape[2], err) : ERR_MEMORY;
    for (uint32_t i = 0; i < config->experts && !status; i++)
        parts[i] = (struct container_part){.name = layers_expert_name(names[i].name, sizeof names[i].name,
                                               config->architecture, role, layer, i),
            .rows = shape[1]};
    if (!status) status = container_split(container, index, parts, config->experts, 0, err);
    memory_free(names);
    memory_free(parts);
    return status;
}

/* Take tensor number `index` apart if it is a fused matrix, or the matrices of all experts. *any is set if it is. */
static enum status split_tensor(struct container *container, uint64_t index,
    const struct model_config *config, bool *any, struct error *err)
{
    const struct architecture *known = config->architecture;
    uint32_t layer;
    const char *suffix = layers_suffix(config, container_tensor(container, index)->name, &layer);

    for (unsigned i = 0; suffix && i < known->fused_count; i++) {
        if (strcmp(suffix, known->fused[i].tensor) != 0) continue;
        *any = true;
        return split(container, index, config, &known->fused[i], layer, err);
    }
    for (int i = ROLE_EXPERT_GATE; suffix && config->experts && i <= ROLE_EXPERT_DOWN; i++) {
        if (strcmp(suffix, tensor_name(known, (enum role)i)) != 0) continue;
        *any = true;
        return split_stack(container, index, config, (enum role)i, layer, err);
    }
    return OK;
}

enum status layers_split(struct container *container, const struct model_config *config, struct error *err)
{
    enum status status = OK;
    bool any = false;

    if (config->architecture->bare_names) status = complete_names(container, config, err);
    for (uint64_t i = 0; i < container_count(container) && !status; i++)
        status = split_tensor(container, i, config, &any, err);
    if (!status && any) status = container_reindex(container, err);
    return status ? fail_within(err, status, "%s", container_path(container)) : OK;
}

/* ---- binding ---- */

static enum status check_tensor(
    const struct tensor *tensor, uint32_t rank, const uint64_t shape[2], struct error *err)
{
    bool same =
        tensor->rank == rank && tensor->shape[0] == shape[0] && (rank < 2 || tensor->shape[1] == shape[1]);
    char found[64], expected[64];

    if (!same)
        return fail(err, ERR_FORMAT, "tensor %s has the shape %s, config.json says %s", tensor->name,
            shape_text(found, tensor->rank, tensor->shape), shape_text(expected, rank, shape));
    if (tensor->storage == STORAGE_DENSE && !dtype_info(tensor->dtype)->is_float)
        return fail(err, ERR_UNSUPPORTED, "tensor %s is %s, weights of a network are of a floating type",
            tensor->name, dtype_info(tensor->dtype)->name);
    if (tensor->storage == STORAGE_BLOCKS && rank != 2)
        return fail(err, ERR_UNSUPPORTED, "tensor %s has %s blocks, which only matrices may have",
            tensor->name, block_info(tensor->block)->name);
    return OK;
}

/* The tensor of a role: under its own name, or an alias of it. One tied tensor may be stored under either
 * name. */
static const struct tensor *find_tensor(
    struct container *container, const struct model_config *config, enum role role, uint32_t layer)
{
    bool shared = config->tied && (role == ROLE_EMBEDDING || role == ROLE_HEAD);
    const struct tensor *tensor;
    char name[128];

    if (shared) role = ROLE_EMBEDDING;
    tensor = container_find(container, layers_name(name, sizeof name, config->architecture, role, layer));
    if (!tensor && shared)
        tensor =
            container_find(container, layers_name(name, sizeof name, config->architecture, ROLE_HEAD, layer));
    return tensor;
}

/* Find and check the tensor of one role; *out stays NULL if the configuration has no such role. */
static enum status bind_role(const struct tensor **out, struct container *container,
    const struct model_config *config, enum role role, uint32_t layer, struct error *err)
{
    char name[128];
    uint32_t rank;
    uint64_t shape[2];

    if (layers_role_is_expert(role) || !layers_role_shape(config, role, layer, &rank, shape)) return OK;
    *out = find_tensor(container, config, role, layer);
    if (*out) return check_tensor(*out, rank, shape, err);
    return fail(err, ERR_FORMAT, "tensor %s is missing%s",
        layers_name(name, sizeof name, config->architecture, role, layer),
        role == ROLE_HEAD ? ", and config.json does not set tie_word_embeddings" : "");
}

/* The matrices of one layer's experts. */
static enum status bind_experts(struct model_tensors *out, struct container *container,
    const struct model_config *config, uint32_t layer, struct error *err)
{
    const struct tensor *(*experts)[EXPERT_ROLES] = out->experts + (uint64_t)layer * config->experts;
    char name[128];
    uint32_t rank;
    uint64_t shape[2];

    for (uint64_t i = 0; i < (uint64_t)config->experts * EXPERT_ROLES; i++) {
        uint32_t expert = (uint32_t)(i / EXPERT_ROLES), which = (uint32_t)(i % EXPERT_ROLES);
        enum role role = ROLE_EXPERT_GATE + which;
        const struct tensor *found = container_find(
            container, layers_expert_name(name, sizeof name, config->architecture, role, layer, expert));
        enum status status;
        if (!found) return fail(err, ERR_FORMAT, "tensor %s is missing", name);
        layers_role_shape(config, role, layer, &rank, shape);
        status = check_tensor(found, rank, shape, err);
        if (status) return status;
        experts[expert][which] = found;
    }
    return OK;
}

static enum status bind_roles(struct model_tensors *out, struct container *container,
    const struct model_config *config, struct error *err)
{
    enum status status = OK;

    for (int role = 0; role < ROLE_PER_LAYER && !status; role++)
        status = bind_role(&out->once[role], container, config, (enum role)role, 0, err);
    for (uint32_t layer = 0; layer < config->layers; layer++) {
        for (int role = ROLE_PER_LAYER; role < ROLE_COUNT && !status; role++)
            status = bind_role(&out->layer[layer][role], container, config, (enum role)role, layer, err);
        if (!status) status = bind_experts(out, container, config, layer, err);
    }
    return status;
}

static bool is_rotary(const char *name)
{
    return strcmp(name, LAYERS_ROTARY_FACTORS) == 0 || strcmp(name, LAYERS_ROTARY_LONG) == 0 ||
           strcmp(name, LAYERS_ROTARY_SHORT) == 0;
}

/* A bias that the architecture has not, all zeros, beside a matrix that is stored packed: AutoGPTQ writes one for every matrix. */
static bool is_empty_bias(struct container *container, const struct tensor *tensor)
{
    const uint64_t bytes = strlen(tensor->name);
    const char *why;
    char name[CONTAINER_NAME_LIMIT + 8];
    bool zeros = true;

    if (bytes < 5 || strcmp(tensor->name + bytes - 5, ".bias") != 0 || tensor->rank != 1) return false;
    snprintf(name, sizeof name, "%.*s.weight", (int)(bytes - 5), tensor->name);
    const struct tensor *matrix = container_find(container, name);
    if (!matrix || !container_packed(container, matrix, &why)) return false;
    for (uint64_t at = 0, count; at < tensor->bytes && zeros; at += count) {
        uint8_t piece[4096];
        count = tensor->bytes - at < sizeof piece ? tensor->bytes - at : sizeof piece;
        zeros = container_read(container, tensor, at, piece, count, NULL) == OK;
        for (uint64_t i = 0; i < count; i++)
            zeros &= piece[i] == 0;
    }
    return zeros;
}

/* What older checkpoints of GPT-NeoX and GPT-2 have in every layer. */
static bool is_old_buffer(const char *suffix)
{
    return strcmp(suffix, "attention.rotary_emb.inv_freq") == 0 || strcmp(suffix, "attention.bias") == 0 ||
           strcmp(suffix, "attention.masked_bias") == 0 || strcmp(suffix, "attn.bias") == 0 ||
           strcmp(suffix, "attn.masked_bias") == 0;
}

/* Why a tensor without a role may be left out; NULL if it may not. */
static const char *drop_reason(
    struct container *container, const struct model_config *config, const struct tensor *tensor)
{
    uint32_t layer;
    const char *suffix = layers_suffix(config, tensor->name, &layer);

    if (strcmp(tensor->name, "model.rotary_emb.inv_freq") == 0) return "rotary table, recomputed";
    if (suffix && strcmp(suffix, "self_attn.rotary_emb.inv_freq") == 0) return "rotary table, recomputed";
    if (container_metadata(container)->count && is_rotary(tensor->name)) return "rotary factors, recomputed";
    if (suffix && config->architecture->biases && is_old_buffer(suffix))
        return "rotary table or causal mask, recomputed";
    if (config->tied && strcmp(tensor->name, tensor_name(config->architecture, ROLE_HEAD)) == 0)
        return "tied to the embedding";
    if (text_part_is_other(config, tensor->name)) return "of images; the text part is read alone";
    if (is_empty_bias(container, tensor)) return "a bias of zeros, adds nothing";
    return NULL;
}

static int compare_addresses(const void *a, const void *b)
{
    uintptr_t left = (uintptr_t) * (const struct tensor *const *)a;
    uintptr_t right = (uintptr_t) * (const struct tensor *const *)b;

    return (left > right) - (left < right);
}

/* The address of every bound tensor, sorted; NULLs first. */
static enum status list_bound(const struct tensor ***out, uint64_t *count,
    const struct model_tensors *tensors, const struct model_config *config, struct error *err)
{
    const uint64_t once = ROLE_PER_LAYER, layers = config->layers * (uint64_t)ROLE_COUNT;
    const uint64_t experts = (uint64_t)config->layers * config->experts * EXPERT_ROLES;

    *count = once + layers + experts;
    *out = memory_new(*count, sizeof **out, err);
    if (!*out) return ERR_MEMORY;
    memcpy(*out, tensors->once, once * sizeof **out);
    memcpy(*out + once, tensors->layer, layers * sizeof **out);
    if (experts) memcpy(*out + once + layers, tensors->experts, experts * sizeof **out);
    qsort(*out, *count, sizeof **out, compare_addresses);
    return OK;
}

/* Every tensor of the container is bound, or dropped for a reason, or an error. */
static enum status list_dropped(struct dropped_tensor **dropped, uint64_t *dropped_count,
    const struct tensor *const *bound, uint64_t bound_count, struct container *container,
    const struct model_config *config, struct error *err)
{
    uint64_t capacity = 0;

    for (uint64_t i = 0; i < container_count(container); i++) {
        const struct tensor *tensor = container_tensor(container, i);
        const char *why;
        enum status status;

        if (bsearch(&tensor, bound, bound_count, sizeof *bound, compare_addresses)) continue;
        why = drop_reason(container, config, tensor);
        if (!why)
            return fail(err, ERR_FORMAT, "tensor %s is not part of this %s", tensor->name,
                config->architecture->name);
        status = memory_grow(dropped, &capacity, *dropped_count + 1, sizeof **dropped, err);
        if (status) return status;
        (*dropped)[(*dropped_count)++] = (struct dropped_tensor){tensor, why};
    }
    return OK;
}

enum status layers_bind(struct model_tensors *out, struct dropped_tensor **dropped, uint64_t *dropped_count,
    struct container *container, const struct model_config *config, struct error *err)
{
    const struct tensor **bound = NULL;
    uint64_t bound_count;
    enum status status = OK;

    memset(out, 0, sizeof *out);
    *dropped = NULL;
    *dropped_count = 0;
    status = layers_split(container, config, err);
    if (status) return status;
    out->layer = memory_new(config->layers, sizeof *out->layer, err);
    if (!out->layer) status = ERR_MEMORY;
    if (!status && config->experts) {
        out->experts = memory_new((uint64_t)config->layers * config->experts, sizeof *out->experts, err);
        if (!out->experts) status = ERR_MEMORY;
    }
    if (!status) status = bind_roles(out, container, config, err);
    if (!status) status = list_bound(&bound, &bound_count, out, config, err);
    if (!status) status = list_dropped(dropped, dropped_count, bound, bound_count, container, config, err);
    memory_free(bound);
    if (!status) return OK;
    layers_release(out);
    memory_free(*dropped);
    *dropped = NULL;
    *dropped_count = 0;
    return fail_within(err, status, "%s", container_path(container));
}

uint64_t layers_routed_bytes(
    const struct model_tensors *tensors, const struct model_config *config, uint32_t layer)
{
    uint64_t bytes = 0;

    for (uint64_t i = 0; i < config->experts; i++)
        for (int which = 0; which < EXPERT_ROLES; which++)
            bytes += tensors->experts[(uint64_t)layer * config->experts + i][which]->bytes;
    return config->experts ? bytes / config->experts * config->experts_per_token : 0;
}

void layers_release(struct model_tensors *tensors)
{
    memory_free(tensors->layer);
    memory_free(tensors->experts);
    tensors->layer = NULL;
    tensors->experts = NULL;
}
