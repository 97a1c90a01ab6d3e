/* The options that decide the bytes, as names and values: for provenance, and for the stamp of a journal. */
#ifndef NIBBLE_PRUNE_PAIRS_H
#define NIBBLE_PRUNE_PAIRS_H

#include "base/option_pairs.h"
#include "prune/weights.h"

/* Those of pruning single weights. Values point into the options and into texts. ERR_MEMORY. Release with option_pairs_free, also after an
 * error. */
enum status prune_pairs_create(struct option_pairs *out, const struct weights *work, struct error *err);

#endif
