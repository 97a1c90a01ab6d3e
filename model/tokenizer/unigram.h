/* The model: a unigram language model (Kudo 2018, arXiv:1804.10959) of pieces with log-probabilities. Of all ways to cut a word
 * into pieces the most probable is taken (Viterbi), as the `tokenizers` library does it: sums in double precision from left to
 * right, of two equal sums the one found first, that is with the longer last piece. Where sums are equal but for rounding ("!!!!!!!")
 * sentencepiece sometimes takes another. */
#ifndef NIBBLE_MODEL_TOKENIZER_UNIGRAM_H
#define NIBBLE_MODEL_TOKENIZER_UNIGRAM_H

#include "base/json.h"
#include "model/tokenizer/id_list.h"
#include "model/tokenizer/piece_trie.h"

/* Zero-initialise. Read-only once read. */
struct unigram {
    const struct vocabulary *vocabulary;
    struct piece_trie trie;
    double *scores; /* [vocabulary->model_count] */
    uint64_t score_capacity;
    double unknown_score;      /* of a character without a piece: the lowest score - 10 */
    uint32_t unknown;          /* unk_id's entry; NO_ENTRY if there is no unk_id */
    uint32_t byte_tokens[256]; /* <0x00> .. <0xFF>; NO_ENTRY where there is none */
    bool byte_fallback;
};

/* Read the "model" section of tokenizer.json; the tokens go to `vocabulary`, which must be empty and outlive the model.
 * ERR_FORMAT: a vocabulary that is no list of [text, number], an unk_id that it lacks. ERR_UNSUPPORTED: a piece of more than
 * 1024 bytes. */
enum status unigram_read(struct unigram *unigram, struct vocabulary *vocabulary,
    const struct json_text *section, struct error *err);
void unigram_free(struct unigram *unigram);

/* What encoding needs to write to; one per thread at a time. Zero-initialise; release with unigram_scratch_free. */
struct unigram_scratch {
    struct unigram_node *nodes; /* private: the best way to each place since `base` */
    uint64_t capacity;
    uint32_t *path; /* private: tokens, and where they end, from right to left */
    uint64_t path_capacity;
};

void unigram_scratch_free(struct unigram_scratch *scratch);

/* Append the ids of one word (well-formed UTF-8, below TEXT_LIMIT bytes). Characters without a piece, as many as stand side by
 * side, become byte tokens or one unk_id. ERR_FORMAT: there is such a character, and the model has no unk_id. */
enum status unigram_encode(const struct unigram *unigram, struct unigram_scratch *scratch, const char *word,
    uint64_t bytes, struct id_list *out, struct error *err);

#endif
