/* A large array that lies in memory or, when there is not enough of it, in a nameless temporary file: rows are copied
 * in and out. What is read is what was written, either way. */
#ifndef NIBBLE_BASE_SPILL_H
#define NIBBLE_BASE_SPILL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct spill;

/* `rows` rows of `row_bytes` bytes, zeroed. in_memory false: in a nameless file in `folder` (which also stands in
 * error texts; else ignored), whose disk is reserved at once: ERR_IO if it is full. A file system that cannot reserve
 * lets the disk be full at spill_write. ERR_MEMORY, also if the product overflows. Owner: the caller, spill_free. */
enum status spill_create(struct spill **out, uint64_t rows, uint64_t row_bytes, bool in_memory,
    const char *folder, struct error *err);
void spill_free(struct spill *spill);

/* Copy rows [first, first + count) out or in. The caller keeps within bounds (assert). Safe from several threads for
 * disjoint rows. ERR_IO from a file. */
enum status spill_read(struct spill *spill, uint64_t first, uint64_t count, void *rows, struct error *err);
enum status spill_write(
    struct spill *spill, uint64_t first, uint64_t count, const void *rows, struct error *err);

#endif
