/* Matrices that a file holds column by column. */
#ifndef NIBBLE_FORMATS_TRANSPOSED_H
#define NIBBLE_FORMATS_TRANSPOSED_H

#include "formats/reader.h"

/* The reader_compute of a dense matrix [rows, cols] of which element (r, c) lies at offset + (c rows + r) elements (rows of the
 * whole matrix, if it is part of one: entry->column): gathers
 * rows from the columns, some at a time. */
enum status transposed_compute(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err);

#endif
