/* The post-processor: the tokens put around a text, BOS and the like. */
#ifndef NIBBLE_MODEL_POSTPROCESSOR_H
#define NIBBLE_MODEL_POSTPROCESSOR_H

#include "base/json.h"
#include "model/tokenizer/id_list.h"
#include "model/tokenizer/vocabulary.h"

/* Zero-initialise. */
struct postprocessor {
    struct id_list before, after;
};

/* Read the "post_processor" section; NULL or null: nothing is put around. ERR_UNSUPPORTED: a type that is not known, or a
 * template that does not have the text exactly once. ERR_FORMAT: an id without a token. */
enum status postprocessor_read(struct postprocessor *postprocessor, const struct vocabulary *vocabulary,
    const struct json_value *section, struct error *err);
void postprocessor_free(struct postprocessor *postprocessor);

#endif
