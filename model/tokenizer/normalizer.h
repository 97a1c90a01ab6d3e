/* The normalizer: steps that rewrite a text before it is split. */
#ifndef NIBBLE_MODEL_NORMALIZER_H
#define NIBBLE_MODEL_NORMALIZER_H

#include "base/json.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/text.h"

/* A text on its way through the steps. */
struct normal_text {
    const char *text; /* in and out: well-formed UTF-8, in the caller's memory or in one of the buffers */
    uint64_t bytes;
    uint64_t
        first; /* in and out: so many of its bytes are made of the very first character of the whole input */
    struct text buffers[2];
    unsigned holder; /* private: which buffer not to write to */
};

void normal_text_free(struct normal_text *text);

struct normalizer;

/* Read the "normalizer" section; NULL or null: nothing is changed. ERR_UNSUPPORTED: a type that is not known. */
enum status normalizer_create(struct normalizer **out, const struct json_value *section, struct error *err);
void normalizer_free(struct normalizer *normalizer);

/* Run all steps. */
enum status normalizer_apply(const struct normalizer *normalizer, struct pattern_scratch *scratch,
    struct normal_text *text, struct error *err);

#endif
