/* How much goes from each layer: the same everywhere, or less where more scores are outliers (OWL, Yin et al. 2023, arXiv:2310.05175,
 * section 3.3), measured by one walk through the model as it is. */
#ifndef NIBBLE_PRUNE_WEIGHTS_OWL_H
#define NIBBLE_PRUNE_WEIGHTS_OWL_H

#include "prune/weights.h"

/* Fill work->shares. With --ratios owl what an earlier run measured is taken from work->journal, or measured and put there; work->walk must not
 * be there yet. ERR_USAGE: a layer would lose nothing, or everything; errors of the walk. */
enum status weights_owl_shares(struct weights *work, struct error *err);

#endif
