/* The tokenizer of a model as the metadata of a GGUF file: gguf_tokenizer.h's way back.
 *
 * "llama" (SentencePiece): pieces with scores. llama.cpp joins, of all neighbours that together are a piece, those with the highest
 * score; tokenizer.json has ranked merges. The two come to the same for every text if and only if no piece is left in two by the
 * merges, and scores fall as the ranks of the last merges rise: cut off from its neighbours, a piece is always made in the same
 * order, so only its last merge is ever used, and a missing one only shows where a piece stays in two. That is what is checked
 * here, piece by piece, and what the scores are made of. "t5" (unigram): pieces and log-probabilities as they are. "gpt2" (byte-level): tokens and merges as they are; the pattern must be
 * one that tokenizer.ggml.pre has a name for (gguf_pre.h). */
#ifndef NIBBLE_MODEL_TOKENIZER_GGUF_TOKENIZER_EXPORT_H
#define NIBBLE_MODEL_TOKENIZER_GGUF_TOKENIZER_EXPORT_H

#include "formats/container.h"
#include "formats/metadata_builder.h"

enum { GGUF_TOKENIZER_NOTE = 600 };

/* Add the keys tokenizer.ggml.* (chat template not among them) of the container's tokenizer.json; "none" where it has no
 * tokenizer. Ids that the post-processor does not tell are taken from tokenizer_config.json, special_tokens_map.json and
 * config.json, in this order.
 *   rows  in: of the embedding. So many tokens are written; those that the tokenizer lacks are [PAD<id>], unused. 0: as many
 *             as the tokenizer has
 *   note  out: "", or one line: where llama.cpp will cut texts otherwise than tokenizer.json does
 * ERR_UNSUPPORTED: what GGUF cannot say: a step, a pattern without a name, merges that scores cannot stand for, more tokens
 * than rows; names what, and what can be done. ERR_FORMAT: a damaged document, by name. */
enum status gguf_tokenizer_export(struct metadata_builder *builder, struct container *container,
    uint64_t rows, char note[GGUF_TOKENIZER_NOTE], struct error *err);

#endif
