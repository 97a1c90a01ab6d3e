/* A checkpoint as a GGUF file: the mirror of model/gguf/gguf_checkpoint.h. What config.json, tokenizer.json and the chat template of
 * tokenizer_config.json say becomes keys; tensors get GGUF's names, in files of "llama" the rows of q and k their order there, Gemma's norms
 * the 1 that they add, and the parts of fused matrices (Phi-3) become one.
 * Source: ggml's GGUF specification, and what llama.cpp's converter writes. */
#ifndef NIBBLE_MODEL_GGUF_EXPORT_H
#define NIBBLE_MODEL_GGUF_EXPORT_H

#include "formats/gguf/gguf_types.h"
#include "formats/writer.h"
#include "model/checkpoint.h"

/* Make the writer (formats/gguf/gguf_writer.h) for tensors that have the names of `input`, which must outlive it.
 *   file_type  what general.file_type says if it agrees with the tensors; GGUF_TYPES_FILE_ANY: what the source says, if that does
 *   report     takes notes: what llama.cpp will do otherwise, end-of-sequence ids beyond the three that GGUF has room for
 *
 * A source that is a GGUF file itself hands over every key that is not written here anew (the tokenizer's as they are, general.*),
 * but for split.* and general.alignment. ERR_UNSUPPORTED names what has no place in GGUF: an architecture, a sliding window
 * where GGUF's architecture has none, rope_type dynamic, what its readers assume otherwise (query_pre_attn_scalar, no soft caps, layers that slide without a period, a tied or untied head), parameters of yarn other than the defaults, a tokenizer that model/tokenizer/gguf_tokenizer_export.h does not know. */
enum status gguf_export_create(struct writer **out, const struct checkpoint *input, const char *path,
    bool force, uint64_t split_bytes, uint32_t file_type, const struct report *report, struct error *err);

/* Change what a tensor is to become into what llama.cpp reads: vectors are F32; tiles that are exactly blocks (symmetric, 4, 5 or 8
 * bits, groups of a multiple of 32) are those blocks, Q4_0, Q5_0 or Q8_0. ERR_UNSUPPORTED: other tiles. */
enum status gguf_export_target(struct tensor *target, const struct model_config *config, struct error *err);

#endif
