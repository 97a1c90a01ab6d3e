/* What the normalizer and the pre-tokenizer of a tokenizer.json come to in GGUF's terms: byte-level BPE with patterns that cut the
 * text, or SentencePiece's pieces with U+2581 for a space. */
#ifndef NIBBLE_MODEL_TOKENIZER_GGUF_SHAPE_H
#define NIBBLE_MODEL_TOKENIZER_GGUF_SHAPE_H

#include "model/tokenizer/gguf_pre.h"

struct gguf_shape {
    bool byte_level; /* else pieces */

    struct json_text patterns[GGUF_PRE_PATTERNS]; /* [count] in the document, or static */
    uint64_t count;
    bool nfc;

    struct json_text
        charsmap; /* pieces: base64 of the table that rewrites characters first (charsmap.h); empty: none */
    bool longest; /* and how it is followed */
    bool strip_spaces; /* pieces: runs of spaces become one, those around the text none */
    bool prefix_space; /* pieces: a space goes before the text */
    bool metaspace;    /* not after an added token and not before a space (Metaspace); else always */
    bool split;        /* the text is cut before every space */
};

/* The values are the sections of tokenizer.json; NULL where it has none. ERR_UNSUPPORTED, naming section and step: what GGUF has
 * no name for. ERR_FORMAT: a step that lacks a member. */
enum status gguf_shape_read(struct gguf_shape *out, const struct json_value *normalizer,
    const struct json_value *pre_tokenizer, struct error *err);

#endif
