/* Private to obs.c: lower the error of rows that are already quantized, on the same kind of grid.
 *
 * The objective is e H e^T with e = q - t. One round goes over the columns in segments of whole groups. The gradient e H of a
 * segment is one product; then each group's scale moves to the minimum over it (codes fixed; asymmetric zero-points
 * likewise), and each code to the minimum over it, if that lowers the objective. */
#ifndef NIBBLE_TENSOR_POLISH_H
#define NIBBLE_TENSOR_POLISH_H

#include "tensor/obs_tile.h"

/* At most `rounds` rounds over a tile's codes, grids and q - t; fewer when nothing changes any more. Every step lowers the
 * objective as single precision sees it; whether a row gained is for the caller to measure. */
void polish_tile(const struct obs_plan *plan, struct obs_tile *tile, unsigned rounds);

/* Width of tile->gradient, product and direction. */
uint64_t polish_width(uint64_t group);

#endif
