/* See gguf_names.h. */
#include "model/gguf/gguf_names.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LAYER_PREFIX "blk."

/* Whole for what exists once, else what follows "blk.N.". */
static const char *const names[ROLE_COUNT] = {
    [ROLE_EMBEDDING] = "token_embd.weight",
    [ROLE_POSITIONS] = "position_embd.weight",
    [ROLE_HEAD] = "output.weight",
    [ROLE_FINAL_NORM] = "output_norm.weight",
    [ROLE_FINAL_NORM_BIAS] = "output_norm.bias",
    [ROLE_ATTENTION_NORM] = "attn_norm.weight",
    [ROLE_ATTENTION_NORM_BIAS] = "attn_norm.bias",
    [ROLE_Q] = "attn_q.weight",
    [ROLE_K] = "attn_k.weight",
    [ROLE_V] = "attn_v.weight",
    [ROLE_O] = "attn_output.weight",
    [ROLE_Q_BIAS] = "attn_q.bias",
    [ROLE_K_BIAS] = "attn_k.bias",
    [ROLE_V_BIAS] = "attn_v.bias",
    [ROLE_O_BIAS] = "attn_output.bias",
    [ROLE_Q_NORM] = "attn_q_norm.weight",
    [ROLE_K_NORM] = "attn_k_norm.weight",
    [ROLE_ATTENTION_POST_NORM] = "post_attention_norm.weight",
    [ROLE_MLP_NORM] = "ffn_norm.weight",
    [ROLE_MLP_NORM_BIAS] = "ffn_norm.bias",
    [ROLE_GATE] = "ffn_gate.weight",
    [ROLE_UP] = "ffn_up.weight",
    [ROLE_DOWN] = "ffn_down.weight",
    [ROLE_GATE_BIAS] = "ffn_gate.bias",
    [ROLE_UP_BIAS] = "ffn_up.bias",
    [ROLE_DOWN_BIAS] = "ffn_down.bias",
    [ROLE_MLP_POST_NORM] = "post_ffw_norm.weight",
    [ROLE_ROUTER] = "ffn_gate_inp.weight",
    [ROLE_SHARED_ROUTER] = "ffn_gate_inp_shexp.weight",
    [ROLE_EXPERT_GATE] = "ffn_gate_exps.weight", /* of all experts, one below the other */
    [ROLE_EXPERT_UP] = "ffn_up_exps.weight",
    [ROLE_EXPERT_DOWN] = "ffn_down_exps.weight",
};

/* Of the shared expert. */
static const char *const shared_names[ROLE_COUNT] = {
    [ROLE_GATE] = "ffn_gate_shexp.weight",
    [ROLE_UP] = "ffn_up_shexp.weight",
    [ROLE_DOWN] = "ffn_down_shexp.weight",
};

/* What follows "blk.N." with N a plain decimal number below CONFIG_LAYER_LIMIT; NULL if the name has no such start. */
static const char *after_layer(const char *name, uint32_t *layer)
{
    const size_t prefix = strlen(LAYER_PREFIX);
    const char *digit = name + prefix;

    *layer = 0;
    if (strncmp(name, LAYER_PREFIX, prefix) != 0) return NULL;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        if (digit > name + prefix && *layer == 0) return NULL; /* a leading zero */
        *layer = *layer * 10 + (uint32_t)(*digit - '0');
        if (*layer >= CONFIG_LAYER_LIMIT) return NULL;
    }
    return digit > name + prefix && *digit == '.' ? digit + 1 : NULL;
}

bool gguf_names_role(const char *name, enum role *role, uint32_t *layer)
{
    const char *suffix = after_layer(name, layer);

    for (int i = suffix ? ROLE_PER_LAYER : 0; i < (suffix ? ROLE_COUNT : ROLE_PER_LAYER); i++) {
        const char *wanted = suffix ? suffix : name;
        *role = (enum role)i;
        if (names[i] && strcmp(wanted, names[i]) == 0) return true;
        if (shared_names[i] && strcmp(wanted, shared_names[i]) == 0) return true;
    }
    return false;
}

char *gguf_names_write(
    char *out, uint64_t out_bytes, const struct architecture *architecture, enum role role, uint32_t layer)
{
    const char *name = architecture->shared_expert && shared_names[role] ? shared_names[role] : names[role];

    if (role < ROLE_PER_LAYER)
        snprintf(out, out_bytes, "%s", name);
    else
        snprintf(out, out_bytes, LAYER_PREFIX "%" PRIu32 ".%s", layer, name);
    return out;
}

bool gguf_names_fused_role(const char *name, enum role *role, uint32_t *layer)
{
    const char *suffix = after_layer(name, layer);

    *role = ROLE_Q;
    return suffix && strcmp(suffix, "attn_qkv.weight") == 0;
}

char *gguf_names_write_fused(char *out, uint64_t out_bytes, const struct fused_rows *fused, uint32_t layer)
{
    snprintf(out, out_bytes, LAYER_PREFIX "%" PRIu32 ".%s", layer, fused->gguf);
    return out;
}

const struct tensor *gguf_names_find(const struct container *container,
    const struct architecture *architecture, enum role role, uint32_t layer)
{
    char name[64];

    return container_find(container, gguf_names_write(name, sizeof name, architecture, role, layer));
}

const struct fused_rows *gguf_names_fused(const struct container *container,
    const struct architecture *architecture, const char *name, uint32_t *layer)
{
    const char *suffix = after_layer(name, layer);

    for (unsigned i = 0; suffix && i < architecture->fused_count; i++) {
        const struct fused_rows *fused = &architecture->fused[i];
        if (fused->gguf && strcmp(suffix, fused->gguf) == 0 &&
            !gguf_names_find(container, architecture, fused->parts[0], *layer))
            return fused;
    }
    return NULL;
}
