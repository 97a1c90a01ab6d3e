/* Private to the solver's files: lower the error of rows that are already quantized, on the same kind of grid.
 *
 * The objective is e H e^T with e = q - t. One round goes over the columns in segments of whole units. The gradient e H of a
 * segment is one product; then each unit's lines move to the minimum over them (codes fixed), and each code to the minimum over
 * it, if that lowers the objective. */
#ifndef NIBBLE_TENSOR_POLISH_H
#define NIBBLE_TENSOR_POLISH_H

#include "tensor/obs_tile.h"

/* Columns of a tile whose gradient is at hand: places [begin, end), or the columns of one scattered unit (begin 0, end
 * its size). */
struct polish_segment {
    const struct obs_plan *plan;
    struct obs_tile *tile;
    const float *hessian; /* of these columns; stride plan->cols */
    uint64_t begin, end;
    uint64_t width; /* stride of the tile's gradient, product and direction */
};

/* At most `rounds` rounds over a tile's codes, grids and q - t; fewer when nothing changes any more. Every step lowers the
 * objective as single precision sees it; whether a row gained is for the caller to measure. */
void polish_tile(const struct obs_plan *plan, struct obs_tile *tile, unsigned rounds);

/* Width of tile->gradient, product and direction. */
uint64_t polish_width(uint64_t unit);

/* product = direction H over the segment, for every row.
 *   which       of the tile's pairs of directions and products; the direction [rows][count] stands at the row's start
 *   at, count   the columns of the segment that it is about */
void polish_product(const struct polish_segment *segment, int which, uint64_t at, uint64_t count);

/* The sum of a[i] b[i]. */
double polish_dot(const float *a, const float *b, uint64_t count);

/* q of one row changes by step * direction in `count` columns from `at` on, and the gradient by step * product in the segment.
 *   members  [count]  their places */
void polish_move(const struct polish_segment *segment, uint64_t row, const uint32_t *members, uint64_t count,
    float step, const float *direction, const float *product);

/* The refits of obs_grids. Scheme: the scale of every row, then its zero-point. Blocks: scale and minimum of every sub-block
 * together, then d and m of the block. */
bool polish_scheme_refit(const struct polish_segment *segment, uint64_t unit, uint64_t at);
bool polish_blocks_refit(const struct polish_segment *segment, uint64_t unit, uint64_t at);

#endif
