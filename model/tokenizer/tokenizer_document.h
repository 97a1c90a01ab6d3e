/* Writing a tokenizer.json: what other files say of a tokenizer, as one document in the sections that model/tokenizer reads.
 * GGUF metadata, SentencePiece models and vocab.json with merges.txt each fill in one of these. */
#ifndef NIBBLE_MODEL_TOKENIZER_TOKENIZER_DOCUMENT_H
#define NIBBLE_MODEL_TOKENIZER_TOKENIZER_DOCUMENT_H

#include "base/json.h"
#include "model/tokenizer/gguf_pre.h"
#include "model/tokenizer/token_list.h"

/* A token that is meant: the number of its entry. */
struct document_token {
    bool there;
    uint64_t entry;
};

/* Zero-initialise; release with tokenizer_document_free. */
struct tokenizer_document {
    struct token_list tokens;

    /* Byte-level BPE. NULL: pieces of SentencePiece, whose merges follow from the scores (piece_merges.h), or whose scores
     * are log-probabilities (unigram). */
    const struct gguf_pre *pre;
    struct json_text *merges; /* [merge_count] "left right"; texts are somebody else's, the list is ours */
    uint64_t merge_count;

    struct document_token before, after; /* go around a text */
    struct document_token unknown;       /* pieces: for characters without a token */
    bool prefix_space;                   /* pieces: a space goes before the text */
    bool strip_spaces;                   /* pieces: runs of spaces become one, those around the text none */
    bool plain_spaces;                   /* pieces: a space is a space, else U+2581 */
    bool unigram;                        /* pieces */
    const uint8_t
        *charsmap; /* [charsmap_bytes] pieces: rewrites characters first (charsmap.h); NULL: nothing does.
                                            Somebody else's */
    uint64_t charsmap_bytes;
};

/* Write the document. Owner of *text: the caller, memory_free. ERR_UNSUPPORTED: a piece of more than 1024 bytes. */
enum status tokenizer_document_write(
    char **text, uint64_t *bytes, const struct tokenizer_document *document, struct error *err);
void tokenizer_document_free(struct tokenizer_document *document);

#endif
