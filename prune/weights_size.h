/* How large the output will be at a sparsity, and the sparsity for a size. */
#ifndef NIBBLE_PRUNE_WEIGHTS_SIZE_H
#define NIBBLE_PRUNE_WEIGHTS_SIZE_H

#include "prune/weights.h"

/* A bound of the bytes of the .nbl file in which `sparsity` of the weights of every matrix go (a pattern: as it says): what cannot be known
 * before is where they lie within blocks and tiles of the sparse storage, whose parts begin at whole bytes. 0 in *out: the
 * output is of another format. Errors of reading; ERR_MEMORY. */
enum status weights_size_bound(uint64_t *out, const struct weights *work, double sparsity, struct error *err);

/* Settle settings->sparsity so that the file takes at most --target-size, the least in steps of a thousandth that does, and print the
 * front to standard error. ERR_USAGE: none does, or the size does not depend on it. */
enum status weights_size_choose(struct weights *work, struct error *err);

#endif
