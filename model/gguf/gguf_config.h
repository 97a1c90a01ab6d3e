/* config.json of a GGUF file's metadata. */
#ifndef NIBBLE_MODEL_GGUF_CONFIG_H
#define NIBBLE_MODEL_GGUF_CONFIG_H

#include "formats/container.h"
#include "model/layers.h"

/* Whether a model of an architecture has a head of its own or its embedding for it. */
enum gguf_head { GGUF_HEAD_EITHER, GGUF_HEAD_OWN, GGUF_HEAD_TIED };

/* One architecture as GGUF knows it. */
struct gguf_family {
    const char *name, *architecture; /* "llama", "LlamaForCausalLM" */
    const char *sliding; /* the architecture where there is a sliding window; NULL: such files are refused */
    bool interleaved;    /* rows of q and k lie with the halves of every head interleaved */
    uint64_t scalar_layers; /* Gemma: with so many layers, scores are divided by the root of hidden / heads */
    bool window_assumed;    /* Gemma 2: without a sliding window it has the usual one */
    bool longrope;          /* Phi-3: rope.scaling.attn_factor belongs to its LongRoPE */
    bool output_bias;       /* o may have a bias in llama.cpp */
    enum gguf_head head;    /* what llama.cpp's reader takes */
    bool window_ignored;    /* llama.cpp runs such files without their sliding window */
    bool experts;           /* mixtures of experts: files that count some */
    bool normed_routing; /* the weights of a token's experts are made to sum to 1, which files do not say */
};

/* The family of an architecture of this project; NULL if GGUF has no name for it here. */
const struct gguf_family *gguf_config_family(const struct architecture *architecture);

/* What else follows from the metadata. */
struct gguf_config {
    const struct architecture *architecture;
    bool interleaved;   /* rows of q and k lie with the halves of every head interleaved */
    uint64_t head_size; /* 0 where it is not known: config_parse will say what is wrong */
    uint64_t vocabulary;
};

/* Write config.json of the metadata of a container whose tensors still have their GGUF names.
 *   text, bytes  out: owner: the caller, memory_free
 * Errors as in gguf_checkpoint.h; they name the key, the caller adds the file. */
enum status gguf_config_write(
    char **text, uint64_t *bytes, struct gguf_config *out, struct container *container, struct error *err);

#endif
