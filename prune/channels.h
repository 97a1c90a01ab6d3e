/* What the inputs of o and of down are like on the calibration text, channel by channel, and the weights they meet. */
#ifndef NIBBLE_PRUNE_CHANNELS_H
#define NIBBLE_PRUNE_CHANNELS_H

#include "base/report.h"
#include "base/threads.h"
#include "model/calibration.h"
#include "model/checkpoint.h"

/* The channels of one matrix: its input's means over all tokens, and its own columns. */
struct channels {
    uint64_t count;
    double *mean, *absolute, *square; /* [count] of x, |x|, x^2 */
    double *weight;                   /* [count] sum of the squares of the column */
};

enum channel_part { CHANNELS_HEADS, CHANNELS_FFN, CHANNEL_PARTS }; /* inputs of o, of down */

struct channel_table {
    struct channels (*layers)[CHANNEL_PARTS]; /* [count] owned */
    uint32_t count;
};

/* One walk through the model as it is. States are kept in memory up to 512 MB (within memory_limit, 0: none), else in a nameless file in
 * `folder`. The same bits for any number of workers. ERR_UNSUPPORTED: experts. ERR_MEMORY: more than the limit is needed, the text says
 * how much. Else as layer_load and walk_to. Release with channels_free, also after an error. */
enum status channels_observe(struct channel_table *out, struct checkpoint *input,
    const struct calibration *calibration, const char *folder, uint64_t memory_limit, struct pool *pool,
    const struct report *report, struct error *err);
void channels_free(struct channel_table *table);

#endif
