/* A GGUF file as the checkpoint it was made of: the names of its tensors, their rows' order, config.json and tokenizer.json.
 *
 * The metadata say what a configuration says, in keys that begin with the architecture's name ("llama.block_count"); config.json
 * is written of them and read like any other, so every number is checked in one place. In files of "llama" the rows of q and k
 * lie with the halves of every head interleaved (ggml turns neighbours, transformers turn halves); the container hands them out
 * in their order. Norms of Gemma are stored with the 1 that they add; it is taken off. Source: ggml's GGUF specification, and what llama.cpp's converter writes. */
#ifndef NIBBLE_MODEL_GGUF_CHECKPOINT_H
#define NIBBLE_MODEL_GGUF_CHECKPOINT_H

#include "formats/container.h"

/* Change an opened GGUF container, before it is mapped: tensors get the names of model/layers.h, config.json is attached, and,
 * where the file has them, tokenizer.json, the chat template (tokenizer_config.json) and nibble's provenance.json. ERR_UNSUPPORTED: an architecture, a feature of it, rotary factors that no formula
 * here explains, a kind of tokenizer. ERR_FORMAT: a missing or impossible value. Both name the file and the key or tensor. */
enum status gguf_checkpoint(struct container *container, struct error *err);

#endif
