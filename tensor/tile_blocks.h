/* Tiles that are blocks: a symmetric grid of 4, 5 or 8 bits whose groups are whole blocks of 32 columns says exactly what Q4_0, Q5_0 or
 * Q8_0 say, value = scale (code - 2^(bits-1)) with a scale in half precision; a longer group's scale is repeated. */
#ifndef NIBBLE_TENSOR_TILE_BLOCKS_H
#define NIBBLE_TENSOR_TILE_BLOCKS_H

#include "tensor/tiles.h"

/* The block type that says exactly what a scheme says for rows of `cols` columns; BLOCK_NONE if there is none. */
enum block_type tile_blocks_type(struct scheme scheme, uint64_t cols);

/* Rows of one tile as blocks.
 *   out      [row_count][cols / 32] blocks of `type`
 *   layout   of the tensor, whose scheme and cols have `type`
 *   codes    [tile_code_bytes]  in, as stored
 *   scales   [groups][8]        in, half precision bits
 *   scratch  [8][cols]          used */
void tile_blocks_put(uint8_t *out, enum block_type type, const struct tiles_layout *layout,
    const uint8_t *codes, const uint16_t *scales, uint64_t row_count, uint8_t *scratch);

#endif
