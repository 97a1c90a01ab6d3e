/* Round to nearest: every group of weights is fitted and rounded on its own. Needs nothing but the weights,
 * reads them once, and is the floor that every other method has to beat. */
#ifndef NIBBLE_QUANTIZE_RTN_H
#define NIBBLE_QUANTIZE_RTN_H

#include "formats/transfer.h"
#include "tensor/grid.h"

/* What one tensor's encoder needs and leaves. */
struct rtn_tensor {
    enum grid_range range;
    struct rtn_sums *sums; /* [tiles] out, or NULL: not measured */
};

/* The sums of squares of one tile of 8 rows. */
struct rtn_sums {
    double error; /* weight minus what its code decodes to */
    double power; /* weight */
};

/* A transfer_encoder; context is a struct rtn_tensor. ERR_NUMERIC: a weight is not finite, or its scale does
 * not fit half precision; the text names row and column. */
enum status rtn_encode(const struct tensor *target, void *context, uint8_t *codes, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err);

#endif
