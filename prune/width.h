/* Which heads and which feed-forward channels of every layer stay. */
#ifndef NIBBLE_PRUNE_WIDTH_H
#define NIBBLE_PRUNE_WIDTH_H

#include "prune/channels.h"
#include "prune/prune_settings.h"

/* Feed-forward channels go so many at a time, so that what is left divides into groups and blocks of 32. */
#define WIDTH_CHANNELS 32

/* What stays of a layer: numbers in ascending order. A group is a key and value head with the query heads that share it. */
struct width_layer {
    uint64_t *groups, *channels; /* [group_count], [channel_count]; owned */
    uint32_t group_count, channel_count;
    float *bias[CHANNEL_PARTS]; /* [hidden] of o and down, what they add now (narrow_means); owned, or NULL */
};

struct width {
    struct width_layer *layers; /* [count] owned */
    uint32_t count;
};

struct width_options {
    enum prune_score score; /* SCORE_FLAP or SCORE_ACTIVATION */
    double sparsity;        /* share of the weights of the parts that may go */
    bool heads, ffn;        /* the parts; heads are whole groups */
    bool uniform;           /* as many in every layer */
};

/* Score every group and channel and take the lowest away until `sparsity` of their weights are gone; at least one group and WIDTH_CHANNELS
 * channels of a layer stay (all channels where there are fewer).
 *   SCORE_FLAP        variance of the input times the squared norm of the column: what the variance of the matrix's output loses with it; a
 *                     group's is the sum over its channels (An et al., arXiv 2312.11983, section 3)
 *   SCORE_ACTIVATION  of groups the root of the mean squared norm of what they give, of channels the mean |x| (Muralidharan et al.,
 *                     Minitron, arXiv 2407.14679, section 2.2)
 * A score counts as its share of all scores of its part in its layer. Layer by layer one threshold holds for groups and for channels, WIDTH_CHANNELS
 * at a time: the share that is lost per weight that goes; uniform, every layer loses as many groups and as many channels. (FLAP
 * standardises scores in place of shares: docs/methods/structured-pruning.md measures both.)
 * ERR_USAGE: nothing would go. ERR_NUMERIC: a score is not finite. Release with width_free, also after an error. */
enum status width_choose(struct width *out, const struct channel_table *table,
    const struct model_config *config, const struct width_options *options, struct error *err);
void width_free(struct width *width);

/* Weights of a group and of a channel, with the rows and columns of all matrices that have them. */
uint64_t width_group_weights(const struct model_config *config);
uint64_t width_channel_weights(const struct model_config *config);

#endif
