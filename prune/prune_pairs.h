/* The options that decide the bytes, as names and values: for provenance, and for the stamp of a journal. */
#ifndef NIBBLE_PRUNE_PAIRS_H
#define NIBBLE_PRUNE_PAIRS_H

#include "prune/weights.h"

struct prune_pairs {
    const char *(*list)[2]; /* [count] name, value */
    char (*texts)[64];
    uint64_t count;
};

/* Those of pruning single weights. Values point into the options and into texts. ERR_MEMORY. Release with prune_pairs_free, also after an
 * error. */
enum status prune_pairs_create(struct prune_pairs *out, const struct weights *work, struct error *err);
void prune_pairs_free(struct prune_pairs *pairs);

#endif
