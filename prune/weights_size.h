/* How large the output will be at a sparsity, and the sparsity for a size. */
#ifndef NIBBLE_PRUNE_WEIGHTS_SIZE_H
#define NIBBLE_PRUNE_WEIGHTS_SIZE_H

#include "prune/weights.h"

/* Say of every matrix how it will be stored and how many bytes that takes at most, and of the .nbl file in *out; what cannot be known
 * before is where the weights lie within blocks and tiles of the sparse storage, whose parts begin at whole bytes. 0 in *out: the
 * output is of another format. Errors of reading; ERR_MEMORY. */
enum status weights_size_foretell(uint64_t *out, const struct weights *work, struct error *err);

/* Settle settings->sparsity so that the file takes at most --target-size, the least in steps of a thousandth that does, and print the
 * front to standard error. ERR_USAGE: none does, or the size does not depend on it. */
enum status weights_size_choose(struct weights *work, struct error *err);

#endif
