/* Which decoder layers go: by number, by what they do to the residual stream, or by what the model is without them (sleb.h). */
#ifndef NIBBLE_PRUNE_DEPTH_H
#define NIBBLE_PRUNE_DEPTH_H

#include "model/calibration.h"
#include "model/forward.h"
#include "prune/prune_settings.h"

/* The layers of a model; all stay to begin with. */
struct depth {
    uint32_t layers;               /* of the input */
    bool gone[CONFIG_LAYER_LIMIT]; /* [layers] */
    double score
        [CONFIG_LAYER_LIMIT]; /* [layers] what the method made of each; of angular: of the span that begins there */
    uint32_t dropped;
};

/* "21-29" or "3,5,8-10", counted from 0. ERR_USAGE: no such list, a layer that is not there or is named twice, all layers. */
enum status depth_parse(struct depth *out, const char *list, uint32_t layers, struct error *err);

/* As many layers as the share comes nearest to, at least 1, at most all but 1. ERR_USAGE: a model of one layer. */
enum status depth_count(uint32_t *out, double sparsity, uint32_t layers, struct error *err);

/* What layers do to the residual stream on the calibration text, and the `count` layers that go.
 *   SCORE_INFLUENCE  1 - mean cosine of a layer's input and output, over all tokens; the lowest go (Men et al., ShortGPT,
 *                    arXiv 2403.03853, section 3.1)
 *   SCORE_ANGULAR    the angle between the inputs of layer i and of layer i + count, over pi, mean over all tokens; the span with the
 *                    least goes (Gromov et al., arXiv 2403.17887, section 3.1, who look at last tokens only)
 * The same for any number of workers. ERR_NUMERIC: a stream that is not finite. */
enum status depth_by_stream(struct depth *out, struct model *model, const struct calibration *calibration,
    enum prune_score score, uint32_t count, struct error *err);

/* Bytes of memory that depth_by_stream takes beside the model: the states of some tokens at all layers. */
uint64_t depth_bytes(const struct model_config *config);

/* Numbers of the layers that stay, ascending: kept [layers - dropped]. */
uint32_t depth_kept(uint32_t *kept, const struct depth *depth);

#endif
