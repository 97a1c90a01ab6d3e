/* What GGUF files call tensors. */
#ifndef NIBBLE_MODEL_GGUF_NAMES_H
#define NIBBLE_MODEL_GGUF_NAMES_H

#include "model/layers.h"

/* The role and the layer that a GGUF tensor's name stands for: "blk.3.attn_q.weight" is ROLE_Q of layer 3, and
 * "blk.3.ffn_up_exps.weight" ROLE_EXPERT_UP of all experts. False for every other name; *layer is 0 for what exists once. */
bool gguf_names_role(const char *name, enum role *role, uint32_t *layer);

/* That name in files of an architecture (gate, up and down of a shared expert have names of their own): out [out_bytes], at
 * least 64. Returns out. */
char *gguf_names_write(
    char *out, uint64_t out_bytes, const struct architecture *architecture, enum role role, uint32_t layer);

/* The fused matrix that a GGUF tensor of the architecture is ("blk.3.attn_qkv.weight"), or NULL. What GGUF also uses as the name of
 * a single part is one only in a file that has no tensor of the fused matrix' first part. */
const struct fused_rows *gguf_names_fused(const struct container *container,
    const struct architecture *architecture, const char *name, uint32_t *layer);

/* The first role of a fused matrix that has a name of its own in GGUF: "blk.3.attn_qkv.weight" is ROLE_Q of layer 3. */
bool gguf_names_fused_role(const char *name, enum role *role, uint32_t *layer);

/* The name of that matrix in a layer: out [out_bytes], at least 64. Returns out. */
char *gguf_names_write_fused(char *out, uint64_t out_bytes, const struct fused_rows *fused, uint32_t layer);

/* The tensor of a role under its GGUF name, or NULL. */
const struct tensor *gguf_names_find(const struct container *container,
    const struct architecture *architecture, enum role role, uint32_t layer);

#endif
