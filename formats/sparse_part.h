/* Rows of a sparse tensor, read from its file as a sparse tensor of their own. */
#ifndef NIBBLE_FORMATS_SPARSE_PART_H
#define NIBBLE_FORMATS_SPARSE_PART_H

#include "formats/container.h"
#include "tensor/sparse.h"

/* The most bytes that `rows` rows of a tensor take; 0 if they are too many for a tensor of their own. */
uint64_t sparse_part_bytes(const struct sparse_layout *whole, uint64_t rows);

/* Read rows [row_begin, row_begin + row_count) of a tensor; row_begin is a multiple of 8.
 *   out     the layout of what is read
 *   whole   that of the tensor
 *   buffer  [sparse_part_bytes]  out: its bytes, aligned to 64
 * ERR_FORMAT: offsets that do not fit. ERR_MEMORY: rows of which sparse_part_bytes is 0. ERR_IO. Errors name the tensor. Safe from any thread. */
enum status sparse_part_read(struct sparse_layout *out, struct container *container,
    const struct tensor *tensor, const struct sparse_layout *whole, uint64_t row_begin, uint64_t row_count,
    uint8_t *buffer, struct error *err);

#endif
