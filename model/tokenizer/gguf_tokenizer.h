/* tokenizer.json of a GGUF file's metadata: what the same model's tokenizer.json says, as far as it decides ids and texts.
 *
 * tokenizer.ggml.model "llama" is SentencePiece's BPE: pieces with scores, bytes as <0xNN>; its merges are derived from the
 * scores (gguf_merges.h). "gpt2" is byte-level BPE: tokens and merges; what cuts text into words is known by a name,
 * tokenizer.ggml.pre. "t5" is SentencePiece's unigram, with its table of character rewrites. Control and user-defined tokens become added tokens. Source: ggml's GGUF specification; the patterns are
 * those of the models' own tokenizer.json, "default" is llama.cpp's. */
#ifndef NIBBLE_MODEL_TOKENIZER_GGUF_TOKENIZER_H
#define NIBBLE_MODEL_TOKENIZER_GGUF_TOKENIZER_H

#include "formats/metadata.h"

/* *text is NULL where the metadata have no tokenizer. Owner of *text: the caller, memory_free. ERR_UNSUPPORTED: a model or a
 * pre-tokenizer that is not known, by name. ERR_FORMAT: lists of different lengths, a token that is no UTF-8 or there twice, a
 * type or score that is none, an id without a token; errors name the key. */
enum status gguf_tokenizer_write(
    char **text, uint64_t *bytes, const struct metadata *metadata, struct error *err);

#endif
