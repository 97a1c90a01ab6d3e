/* Tiny random Llama models (or Mixtrals), written as Hugging Face folders, so that a test can make exactly the checkpoint
 * it needs: whole, sharded, tied, or broken in one named way. The same options give the same bytes. */
#ifndef NIBBLE_TESTS_SUPPORT_TINY_MODEL_H
#define NIBBLE_TESTS_SUPPORT_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

/* What to write. Zero-initialise: every field left 0 or NULL takes the default in its comment. */
struct tiny_model {
    uint32_t hidden;     /* 64 */
    uint32_t ffn;        /* 96 */
    uint32_t layers;     /* 2 */
    uint32_t heads;      /* 4 */
    uint32_t kv_heads;   /* 2 */
    uint32_t vocabulary; /* 269: not a multiple of 8; at least 260 for a tokenizer.json to be written */
    uint32_t shards;     /* 1; above it, model-0000K-of-0000N.safetensors and an index */
    uint32_t experts;    /* 0: dense; else a Mixtral with so many of width ffn, two for each token */
    bool unused_expert;  /* no token goes to the last expert (of at least 5) */
    uint64_t seed;
    const char *dtype; /* "F32"; or "F16", "BF16" */
    bool tied;         /* the head is the embedding: no lm_head.weight */
    bool under_head;   /* with tied: stored as lm_head.weight only, the embedding's name an alias in
                          __metadata__ */
    bool spaces;       /* the tokenizer replaces spaces by U+2581: one that GGUF knows */

    /* Faults. Each names one tensor of the model, but for `extra`. */
    const char *omit;    /* not written */
    const char *extra;   /* written although no Llama has it; [hidden] */
    const char *rank3;   /* written as [1, rows, cols] */
    const char *integer; /* written as I8 */
    const char *poison;  /* the element number poison_at becomes poison_value */
    uint64_t poison_at;
    float poison_value; /* NaN, an infinity, something huge */
};

/* Create the folder (its parent must exist) with config.json, tokenizer.json and the weights, or end the
 * program. Weights are normal with standard deviation about 0.05, norms lie near 1. */
void tiny_model_write(const char *folder, const struct tiny_model *options);

/* The same under `name` in the test's latest folder; returns the path, which lives as long as the program. */
const char *tiny_model_folder(const char *name, struct tiny_model options);

#endif
