/* Which matrices are pruned, and how each is stored: settled before any work starts. */
#ifndef NIBBLE_PRUNE_WEIGHTS_PLAN_H
#define NIBBLE_PRUNE_WEIGHTS_PLAN_H

#include "prune/weights.h"

/* List the matrices in job->result->tensors, and find them by layer in work->layer (memory_free). ERR_USAGE: --keep matches no matrix, or
 * all; the pattern or the group does not divide a row (names the tensor). ERR_UNSUPPORTED: a mixture of experts; a matrix that is quantized
 * already. */
enum status weights_plan(struct weights *work, struct error *err);

/* How a matrix is stored if it is stored sparse. False: it has no such form (32-bit weights). */
bool weights_plan_sparse(struct tensor *out, const struct prune_tensor *matrix, const struct weights *work);

/* How any tensor of the input is stored in the output (matrices that are pruned: with all their weights). Errors name the tensor. */
enum status weights_plan_target(struct tensor *out, const struct weights *work, const struct tensor *source,
    const struct prune_tensor *pruned, struct error *err);

/* The matrix of a tensor of the input, or NULL. */
struct prune_tensor *weights_plan_find(const struct weights *work, const struct tensor *source);

#endif
