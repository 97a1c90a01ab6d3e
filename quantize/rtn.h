/* Round to nearest: every group of weights is fitted and rounded on its own. Needs nothing but the weights,
 * reads them once, and is the floor that every other method has to beat. */
#ifndef NIBBLE_QUANTIZE_RTN_H
#define NIBBLE_QUANTIZE_RTN_H

#include "formats/transfer.h"
#include "quantize/quantize.h"
#include "tensor/grid.h"
#include "tensor/tiles.h"

/* What one tensor's encoder needs and leaves. */
struct rtn_tensor {
    enum grid_range range;
    const float *importance; /* [cols] of the columns, or NULL: all alike */
    struct rtn_sums *sums;   /* [rows] out, those of a tile at its first row; or NULL: not measured */
};

/* The sums of squares of one row of blocks, or of one tile of 8 rows. */
struct rtn_sums {
    double error; /* weight minus what its code decodes to */
    double power; /* weight */
};

/* A transfer_encoder; context is a struct rtn_tensor. ERR_NUMERIC: a weight is not finite, or its scale does
 * not fit half precision; the text names row and column. */
enum status rtn_encode(const struct tensor *target, void *context, uint8_t *codes, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err);

/* The same into blocks. */
enum status rtn_encode_blocks(const struct tensor *target, void *context, uint8_t *blocks, uint16_t *scales,
    uint8_t *zeros, const float *rows, uint64_t row_begin, uint64_t row_count, uint8_t *scratch,
    struct error *err);

/* The sums of one tile.
 *   rows, codes    [row_count][layout->cols]    in
 *   scales, zeros  [row_count][layout->groups]  in; zeros NULL if symmetric */
struct rtn_sums rtn_tile_sums(const struct tiles_layout *layout, const float *rows, uint64_t row_count,
    const uint8_t *codes, const uint16_t *scales, const uint8_t *zeros);

/* Those of one row of blocks; weights [cols]. */
struct rtn_sums rtn_row_sums(
    enum block_type type, const uint8_t *blocks, const float *weights, uint64_t cols);

/* How a tensor of the plan moves: rounded to nearest, cast or copied. Release all with rtn_release, which first adds up what was
 * measured into the plan if the move succeeded.
 *   tensor, tensors  [plan->count], zeroed, must outlive the move */
enum status rtn_item(struct transfer_item *item, struct rtn_tensor *tensor, const struct plan_tensor *planned,
    bool measure_error, struct error *err);
void rtn_release(struct rtn_tensor *tensors, struct plan *plan, bool moved);

/* The method: all tensors of the plan from input to output. */
enum status rtn_run(struct quantize_job *job, struct error *err);

#endif
