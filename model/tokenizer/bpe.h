/* The model: byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909) over the characters of a word, as the
 * `tokenizers` library does it. */
#ifndef NIBBLE_MODEL_BPE_H
#define NIBBLE_MODEL_BPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "model/tokenizer/id_list.h"
#include "model/tokenizer/vocabulary.h"

/* One merge: two tokens that become a third. Tokens are entries of the vocabulary. An empty slot has left == NO_ENTRY. */
struct bpe_merge {
    uint32_t left, right, rank, product;
};

enum { BPE_DIRECT = 512 };

/* Zero-initialise. Read-only once read. */
struct bpe {
    const struct vocabulary *vocabulary;
    struct bpe_merge *merges; /* hash table by (left, right) */
    uint64_t merge_slots;
    uint32_t direct[BPE_DIRECT]; /* the token of a code point, for the first few */
    uint32_t byte_tokens[256];   /* <0x00> .. <0xFF>; NO_ENTRY where there is none */
    uint32_t unknown;            /* unk_token's entry; NO_ENTRY if the vocabulary lacks it */
    char *unknown_text;          /* NULL: there is no unk_token */
    bool fuse_unknown, byte_fallback, ignore_merges;
    /* Pairs of neighbouring characters (or bytes) that some merge may ever join: a word falls apart between all others,
     * so that texts without a pre-tokenizer are not one word of a gigabyte. NULL: any pair may join. */
    uint64_t *joints; /* hash table of left << 32 | right, plus 1; 0 is empty */
    uint64_t joint_slots;
};

/* Read the "model" section of tokenizer.json; the tokens go to `vocabulary`, which must be empty and outlive the model.
 * ERR_UNSUPPORTED: another model than BPE, or an option that this version lacks. */
enum status bpe_read(
    struct bpe *bpe, struct vocabulary *vocabulary, const struct json_text *section, struct error *err);
void bpe_free(struct bpe *bpe);

/* The merge of two tokens, or NULL. */
const struct bpe_merge *bpe_find_merge(const struct bpe *bpe, uint32_t left, uint32_t right);

/* What encoding needs to write to; one per thread at a time. `text_bytes` sizes a cache of words. */
struct bpe_scratch;
enum status bpe_scratch_create(struct bpe_scratch **out, uint64_t text_bytes, struct error *err);
void bpe_scratch_free(struct bpe_scratch *scratch);

/* Append the ids of one word (well-formed UTF-8, below TEXT_LIMIT bytes). Characters without a token become byte tokens
 * or unk_token, or are left out where the model has neither. ERR_FORMAT: unk_token is needed but not in the vocabulary. */
enum status bpe_encode(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, uint64_t bytes,
    struct id_list *out, struct error *err);

/* How merges alone (not ignore_merges) make a word of its characters.
 *   symbols  out: what is left when no merge applies any more; a character without a token counts as one symbol
 *   rank     out: of the last merge; without meaning where there was none
 * Word and errors as for bpe_encode. */
enum status bpe_trace(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, uint64_t bytes,
    uint64_t *symbols, uint32_t *rank, struct error *err);

#endif
