/* Trimming the vocabulary to the tokens that a text uses. */
#ifndef NIBBLE_PRUNE_TRIM_H
#define NIBBLE_PRUNE_TRIM_H

#include "model/checkpoint.h"
#include "model/config_rewrite.h"

struct trim;

/* Which tokens stay: those that the text in `path` (as a calibration text is read) is made of, and what the tokenizer needs for every text
 * (model/tokenizer/tokenizer_trim.h). ERR_USAGE: no text. ERR_UNSUPPORTED: no tokenizer, or one that cannot be trimmed. */
enum status trim_choose(
    struct trim **out, struct checkpoint *input, const char *path, struct error *err);
void trim_free(struct trim *trim);

/* New ids of the old tokens; the trim's. */
const struct config_ids *trim_ids(const struct trim *trim);

/* See only the rows that stay of the embedding and of the head, and the tokenizer without the others; *config gets the vocabulary, and
 * ids of its beginning and ends. */
enum status trim_select(
    struct checkpoint *input, const struct trim *trim, struct model_config *config, struct error *err);

#endif
