/* How many bytes generating one token has to read: what memory bandwidth is spent on. */
#ifndef NIBBLE_RUNTIME_CHECK_TRAFFIC_H
#define NIBBLE_RUNTIME_CHECK_TRAFFIC_H

#include "model/forward.h"

/* Bytes per generated token, one sequence. */
struct traffic {
    uint64_t
        weights; /* every tensor of every layer, final norm and head once (a tied head too), and one row of the embedding */
    double cache; /* keys and values of the positions that attention sees, the new one included; a mean */
};

/* For `tokens` (at least 1) tokens generated one by one after `past` others.
 *   cache_bytes  of one token in all layers (session_cache_bytes_per_token) */
struct traffic traffic_per_token(
    const struct model *model, uint64_t cache_bytes, uint64_t past, uint64_t tokens);

#endif
