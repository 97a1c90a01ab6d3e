/* A pruned matrix as it is stored: sparse where that is smaller, else with its zeros. */
#ifndef NIBBLE_PRUNE_WEIGHTS_STORE_H
#define NIBBLE_PRUNE_WEIGHTS_STORE_H

#include "prune/weights.h"

/* One matrix after pruning; all [rows][cols] but scales [rows][groups]. */
struct weights_values {
    const float *weights;   /* without --bits */
    const uint8_t *codes;   /* with --bits: 2^(bits-1) is 0 */
    const uint16_t *scales; /* half precision bits */
};

/* Make the tensor and the data it points to (owner of *data: the caller, memory_free), and count matrix->zeros. ERR_NUMERIC: a
 * weight does not fit the type it is stored as; ERR_MEMORY. */
enum status weights_store(struct tensor *out, void **data, struct prune_tensor *matrix,
    const struct weights_values *values, const struct weights *work, struct error *err);

#endif
