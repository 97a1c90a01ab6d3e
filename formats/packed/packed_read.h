/* Matrices of a checkpoint that stores them packed (formats/packed/packed.h), seen as one tensor each. Only formats/ includes this. */
#ifndef NIBBLE_FORMATS_PACKED_READ_H
#define NIBBLE_FORMATS_PACKED_READ_H

#include "formats/packed/packed.h"
#include "formats/reader.h"
#include "tensor/tiles.h"

/* One matrix: where its parts lie, and how it is seen. */
struct packed {
    const struct packed_layout *layout;
    struct reader_entry codes, scales, zeros; /* copies; zeros.tensor.name is NULL where none are stored */
    uint64_t rows, cols, groups, group; /* group: columns of one, but for the last, which may be shorter */
    uint32_t bits, zero_more;           /* zero_more: added to stored zero-points */
    uint32_t *order;                    /* [cols] the group of each column, owned; NULL: column / group */
    const char *decoded;       /* why it is seen as DENSE, a text of the program's; NULL: it is TILES */
    struct tiles_layout tiles; /* of TILES */
    uint64_t seen;             /* rows that are seen: all, or some of them (packed_part): */
    uint64_t first_row, run,
        step; /* from first_row on `run` rows that lie together, the next run `step` after; multiples of 8; run 0: all */
};

void packed_free(struct packed *packed);

/* Which rows of the matrix of `whole` an entry is to show. Its shape and bytes follow; entry->packed: out, a copy of its own.
 * ERR_UNSUPPORTED: rows that cut tiles of 8. */
enum status packed_part(struct reader_entry *entry, const struct packed *whole, uint64_t rows,
    uint64_t first_row, uint64_t run, uint64_t step, struct error *err);

/* The scales, zero-points or biases of rows [row, row + count) of the whole matrix; row is a multiple of 8.
 *   scales, biases  [count][groups]  out
 *   zeros           [count][groups]  out, as stored plus zero_more; 2^(bits-1) where none are stored; not of mlx */
enum status packed_scales(struct container *container, const struct packed *packed, float *scales,
    uint64_t row, uint64_t count, struct error *err);
enum status packed_biases(struct container *container, const struct packed *packed, float *biases,
    uint64_t row, uint64_t count, struct error *err);
enum status packed_zeros(struct container *container, const struct packed *packed, uint8_t *zeros,
    uint64_t row, uint64_t count, struct error *err);

/* The zero-point that gives a group's bias exactly, (0 - zero) * scale = bias; -1 if none from 0 to 2^bits - 1 does. */
int packed_bias_zero(float scale, float bias, uint32_t bits);

/* Part of the bytes of the tensor that is seen. The range has been checked. Thread-safe. */
enum status packed_read(struct container *container, const struct reader_entry *entry, uint64_t offset,
    uint8_t *buffer, uint64_t count, struct error *err);

/* Where config.json (or quantize_config.json) says that a container is packed in a way of the table: put one tensor in the place of the
 * parts of each matrix, TILES where that says the same, else DENSE of F32; and attach a config.json that no longer says so.
 * gptq_zeros: "v1", "v2", or NULL: as the checkpoint says. Everything is checked: the parts of a matrix against one another and
 * against the configuration, every scale and zero-point, every group number. */
enum status packed_see(struct container *container, const char *gptq_zeros, struct error *err);

#endif
