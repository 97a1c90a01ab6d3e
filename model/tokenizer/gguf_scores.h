/* Whether a BPE model of tokenizer.json comes to the same in llama.cpp, and the scores by which it does. The reasoning is
 * in gguf_tokenizer_export.h. */
#ifndef NIBBLE_MODEL_TOKENIZER_GGUF_SCORES_H
#define NIBBLE_MODEL_TOKENIZER_GGUF_SCORES_H

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"

/* Scores of pieces: 0, -1, -2 ... in the order in which merges make them, then the pieces that no merge makes, by id; 0 for
 * byte tokens and added tokens.
 *   scores  [rows]  out, by id
 *   split   in: texts are cut before every U+2581
 * ERR_UNSUPPORTED: a piece that scores would join and merges do not, by name. */
enum status gguf_scores_make(float *scores, const struct bpe *bpe, const struct added_tokens *added,
    bool split, uint64_t rows, struct error *err);

/* True if a character without a token becomes tokens of its bytes, whatever they are. */
bool gguf_scores_have_bytes(const struct bpe *bpe);

/* Byte-level BPE needs no scores. ERR_UNSUPPORTED: byte_fallback; an unk_token that might be needed; or, where the file's readers
 * take whole words and tokenizer.json does not or the other way round (`whole_words`), a token that merges do not make. */
enum status gguf_scores_check_byte_level(
    const struct bpe *bpe, const struct added_tokens *added, bool whole_words, struct error *err);

#endif
