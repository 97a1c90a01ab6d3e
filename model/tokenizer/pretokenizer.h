/* The pre-tokenizer: steps that cut a text into words, and may rewrite them. Nothing is collected: each piece goes through
 * all further steps and to the caller before the next one is cut, so that memory does not grow with the text. */
#ifndef NIBBLE_MODEL_PRETOKENIZER_H
#define NIBBLE_MODEL_PRETOKENIZER_H

#include "base/json.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/text.h"

/* A part of the text; never empty when a sink gets it. */
struct piece {
    const char *text; /* well-formed UTF-8; valid until the sink returns */
    uint64_t bytes;
    uint64_t first; /* so many of its bytes are made of the very first character of the whole input */
};

typedef enum status (*piece_sink)(void *context, const struct piece *piece, struct error *err);

struct pretokenizer;

/* Read the "pre_tokenizer" section; NULL or null: texts stay whole. ERR_UNSUPPORTED: a type that is not known. */
enum status pretokenizer_create(
    struct pretokenizer **out, const struct json_value *section, struct error *err);
void pretokenizer_free(struct pretokenizer *pretokenizer);

/* What running needs to write to; one per thread at a time. No piece may grow beyond `limit` bytes. */
struct pretokenizer_scratch;
enum status pretokenizer_scratch_create(struct pretokenizer_scratch **out, uint64_t limit, struct error *err);
void pretokenizer_scratch_free(struct pretokenizer_scratch *scratch);

/* Cut a text and hand the pieces to `sink` in order. */
enum status pretokenizer_run(const struct pretokenizer *pretokenizer, struct pretokenizer_scratch *scratch,
    struct pattern_scratch *patterns, const struct piece *text, piece_sink sink, void *context,
    struct error *err);

#endif
