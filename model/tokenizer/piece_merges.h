/* The merges of a SentencePiece vocabulary, which has none: it joins whatever gives the piece of the highest score. */
#ifndef NIBBLE_MODEL_TOKENIZER_PIECE_MERGES_H
#define NIBBLE_MODEL_TOKENIZER_PIECE_MERGES_H

#include "model/tokenizer/token_list.h"

struct piece_merge {
    uint32_t left, right;             /* ids of the halves */
    uint32_t left_chars, right_chars; /* characters of them */
    uint32_t piece;                   /* id of the whole */
    float score;                      /* of the whole */
};

/* Every way to cut a piece (normal or user-defined) into two such pieces, ordered as transformers' converter orders them: by
 * falling score of the whole, falling length of the left half, then the right one, and rising id.
 *   out  [count]  owner: the caller, memory_free
 * ERR_UNSUPPORTED: a piece of more than 1024 bytes. An entry of the vocabulary is an "id" here. */
enum status piece_merges_derive(
    struct piece_merge **out, uint64_t *count, const struct token_list *tokens, struct error *err);

#endif
