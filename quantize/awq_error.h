/* What rounding costs at one stage, for given scales of its input channels: the mean squared change of the stage's outputs,
 * sum over matrices and rows of d H d^T with d = Q(w s)/s - w. The Hessian H holds every token seen, so no outputs are
 * sampled and no forward pass is needed. */
#ifndef NIBBLE_QUANTIZE_AWQ_ERROR_H
#define NIBBLE_QUANTIZE_AWQ_ERROR_H

#include "quantize/awq.h"

/* At most this many rows of a matrix are looked at unless every row is asked for: every k-th, with k from the shape. */
#define AWQ_ROWS_SEEN 512
/* Scale vectors measured in one call at most. */
#define AWQ_BATCH 11

struct awq_error;

/* Prepare the measurements of one stage; arguments as of awq_search, which must outlive it. Takes half a single-precision
 * copy of the Hessian and a panel of rows per worker. ERR_MEMORY. */
enum status awq_error_create(struct awq_error **out, const struct awq_matrix *matrices, uint64_t count,
    const struct hessian *hessian, struct pool *pool, struct error *err);
void awq_error_free(struct awq_error *error);

/* Measure several vectors of scales at once.
 *   errors     [vectors]        out: relative to the greatest of H's diagonal; not finite if a group's scale does not fit
 *                               half precision, or a weight is not finite
 *   scales     [vectors][cols]  in, > 0
 *   every_row  else at most AWQ_ROWS_SEEN rows per matrix
 * Results do not depend on the number of workers. ERR_MEMORY. */
enum status awq_error_measure(struct awq_error *error, double *errors, const float *scales, uint64_t vectors,
    bool every_row, struct error *err);

/* Whether asking for every row looks at more of them. */
bool awq_error_is_sampled(const struct awq_error *error);

/* Say why the error without scaling is not finite: always ERR_NUMERIC. */
enum status awq_error_fault(const struct awq_error *error, struct error *err);

#endif
