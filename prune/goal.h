/* Choosing how much goes by what is left: bytes of the output, milliseconds per token. */
#ifndef NIBBLE_PRUNE_GOAL_H
#define NIBBLE_PRUNE_GOAL_H

#include "prune/structure.h"

/* What would go at a sparsity: fills in a zeroed structure. ERR_USAGE: nothing would. */
typedef enum status (*goal_make)(struct structure *out, void *context, double sparsity, struct error *err);

/* True if --target-size or --target-latency is given. */
bool goal_given(const struct prune_options *options);

/* The least of the sparsities 1/steps, 2/steps ... below 1 at which the model keeps to the targets, by bisection: what more sparsity makes
 * is taken to be no larger and no slower. Every candidate is made as a view of the input opened anew, its bytes are those of all tensors and
 * documents as the output's format lays them out, and its speed the median of single tokens on this machine, model in memory, after 64 tokens. What was
 * tried is told to the report. ERR_USAGE: not even the highest sparsity will do, the text says what it gives; or the model keeps to the targets as it is. */
enum status goal_sparsity(
    double *out, struct prune_job *job, uint32_t steps, goal_make make, void *context, struct error *err);

/* The seam for tests: milliseconds per token of a model that is seen in `input`, which is closed, also on an error. */
extern enum status (*goal_measure)(
    double *out, struct checkpoint *input, struct pool *pool, struct error *err);

#endif
