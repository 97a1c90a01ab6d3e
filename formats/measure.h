/* How many elements and bytes a tensor has, computed from its description alone: the one place where the
 * product of a shape that came from a file is formed. */
#ifndef NIBBLE_FORMATS_MEASURE_H
#define NIBBLE_FORMATS_MEASURE_H

#include "base/error.h"
#include "tensor/tensor.h"

/* Room for a shape of TENSOR_RANK_LIMIT dimensions of twenty digits. */
#define MEASURE_SHAPE_TEXT 192

/* The product of a shape; 1 for rank 0. ERR_FORMAT: the dimensions that are not zero multiply to 2^63 or
 * more. Zeros are left out of that check's product, so that [0, 2^62, 2^62] cannot slip through as "empty"
 * and overflow a stride later. */
enum status measure_shape(uint64_t *elements, uint32_t rank, const uint64_t *shape, struct error *err);

/* Set tensor->elements and tensor->bytes from storage, dtype, scheme, mask, rank and shape. The bytes of SPARSE storage with a bitmap do not
 * follow from those: tensor->bytes says how many there are and is checked. ERR_FORMAT (the text
 * does not name the tensor; the caller does): a shape or size that does not fit 2^63, a scheme on DENSE
 * storage, TILES storage that is not a matrix with F16 scales, a scheme that tiles_layout refuses, or what sparse_layout_of refuses. */
enum status measure_tensor(struct tensor *tensor, struct error *err);

/* "[2048, 128]", for messages. Returns out. */
char *measure_shape_text(char out[MEASURE_SHAPE_TEXT], uint32_t rank, const uint64_t *shape);

#endif
