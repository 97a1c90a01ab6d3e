/* A tensor: a view of numbers with a name, a type and a shape. It owns nothing.
 *
 * Shape letters, used in every comment of the project:
 *   rows    output channels of a weight matrix (its first dimension)
 *   cols    input channels (its second dimension); rows x cols, row-major
 *   group   consecutive columns of one row that share a scale (and a zero-point)
 *   groups  cols / group
 *   tokens  positions of text that go through a layer together */
#ifndef NIBBLE_TENSOR_TENSOR_H
#define NIBBLE_TENSOR_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/blocks.h"
#include "tensor/dtype.h"

#define TENSOR_RANK_LIMIT 8

/* How the bytes of a tensor are arranged. The numbers are part of the .nbl format. */
enum storage {
    STORAGE_DENSE = 0,  /* row-major elements of `dtype` */
    STORAGE_TILES = 1,  /* codes, scales and zero-points as tensor/tiles.h lays them out; rank 2 */
    STORAGE_BLOCKS = 2, /* rows of blocks as tensor/blocks.h has them; dtype is DTYPE_F32 */
    STORAGE_SPARSE = 3  /* masks and what they say is there, as tensor/sparse.h lays them out; rank 2 */
};

/* How a sparse tensor says which of its weights are stored. The numbers are part of the .nbl format. */
enum mask {
    MASK_NONE = 0,   /* not SPARSE */
    MASK_BITMAP = 1, /* a bit per weight */
    MASK_2_4 = 2     /* two of every four consecutive columns of a row */
};

/* How a weight matrix is quantized: value = scale * (code - zero-point), a scale per row and group.
 * Symmetric: the zero-point is 2^(bits-1) for all, the scale is signed and the whole range of codes is used. */
struct scheme {
    uint32_t bits;   /* 2, 3, 4, 5, 6 or 8 */
    uint32_t group;  /* columns per group: a multiple of 16 that divides cols, or cols itself (whole row) */
    bool asymmetric; /* zero-points are stored */
};

struct tensor {
    const char *name;
    enum storage storage;
    enum dtype
        dtype; /* DENSE: of the elements; TILES: of the scales (DTYPE_F16); SPARSE: of the scales, or of the values */
    struct scheme scheme;  /* TILES, and SPARSE if quantized, else zero */
    enum block_type block; /* BLOCKS only, else BLOCK_NONE */
    enum mask mask;        /* SPARSE only, else MASK_NONE */
    uint32_t rank;         /* 0 .. TENSOR_RANK_LIMIT */
    uint64_t shape[TENSOR_RANK_LIMIT];
    uint64_t elements; /* product of shape; 1 for rank 0 */
    uint64_t bytes;    /* of all storage */
    const void *data;  /* mapped or in memory, aligned to 64 bytes or to the element; NULL if not in memory */
};

#endif
