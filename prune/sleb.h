/* Greedy removal of layers by the perplexity of what is left (Song et al., SLEB, arXiv 2402.09025, algorithm 1). */
#ifndef NIBBLE_PRUNE_SLEB_H
#define NIBBLE_PRUNE_SLEB_H

#include "base/report.h"
#include "prune/depth.h"

/* Take `count` layers away, each time the one without which the calibration text has the least perplexity; of equal ones the first.
 * out->score of a layer that went is the perplexity without it and those before it. Runs the text through the model once for every layer
 * that could go, each time: sleb_passes. The same for any number of workers. ERR_NUMERIC: logits that are not finite. */
enum status sleb_choose(struct depth *out, struct model *model, const struct calibration *calibration,
    uint32_t count, const struct report *report, struct error *err);

/* How often that is. */
uint64_t sleb_passes(uint32_t layers, uint32_t count);

#endif
