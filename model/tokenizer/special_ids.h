/* The ids of BOS, EOS, unknown and padding, from the documents beside a tokenizer.json. */
#ifndef NIBBLE_MODEL_TOKENIZER_SPECIAL_IDS_H
#define NIBBLE_MODEL_TOKENIZER_SPECIAL_IDS_H

#include "formats/container.h"
#include "model/tokenizer/vocabulary.h"

enum special { SPECIAL_BOS, SPECIAL_EOS, SPECIAL_UNKNOWN, SPECIAL_PADDING, SPECIAL_COUNT };

struct special_ids {
    int64_t id[SPECIAL_COUNT]; /* -1: no document tells */
};

/* From tokenizer_config.json and special_tokens_map.json, which name tokens ("bos_token"; one that is no token of the
 * vocabulary counts for nothing), then from config.json, which has numbers ("bos_token_id"; of a list the first). The first
 * that tells counts. ERR_FORMAT: a document that is no JSON, by name. */
enum status special_ids_read(struct special_ids *out, const struct vocabulary *vocabulary,
    struct container *container, struct error *err);

#endif
